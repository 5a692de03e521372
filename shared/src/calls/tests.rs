//! The client against real servers on free ports of this machine. Nothing waits by the clock: each
//! wait is for an event, and a test that waits in vain is ended by whoever runs the tests.

mod balancing;
mod cancelling;
mod contract;
mod deadlines;
mod naming;
mod retrying;
mod station;

use std::time::Duration;

use contract::{METHODS, call};
use station::{Answer, Station};

use super::{BalanceOptions, Caller, Options};

/// Deadlines that a slow machine does not reach.
const LONG: Duration = Duration::from_secs(120);

/// Options under which a test waits for as long as it takes.
fn patient() -> Options {
    Options {
        deadline: LONG,
        balance: BalanceOptions {
            connect_timeout: LONG,
            ready_within: LONG,
            ..BalanceOptions::default()
        },
        ..Options::default()
    }
}

fn caller(stations: &[&Station], options: Options) -> Caller {
    let targets: Vec<_> = stations.iter().map(|station| station.url()).collect();
    let targets = targets.join(",").parse().unwrap();
    Caller::new(targets, METHODS.clone(), options)
}

/// Until so many servers are ready.
async fn ready(caller: &Caller, servers: usize) {
    caller
        .balance()
        .wait_for_ready(|ready| ready.len() == servers)
        .await;
}
