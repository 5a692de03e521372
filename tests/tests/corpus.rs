//! The fuzz targets (`fuzz/`) over their corpus, with a stable compiler: what fuzzing has found once
//! stays found.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::path::PathBuf;

#[allow(unreachable_pub, reason = "it is a library where it is fuzzed")]
#[path = "../../fuzz/src/lib.rs"]
mod targets;

use targets::TARGETS;

fn corpus(target: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../fuzz/corpus", target]
        .iter()
        .collect()
}

#[test]
fn every_target_takes_its_whole_corpus() {
    for target in &TARGETS {
        let mut inputs = 0;
        for entry in std::fs::read_dir(corpus(target.name)).unwrap() {
            let path = entry.unwrap().path();
            let input = std::fs::read(&path).unwrap();
            // The name of the file is what is missing in a panic from within.
            let run = std::panic::catch_unwind(|| (target.run)(&input));
            assert!(run.is_ok(), "{}", path.display());
            inputs += 1;
        }
        assert!(inputs > 0, "{} has no corpus", target.name);
    }
}

/// Neither nothing nor a seed that is cut off or changed may do harm: a short run of what cargo-fuzz
/// does at length.
#[test]
fn every_target_takes_seeds_that_are_cut_off_or_changed() {
    for target in &TARGETS {
        (target.run)(&[]);
        for (_, seed) in (target.seeds)() {
            for at in (0..seed.len()).step_by(seed.len() / 10 + 1) {
                (target.run)(&seed[..at]);
                let mut changed = seed.clone();
                changed[at] ^= 0x81;
                (target.run)(&changed);
            }
        }
    }
}

#[test]
fn seeds_are_in_the_corpus_as_the_targets_make_them() {
    for target in &TARGETS {
        for (name, seed) in (target.seeds)() {
            let path = corpus(target.name).join(name);
            assert_eq!(
                std::fs::read(&path).ok(),
                Some(seed),
                "{} is another; cargo test -p pantelegraph-tests --test corpus -- --ignored writes it",
                path.display()
            );
        }
    }
}

/// Not a test: writes the seeds.
#[test]
#[ignore = "writes into the repository"]
fn write_the_seeds() {
    for target in &TARGETS {
        let folder = corpus(target.name);
        std::fs::create_dir_all(&folder).unwrap();
        for (name, seed) in (target.seeds)() {
            std::fs::write(folder.join(name), seed).unwrap();
        }
    }
}
