//! Servers behind a name whose addresses change.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::contract::{CREATE, READ};
use super::*;
use crate::calls::{Lookup, Resolve};

/// A name service that tests change.
#[derive(Debug)]
struct Names {
    addresses: Mutex<Option<Vec<SocketAddr>>>,
    lookups: watch::Sender<usize>,
}

impl Names {
    fn new(stations: &[&Station]) -> Arc<Self> {
        let names = Self {
            addresses: Mutex::default(),
            lookups: watch::Sender::new(0),
        };
        names.set(stations);
        Arc::new(names)
    }

    fn set(&self, stations: &[&Station]) {
        let addresses = stations.iter().map(|station| station.address).collect();
        *self.addresses.lock() = Some(addresses);
    }

    fn fail(&self) {
        *self.addresses.lock() = None;
    }

    async fn until_looked_up_again(&self) {
        let mut lookups = self.lookups.subscribe();
        // The one that goes on may have begun before.
        let enough = *lookups.borrow() + 2;
        lookups
            .wait_for(|lookups| *lookups >= enough)
            .await
            .unwrap();
    }
}

impl Resolve for Names {
    fn resolve<'a>(&'a self, authority: &'a str) -> Lookup<'a> {
        assert_eq!(authority, "things.test:1");
        self.lookups.send_modify(|lookups| *lookups += 1);
        let addresses = self.addresses.lock().clone();
        Box::pin(async { addresses.ok_or_else(|| io::Error::other("the name service is down")) })
    }
}

/// Looks names up without pause, or only when a server breaks.
fn named(names: &Arc<Names>, every: Duration) -> Caller {
    let mut options = patient();
    options.balance.resolve_every = every;
    options.balance.resolve_at_most_every = Duration::from_millis(1);
    let targets = "dns:///things.test:1".parse().unwrap();
    let resolver: Arc<dyn Resolve> = Arc::<Names>::clone(names);
    Caller::with_resolver(targets, METHODS.clone(), options, resolver)
}

const OFTEN: Duration = Duration::from_millis(1);

async fn ready_are(caller: &Caller, stations: &[&Station]) {
    let mut wanted: Vec<_> = stations.iter().map(|it| it.address.to_string()).collect();
    wanted.sort();
    let same = |ready: &[String]| {
        let mut ready = ready.to_vec();
        ready.sort();
        ready == wanted
    };
    caller.balance().wait_for_ready(same).await;
}

#[tokio::test]
async fn calls_move_with_the_name() {
    let old = Station::start(|_| Answer::Done).await;
    let new = Station::start(|_| Answer::Done).await;
    let names = Names::new(&[&old]);
    let caller = named(&names, OFTEN);
    call(&caller, CREATE, "").await.unwrap();
    names.set(&[&old, &new]);
    ready_are(&caller, &[&old, &new]).await;
    names.set(&[&new]);
    ready_are(&caller, &[&new]).await;
    call(&caller, CREATE, "").await.unwrap();
    assert_eq!((old.seen().len(), new.seen().len()), (1, 1));
    let seen = new.seen();
    assert_eq!(caller.counts().by_server, [(new.address.to_string(), 1)]);
    assert!(seen[0].headers.get("host").is_none());
}

#[tokio::test]
async fn a_call_in_flight_ends_where_it_began() {
    let dropped = CancellationToken::new();
    let token = dropped.clone();
    let old = Station::start(move |_| Answer::HoldLate(token.clone())).await;
    let new = Station::start(|_| Answer::Done).await;
    let names = Names::new(&[&old]);
    let caller = named(&names, OFTEN);
    let request = tonic::Request::new(String::new());
    let mut answers = contract::list(&caller, request).await.unwrap();
    names.set(&[&new]);
    ready_are(&caller, &[&new]).await;
    call(&caller, CREATE, "").await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap(), "first");
    assert!(!dropped.is_cancelled());
    drop(answers);
    dropped.cancelled().await;
}

#[tokio::test]
async fn what_is_known_is_kept_when_the_name_service_fails() {
    let station = Station::start(|_| Answer::Done).await;
    let names = Names::new(&[&station]);
    let caller = named(&names, OFTEN);
    ready(&caller, 1).await;
    names.fail();
    names.until_looked_up_again().await;
    call(&caller, READ, "").await.unwrap();
    names.set(&[]);
    names.until_looked_up_again().await;
    call(&caller, READ, "").await.unwrap();
    assert_eq!(station.seen().len(), 2);
}

#[tokio::test]
async fn a_server_that_breaks_makes_it_look_again() {
    let mut old = Station::start(|_| Answer::Done).await;
    let new = Station::start(|_| Answer::Done).await;
    let names = Names::new(&[&old]);
    let caller = named(&names, LONG * 100);
    call(&caller, READ, "").await.unwrap();
    names.set(&[&new]);
    old.kill().await;
    call(&caller, READ, "").await.unwrap();
    assert_eq!((old.seen().len(), new.seen().len()), (1, 1));
}

#[tokio::test]
async fn says_that_a_name_cannot_be_found() {
    let names = Names::new(&[]);
    names.fail();
    let mut options = patient();
    options.deadline = Duration::from_millis(20);
    let targets = "dns:///things.test:1".parse().unwrap();
    let caller = Caller::with_resolver(targets, METHODS.clone(), options, names);
    let status = call(&caller, READ, "").await.unwrap_err();
    let words = status.message();
    assert!(words.contains("the name service is down"), "{words}");
    assert!(words.contains("dns:///things.test:1"), "{words}");
}
