//! The door of a server: who comes in, how many at a time, and who has to leave for others.
//!
//! A listener's connections shake hands side by side, each within its time. Until its first request has
//! been let in, or until it has shown a certificate, a connection is a newcomer; there are few places for
//! these, and each one more sends the oldest away: the oldest of its own address, once that has an eighth of
//! the places. So a crowd that connects and says nothing has nobody else wait: whoever knows what it
//! wants is through before a few hundred others have come. When all places are taken, connections that
//! have nothing to do give way.

mod guests;
mod stream;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::listen::Opening;
use crate::security::tls::{Certificate, Refused, ServerTls};

pub use guests::{Crowd, Guests, InFlight, Place, States};
pub use stream::Stream;

/// Bounds on connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// In all.
    pub connections: usize,
    /// Of one address; with IPv6 of one network of 64 bits, which one machine has for itself.
    pub per_peer: usize,
    /// Without a request yet.
    pub newcomers: usize,
    /// Time for the handshake of TLS, and again for the beginning of the first request.
    pub handshake: Duration,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// What it has shown.
    pub certificate: Option<Certificate>,
    /// Whether nobody on the way can listen.
    pub encrypted: bool,
}

/// A connection that may speak.
#[derive(Debug)]
pub struct Visitor {
    /// Its bytes.
    pub stream: Stream,
    /// Who it is.
    pub peer: Arc<Peer>,
    /// Its place, which goes with whatever the connection becomes.
    pub place: Place,
    /// The protocol that the handshake agreed on, if one did.
    pub protocol: Option<Vec<u8>>,
}

/// Lets connections of any number of listeners in.
#[derive(Clone)]
pub struct Door {
    bounds: Bounds,
    guests: Arc<Guests>,
    log: Arc<Log>,
    /// Asks connections to end.
    stop: CancellationToken,
    /// Drops them.
    cut: CancellationToken,
    tasks: TaskTracker,
}

impl Door {
    /// A door whose connections are asked to end by `stop` and dropped by `cut`. `refused` hears of
    /// those who are turned away, with a word for figures.
    pub fn new(
        bounds: Bounds,
        stop: CancellationToken,
        cut: CancellationToken,
        tasks: TaskTracker,
        refused: impl Fn(&'static str) + Send + Sync + 'static,
    ) -> Self {
        Self {
            bounds,
            guests: Arc::new(Guests::new(bounds)),
            log: Arc::new(Log {
                refused: Box::new(refused),
                lines: Mutex::new((Instant::now(), 0)),
            }),
            stop,
            cut,
            tasks,
        }
    }

    /// Who is there.
    pub fn guests(&self) -> &Arc<Guests> {
        &self.guests
    }

    /// Tells the operator of somebody who was let in and then turned away, as of the others: without a
    /// line for each of a crowd.
    pub fn tell(&self, words: std::fmt::Arguments<'_>) {
        self.log.note(words);
    }

    /// Hands every connection to `serve` until stopped.
    pub async fn run<F, S>(self, listener: TcpListener, tls: Option<Arc<ServerTls>>, serve: S)
    where
        S: Fn(Visitor) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        while let Some((stream, address)) = self.next(&listener).await {
            let Some(place) = self.place(address).await else {
                continue;
            };
            let (door, tls, serve) = (self.clone(), tls.clone(), serve.clone());
            self.tasks.spawn(async move {
                let seat = place.clone();
                let visit = async {
                    let shaking = door.shake_hands(stream, address, tls, place);
                    // Nobody is waited for who has not come in yet.
                    let Some(shaken) = door.stop.run_until_cancelled(shaking).await else {
                        return;
                    };
                    match shaken {
                        Ok(visitor) => serve(visitor).await,
                        Err(refused) => door.log.turned_away(address, refused.key(), &refused),
                    }
                };
                tokio::select! {
                    () = visit => {}
                    () = seat.gone().cancelled() => if seat.has_given_way() {
                        door.log.turned_away(address, "gave-way", &"others needed its place");
                    },
                    () = door.cut.cancelled() => {}
                }
            });
        }
    }

    async fn next(&self, listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => return None,
            };
            match accepted {
                Ok((stream, address)) => {
                    // Only latency suffers where it cannot be set.
                    let _ = stream.set_nodelay(true);
                    return Some((stream, address));
                }
                Err(error) => {
                    // Out of file descriptors, mostly: others must close first.
                    tracing::error!("accepting a connection failed: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// A place, once there is one; `None` for those who get none, and when stopped.
    async fn place(&self, address: SocketAddr) -> Option<Place> {
        loop {
            // Before the table is looked at: whoever leaves after that is noticed.
            let left = self.guests.left();
            match self.guests.enter(address.ip()) {
                Ok(place) => return Some(place),
                Err(crowd @ Crowd::OfPeer) => {
                    self.log.turned_away(address, "per-peer", &crowd);
                    return None;
                }
                Err(Crowd::OfAll) => {
                    self.log.note(format_args!(
                        "all {} connections are busy, and others wait; raise the setting max-connections",
                        self.bounds.connections
                    ));
                }
            }
            tokio::select! {
                () = left => {}
                () = self.stop.cancelled() => return None,
            }
        }
    }

    async fn shake_hands(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        tls: Option<Arc<ServerTls>>,
        place: Place,
    ) -> Result<Visitor, Refused> {
        let within = self.bounds.handshake;
        let Some(tls) = tls else {
            let visitor = Visitor {
                stream: Stream::plain(Opening::new(stream, within)),
                peer: Arc::new(Peer {
                    address,
                    certificate: None,
                    encrypted: false,
                }),
                place,
                protocol: None,
            };
            return Ok(visitor);
        };
        let accepted = tls.accept(stream, within, place.gone().clone()).await?;
        place.watch(accepted.ended);
        if accepted.certificate.is_some() {
            place.know();
        }
        let protocol = accepted
            .stream
            .get_ref()
            .1
            .alpn_protocol()
            .map(<[u8]>::to_vec);
        let visitor = Visitor {
            stream: Stream::encrypted(Opening::new(accepted.stream, within)),
            peer: Arc::new(Peer {
                address,
                certificate: accepted.certificate,
                encrypted: true,
            }),
            place,
            protocol,
        };
        Ok(visitor)
    }
}

/// Lines about those who are turned away: each of a few, and then how many there were, lest a crowd
/// fills the disk.
struct Log {
    refused: Box<dyn Fn(&'static str) + Send + Sync>,
    /// Since when, and how many lines.
    lines: Mutex<(Instant, u64)>,
}

/// Lines in a span of time.
const LINES: u64 = 20;
const SPAN: Duration = Duration::from_secs(10);

impl Log {
    fn turned_away(&self, address: SocketAddr, key: &'static str, why: &dyn std::fmt::Display) {
        (self.refused)(key);
        // Port scanners and health checks do that all day.
        if key == "gone" {
            tracing::debug!(%address, "turned away: {why}");
            return;
        }
        self.note(format_args!("{address} is turned away: {why}"));
    }

    fn note(&self, words: std::fmt::Arguments<'_>) {
        let mut lines = self.lines.lock();
        if lines.0.elapsed() >= SPAN {
            if lines.1 > LINES {
                tracing::warn!(
                    more = lines.1 - LINES,
                    "connections were turned away, without a line for each"
                );
            }
            *lines = (Instant::now(), 0);
        }
        lines.1 += 1;
        if lines.1 <= LINES {
            tracing::warn!("{words}");
        }
    }
}

/// What counts as one machine.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => {
                let mut segments = v6.segments();
                segments[4..].fill(0);
                IpAddr::from(segments)
            }
        },
    }
}
