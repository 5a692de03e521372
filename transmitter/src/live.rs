//! What can be changed while a transmitter runs (SIGHUP).

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests;

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use shared::lifecycle::{Applied, Reloadable};
use shared::security::tls::{ClientTls, Prepared, PreparedClient, ServerTls, TlsError};
use shared::settings::{CliError, Read};

use crate::config::Config;
use crate::limiter::{Limiter, lowest_cap};
use crate::link::Dialler;
use crate::pace::Waits;
use crate::run::SMALLEST_CHUNK;
use crate::status::Status;

/// What the links of a run are encrypted with.
#[derive(Debug, Clone)]
pub enum Tls {
    /// Nothing is encrypted.
    None,
    /// Connections that are made.
    Dials(Arc<ClientTls>),
    /// Connections that come in.
    Listens(Arc<ServerTls>),
}

/// The parts of a run that take new settings. All clones are one.
#[derive(Clone)]
pub struct Controls {
    /// The cap on image bytes.
    pub limiter: Limiter,
    /// Shows the token.
    pub dialler: Dialler,
    /// Has the certificates.
    pub tls: Tls,
    /// Times between images.
    pub waits: Arc<Mutex<Waits>>,
    /// How it goes.
    pub status: Arc<Status>,
}

impl fmt::Debug for Controls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controls").finish_non_exhaustive()
    }
}

/// Reads all settings again.
pub type Reading = dyn Fn() -> Result<(Config, Read), CliError> + Send;

/// Changes what is logged.
pub type Filtering = dyn Fn(&str) -> Result<(), String> + Send;

/// A transmitter whose settings can be read again.
pub struct Live {
    /// What it was started with.
    start: Config,
    controls: Controls,
    read: Box<Reading>,
    log: Box<Filtering>,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").finish_non_exhaustive()
    }
}

const TLS: &[&str] = &["tls-ca", "tls-cert", "tls-key", "tls-crl"];
const TOKEN: &[&str] = &["token-file", "token"];
const BANDWIDTH: &[&str] = &["bandwidth", "bandwidth-schedule"];
const WAITS: &[&str] = &["delay", "jitter"];

/// Certificates that were read, and are not in use yet.
enum Plan<'a> {
    Nothing,
    Dials(&'a ClientTls, PreparedClient),
    Listens(&'a ServerTls, Prepared),
}

impl Live {
    /// A transmitter that was started with `start`.
    pub fn new(start: Config, controls: Controls, read: Box<Reading>, log: Box<Filtering>) -> Self {
        Self {
            start,
            controls,
            read,
            log,
        }
    }

    /// Whether images go another way after a restart. A token that is meant for an encrypted address is not
    /// shown at the old one.
    fn goes_elsewhere(&self, config: &Config) -> bool {
        let start = &self.start;
        config.to != start.to
            || config.listen != start.listen
            || config.transports != start.transports
    }

    fn prepare(&self, config: &Config, applied: &mut Applied) -> Result<Plan<'_>, TlsError> {
        let held = "whether --listen is encrypted is settled at the start";
        Ok(match (&self.controls.tls, config.listener_files()) {
            (Tls::Dials(client), _) => {
                let files = config.security.tls.clone();
                Plan::Dials(client, ClientTls::prepare(files)?)
            }
            (Tls::Listens(server), Some(files)) => Plan::Listens(server, server.prepare(files)?),
            (Tls::Listens(_), None) | (Tls::None, Some(_)) => {
                applied.hold(TLS, held);
                Plan::Nothing
            }
            (Tls::None, None) => Plan::Nothing,
        })
    }

    /// Whether a chunk, which goes at once and is paid for afterwards, would take so long under the new
    /// caps that its connection looks as if it stood still. Chunks are cut as at the start.
    fn stands_still(&self, config: &Config) -> bool {
        let at_start = lowest_cap(&self.start.link.bandwidth);
        let cut = self.start.link.chunk_size.0;
        let cut = at_start.map_or(cut, |cap| cut.min(cap.max(SMALLEST_CHUNK)));
        let patience = self.start.link.idle_timeout.as_secs_f64() / 4.0;
        lowest_cap(&config.link.bandwidth).is_some_and(|cap| {
            cut > cap.max(SMALLEST_CHUNK) && cut as f64 / cap.max(1) as f64 > patience
        })
    }
}

impl Reloadable for Live {
    type Config = Config;

    fn read(&self) -> Result<(Config, Read), CliError> {
        (self.read)()
    }

    fn apply(&mut self, config: &Config) -> Result<Applied, String> {
        let mut applied = Applied::default();
        let elsewhere = self.goes_elsewhere(config);
        let plan = if elsewhere {
            let why = "they belong to the new --to, --listen or --transport";
            applied.hold(TLS, why);
            applied.hold(TOKEN, why);
            Plan::Nothing
        } else {
            self.prepare(config, &mut applied)
                .map_err(|error| format!("the certificates cannot be used: {error}"))?
        };
        (self.log)(&config.log)?;
        // From here on nothing fails.
        let is_new = match plan {
            Plan::Nothing => false,
            Plan::Dials(client, prepared) => client.use_prepared(prepared),
            Plan::Listens(server, prepared) => server.use_prepared(prepared),
        };
        if is_new {
            applied.contents.push(("the certificate files", TLS));
        }
        let controls = &self.controls;
        if !elsewhere {
            controls.dialler.show(config.security.token.clone());
        }
        if self.stands_still(config) {
            let why = "chunks of --chunk-size would take too long under such a cap";
            applied.hold(BANDWIDTH, why);
        } else {
            controls.limiter.change(config.link.bandwidth.clone());
        }
        if config.pace.rate.is_some() == self.start.pace.rate.is_some() {
            *controls.waits.lock() = Waits::of(&config.pace);
        } else {
            applied.hold(WAITS, "--rate is settled at the start");
        }
        Ok(applied)
    }
}
