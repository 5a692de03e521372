//! Dials receivers: TCP, with TLS on it where the address asks for that, and what this side shows.

use std::io;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use parking_lot::RwLock;
use shared::security::bearer::Bearer;
use shared::security::identity::Role;
use shared::security::tls::ClientTls;
use shared::settings::address::is_encrypted;
use shared::telemetry::{Counted, WireCount};
use tokio::net::TcpStream;
use url::Url;

use super::stream::{Stream, Suspicion};

/// Who may answer as a receiver.
const RECEIVERS: [Role; 2] = [Role::Receiver, Role::Gateway];

/// Dials receivers and shows them what they ask for.
#[derive(Debug, Clone, Default)]
pub struct Dialler {
    tls: Option<Arc<ClientTls>>,
    /// All clones show the same one.
    token: Arc<RwLock<Option<Bearer>>>,
}

/// What a receiver has against this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denial {
    /// It does not know who this is.
    Unknown,
    /// It knows, and does not allow it.
    Forbidden,
}

impl Denial {
    /// What a status of HTTP says of this side, if it is about that.
    pub(super) fn of(status: StatusCode) -> Option<Self> {
        match status {
            StatusCode::UNAUTHORIZED => Some(Self::Unknown),
            StatusCode::FORBIDDEN => Some(Self::Forbidden),
            _ => None,
        }
    }
}

impl Dialler {
    /// Shakes hands by `tls`, without which encrypted addresses cannot be dialled, and shows `token`.
    pub fn new(tls: Option<Arc<ClientTls>>, token: Option<Bearer>) -> Self {
        let token = Arc::new(RwLock::new(token));
        Self { tls, token }
    }

    /// Shows this token from the next connection on.
    pub fn show(&self, token: Option<Bearer>) {
        *self.token.write() = token;
    }

    /// What is shown as `authorization`, if anything is: read anew for each connection, so that a
    /// token can be exchanged.
    pub(crate) async fn authorization(&self) -> Result<Option<HeaderValue>, String> {
        let Some(token) = self.token.read().clone() else {
            return Ok(None);
        };
        let reading = tokio::task::spawn_blocking(move || token.header());
        let header = reading.await.map_err(|error| error.to_string())?;
        header
            .map(Some)
            .map_err(|problem| format!("the token cannot be shown: {problem}"))
    }

    /// Connects to the host of `url`, to speak `protocol` there. The bytes that are counted are those
    /// on the socket, below the encryption.
    pub(super) async fn connect(
        &self,
        url: &Url,
        protocol: &[u8],
        wire: &WireCount,
    ) -> io::Result<Stream> {
        let host = url.host_str().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = url.port_or_known_default().unwrap_or(80);
        let stream = TcpStream::connect((host, port)).await?;
        // Only latency suffers where it cannot be set.
        let _ = stream.set_nodelay(true);
        let counted = Counted::new(stream, wire.clone());
        if !is_encrypted(url) {
            return Ok(Stream::plain(counted).suspecting(Some(Suspicion::Encrypted)));
        }
        let Some(tls) = &self.tls else {
            return Err(io::Error::other("no certificates to trust were loaded"));
        };
        let (stream, _) = tls.connect(host, counted, protocol, &RECEIVERS).await?;
        let suspicion = (!tls.shows_certificate()).then_some(Suspicion::Certificate);
        Ok(Stream::encrypted(stream).suspecting(suspicion))
    }

    /// The receiver's words, and what to do about it.
    pub(super) fn advise(&self, denial: Denial, words: &str) -> String {
        let about_certificate = words.contains("certificate");
        let advice = match (denial, &*self.token.read()) {
            (Denial::Forbidden, _) => {
                "--name has to be the name in its token or certificate, which has to allow uploads"
            }
            (Denial::Unknown, _) if about_certificate => "see --tls-cert",
            (Denial::Unknown, Some(_)) => "renew the token in --token-file",
            (Denial::Unknown, None) => "show a token with --token-file",
        };
        match words.is_empty() {
            true => format!("no reason given; {advice}"),
            false => format!("{words}; {advice}"),
        }
    }
}

/// Longest text of an answer that is repeated.
const LONGEST: usize = 300;

/// Why somebody was turned down, by whatever the answer of HTTP says.
pub(super) fn words_of(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> String {
    let document: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let challenge = headers.get(header::WWW_AUTHENTICATE);
    let challenge = challenge.and_then(|value| value.to_str().ok());
    let description = challenge.and_then(|challenge| {
        let (_, rest) = challenge.split_once("error_description=\"")?;
        rest.split('"').next()
    });
    let words = document["detail"].as_str().or(description);
    // What somebody between says is for browsers.
    let words = words.filter(|words| !words.is_empty());
    let words = words.map_or_else(|| format!("HTTP status {status}"), str::to_owned);
    words
        .chars()
        .filter(|c| !c.is_control())
        .take(LONGEST)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_is_quoted_by_what_its_answer_has() {
        let challenge =
            "Bearer realm=\"x\", error=\"invalid_token\", error_description=\"Token expired\"";
        let with = HeaderMap::from_iter([(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static(challenge),
        )]);
        let status = StatusCode::UNAUTHORIZED;
        let none = HeaderMap::new();
        for (headers, body, words) in [
            (
                &with,
                &b"{\"detail\":\"Missing token\"}"[..],
                "Missing token",
            ),
            (&with, b"<html>", "Token expired"),
            (&none, b"<html>", "HTTP status 401 Unauthorized"),
        ] {
            assert_eq!(words_of(status, headers, body), words);
        }
    }
}
