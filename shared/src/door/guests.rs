//! Places, and who leaves for others. No sockets here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Bounds, network};
use crate::security::tls::Ended;

/// Peers that could fill the places of newcomers between them.
const SHARES: usize = 8;
/// Newcomers that one may have in any case.
const LEAST_SHARE: usize = 4;

/// Everybody who has a place.
#[derive(Debug)]
pub struct Guests {
    bounds: Bounds,
    table: Mutex<Table>,
    left: Notify,
}

#[derive(Debug, Default)]
struct Table {
    /// Numbers in the order in which things happen.
    next: u64,
    guests: HashMap<u64, Guest>,
    /// Without a request yet, the oldest first.
    newcomers: BTreeSet<u64>,
    /// With nothing to do, the longest first: by the number of the moment when that began.
    idle: BTreeMap<u64, u64>,
    /// Places of each peer.
    peers: HashMap<IpAddr, BTreeSet<u64>>,
}

#[derive(Debug)]
struct Guest {
    peer: IpAddr,
    state: State,
    gone: CancellationToken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Newcomer,
    Busy(u32),
    Idle(u64),
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Crowd {
    /// This peer has all that it may have, and all are busy.
    #[error("it has too many connections; raise the setting max-connections-per-peer")]
    OfPeer,
    /// All places are taken by those who are busy.
    #[error("all connections are busy")]
    OfAll,
}

/// What connections do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct States {
    /// Have not had a request let in yet.
    pub newcomers: usize,
    /// Have nothing to do.
    pub idle: usize,
    /// Have something to do.
    pub busy: usize,
}

impl Guests {
    /// Nobody yet.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            table: Mutex::default(),
            left: Notify::new(),
        }
    }

    /// A place for a newcomer from `address`; somebody else may lose one.
    ///
    /// # Errors
    /// When nobody would give way.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Place, Crowd> {
        let peer = network(address);
        let mut table = self.table.lock();
        let of_peer = table.peers.get(&peer).map_or(0, BTreeSet::len);
        // Gateways on this machine bring the connections of many.
        if of_peer >= self.bounds.per_peer && !peer.is_loopback() {
            let leaving = table.spare_of(peer).ok_or(Crowd::OfPeer)?;
            table.send_away(leaving);
        } else if let Some(leaving) = table.one_too_many_of(peer, self.bounds) {
            table.send_away(leaving);
        } else if table.newcomers.len() >= self.bounds.newcomers {
            let leaving = table.newcomers.first().copied().ok_or(Crowd::OfAll)?;
            table.send_away(leaving);
        } else if table.guests.len() >= self.bounds.connections {
            let leaving = table.spare().ok_or(Crowd::OfAll)?;
            table.send_away(leaving);
        }
        let number = table.tick();
        let gone = CancellationToken::new();
        table.newcomers.insert(number);
        table.peers.entry(peer).or_default().insert(number);
        table.guests.insert(
            number,
            Guest {
                peer,
                state: State::Newcomer,
                gone: gone.clone(),
            },
        );
        drop(table);
        Ok(Place(Arc::new(Seat {
            guests: Arc::clone(self),
            number,
            gone,
            watched: OnceLock::new(),
        })))
    }

    /// Resolves when somebody leaves after this call.
    pub fn left(&self) -> impl Future<Output = ()> + '_ {
        let mut left = Box::pin(self.left.notified());
        left.as_mut().enable();
        left
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.table.lock().guests.len()
    }

    /// How many there are of each kind.
    pub fn states(&self) -> States {
        let table = self.table.lock();
        let (newcomers, idle) = (table.newcomers.len(), table.idle.len());
        States {
            newcomers,
            idle,
            busy: table.guests.len() - newcomers - idle,
        }
    }

    /// How many there may be.
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }
}

