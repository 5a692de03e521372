//! Dials transmitters that listen, for devices that cannot dial out.

use std::future::Future;
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use shared::security::access::{Caller, Identity};
use shared::security::identity::Role;
use shared::security::rate::Rates;
use shared::security::tls::{ClientTls, HTTP_1_1};
use shared::settings::address::is_encrypted;
use shared::wire::WEBSOCKET_SUBPROTOCOL;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use url::Url;

use crate::endpoint::websocket::{self, Endpoint};

/// First and longest waiting time between attempts.
const FIRST_DELAY: Duration = Duration::from_millis(200);
const MAX_DELAY: Duration = Duration::from_secs(30);

/// A session that lasts so long was one.
const PROPER: Duration = Duration::from_secs(5);

/// Time to connect and shake hands.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Names that are looked up at a time. While no name server answers, each holds a thread for as long
/// as the system's resolver tries, also when nobody waits for it any more; files need threads too.
static LOOKUPS: Semaphore = Semaphore::const_new(4);

/// A transmitter that waits to be dialled.
pub(super) struct Dialled {
    /// Where.
    pub(super) url: Url,
    /// For encrypted connections.
    pub(super) tls: Option<Arc<ClientTls>>,
    /// Whether one that cannot be asked who it is is turned away.
    pub(super) known_only: bool,
    /// How often it may begin an image.
    pub(super) rates: Rates,
}

/// Keeps a session with a transmitter until stopped.
pub(super) async fn pull(dialled: Dialled, endpoint: Endpoint) {
    let url = &dialled.url;
    let mut delay = FIRST_DELAY;
    loop {
        let session = tokio::select! {
            session = tokio::time::timeout(CONNECT_TIMEOUT, dialled.dial(&endpoint)) => session,
            () = endpoint.stop.cancelled() => return,
        };
        match session {
            Ok(Ok(session)) => {
                tracing::info!(%url, "dialled");
                let begun = tokio::time::Instant::now();
                session.await;
                // One that ends at once, because it is not let in for example, is not dialled at once again.
                if begun.elapsed() >= PROPER {
                    delay = FIRST_DELAY;
                }
            }
            Ok(Err(problem)) => {
                tracing::warn!(%url, retry_in = ?delay, "transmitter not reached: {problem}");
            }
            Err(_) => {
                tracing::warn!(%url, retry_in = ?delay, "transmitter did not answer in time");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = endpoint.stop.cancelled() => return,
        }
        delay = (delay * 2).min(MAX_DELAY);
    }
}

type Session = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Dialled {
    async fn dial(&self, endpoint: &Endpoint) -> Result<Session, String> {
        let url = &self.url;
        let host = url.host_str().ok_or("the URL has no host")?;
        // IPv6 addresses stand in brackets in a URL, but not in an address.
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = url.port_or_known_default().unwrap_or(80);
        let addresses = look_up(host, port).await?;
        let stream = TcpStream::connect(&addresses[..])
            .await
            .map_err(|error| error.to_string())?;
        let _ = stream.set_nodelay(true);
        let peer = stream.peer_addr().map_err(|error| error.to_string())?;
        let mut request = url
            .as_str()
            .into_client_request()
            .map_err(|error| error.to_string())?;
        let protocol = http::HeaderValue::from_static(WEBSOCKET_SUBPROTOCOL);
        request
            .headers_mut()
            .insert(http::header::SEC_WEBSOCKET_PROTOCOL, protocol);
        let Some(tls) = self.tls.as_ref().filter(|_| is_encrypted(url)) else {
            let pace = self.rates.of(None, peer.ip());
            let dialled = (Caller::Anyone, pace);
            let session = websocket::dial(endpoint, request, stream, dialled).await?;
            return Ok(Box::pin(session));
        };
        let shaken = tls.connect(host, stream, HTTP_1_1, &[Role::Transmitter]);
        let (stream, certificate) = shaken.await.map_err(|error| error.to_string())?;
        let until = certificate.as_ref().and_then(|shown| shown.until);
        let caller = match certificate.and_then(|shown| shown.station) {
            Some(station) => Caller::Known(Arc::new(Identity {
                scopes: station.role.scopes(),
                name: station.name,
                until,
            })),
            None if self.known_only => {
                let words = "its certificate does not say which station it is (spiffe://...)";
                return Err(words.to_owned());
            }
            None => Caller::Anyone,
        };
        let pace = self.rates.of(caller.name(), peer.ip());
        let session = websocket::dial(endpoint, request, stream, (caller, pace)).await?;
        Ok(Box::pin(session))
    }
}

/// Where a host is. Whose address is given waits for nobody. (`tokio::net::lookup_host` would not hold
/// the permit for as long as the thread.)
async fn look_up(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    if let Ok(address) = host.parse() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let permit = LOOKUPS.acquire().await.map_err(|error| error.to_string())?;
    let host = host.to_owned();
    let found = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let found = (host.as_str(), port).to_socket_addrs();
        found
            .map(Iterator::collect)
            .map_err(|error| format!("{host}: {error}"))
    });
    found.await.map_err(|error| error.to_string())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn hosts_are_found_by_address_and_by_name() {
        for host in ["127.0.0.1", "::1"] {
            let address = host.parse().unwrap();
            assert_eq!(
                look_up(host, 7).await,
                Ok(vec![SocketAddr::new(address, 7)])
            );
        }
        let found = look_up("localhost", 7).await.unwrap();
        assert!(
            found.iter().all(|address| address.ip().is_loopback()),
            "{found:?}"
        );
        let problem = look_up("no\0host", 7).await.unwrap_err();
        assert!(problem.starts_with("no"), "{problem}");
    }

    #[tokio::test(start_paused = true)]
    async fn names_wait_for_others_and_addresses_do_not() {
        let all = LOOKUPS.acquire_many(4).await.unwrap();
        // Time passes while nothing works: a lookup would hold it up, and end.
        let limit = Duration::from_secs(3600);
        let waited = tokio::time::timeout(limit, look_up("localhost", 7)).await;
        assert!(waited.is_err());
        assert!(look_up("127.0.0.1", 7).await.is_ok());
        drop(all);
        assert!(look_up("localhost", 7).await.is_ok());
    }
}
