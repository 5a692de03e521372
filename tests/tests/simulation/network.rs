//! A network in memory: messages take their time, connections break at any of them, lose one
//! direction, or stand still, and nobody need be told.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, mpsc};

use crate::random::Random;
use crate::trace::Trace;

/// A message, or the end of what one side sends.
pub(crate) type Packet = Option<Vec<u8>>;

/// Messages that may be on their way in one direction: buffers of sockets and of the network.
const ROOM: usize = 12;

/// What the network does to those who use it. Chances are of 10,000 messages.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Weather {
    /// Milliseconds that a message takes at least.
    pub(crate) latency: u64,
    /// Milliseconds that it takes longer, at most.
    pub(crate) jitter: u64,
    /// The connection breaks.
    pub(crate) cut: u64,
    /// One direction stands still for good, and nobody is told.
    pub(crate) stall: u64,
    /// A byte of a chunk is changed.
    pub(crate) flip: u64,
}

/// The network. Clones are the same.
#[derive(Clone)]
pub(crate) struct Network(Arc<Mutex<State>>);

struct State {
    now: u64,
    random: Random,
    weather: Weather,
    connections: BTreeMap<u64, Connection>,
    next: u64,
    listener: Option<mpsc::UnboundedSender<(Outbound, Inbound)>>,
    trace: Trace,
}

/// Both directions of a connection, the one from the transmitter first.
struct Connection {
    lanes: [Lane; 2],
}

struct Lane {
    /// Of its own: the dice must not depend on which of two lanes is used first, which is for the
    /// runtime to decide when it drops a station.
    random: Random,
    queue: VecDeque<(u64, Packet)>,
    to: mpsc::UnboundedSender<Packet>,
    room: Arc<Semaphore>,
    last: u64,
    stalled: bool,
    ended: bool,
}

impl Lane {
    fn new(random: Random) -> (Self, mpsc::UnboundedReceiver<Packet>) {
        let (to, from) = mpsc::unbounded_channel();
        let lane = Self {
            random,
            queue: VecDeque::new(),
            to,
            room: Arc::new(Semaphore::new(ROOM)),
            last: 0,
            stalled: false,
            ended: false,
        };
        (lane, from)
    }

    /// When something that is sent now arrives.
    fn travel(&mut self, now: u64, weather: &Weather) -> u64 {
        now + 1 + weather.latency + self.random.below(weather.jitter + 1)
    }

    /// Nothing more goes in; what is on its way arrives, and then the end.
    fn end(&mut self, due: u64) {
        if !self.ended {
            self.ended = true;
            self.last = self.last.max(due);
            self.queue.push_back((self.last, None));
        }
        self.room.close();
    }
}

impl State {
    /// Breaks a connection. What is on its way arrives as far as the dice say; each side learns of
    /// the break in its own time, or never.
    fn cut(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        for lane in &mut connection.lanes {
            let due = lane.travel(self.now, &self.weather);
            let half_open = lane.random.chance(2_500);
            let keep = lane.random.below(ROOM as u64);
            lane.queue.truncate(usize::try_from(keep).unwrap_or(0));
            lane.ended = false;
            lane.end(due);
            if half_open {
                lane.stalled = true;
            }
        }
    }
}

impl Network {
    pub(crate) fn new(random: Random, trace: Trace) -> Self {
        Self(Arc::new(Mutex::new(State {
            now: 0,
            random,
            weather: Weather::default(),
            connections: BTreeMap::new(),
            next: 1,
            listener: None,
            trace,
        })))
    }

    /// A station that dies drops its ends of connections while it panics, too.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    /// Connections come to the caller from now on.
    pub(crate) fn listen(&self) -> mpsc::UnboundedReceiver<(Outbound, Inbound)> {
        let (listener, connections) = mpsc::unbounded_channel();
        self.state().listener = Some(listener);
        connections
    }

    /// Nobody is there any more.
    pub(crate) fn stop_listening(&self) {
        self.state().listener = None;
    }