impl Table {
    fn tick(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Who leaves first: those who have nothing to do before those who have just come, for whom there
    /// would be hardly a place otherwise.
    fn spare(&self) -> Option<u64> {
        let idle = self.idle.values().next();
        idle.or_else(|| self.newcomers.first()).copied()
    }

    /// The oldest newcomer of a peer that has its share of the newcomers' places: a crowd from a few
    /// addresses sends only its own away, and those who are slow to shake hands come in beside it.
    fn one_too_many_of(&self, peer: IpAddr, bounds: Bounds) -> Option<u64> {
        if peer.is_loopback() {
            return None;
        }
        let numbers = self.peers.get(&peer)?;
        let share = (bounds.newcomers / SHARES).max(LEAST_SHARE);
        if numbers.len() < share {
            return None;
        }
        let mut newcomers = numbers
            .iter()
            .filter(|number| self.newcomers.contains(number));
        let oldest = newcomers.next()?;
        (newcomers.count() + 1 >= share).then_some(*oldest)
    }

    /// Who of this peer leaves first.
    fn spare_of(&self, peer: IpAddr) -> Option<u64> {
        let numbers = self.peers.get(&peer)?;
        let rank = |number: &&u64| match self.guests.get(*number)?.state {
            State::Newcomer => Some((0, **number)),
            State::Idle(since) => Some((1, since)),
            State::Busy(_) => None,
        };
        let ranked = numbers
            .iter()
            .filter_map(|number| Some((rank(&number)?, *number)));
        ranked.min().map(|(_, number)| number)
    }

    fn send_away(&mut self, number: u64) {
        if let Some(guest) = self.remove(number) {
            guest.gone.cancel();
        }
    }

    fn remove(&mut self, number: u64) -> Option<Guest> {
        let guest = self.guests.remove(&number)?;
        self.newcomers.remove(&number);
        if let State::Idle(since) = guest.state {
            self.idle.remove(&since);
        }
        if let Some(of_peer) = self.peers.get_mut(&guest.peer) {
            of_peer.remove(&number);
            if of_peer.is_empty() {
                self.peers.remove(&guest.peer);
            }
        }
        Some(guest)
    }

    /// No newcomer any more, though it has not asked for anything yet.
    fn know(&mut self, number: u64) {
        let now = self.tick();
        let Some(guest) = self.guests.get_mut(&number) else {
            return;
        };
        if guest.state == State::Newcomer {
            guest.state = State::Idle(now);
            self.newcomers.remove(&number);
            self.idle.insert(now, number);
        }
    }

    fn begin(&mut self, number: u64) {
        let Some(guest) = self.guests.get_mut(&number) else {
            return;
        };
        match guest.state {
            State::Busy(count) => guest.state = State::Busy(count + 1),
            before => {
                guest.state = State::Busy(1);
                self.newcomers.remove(&number);
                if let State::Idle(since) = before {
                    self.idle.remove(&since);
                }
            }
        }
    }

    /// One request less; whether nothing is left to do.
    fn end(&mut self, number: u64) -> bool {
        let now = self.tick();
        let Some(guest) = self.guests.get_mut(&number) else {
            return false;
        };
        match guest.state {
            State::Busy(count) if count > 1 => {
                guest.state = State::Busy(count - 1);
                false
            }
            State::Busy(_) => {
                guest.state = State::Idle(now);
                self.idle.insert(now, number);
                true
            }
            State::Newcomer | State::Idle(_) => false,
        }
    }
}

/// A connection's place. It is free again when the last copy is gone.
#[derive(Debug, Clone)]
pub struct Place(Arc<Seat>);

#[derive(Debug)]
struct Seat {
    guests: Arc<Guests>,
    number: u64,
    gone: CancellationToken,
    /// Watches over the client's certificate.
    watched: OnceLock<Ended>,
}

impl Place {
    /// Is cancelled when the connection has to leave: for others, or because the certificate that it
    /// came with is good no more. Whatever the connection becomes ends then.
    pub fn gone(&self) -> &CancellationToken {
        &self.0.gone
    }

    /// Whether it has left for others.
    pub fn has_given_way(&self) -> bool {
        let table = self.0.guests.table.lock();
        !table.guests.contains_key(&self.0.number)
    }

    /// Watches over the certificate for as long as the place is taken.
    pub(super) fn watch(&self, ended: Ended) {
        // There is one handshake for each connection.
        let _ = self.0.watched.set(ended);
    }

    /// It has shown a certificate that somebody here has signed, so that it is nobody of a crowd.
    pub(super) fn know(&self) {
        self.0.guests.table.lock().know(self.0.number);
    }

