//! Ports that are listened on.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use receiver::config::Config;
use serde_json::Value;
use shared::listen::{Holder, ListenError};
use shared::security::identity::Role;
use shared::security::tls::{ClientFiles, ClientTls, HTTP_1_1};
use tokio::net::TcpStream;

use super::certificates::papers;
use super::{Finding, Group, Level, advice, reach};

const GROUP: Group = Group::Listeners;

/// What became of trying to listen.
#[derive(Debug)]
pub(crate) enum State {
    /// It can be done.
    Free,
    /// Somebody does already.
    Taken(Option<Holder>),
    /// It cannot be done.
    Refused(ListenError),
}

/// Listens for a moment.
pub(crate) async fn look(setting: &'static str, address: SocketAddr) -> State {
    match shared::listen::listen(address, setting).await {
        Ok(_) => State::Free,
        Err(error) if error.source.kind() == io::ErrorKind::AddrInUse => State::Taken(error.holder),
        Err(error) => State::Refused(error),
    }
}

/// Judges a listener; `ours` when it is this station's daemon that has the port.
pub(crate) fn judge(setting: &str, address: SocketAddr, state: &State, ours: bool) -> Finding {
    let place = (GROUP, "port");
    match state {
        State::Free => Finding::ok(GROUP, "port", format!("{address} ({setting}) is free")),
        State::Taken(Some(Holder { process, name })) if ours => {
            let found =
                format!("{address} ({setting}) is this station's: process {process} ({name}) runs");
            Finding::ok(place.0, place.1, found).with("process", *process)
        }
        State::Taken(who) => {
            let (who, stop) = match who {
                Some(Holder { process, name }) => (
                    format!("process {process} ({name})"),
                    format!("stop it (`kill {process}`)"),
                ),
                None => {
                    let port = address.port();
                    (
                        "another process".to_owned(),
                        format!("find it (`sudo ss -ltnp 'sport = :{port}'`) and stop it"),
                    )
                }
            };
            let found = format!("{address} ({setting}) is taken: {who} listens there");
            Finding::bad(
                Level::Problem,
                place,
                found,
                format!("{stop}, or choose another port with {setting}"),
            )
        }
        State::Refused(error) => {
            let words = error.to_string();
            let (found, fix) = advice(&words, "choose another address");
            Finding::bad(Level::Problem, place, found, fix)
        }
    }
}

/// Asks the receiver that runs here how it is.
pub(crate) async fn ask(config: &Config, address: SocketAddr, patience: Duration) -> Finding {
    let of = address.to_string();
    match tokio::time::timeout(patience, readyz(config, address)).await {
        Ok(Ok(ready)) => Finding {
            group: GROUP,
            ..reach::readiness(&of, &ready)
        },
        Ok(Err(problem)) => unasked(&of, &problem),
        Err(_) => {
            let found =
                format!("{of}: the receiver that runs here has not answered within {patience:?}");
            let fix = "see its log and its load (`top`); a disk that hangs holds it up, too";
            Finding::bad(Level::Problem, (GROUP, "ready"), found, fix)
        }
    }
}

fn unasked(of: &str, problem: &str) -> Finding {
    let found =
        format!("{of}: the receiver that runs here cannot be asked whether it is ready: {problem}");
    let fix = "ask GET /readyz as a station that it trusts, or see its log";
    Finding::bad(Level::Note, (GROUP, "ready"), found, fix)
}

async fn readyz(config: &Config, address: SocketAddr) -> Result<Value, String> {
    let address = within_this_machine(address);
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| error.to_string())?;
    let host = address.to_string();
    let (_, body) = match &config.security.tls {
        None => reach::get(stream, &host, "/readyz").await?,
        Some(files) => {
            let own = (files.certificate.clone(), files.key.clone());
            let ca = files.clients.as_ref().map(|clients| clients.ca.clone());
            let name = first_name(&own.0)?;
            let opening = move || {
                ClientTls::open(ClientFiles {
                    ca,
                    own: Some(own),
                    revoked: None,
                })
            };
            let tls = tokio::task::spawn_blocking(opening).await;
            let tls = tls.map_err(|error| error.to_string())?;
            let tls = tls.map_err(|error| error.to_string())?;
            let roles = [Role::Receiver, Role::Gateway, Role::Admin];
            let shaken = tls.connect(&name, stream, HTTP_1_1, &roles).await;
            let (stream, _) = shaken.map_err(|error| error.to_string())?;
            reach::get(stream, &name, "/readyz").await?
        }
    };
    let ready: Value = serde_json::from_slice(&body).unwrap_or_default();
    match ready["checks"].is_object() {
        true => Ok(ready),
        false => Err("its answer is not that of a receiver".to_owned()),
    }
}

/// By which name it is dialled.
fn first_name(certificate: &Path) -> Result<String, String> {
    let papers = papers(certificate)?;
    let name = papers.first().and_then(|own| own.names.first().cloned());
    name.ok_or_else(|| "its certificate has no name by which it is dialled".to_owned())
}

fn within_this_machine(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_is_free_ours_or_somebody_elses() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        assert_eq!(
            judge("--x", any, &look("--x", any).await, false).level,
            Level::Ok
        );
        let held = tokio::net::TcpListener::bind(any).await.unwrap();
        let address = held.local_addr().unwrap();
        let state = look("--x", address).await;
        assert_eq!(judge("--x", address, &state, true).level, Level::Ok);
        let taken = judge("--x", address, &state, false);
        assert_eq!(taken.level, Level::Problem);
        let process = format!("process {}", std::process::id());
        assert!(taken.found.contains(&process), "{taken:?}");
        // A documentation address (RFC 5737), which no machine has.
        let elsewhere = SocketAddr::from(([192, 0, 2, 1], 8_080));
        let refused = judge("--x", elsewhere, &look("--x", elsewhere).await, false);
        assert_eq!(refused.level, Level::Problem);
        assert!(
            refused.fix.unwrap().contains("choose one that it has")
                || refused.found.contains("192.0.2.1")
        );
    }
}
