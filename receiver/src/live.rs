//! What can be changed while a receiver runs (SIGHUP).

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use shared::lifecycle::{Applied, Reloadable};
use shared::security::live::{LivePolicy, LiveSecurity, Plan};
use shared::security::policy::Policy;
use shared::security::tls::{ClientTls, ServerTls};
use shared::settings::{CliError, Read};

use crate::config::Config;
use crate::server::pull_files;

/// The parts of a receiver that take new settings. All clones are one.
#[derive(Debug, Clone)]
pub struct Controls {
    /// What is asked of callers.
    pub(crate) policy: LivePolicy,
    /// Whether figures are for everybody.
    pub(crate) open_metrics: Arc<AtomicBool>,
    /// Time to finish what is in flight.
    pub(crate) grace: Arc<Mutex<Duration>>,
    server: Option<Arc<ServerTls>>,
    client: Option<Arc<ClientTls>>,
}

impl Controls {
    pub(crate) fn new(
        config: &Config,
        server: Option<Arc<ServerTls>>,
        client: Option<Arc<ClientTls>>,
    ) -> Self {
        let security = &config.security;
        let policy = Policy::new(security.tokens.clone(), security.asks_certificates());
        Self {
            policy: LivePolicy::new(policy),
            open_metrics: Arc::new(AtomicBool::new(config.open_metrics)),
            grace: Arc::new(Mutex::new(config.grace)),
            server,
            client,
        }
    }
}

/// Reads all settings again.
pub type Reading = dyn Fn() -> Result<(Config, Read), CliError> + Send;

/// Changes what is logged.
pub type Filtering = dyn Fn(&str) -> Result<(), String> + Send;

/// A receiver whose settings can be read again.
pub struct Live {
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
    /// A receiver that was started with `config`.
    pub fn new(
        config: &Config,
        controls: Controls,
        read: Box<Reading>,
        log: Box<Filtering>,
    ) -> Self {
        let server = controls.server.clone();
        let security = config.security.clone();
        Self {
            security: LiveSecurity::new(security, server, controls.policy.clone()),
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
        let plan = self.security.prepare(&config.security)?;
        let client = match (&self.controls.client, &plan) {
            (Some(client), Plan::Use(..)) => {
                let prepared = ClientTls::prepare(pull_files(config));
                let prepared = prepared
                    .map_err(|error| format!("the certificates cannot be used: {error}"))?;
                Some((client, prepared))
            }
            _ => None,
        };
        (self.log)(&config.log)?;
        // From here on nothing fails.
        let applied = self.security.put(plan);
        if let Some((client, prepared)) = client {
            client.use_prepared(prepared);
        }
        let open = config.open_metrics;
        self.controls.open_metrics.store(open, Ordering::Relaxed);
        *self.controls.grace.lock() = config.grace;
        Ok(applied)
    }
}
