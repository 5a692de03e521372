//! Where settings come from, apart from the command line.

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::Path;

use super::environment::Environment;

pub(super) mod dotenv;
pub(super) mod file;

/// Largest `.env` or settings file. Real ones have a few KiB; a mistyped path may lead anywhere.
const LARGEST_FILE: u64 = 1 << 20;

/// All variables of an environment as text, `Err` with the name for values that are none.
pub(super) fn environment(environment: &dyn Environment) -> Vec<(String, Result<String, ()>)> {
    let text = |name: OsString| name.into_string().ok();
    let variables = environment.variables().into_iter();
    variables
        .filter_map(|(name, value)| Some((text(name)?, value.into_string().map_err(|_| ()))))
        .collect()
}

/// Reads a small text file.
fn read_text(path: &Path) -> io::Result<String> {
    let file = std::fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = String::new();
    file.take(LARGEST_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST_FILE {
        return Err(io::Error::other(
            "larger than 1 MiB, so hardly a file of settings",
        ));
    }
    Ok(text)
}
