//! Stands between two stations and spoils their connection.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::within;

/// Forwards connections, byte by byte, until told otherwise.
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

struct Shared {
    state: Mutex<State>,
    flow: watch::Sender<Flow>,
    /// Connections that stand still, by [`Proxy::stall_after`].
    stalled: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    target: Option<SocketAddr>,
    /// Of the next connections: what happens after how many bytes, both ways together.
    limits: VecDeque<(u64, AtLimit)>,
    /// The connection that first brings this is cut instead.
    cut_on: Option<&'static [u8]>,
    /// Of the next connection: the byte of its near side of which a bit changes.
    flip: Option<u64>,
    cuts: usize,
    open: CancellationToken,
}

#[derive(Debug, Clone, Copy)]
enum AtLimit {
    Cut,
    Stall,
}

/// What holds for all connections.
#[derive(Debug, Clone, Copy, Default)]
struct Flow {
    requests_held: bool,
    answers_held: bool,
    stalls_released: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn cuts_on(&self, bytes: &[u8]) -> bool {
        let mut state = self.state();
        let Some(words) = state.cut_on else {
            return false;
        };
        let found = bytes.windows(words.len()).any(|window| window == words);
        if found {
            state.cut_on = None;
        }
        found
    }
}

impl Proxy {
    /// A proxy to `target`; without one, connections are closed at once.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start(target: Option<SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("port 0 is always free");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                target,
                ..State::default()
            }),
            flow: watch::Sender::default(),
            stalled: watch::Sender::default(),
        });
        let stop = CancellationToken::new();
        tokio::spawn(accept(listener, Arc::clone(&shared), stop.clone()));
        Self {
            address,
            shared,
            _stop: stop.drop_guard(),
        }
    }

    /// From now on connections go to `target`; those that are open are cut.
    pub fn redirect(&self, target: Option<SocketAddr>) {
        let mut state = self.shared.state();
        state.target = target;
        std::mem::take(&mut state.open).cancel();
    }

    /// The next connections are cut after as many bytes each, both ways together.
    pub fn cut_after(&self, bytes: &[u64]) {
        let limits = bytes.iter().map(|bytes| (*bytes, AtLimit::Cut));
        self.shared.state().limits.extend(limits);
    }

    /// The connection whose near side first sends `words`, in one piece, is cut before them.
    pub fn cut_on(&self, words: &'static [u8]) {
        self.shared.state().cut_on = Some(words);
    }

    /// In the next connection, a bit of the byte number `at` of what the near side sends changes.
    pub fn flip_at(&self, at: u64) {
        self.shared.state().flip = Some(at);
    }

    /// The next connections stand still after as many bytes each, both ways together.
    pub fn stall_after(&self, bytes: &[u64]) {
        let limits = bytes.iter().map(|bytes| (*bytes, AtLimit::Stall));
        self.shared.state().limits.extend(limits);
    }

    /// Waits until a connection stands still.
    pub async fn stalled(&self) {
        let mut stalled = self.shared.stalled.subscribe();
        let _ = within("the stall", stalled.wait_for(|count| *count > 0)).await;
    }

    /// What stands still moves on.
    pub fn release(&self) {
        self.shared
            .flow
            .send_modify(|flow| flow.stalls_released = true);
    }

    /// Whether what the far side answers is held back.
    pub fn hold_answers(&self, held: bool) {
        self.shared
            .flow
            .send_modify(|flow| flow.answers_held = held);
    }

    /// Whether what the near side, which dialled, sends is held back.
    pub fn hold_requests(&self, held: bool) {
        self.shared
            .flow
            .send_modify(|flow| flow.requests_held = held);
    }

    /// Connections that were cut, after their limit or by [`Self::redirect`].
    pub fn cuts(&self) -> usize {
        self.shared.state().cuts
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let Ok((near, _)) = accepted else { continue };
        let (target, open, limit, mut flip) = {
            let mut state = shared.state();
            let limit = state.target.and_then(|_| state.limits.pop_front());
            (
                state.target,
                state.open.clone(),
                limit.unwrap_or((u64::MAX, AtLimit::Cut)),
                state.target.and_then(|_| state.flip.take()),
            )
        };
        let Some(target) = target else { continue };
        let (shared, stop) = (Arc::clone(&shared), stop.clone());
        tokio::spawn(async move {
            let cut = tokio::select! {
                // First, so that nothing passes that is let go after the cut.
                biased;
                () = open.cancelled() => true,
                () = stop.cancelled() => false,
                cut = forward(near, target, limit, &mut flip, &shared) => cut,
            };
            shared.state().cuts += usize::from(cut);
        });
    }
}

/// Changes a bit of the byte number `flip` from here on, if it is among these.
fn spoil(bytes: &mut [u8], flip: &mut Option<u64>) {
    let Some(at) = flip else { return };
    match usize::try_from(*at).ok().and_then(|at| bytes.get_mut(at)) {
        Some(byte) => {
            *byte ^= 0x10;
            *flip = None;
        }
        None => *at -= bytes.len() as u64,
    }
}

/// Whether it was the limit that ended the connection.
async fn forward(
    mut near: TcpStream,
    target: SocketAddr,
    (limit, at_limit): (u64, AtLimit),
    flip: &mut Option<u64>,
    shared: &Shared,
) -> bool {
    let Ok(mut far) = TcpStream::connect(target).await else {
        return false;
    };
    let mut flow = shared.flow.subscribe();
    let (mut up, mut down) = (vec![0; 16 << 10], vec![0; 16 << 10]);
    let mut left = limit;
    loop {
        let Flow {
            requests_held,
            answers_held,
            ..
        } = *flow.borrow_and_update();
        let (read, from_near) = tokio::select! {
            read = near.read(&mut up), if !requests_held => (read, true),
            read = far.read(&mut down), if !answers_held => (read, false),
            _ = flow.changed() => continue,
        };
        let Ok(count @ 1..) = read else { return false };
        if from_near {
            spoil(&mut up[..count], flip);
        }
        let (bytes, to) = if from_near {
            (&up[..count], &mut far)
        } else {
            (&down[..count], &mut near)
        };
        if from_near && shared.cuts_on(bytes) {
            return true;
        }
        let passed = usize::try_from(left).unwrap_or(usize::MAX).min(count);
        let mut written = to.write_all(&bytes[..passed]).await;
        left -= passed as u64;
        if left == 0 {
            match at_limit {
                AtLimit::Cut => return true,
                AtLimit::Stall => {
                    shared.stalled.send_modify(|count| *count += 1);
                    let _ = flow.wait_for(|flow| flow.stalls_released).await;
                    left = u64::MAX;
                    written = to.write_all(&bytes[passed..]).await;
                }
            }
        }
        if written.is_err() {
            return false;
        }
    }
}