    /// A connection to whoever listens.
    pub(crate) fn dial(&self) -> Option<(Outbound, Inbound)> {
        let mut state = self.state();
        let listener = state.listener.clone()?;
        let number = state.next;
        state.next += 1;
        let (up, at_receiver) = Lane::new(state.random.fork());
        let (down, at_transmitter) = Lane::new(state.random.fork());
        let rooms = [Arc::clone(&up.room), Arc::clone(&down.room)];
        let connection = Connection { lanes: [up, down] };
        state.connections.insert(number, connection);
        drop(state);
        let ends = |lane: usize, from| {
            let network = self.clone();
            let outbound = Outbound {
                network,
                number,
                lane,
                room: Arc::clone(&rooms[lane]),
            };
            let room = Arc::clone(&rooms[1 - lane]);
            (outbound, Inbound { from, room })
        };
        listener.send(ends(1, at_receiver)).ok()?;
        Some(ends(0, at_transmitter))
    }

    /// Breaks one of the connections.
    pub(crate) fn cut_any(&self) {
        let mut state = self.state();
        let count = state.connections.len() as u64;
        if count == 0 {
            return;
        }
        let chosen = usize::try_from(state.random.below(count)).unwrap_or(0);
        let number = state.connections.keys().nth(chosen).copied();
        if let Some(number) = number {
            state.cut(number);
        }
    }

    /// A millisecond passes; what is due arrives.
    pub(crate) fn tick(&self) {
        let mut state = self.state();
        state.now += 1;
        let now = state.now;
        state.connections.retain(|_, connection| {
            for lane in connection.lanes.iter_mut().filter(|lane| !lane.stalled) {
                while lane.queue.front().is_some_and(|(due, _)| *due <= now) {
                    let packet = lane.queue.pop_front().and_then(|(_, packet)| packet);
                    // Whoever does not listen any more has ended his side, too.
                    let _ = lane.to.send(packet);
                }
            }
            // A stalled lane keeps its connection: whoever waits at it is not told.
            let [up, down] = &connection.lanes;
            let over = |lane: &Lane| lane.ended && lane.queue.is_empty();
            !(over(up) && over(down))
        });
    }
}

/// Where one side of a connection sends. Dropped, it ends what it sends.
pub(crate) struct Outbound {
    network: Network,
    number: u64,
    lane: usize,
    room: Arc<Semaphore>,
}

impl Outbound {
    /// Number of the connection.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Sends one message once there is room; `false` when the connection is gone. `what` is for
    /// the trace; `fragile` messages end in bytes that may change on the way.
    pub(crate) async fn send(&self, mut message: Vec<u8>, what: &str, fragile: bool) -> bool {
        let Ok(place) = self.room.acquire().await else {
            return false;
        };
        place.forget();
        let mut state = self.network.state();
        let weather = state.weather;
        let line = format!("{} {} {what}", self.number, ["->", "<-"][self.lane]);
        let now = state.now;
        state.trace.note(now, &line);
        let Some(connection) = state.connections.get_mut(&self.number) else {
            return false;
        };
        let lane = &mut connection.lanes[self.lane];
        if lane.ended {
            return false;
        }
        if fragile && lane.random.chance(weather.flip) {
            let bits = 1 << lane.random.below(8);
            if let Some(last) = message.last_mut() {
                *last ^= bits;
            }
        }
        let due = lane.travel(now, &weather);
        let cut = lane.random.chance(weather.cut);
        let stall = lane.random.chance(weather.stall);
        lane.last = lane.last.max(due);
        lane.queue.push_back((lane.last, Some(message)));
        lane.stalled |= stall;
        if cut {
            state.cut(self.number);
        }
        true
    }
}

impl Drop for Outbound {
    fn drop(&mut self) {
        let mut state = self.network.state();
        let (now, weather) = (state.now, state.weather);
        if let Some(connection) = state.connections.get_mut(&self.number) {
            let lane = &mut connection.lanes[self.lane];
            let due = lane.travel(now, &weather);
            lane.end(due);
        }
    }
}

/// Where one side of a connection receives.
pub(crate) struct Inbound {
    from: mpsc::UnboundedReceiver<Packet>,
    room: Arc<Semaphore>,
}

impl Inbound {
    /// The next message; `None` at the end.
    pub(crate) async fn receive(&mut self) -> Packet {
        let packet = self.from.recv().await.flatten();
        self.room.add_permits(1);
        packet
    }
}
