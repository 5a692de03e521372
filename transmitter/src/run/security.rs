//! The certificates and the token of a run.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use shared::security::tls::{Certificate, ClientTls, HTTP_1_1, ServerTls, TlsError};
use tokio_util::task::AbortOnDropHandle;

use super::RunError;
use crate::config::Config;
use crate::link::Dialler;
use crate::live::Tls;

/// What the links of a run show, and what they ask of receivers.
pub(super) struct Security {
    pub(super) dialler: Dialler,
    pub(super) tls: Tls,
    _warning: AbortOnDropHandle<()>,
}

impl Security {
    /// Reads the certificates that are needed.
    pub(super) async fn open(config: &Config) -> Result<Self, RunError> {
        let (encrypts, listener) = (config.dials_encrypted(), config.listener_files());
        let client = config.security.tls.clone();
        // The system's own certificates are many files.
        let opening = tokio::task::spawn_blocking(move || {
            Ok(match listener {
                Some(files) => Tls::Listens(ServerTls::open(files, &[HTTP_1_1])?),
                None if encrypts => Tls::Dials(ClientTls::open(client)?),
                None => Tls::None,
            })
        });
        let opened = opening
            .await
            .unwrap_or_else(|error| Err(TlsError::Unusable(error.to_string())));
        let tls = opened.map_err(RunError::Certificates)?;
        let client = match &tls {
            Tls::Dials(client) => Some(Arc::clone(client)),
            Tls::None | Tls::Listens(_) => None,
        };
        let warning = tokio::spawn(warn_in_time(tls.clone()));
        Ok(Self {
            dialler: Dialler::new(client, config.security.token.clone()),
            tls,
            _warning: AbortOnDropHandle::new(warning),
        })
    }

    /// What the listener shakes hands with, if it is encrypted.
    pub(super) fn listener(&self) -> Option<Arc<ServerTls>> {
        match &self.tls {
            Tls::Listens(server) => Some(Arc::clone(server)),
            Tls::None | Tls::Dials(_) => None,
        }
    }
}

/// This side's certificate.
fn certificate(tls: &Tls) -> Option<Certificate> {
    match tls {
        Tls::None => None,
        Tls::Dials(client) => client.certificate(),
        Tls::Listens(server) => server.certificate(),
    }
}

const DAY: Duration = Duration::from_secs(86_400);

/// How long before its end a certificate should have been renewed.
const NOTICE: Duration = DAY.saturating_mul(14);

/// Says at the start, and every day, that this side's certificate is about to expire.
async fn warn_in_time(tls: Tls) {
    loop {
        let looked = tls.clone();
        let looking = tokio::task::spawn_blocking(move || certificate(&looked));
        let until = looking.await.ok().flatten().and_then(|found| found.until);
        if let Some(warning) = until.and_then(|until| warning(until, SystemTime::now())) {
            tracing::warn!("{warning}");
        }
        tokio::time::sleep(DAY).await;
    }
}

fn warning(until: SystemTime, now: SystemTime) -> Option<String> {
    let Ok(left) = until.duration_since(now) else {
        return Some(
            "this station's certificate (--tls-cert) has expired; renew it, and compare the clocks"
                .to_owned(),
        );
    };
    (left < NOTICE).then(|| {
        let days = left.as_secs() / DAY.as_secs();
        format!("this station's certificate (--tls-cert) expires in {days} days; renew it in time")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Invocation, parse};

    async fn open(to: &str) -> Result<Security, RunError> {
        let args = [
            "x",
            "--file",
            "x",
            "--tls-ca",
            "/nowhere/ca.pem",
            "--to",
            to,
        ];
        let args = args.into_iter().map(Into::into);
        let environment = std::collections::BTreeMap::<String, String>::new();
        match parse(args, &environment, None) {
            Ok(Invocation::Run(config, _)) => Security::open(&config).await,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn certificates_that_are_needed_and_no_good_are_named() {
        assert!(open("http://127.0.0.1").await.is_ok());
        let error = open("https://127.0.0.1").await.err().expect("no such file");
        let words = shared::telemetry::chain(&error);
        assert!(
            words.starts_with("the certificates cannot be used: /nowhere/ca.pem: "),
            "{words}"
        );
    }

    #[test]
    fn a_certificate_is_warned_of_in_time() {
        let now = SystemTime::now();
        assert_eq!(warning(now + NOTICE, now), None);
        let soon = warning(now + 3 * DAY, now).unwrap_or_default();
        assert!(soon.contains("expires in 3 days"), "{soon}");
        let late = warning(now - DAY, now).unwrap_or_default();
        assert!(late.contains("has expired"), "{late}");
    }
}
