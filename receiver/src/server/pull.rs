//! Dials transmitters that listen, for devices that cannot dial out.

use std::future::Future;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use shared::wire::WEBSOCKET_SUBPROTOCOL;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use url::Url;

use crate::endpoint::websocket::{self, Endpoint};

/// First and longest waiting time between attempts.
const FIRST_DELAY: Duration = Duration::from_millis(200);
const MAX_DELAY: Duration = Duration::from_secs(30);

/// Time to connect and shake hands.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Names that are looked up at a time. While no name server answers, each holds a thread for as long
/// as the system's resolver tries, also when nobody waits for it any more; files need threads too.
static LOOKUPS: Semaphore = Semaphore::const_new(4);

/// Keeps a session with the transmitter at `url` until stopped.
pub(super) async fn pull(url: Url, endpoint: Endpoint) {
    let mut delay = FIRST_DELAY;
    loop {
        let dialled = tokio::select! {
            dialled = tokio::time::timeout(CONNECT_TIMEOUT, dial(&url, &endpoint)) => dialled,
            () = endpoint.stop.cancelled() => return,
        };
        match dialled {
            Ok(Ok(session)) => {
                delay = FIRST_DELAY;
                tracing::info!(%url, "dialled");
                session.await;
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

async fn dial(url: &Url, endpoint: &Endpoint) -> Result<impl Future<Output = ()> + use<>, String> {
    let host = url.host_str().ok_or("the URL has no host")?;
    // IPv6 addresses stand in brackets in a URL, but not in an address.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = url.port_or_known_default().unwrap_or(80);
    let addresses = look_up(host, port).await?;
    let stream = TcpStream::connect(&addresses[..])
        .await
        .map_err(|error| error.to_string())?;
    let _ = stream.set_nodelay(true);
    let mut request = url
        .as_str()
        .into_client_request()
        .map_err(|error| error.to_string())?;
    let protocol = http::HeaderValue::from_static(WEBSOCKET_SUBPROTOCOL);
    request
        .headers_mut()
        .insert(http::header::SEC_WEBSOCKET_PROTOCOL, protocol);
    websocket::dial(endpoint, request, stream).await
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
