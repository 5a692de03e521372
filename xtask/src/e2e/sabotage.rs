//! Breaks promises on purpose. A proof that cannot turn red proves nothing.

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use super::Site;
use super::faults::Found;
use super::faults::episode::Stage;
use super::faults::plan::{Episode, Event, Source, Station, Stop};
use crate::console;

/// What everything is drawn from: always the same, so that a change of the programs is what
/// changes the result.
const SEED: u64 = 1865;
/// Episodes that may be needed until a broken promise shows.
const EPISODES: u32 = 12;

/// A promise that the programs can be told to break, by the word in `PANTELEGRAPH_SABOTAGE`.
struct Promise {
    key: &'static str,
    /// A finding that is about this promise has one of these words in it.
    shows: &'static [&'static str],
    /// Makes a plan in which it matters.
    matters: fn(&mut Episode),
}

const PROMISES: [Promise; 5] = [
    Promise {
        key: "ack-before-sync",
        shows: &[
            "has another digest than its entry",
            "is catalogued and not there",
            "bytes, not",
        ],
        matters: receiver_loses_power,
    },
    Promise {
        key: "skip-folder-sync",
        shows: &["is catalogued and not there"],
        matters: receiver_loses_power,
    },
    Promise {
        key: "reuse-sequence",
        shows: &["was given twice", "numbers given twice"],
        matters: transmitter_dies,
    },
    Promise {
        key: "forget-duplicates",
        shows: &["stored at another time as well"],
        matters: answers_are_lost,
    },
    Promise {
        key: "drop-loss",
        shows: &[
            "nobody has",
            "neither stored nor named",
            "numbers that are missing",
        ],
        matters: outbox_is_small,
    },
];

/// The word of a promise, for the command line.
pub(crate) fn key(word: &str) -> Result<&'static str, String> {
    let keys = PROMISES.map(|promise| promise.key);
    let found = keys.into_iter().find(|key| *key == word);
    found.ok_or_else(|| format!("the promises are {}", keys.join(", ")))
}

/// Runs the suite.
pub(crate) fn run(site: &Site) -> Result<()> {
    let mut missed = Vec::new();
    for promise in &PROMISES {
        let start = Instant::now();
        let episodes = needed(site, promise)?;
        let Some((episodes, finding)) = episodes else {
            console::note(format_args!("{}: not found", promise.key));
            missed.push(promise.key);
            continue;
        };
        // Whoever finds it also where it is kept finds nothing.
        let stage = Stage::new(site, None)?;
        for number in 0..episodes {
            stage
                .play(&plan(promise, number))
                .with_context(|| format!("{} is kept, and yet", promise.key))?;
        }
        console::passed(format_args!(
            "{}: red when broken ({finding}), green when kept ({:.0?})",
            promise.key,
            start.elapsed()
        ));
    }
    ensure!(
        missed.is_empty(),
        "the proof stays green although the programs break: {}",
        missed.join(", ")
    );
    Ok(())
}

/// How many episodes it takes to see the promise broken, and what is seen.
fn needed(site: &Site, promise: &Promise) -> Result<Option<(u32, String)>> {
    let stage = Stage::new(site, Some(promise.key))?;
    for number in 0..EPISODES {
        let plan = plan(promise, number);
        let Err(error) = stage.play(&plan) else {
            continue;
        };
        super::clear(&stage.folder(&plan))?;
        let Some(Found(findings)) = error.downcast_ref::<Found>() else {
            return Err(error.context(format!("{}: it failed for another reason", promise.key)));
        };
        let shown = findings
            .iter()
            .find(|finding| promise.shows.iter().any(|words| finding.contains(words)));
        match shown {
            Some(finding) => return Ok(Some((number + 1, finding.clone()))),
            None => bail!(
                "{}: what was found is not about it: {}",
                promise.key,
                findings.join("; ")
            ),
        }
    }
    Ok(None)
}

fn plan(promise: &Promise, number: u32) -> Episode {
    let mut plan = Episode::of(SEED, number, None);
    plan.source = Source::Folder {
        on_disk: false,
        files: "copy",
        after: "keep",
    };
    plan.outbox_limit = "64MiB";
    plan.when_full = "block";
    (promise.matters)(&mut plan);
    // All images are of use, and full disks would only hold them up.
    for round in &mut plan.rounds {
        round
            .events
            .retain(|(_, event)| !matches!(event, Event::Fill(..) | Event::Release(_)));
    }
    plan
}

fn receiver_loses_power(plan: &mut Episode) {
    use super::faults::medium::Kind;
    plan.receiver = Kind::Power;
    for round in &mut plan.rounds {
        round.stops[1] = Stop::Cut;
        round.receiver_first = true;
    }
}

fn transmitter_dies(plan: &mut Episode) {
    for round in &mut plan.rounds {
        round.stops[0] = Stop::Kill;
    }
}

fn answers_are_lost(plan: &mut Episode) {
    for round in &mut plan.rounds {
        let at = round.length / 2;
        round.events.push((at, Event::Kill(Station::Transmitter)));
        round.events.sort_by_key(|(at, _)| *at);
        round.stops[0] = Stop::Kill;
    }
}

fn outbox_is_small(plan: &mut Episode) {
    plan.outbox_limit = "1MiB";
    plan.when_full = "drop-oldest";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_promises_have_a_key() {
        assert_eq!(key("drop-loss"), Ok("drop-loss"));
        assert!(key("drop-all").unwrap_err().contains("ack-before-sync"));
    }

    #[test]
    fn every_promise_is_planned_for() {
        for promise in &PROMISES {
            for number in 0..EPISODES {
                let plan = plan(promise, number);
                let images = plan.rounds.iter().flat_map(|round| &round.events);
                let count = images.filter(|(_, event)| matches!(event, Event::Image { .. }));
                // At least two in each round; sources other than folders have images of their own.
                assert!(plan.rounds.len() == 10 && count.count() >= 20);
            }
        }
    }
}
