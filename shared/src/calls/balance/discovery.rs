//! Which servers there are: those that are named, and those behind names, which may change.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::backend::Address;
use super::pool::Pool;
use crate::calls::resolve::Resolve;
use crate::calls::targets::{Authority, Target, Targets};

/// A resolver that says nothing for so long has failed: those of operating systems may hang.
const LONGEST_LOOKUP: Duration = Duration::from_secs(10);

/// A target and where it was when it was last looked for.
struct Place {
    target: Target,
    addresses: Vec<Address>,
}

/// Begins with what needs no looking up, and looks up the rest in a task.
pub(super) fn start(pool: &Arc<Pool>, targets: Targets, resolver: Arc<dyn Resolve>) {
    let places: Vec<_> = targets.iter().cloned().map(Place::new).collect();
    pool.update(&all(&places));
    if places
        .iter()
        .any(|place| matches!(place.target, Target::Name(_)))
    {
        let looking = keep_looking(Arc::clone(pool), places, resolver);
        let stop = pool.stop.clone();
        pool.tasks.spawn(stop.run_until_cancelled_owned(looking));
    }
}

impl Place {
    fn new(target: Target) -> Self {
        let addresses = match &target {
            Target::Server(authority) => vec![Address {
                authority: authority.text.clone(),
                origin: authority.text.clone(),
                encrypted: authority.encrypted,
            }],
            Target::Name(_) => Vec::new(),
        };
        Self { target, addresses }
    }
}

fn all(places: &[Place]) -> Vec<Address> {
    places
        .iter()
        .flat_map(|place| place.addresses.iter().cloned())
        .collect()
}

async fn keep_looking(pool: Arc<Pool>, mut places: Vec<Place>, resolver: Arc<dyn Resolve>) {
    loop {
        let begun = Instant::now();
        let mut failed = false;
        for place in &mut places {
            let Target::Name(name) = &place.target else {
                continue;
            };
            let Authority {
                text: name,
                encrypted,
            } = name;
            match look_up(&*resolver, name).await {
                Ok(found) => {
                    let address = |found: &SocketAddr| Address {
                        authority: found.to_string(),
                        origin: name.clone(),
                        encrypted: *encrypted,
                    };
                    place.addresses = found.iter().map(address).collect();
                }
                Err(error) => {
                    // The servers of the last answer may well be there: the name service is not
                    // what calls go through.
                    tracing::warn!(%name, %error, "the addresses of a name cannot be found; keeping those known");
                    pool.trouble(format!("the addresses of {name} cannot be found: {error}"));
                    failed = true;
                }
            }
        }
        pool.update(&all(&places));
        let options = &pool.options;
        let soon = begun + options.resolve_at_most_every;
        let later = begun + options.resolve_every;
        if !failed {
            tokio::select! {
                () = tokio::time::sleep_until(later) => continue,
                () = pool.look_again.notified() => {}
            }
        }
        tokio::time::sleep_until(soon).await;
    }
}

async fn look_up(resolver: &dyn Resolve, name: &str) -> io::Result<Vec<SocketAddr>> {
    let found = tokio::time::timeout(LONGEST_LOOKUP, resolver.resolve(name)).await;
    let found = found.map_err(|_| {
        let words = format!("no answer in {LONGEST_LOOKUP:?}; see to the name service");
        io::Error::new(io::ErrorKind::TimedOut, words)
    })??;
    if found.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the name has no addresses; see to its records",
        ));
    }
    Ok(found)
}
