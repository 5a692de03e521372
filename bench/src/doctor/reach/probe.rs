//! Goes the way of a transmitter step by step: name, connection, encryption, session.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use shared::image::Transport;
use shared::security::tls::{Certificate, ClientStream, H2, HTTP_1_1, validity};
use shared::settings::address::is_encrypted;
use shared::telemetry::chain;
use tokio::net::TcpStream;

use super::noting::Noting;
use super::{Handshake, Reached, Session, Shown, Target, session};

/// Goes it as far as it leads, each step within this time.
pub(crate) async fn probe(target: &Target, shown: &Shown, patience: Duration) -> Reached {
    let mut reached = Reached::default();
    let Some(stream) = connect(target, patience, &mut reached).await else {
        return reached;
    };
    // Only latency suffers where it cannot be set.
    let _ = stream.set_nodelay(true);
    let stream = match (&shown.tls, is_encrypted(&target.url)) {
        (Some(tls), true) => {
            let protocol = if target.transport == Transport::Grpc {
                H2
            } else {
                HTTP_1_1
            };
            let begun = Instant::now();
            let shaking = tls.connect(target.host(), stream, protocol, target.roles);
            match tokio::time::timeout(patience, shaking).await {
                Ok(Ok((stream, certificate))) => {
                    let shaken = handshake(&stream, certificate, begun.elapsed());
                    reached.shaken = Some(Ok(shaken));
                    Noting::new(stream)
                }
                Ok(Err(error)) => {
                    reached.shaken = Some(Err(chain(&error)));
                    return reached;
                }
                Err(_) => {
                    reached.shaken = Some(Err(format!("no handshake within {patience:?}")));
                    return reached;
                }
            }
        }
        _ => Noting::new(stream),
    };
    if target.speaks {
        let reason = stream.reason();
        let talking = session::talk(target, shown, stream, &mut reached);
        let talked = tokio::time::timeout(patience, talking).await;
        let session =
            talked.unwrap_or_else(|_| Session::Lost(format!("no answer within {patience:?}")));
        // What the other side said in hanging up is better than that it did.
        reached.session = Some(match (session, reason.get()) {
            (Session::Lost(_), Some(words)) => Session::Denied {
                known: false,
                words,
            },
            (session, _) => session,
        });
    }
    reached
}

/// Addresses of one name that are tried, so that it comes to an end.
const MOST: usize = 8;

/// Resolves and connects, to one address after another as daemons do.
async fn connect(target: &Target, patience: Duration, reached: &mut Reached) -> Option<TcpStream> {
    let begun = Instant::now();
    let looking = tokio::net::lookup_host((target.host().to_owned(), target.port()));
    let addresses: Vec<SocketAddr> = match tokio::time::timeout(patience, looking).await {
        Ok(Ok(addresses)) => addresses.take(MOST).collect(),
        Ok(Err(error)) => {
            reached.resolved = Some(Err(error.to_string()));
            return None;
        }
        Err(_) => {
            reached.resolved = Some(Err(format!("no answer within {patience:?}")));
            return None;
        }
    };
    reached.resolved = Some(Ok((addresses.clone(), begun.elapsed())));
    let begun = Instant::now();
    let mut last = (
        io::ErrorKind::AddrNotAvailable,
        "it has no address".to_owned(),
    );
    for address in addresses {
        match tokio::time::timeout(patience, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                reached.connected = Some(Ok((address, begun.elapsed())));
                return Some(stream);
            }
            Ok(Err(error)) => last = (error.kind(), format!("{address}: {error}")),
            Err(_) => {
                let words = format!("{address}: no answer within {patience:?}");
                last = (io::ErrorKind::TimedOut, words);
            }
        }
    }
    reached.connected = Some(Err(last));
    None
}

fn handshake(
    stream: &ClientStream<TcpStream>,
    certificate: Option<Certificate>,
    took: Duration,
) -> Handshake {
    let connection = stream.get_ref().1;
    let version = connection.protocol_version();
    let suite = connection
        .negotiated_cipher_suite()
        .map(|suite| suite.suite());
    let first = connection
        .peer_certificates()
        .and_then(|chain| chain.first());
    let word = |word: Option<String>| word.unwrap_or_else(|| "unknown".to_owned());
    Handshake {
        version: word(version.map(|version| format!("{version:?}"))),
        suite: word(suite.map(|suite| format!("{suite:?}"))),
        protocol: connection.alpn_protocol().map_or_else(
            || "none".to_owned(),
            |name| String::from_utf8_lossy(name).into_owned(),
        ),
        peer: certificate.and_then(|certificate| certificate.station),
        until: first.and_then(validity).map(|(_, until)| until),
        took,
    }
}
