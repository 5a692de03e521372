//! Stands between two stations and cuts their connection.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Forwards connections, byte by byte, until told otherwise.
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    _stop: DropGuard,
}

#[derive(Default)]
struct State {
    target: Option<SocketAddr>,
    /// Of the next connections: bytes, both ways together, after which they are cut.
    cuts: VecDeque<u64>,
    cut: usize,
    open: CancellationToken,
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
        let state = Arc::new(Mutex::new(State {
            target,
            ..State::default()
        }));
        let stop = CancellationToken::new();
        tokio::spawn(accept(listener, Arc::clone(&state), stop.clone()));
        Self {
            address,
            state,
            _stop: stop.drop_guard(),
        }
    }

    /// From now on connections go to `target`; those that are open are cut.
    pub fn redirect(&self, target: Option<SocketAddr>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.target = target;
        std::mem::take(&mut state.open).cancel();
    }

    /// The next connections are cut after as many bytes each, both ways together.
    pub fn cut_after(&self, bytes: &[u64]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.cuts.extend(bytes);
    }

    /// Connections that were cut in the midst of something.
    pub fn cuts(&self) -> usize {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .cut
    }
}

async fn accept(listener: TcpListener, state: Arc<Mutex<State>>, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else { continue };
        let (target, open, limit) = {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            let limit = state.target.and_then(|_| state.cuts.pop_front());
            (state.target, state.open.clone(), limit)
        };
        let Some(target) = target else { continue };
        let (state, stop) = (Arc::clone(&state), stop.clone());
        tokio::spawn(async move {
            let cut = tokio::select! {
                cut = forward(stream, target, limit.unwrap_or(u64::MAX)) => cut,
                () = open.cancelled() => true,
                () = stop.cancelled() => false,
            };
            state.lock().unwrap_or_else(PoisonError::into_inner).cut += usize::from(cut);
        });
    }
}

/// Whether it was the limit that ended the connection.
async fn forward(mut near: TcpStream, target: SocketAddr, limit: u64) -> bool {
    let Ok(mut far) = TcpStream::connect(target).await else {
        return false;
    };
    let (mut up, mut down) = (vec![0; 16 << 10], vec![0; 16 << 10]);
    let mut left = limit;
    loop {
        let (read, from_near) = tokio::select! {
            read = near.read(&mut up) => (read, true),
            read = far.read(&mut down) => (read, false),
        };
        let Ok(count @ 1..) = read else { return false };
        let passed = usize::try_from(left).unwrap_or(usize::MAX).min(count);
        let written = if from_near {
            far.write_all(&up[..passed]).await
        } else {
            near.write_all(&down[..passed]).await
        };
        left -= passed as u64;
        if left == 0 {
            return true;
        }
        if written.is_err() {
            return false;
        }
    }
}
