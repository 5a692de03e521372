//! A proxy that looks at what passes, and changes nothing.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::frames::{Frame, Frames, Kind, PREFACE};

/// Bytes that are read at a time.
const BUFFER: usize = 64 << 10;

/// Which way something goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    ToServer,
    ToClient,
}

/// A frame that passed.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) at: Instant,
    pub(super) connection: usize,
    pub(super) way: Way,
    pub(super) frame: Frame,
}

impl Seen {
    /// Whether it begins a call.
    pub(super) fn begins_call(&self) -> bool {
        self.way == Way::ToServer && self.frame.kind == Kind::Headers
    }
}

/// What passed so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Record {
    pub(super) connections: usize,
    pub(super) bytes_to_server: u64,
    pub(super) bytes_to_client: u64,
    /// In the order in which they passed; none of HTTP/1.1.
    pub(super) frames: Vec<Seen>,
}

impl Record {
    /// Streams that clients opened.
    pub(super) fn streams(&self) -> usize {
        let mut opened: Vec<(usize, u32)> = (self.frames.iter())
            .filter(|seen| seen.begins_call())
            .map(|seen| (seen.connection, seen.frame.stream))
            .collect();
        opened.sort_unstable();
        opened.dedup();
        opened.len()
    }

    /// Bytes of DATA to the client, of one stream or of all.
    pub(super) fn data_to_client(&self, stream: Option<u32>) -> u64 {
        (self.frames.iter())
            .filter(|seen| seen.way == Way::ToClient && seen.frame.kind == Kind::Data)
            .filter(|seen| stream.is_none_or(|stream| seen.frame.stream == stream))
            .map(|seen| u64::from(seen.frame.length))
            .sum()
    }

    /// Bytes that the client has granted to the server: to the connection (stream 0) or a stream.
    pub(super) fn granted_to_server(&self, stream: u32) -> u64 {
        let to_server = || (self.frames.iter()).filter(|seen| seen.way == Way::ToServer);
        let initial = match stream {
            0 => None,
            _ => to_server().find_map(|seen| seen.frame.initial_window()),
        };
        let more = to_server()
            .filter(|seen| seen.frame.stream == stream)
            .filter_map(|seen| seen.frame.increment());
        // RFC 9113, section 6.9.2.
        u64::from(initial.unwrap_or(65_535)) + more.map(u64::from).sum::<u64>()
    }
}

#[derive(Debug)]
struct Shared {
    record: Mutex<Record>,
    passed: watch::Sender<()>,
}

impl Shared {
    fn note(&self, change: impl FnOnce(&mut Record)) {
        // What others noted before they panicked is as good as ever.
        change(&mut self.record.lock().unwrap_or_else(PoisonError::into_inner));
        self.passed.send_replace(());
    }
}

/// The proxy; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Tap {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
    _accepting: AbortOnDropHandle<()>,
}

impl Tap {
    /// Passes on what comes to a free port to `server`.
    pub(super) async fn start(server: SocketAddr) -> Result<Self, String> {
        let text = |error: io::Error| format!("the tap cannot listen: {error}");
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(text)?;
        let address = listener.local_addr().map_err(text)?;
        let shared = Arc::new(Shared {
            record: Mutex::default(),
            passed: watch::Sender::new(()),
        });
        let accepting = tokio::spawn(accept(listener, server, Arc::clone(&shared)));
        Ok(Self {
            address,
            shared,
            _accepting: AbortOnDropHandle::new(accepting),
        })
    }

    /// What passed so far.
    pub(super) fn record(&self) -> Record {
        self.look(Record::clone)
    }

    /// Looks at what passed so far.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Record) -> T) -> T {
        look(
            &self
                .shared
                .record
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Waits until `found` finds something in what has passed.
    pub(super) async fn wait<T>(
        &self,
        what: &str,
        mut found: impl FnMut(&Record) -> Option<T>,
    ) -> Result<T, String> {
        const PATIENCE: Duration = Duration::from_secs(20);
        let mut passed = self.shared.passed.subscribe();
        let wait = async {
            loop {
                if let Some(found) = self.look(&mut found) {
                    return Some(found);
                }
                passed.changed().await.ok()?;
            }
        };
        let found = tokio::time::timeout(PATIENCE, wait).await.ok().flatten();
        found.ok_or_else(|| format!("the tap has not seen {what} within {PATIENCE:?}"))
    }

    /// Waits until nothing has passed for so long.
    pub(super) async fn quiet(&self, time: Duration) {
        let mut passed = self.shared.passed.subscribe();
        while let Ok(Ok(())) = tokio::time::timeout(time, passed.changed()).await {}
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, shared: Arc<Shared>) {
    let mut pumps = tokio::task::JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let Ok(upstream) = TcpStream::connect(server).await else {
            continue;
        };
        let _ = client.set_nodelay(true).and(upstream.set_nodelay(true));
        let mut connection = 0;
        shared.note(|record| {
            connection = record.connections;
            record.connections += 1;
        });
        let shared = Arc::clone(&shared);
        pumps.spawn(async move {
            // An end that breaks off ends the other, too: both halves are dropped.
            let _ = pass(client, upstream, connection, &shared).await;
        });
        while pumps.try_join_next().is_some() {}
    }
}

async fn pass(
    client: TcpStream,
    server: TcpStream,
    connection: usize,
    shared: &Shared,
) -> io::Result<()> {
    let mut first = [0; PREFACE.len()];
    // A client speaks first, in both protocols, and says at least so much.
    let length = client.peek(&mut first).await?;
    let is_http2 = length > 0 && PREFACE.starts_with(&first[..length]);
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let pump = |way| Pump {
        connection,
        way,
        shared,
        frames: is_http2.then(|| match way {
            Way::ToServer => Frames::of_client(),
            Way::ToClient => Frames::of_server(),
        }),
    };
    tokio::try_join!(
        pump(Way::ToServer).run(client_read, server_write),
        pump(Way::ToClient).run(server_read, client_write),
    )?;
    Ok(())
}

/// One way of one connection.
struct Pump<'a> {
    connection: usize,
    way: Way,
    shared: &'a Shared,
    frames: Option<Frames>,
}

impl Pump<'_> {
    async fn run(mut self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let read = from.read(&mut buffer).await?;
            if read == 0 {
                return to.shutdown().await;
            }
            self.see(&buffer[..read]);
            to.write_all(&buffer[..read]).await?;
        }
    }

    fn see(&mut self, bytes: &[u8]) {
        let (at, way, connection) = (Instant::now(), self.way, self.connection);
        self.shared.note(|record| {
            match way {
                Way::ToServer => record.bytes_to_server += bytes.len() as u64,
                Way::ToClient => record.bytes_to_client += bytes.len() as u64,
            }
            if let Some(frames) = &mut self.frames {
                frames.feed(bytes, |frame| {
                    record.frames.push(Seen {
                        at,
                        connection,
                        way,
                        frame,
                    });
                });
            }
        });
    }
}
