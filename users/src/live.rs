//! What can be changed while a server runs (SIGHUP).

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests;

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use shared::lifecycle::{Applied, Reloadable};
use shared::security::live::{LivePolicy, LiveSecurity, Plan};
use shared::security::tls::ServerTls;
use shared::settings::{CliError, Read};

use crate::config::{Config, Stopping};

/// The parts of a server that take new settings. All clones are one.
#[derive(Debug, Clone)]
pub struct Controls {
    /// What is asked of callers.
    pub policy: LivePolicy,
    /// What it shakes hands with.
    pub tls: Option<Arc<ServerTls>>,
    /// How a stop goes.
    pub stopping: Arc<Mutex<Stopping>>,
}

/// Reads all settings again.
pub type Reading = dyn Fn() -> Result<(Config, Read), CliError> + Send;

/// Changes what is logged.
pub type Filtering = dyn Fn(&str) -> Result<(), String> + Send;

/// A server whose settings can be read again.
pub struct Live {
    start: Config,
    controls: Controls,
    security: LiveSecurity,
    read: Box<Reading>,
    log: Box<Filtering>,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").finish_non_exhaustive()
    }
}

impl Live {
    /// A server that was started with `start`.
    pub fn new(start: Config, controls: Controls, read: Box<Reading>, log: Box<Filtering>) -> Self {
        let (tls, policy) = (controls.tls.clone(), controls.policy.clone());
        Self {
            security: LiveSecurity::new(start.security.clone(), tls, policy),
            start,
            controls,
            read,
            log,
        }
    }
}

impl Reloadable for Live {
    type Config = Config;

    fn read(&self) -> Result<(Config, Read), CliError> {
        (self.read)()
    }

    fn apply(&mut self, config: &Config) -> Result<Applied, String> {
        // Whether that is safe was asked of the listeners of the new settings, which are not these.
        let opens = config.admits_strangers() && !self.start.admits_strangers();
        let plan = match opens {
            true => Plan::Held,
            false => self.security.prepare(&config.security)?,
        };
        (self.log)(&config.log)?;
        // From here on nothing fails.
        let applied = self.security.put(plan);
        *self.controls.stopping.lock() = config.stopping;
        Ok(applied)
    }
}
