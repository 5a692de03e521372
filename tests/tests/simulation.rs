//! Both stations in one process over a network that is made of dice: messages are late, connections
//! break or stand still, stations die at any of their awaits and come back with what their disks
//! have kept. The sessions, the delivery, the intake and the catalogue are the product's.
//!
//! A seed is a world: the same seed is the same simulation, message by message. `cargo test` runs
//! the first few hundred; `PANTELEGRAPH_SIMULATION_SEEDS=N` runs N,
//! `PANTELEGRAPH_SIMULATION_FROM=S` begins at S, and with `PANTELEGRAPH_SIMULATION_TRACE=1` what
//! happened in a seed that fails is printed.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests may panic")]

#[path = "simulation/blocking.rs"]
mod blocking;
#[path = "simulation/disk.rs"]
mod disk;
#[path = "simulation/files.rs"]
mod files;
#[path = "simulation/medium.rs"]
mod medium;
#[path = "simulation/network.rs"]
mod network;
#[path = "simulation/outbox.rs"]
mod outbox;
#[path = "simulation/own_outbox.rs"]
mod own_outbox;
#[path = "simulation/random.rs"]
mod random;
#[path = "simulation/receiver.rs"]
mod receiver;
#[path = "simulation/scene.rs"]
mod scene;
#[path = "simulation/trace.rs"]
mod trace;
#[path = "simulation/transmitter.rs"]
mod transmitter;
#[path = "simulation/world.rs"]
mod world;

use disk::Disks;
use trace::Trace;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Runs one seed; how to see it again, and what happened, when something is wrong.
fn simulate(seed: u64, disks: Disks) {
    let trace = Trace::new(number("PANTELEGRAPH_SIMULATION_TRACE").is_some());
    let outcome = world::run(seed, disks, &trace);
    if let Some(problem) = &outcome.problem {
        for line in trace.lines() {
            eprintln!("{line}");
        }
        panic!(
            "seed {seed} with {disks:?} disks after {} ms: {problem}\nto see it again: \
             PANTELEGRAPH_SIMULATION_FROM={seed} PANTELEGRAPH_SIMULATION_SEEDS=1 \
             PANTELEGRAPH_SIMULATION_TRACE=1 cargo test -p pantelegraph-tests --test simulation",
            outcome.took
        );
    }
}

fn simulate_all(disks: Disks, seeds: u64) {
    let from = number("PANTELEGRAPH_SIMULATION_FROM").unwrap_or(1);
    let seeds = number("PANTELEGRAPH_SIMULATION_SEEDS").unwrap_or(seeds);
    for seed in from..from.saturating_add(seeds) {
        simulate(seed, disks);
    }
}

#[test]
fn nothing_is_lost_or_doubled_whatever_breaks() {
    simulate_all(Disks::Model, 120);
}

#[test]
fn nothing_is_lost_or_doubled_with_the_real_outbox_and_store() {
    simulate_all(Disks::Real, 80);
}

#[test]
fn the_same_seed_is_the_same_simulation() {
    for seed in 1..=20 {
        let traces = [Trace::new(true), Trace::new(true)];
        let outcomes = [0, 1].map(|run| world::run(seed, Disks::Model, &traces[run]));
        let lines = [0, 1].map(|run| traces[run].lines());
        let mut differing = lines[0]
            .iter()
            .zip(&lines[1])
            .filter(|(one, two)| one != two);
        if let Some((first, second)) = differing.next() {
            panic!("seed {seed}: at first\n{first}\nand then\n{second}");
        }
        let [first, second] = lines.map(|lines| lines.len());
        assert_eq!(first, second, "seed {seed}: lines");
        assert_eq!(outcomes[0], outcomes[1], "seed {seed}");
    }
}
