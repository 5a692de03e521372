//! A bad link: a TCP proxy that does to connections what networks do.
//!
//! What happens to a connection is drawn from the seed and the number of the connection, and is
//! tied to byte positions, so that the same traffic meets the same faults. When connections are
//! made and how bytes fall into pieces is up to the programs and the kernel.

mod fate;
mod pump;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub(crate) use fate::{Fault, Link};

/// Time to reach the program behind the proxy. It is on this machine.
const CONNECT: Duration = Duration::from_secs(2);
/// Time between two tries to accept when there are no file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(20);

/// Which of the receiver's two addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Grpc,
    Http,
}

/// The proxy. It ends when it is dropped.
pub(crate) struct Proxy {
    shared: Arc<Shared>,
    grpc: SocketAddr,
    http: SocketAddr,
    breaks: watch::Sender<u64>,
    thread: Option<JoinHandle<()>>,
    end: Option<tokio::sync::oneshot::Sender<()>>,
}

struct Shared {
    targets: Mutex<[Option<SocketAddr>; 2]>,
    link: Mutex<Link>,
    /// Faults happen. Without, bytes pass as they are, also those of older connections.
    faulty: AtomicBool,
    /// Connections so far.
    connections: AtomicU64,
    /// Bytes that were passed on to the receiver.
    up: AtomicU64,
    /// Faults that happened, by their place in `Fault::NAMES`.
    happened: [AtomicU64; Fault::NAMES.len()],
    /// Bytes a second to the receiver, 0 for no limit.
    rate: AtomicU64,
}

impl Proxy {
    /// Starts one that leads nowhere yet and does no harm.
    pub(crate) fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting the proxy")?;
        let listen = || runtime.block_on(TcpListener::bind("127.0.0.1:0"));
        let (grpc, http) = (listen()?, listen()?);
        let shared = Arc::new(Shared {
            targets: Mutex::default(),
            link: Mutex::new(Link::clean()),
            faulty: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            up: AtomicU64::new(0),
            happened: std::array::from_fn(|_| AtomicU64::new(0)),
            rate: AtomicU64::new(0),
        });
        let addresses = (grpc.local_addr()?, http.local_addr()?);
        let (breaks, broken) = watch::channel(0);
        let (end, ended) = tokio::sync::oneshot::channel();
        let serving = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("proxy".to_owned())
            .spawn(move || serve(&runtime, grpc, http, &serving, &broken, ended))
            .context("starting the proxy")?;
        Ok(Self {
            shared,
            grpc: addresses.0,
            http: addresses.1,
            breaks,
            thread: Some(thread),
            end: Some(end),
        })
    }

    /// What `--to` needs for all transports.
    pub(crate) fn destinations(&self) -> String {
        let Self { grpc, http, .. } = self;
        format!("grpc=http://{grpc},websocket=ws://{http}/v1/stream,rest=http://{http}")
    }

    /// Where the receiver is now; `None`: nowhere, connections are refused.
    pub(crate) fn lead_to(&self, receiver: Option<(SocketAddr, SocketAddr)>) {
        *lock(&self.shared.targets) =
            receiver.map_or([None; 2], |(grpc, http)| [Some(grpc), Some(http)]);
    }

    /// From now on new connections meet their fates on this link.
    pub(crate) fn spoil(&self, link: Link) {
        *lock(&self.shared.link) = link;
        self.shared.faulty.store(true, Ordering::Relaxed);
    }

    /// From now on bytes pass. Connections that are dead already stay dead.
    pub(crate) fn heal(&self) {
        self.shared.faulty.store(false, Ordering::Relaxed);
        *lock(&self.shared.link) = Link::clean();
    }

    /// Passes at most so many bytes a second to the receiver.
    pub(crate) fn limit(&self, bytes_per_second: u64) {
        self.shared.rate.store(bytes_per_second, Ordering::Relaxed);
    }

    /// Breaks all connections, by a reset.
    pub(crate) fn break_all(&self) {
        self.breaks.send_modify(|count| *count += 1);
    }

    /// Bytes that were passed on to the receiver so far.
    pub(crate) fn bytes_up(&self) -> u64 {
        self.shared.up.load(Ordering::Relaxed)
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// How often each fault happened.
    pub(crate) fn happened(&self) -> Vec<(&'static str, u64)> {
        let counts = self.shared.happened.iter();
        let counts = counts.map(|count| count.load(Ordering::Relaxed));
        Fault::NAMES.into_iter().zip(counts).collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // It ends with a panic only if there is a mistake in it, which has been printed then.
            let _ = thread.join();
        }
    }
}

fn lock<T>(value: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(
    runtime: &Runtime,
    grpc: TcpListener,
    http: TcpListener,
    shared: &Arc<Shared>,
    broken: &watch::Receiver<u64>,
    ended: tokio::sync::oneshot::Receiver<()>,
) {
    let accepting = |listener: TcpListener, side: Side| {
        let (shared, broken) = (Arc::clone(shared), broken.clone());
        async move {
            let mut connections = JoinSet::new();
            loop {
                let client = tokio::select! {
                    accepted = listener.accept() => accepted,
                    Some(_) = connections.join_next() => continue,
                };
                match client {
                    Ok((client, _)) => {
                        connections.spawn(connection(
                            Arc::clone(&shared),
                            client,
                            side,
                            broken.clone(),
                        ));
                    }
                    Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
                }
            }
        }
    };
    runtime.block_on(async {
        let both = async {
            tokio::join!(accepting(grpc, Side::Grpc), accepting(http, Side::Http));
        };
        tokio::select! {
            () = both => {}
            _ = ended => {}
        }
    });
}

async fn connection(
    shared: Arc<Shared>,
    client: TcpStream,
    side: Side,
    mut broken: watch::Receiver<u64>,
) {
    broken.mark_unchanged();
    let number = shared.connections.fetch_add(1, Ordering::Relaxed);
    let fate = lock(&shared.link).fate(number);
    if !fate.late.is_zero() {
        shared.count(Fault::LATE);
        tokio::time::sleep(fate.late).await;
    }
    let target = lock(&shared.targets)[side as usize];
    let reset = |stream: &TcpStream| {
        // A socket that cannot be told so is closed in the ordinary manner.
        let _ = stream.set_zero_linger();
    };
    let connected = match target {
        Some(target) => tokio::time::timeout(CONNECT, TcpStream::connect(target)).await,
        None => return reset(&client),
    };
    let Ok(Ok(server)) = connected else {
        return reset(&client);
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let end = tokio::select! {
        end = pump::both(&shared, &client, &server, fate) => end,
        _ = broken.changed() => pump::End::Reset,
    };
    if end == pump::End::Reset {
        reset(&client);
        reset(&server);
    }
}

impl Shared {
    fn count(&self, fault: usize) {
        self.happened[fault].fetch_add(1, Ordering::Relaxed);
    }

    fn is_faulty(&self) -> bool {
        self.faulty.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
