//! The environment of a process, behind a trait, so that tests bring their own.

use std::collections::BTreeMap;
use std::ffi::OsString;

/// Where environment variables come from.
pub trait Environment {
    /// All variables.
    fn variables(&self) -> Vec<(OsString, OsString)>;
}

/// The environment of this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn variables(&self) -> Vec<(OsString, OsString)> {
        std::env::vars_os().collect()
    }
}

impl Environment for BTreeMap<String, String> {
    fn variables(&self) -> Vec<(OsString, OsString)> {
        self.iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect()
    }
}

/// Name of this machine, `unnamed` when it has none.
pub fn host_name() -> String {
    let system = rustix::system::uname();
    let name = system.nodename().to_string_lossy();
    super::label(&name).unwrap_or_else(|_| "unnamed".to_owned())
}
