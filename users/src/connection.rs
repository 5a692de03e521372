//! What a request knows of its connection: among its extensions.

use shared::door::{InFlight, Place};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// The connection that a request came over.
#[derive(Debug, Clone)]
pub struct Connection {
    place: Place,
    /// What requests have made of it, as a WebSocket.
    becomes: TaskTracker,
    /// Cancelled when that has to end too.
    over: CancellationToken,
}

/// The connection's end, for whoever serves it: when this is dropped, what it has become ends too.
#[derive(Debug)]
pub struct End {
    becomes: TaskTracker,
    _over: DropGuard,
}

impl Connection {
    /// The connection that has this place.
    pub fn new(place: Place) -> (Self, End) {
        let (becomes, over) = (TaskTracker::new(), CancellationToken::new());
        let end = End {
            becomes: becomes.clone(),
            _over: over.clone().drop_guard(),
        };
        let connection = Self {
            place,
            becomes,
            over,
        };
        (connection, end)
    }

    /// A request of it has been let in: until what this returns is dropped, it has something to do.
    pub fn begin(&self) -> InFlight {
        self.place.begin()
    }

    /// It becomes something else, which goes on when the requests are over. To be called before the
    /// answer to the request that asked for it.
    pub fn become_other(&self) -> Other {
        Other {
            connection: self.clone(),
            _task: self.becomes.token(),
        }
    }
}

impl End {
    /// Waits for what the connection has become; its requests are over.
    pub async fn reached(self) {
        self.becomes.close();
        self.becomes.wait().await;
    }
}

/// What a connection has become: it keeps its place, and whoever serves it waits for its end.
#[derive(Debug)]
pub struct Other {
    connection: Connection,
    _task: TaskTrackerToken,
}

impl Other {
    /// Runs `future` until the connection has to end: others need its place, its client's certificate is
    /// good no more, or the server has no more time.
    pub async fn run(self, future: impl Future<Output = ()>) {
        self.connection.over.run_until_cancelled(future).await;
    }
}