    /// A request of it has been let in: until what this returns is dropped, it has something to do.
    pub fn begin(&self) -> InFlight {
        self.0.guests.table.lock().begin(self.0.number);
        InFlight(self.clone())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.guests.table.lock().remove(self.number).is_some() {
            self.guests.left.notify_waiters();
        }
    }
}

/// A request that has been let in.
#[derive(Debug)]
pub struct InFlight(Place);

impl Drop for InFlight {
    fn drop(&mut self) {
        let Place(seat) = &self.0;
        if seat.guests.table.lock().end(seat.number) {
            // It could give way now.
            seat.guests.left.notify_waiters();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use std::time::Duration;

    use super::*;

    fn guests(connections: usize, per_peer: usize, newcomers: usize) -> Arc<Guests> {
        Arc::new(Guests::new(Bounds {
            connections,
            per_peer,
            newcomers,
            handshake: Duration::from_secs(10),
        }))
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn has_left(place: &Place) -> bool {
        place.gone().is_cancelled()
    }

    #[test]
    fn a_crowd_of_newcomers_sends_its_own_away() {
        let guests = guests(100, 100, 3);
        let honest = guests.enter(address(1)).unwrap();
        let busy = honest.begin();
        let crowd: Vec<_> = (0..50).map(|_| guests.enter(address(1)).unwrap()).collect();
        assert!(!has_left(&honest));
        let gone = crowd.iter().filter(|place| has_left(place)).count();
        assert_eq!((gone, guests.count()), (47, 4));
        assert!(
            has_left(&crowd[0]) && !has_left(&crowd[49]),
            "the oldest leave"
        );
        // It has been through, so it is no newcomer when it has nothing to do either.
        drop(busy);
        let _more: Vec<_> = (0..10).map(|_| guests.enter(address(2)).unwrap()).collect();
        assert!(!has_left(&honest));
    }

    #[test]
    fn a_crowd_from_one_address_leaves_newcomers_of_others_alone() {
        let guests = guests(100, 100, 40);
        let slow = guests.enter(address(1)).unwrap();
        let crowd: Vec<_> = (0..50).map(|_| guests.enter(address(2)).unwrap()).collect();
        assert!(!has_left(&slow));
        let stay = crowd.iter().filter(|place| !has_left(place)).count();
        assert_eq!(stay, 5, "an eighth of the places is its share");
        assert!(!has_left(&crowd[49]) && !has_left(&crowd[45]));
        // Who has something to do does not count.
        let busy: Vec<_> = (0..6)
            .map(|_| guests.enter(address(3)).unwrap().begin())
            .collect();
        let more = [(); 5].map(|()| guests.enter(address(3)).unwrap());
        assert!(busy.len() == 6 && more.iter().all(|place| !has_left(place)));
    }

    #[test]
    fn whoever_is_known_is_no_newcomer() {
        let guests = guests(100, 100, 3);
        let known = guests.enter(address(1)).unwrap();
        known.know();
        let _crowd: Vec<_> = (2..50)
            .map(|last| guests.enter(address(last)).unwrap())
            .collect();
        assert!(!has_left(&known));
        let states = guests.states();
        assert_eq!((states.newcomers, states.idle, states.busy), (3, 1, 0));
        let busy = known.begin();
        known.know();
        assert_eq!(guests.states().busy, 1);
        drop(busy);
        assert_eq!(guests.states().idle, 1);
    }

    #[test]
    fn when_all_places_are_taken_the_idle_leave_and_the_busy_stay() {
        let guests = guests(2, 100, 100);
        let (first, second) = (
            guests.enter(address(1)).unwrap(),
            guests.enter(address(2)).unwrap(),
        );
        let busy = (first.begin(), second.begin());
        assert_eq!(guests.enter(address(3)).unwrap_err(), Crowd::OfAll);
        drop(busy.1);
        let third = guests.enter(address(3)).unwrap();
        assert!(has_left(&second) && !has_left(&first));
        drop(second);
        let _third = third.begin();
        assert_eq!(guests.enter(address(4)).unwrap_err(), Crowd::OfAll);
        drop(first);
        drop(busy.0);
        assert!(guests.enter(address(4)).is_ok());
    }

    #[test]
    fn in_a_full_house_newcomers_have_their_places() {
        let guests = guests(10, 100, 4);
        let idle: Vec<_> = (0..10)
            .map(|_| {
                let place = guests.enter(address(1)).unwrap();
                drop(place.begin());
                place
            })
            .collect();
        let newcomers: Vec<_> = (0..4).map(|_| guests.enter(address(2)).unwrap()).collect();
        assert!(newcomers.iter().all(|place| !has_left(place)));
        assert_eq!(idle.iter().filter(|place| has_left(place)).count(), 4);
        let _fifth = guests.enter(address(2)).unwrap();
        assert!(has_left(&newcomers[0]) && !has_left(&newcomers[3]));
    }

    #[test]
    fn a_peer_has_its_share_and_others_theirs() {
        let guests = guests(100, 2, 100);
        let places = [
            guests.enter(address(1)).unwrap(),
            guests.enter(address(1)).unwrap(),
        ];
        let busy = places.each_ref().map(Place::begin);
        assert_eq!(guests.enter(address(1)).unwrap_err(), Crowd::OfPeer);
        assert!(guests.enter(address(2)).is_ok());
        drop(busy);
        assert!(guests.enter(address(1)).is_ok());
        assert!(
            has_left(&places[0]) && !has_left(&places[1]),
            "the one that is idle for longest"
        );
    }

    #[test]
    fn a_network_of_ipv6_is_one_peer() {
        let guests = guests(100, 1, 100);
        let of = |text: &str| guests.enter(text.parse().unwrap());
        let first = of("2001:db8:1:2::1").unwrap();
        let _busy = first.begin();
        assert_eq!(of("2001:db8:1:2:ffff::9").unwrap_err(), Crowd::OfPeer);
        assert!(of("2001:db8:1:3::1").is_ok());
        let mapped = of("::ffff:192.0.2.1").unwrap();
        let _mapped = mapped.begin();
        assert_eq!(of("192.0.2.1").unwrap_err(), Crowd::OfPeer);
    }

    #[test]
    fn this_machine_has_no_share() {
        let guests = guests(100, 1, 1);
        let begin = |_| guests.enter([127, 0, 0, 1].into()).unwrap().begin();
        let busy: Vec<_> = (0..10).map(begin).collect();
        assert_eq!((busy.len(), guests.count()), (10, 10));
    }

    #[tokio::test]
    async fn whoever_waits_hears_of_those_who_leave() {
        let guests = guests(1, 1, 1);
        let place = guests.enter(address(1)).unwrap();
        let busy = place.begin();
        let left = guests.left();
        drop(busy);
        left.await;
        let left = guests.left();
        drop(place);
        left.await;
        assert_eq!(guests.count(), 0);
    }
}
