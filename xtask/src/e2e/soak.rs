//! Many images through both programs: what one costs at the end, it cost at the start.
//!
//! Memory and open files are compared with what they were, and with those of fresh programs, which do
//! their first images beside the last ones of those that are watched. Time is compared with that of
//! the fresh ones: see [`beside`].

mod beside;
mod pair;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use self::beside::{Beside, Ratio};
use self::pair::{Pair, Part, Time};
use super::{Build, STATIONS, Site, site};
use crate::console;

/// Fewer are over too soon to be measured.
const LEAST: u64 = 20_000;
/// Parts into which the images are divided; the first is warm-up.
const PARTS: u64 = 10;
/// Parts that are compared at each end.
const ENDS: usize = 3;
/// Parts that fresh programs do beside the last ones; their first is warm-up as well.
const FRESH: u64 = 1 + ENDS as u64;
/// What the end may be above the start.
const MORE: f64 = 1.10;
/// Between two looks at the processes.
const LOOK: Duration = Duration::from_millis(100);
/// Time without any progress.
const STUCK: Duration = Duration::from_secs(60);

/// Settings of the soak.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Images; with many fewer, caches still fill, and times are too coarse
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    images: u64,
    /// Picture: 48x48 is about 2 KB
    #[arg(long, value_name = "WIDTHxHEIGHT", default_value = "48x48")]
    pattern: String,
    /// Transport
    #[arg(long, value_enum, default_value = "grpc")]
    transport: super::faults::Transport,
    /// How firmly both sides keep images: what they are slowed down by
    #[arg(long, value_parser = ["written", "synced"], default_value = "synced")]
    durability: String,
    /// Take the release programs as they are, instead of building them
    #[arg(long)]
    no_build: bool,
}

/// Runs it.
pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(
        options.images >= LEAST,
        "at least {LEAST} images are needed"
    );
    let site = site("soak", Build::Release, STATIONS, options.no_build)?;
    console::title("soak");
    let (parts, fresh, beside) = measure(&site, options)?;
    console::note("the programs that are watched");
    print(&parts);
    console::note("fresh programs beside their last images");
    print(&fresh);
    let compared = beside.images();
    ensure!(
        compared
            .iter()
            .all(|images| *images >= options.images / PARTS),
        "only {compared:?} images came side by side: one of the pairs is much faster"
    );
    let (first, last) = (&parts[1..=ENDS], &parts[parts.len() - ENDS..]);
    let mut above = Vec::new();
    for (side, name) in SIDES.iter().enumerate() {
        let [first, fresh, last] = [first, &fresh[1..], last].map(|parts| at_an_end(parts, side));
        above.extend(compare(name, "at the start", &first, &last));
        above.extend(compare(name, "fresh beside it", &fresh, &last));
        for (what, of) in TIMES {
            above.extend(judge(&format!("{name}: {what}"), beside.work(side, of)?));
        }
    }
    above.extend(judge("both: time that passes", beside.pace()?));
    ensure!(above.is_empty(), "{}", above.join("; "));
    super::clear(&site.work)?;
    console::passed("soak: the last images cost no more than the first");
    Ok(())
}

const MEBIBYTE: f64 = (1 << 20) as f64;

const SIDES: [&str; 2] = ["transmitter", "receiver"];

/// Times that are compared. The kernel's is the larger part, and depends on how long processors and
/// disk had been idle: in the sum, more work of the program would be hidden.
const TIMES: [(&str, Time); 2] = [
    ("processors in the program", |times| times.user),
    ("processors in program and kernel", |times| {
        times.with_kernel
    }),
];

/// The most of what stays that a program took in the parts at one end.
fn at_an_end(parts: &[Part], side: usize) -> [f64; 2] {
    let costs = parts.iter().map(|part| part.sides[side]);
    costs.fold([0.0; 2], |[memory, files], cost| {
        [cost.memory.max(memory), files.max(cost.files as f64)]
    })
}

/// What is more than a tenth above what it was. Two files more are no leak of one each image.
fn compare(name: &str, when: &str, before: &[f64; 2], after: &[f64; 2]) -> Vec<String> {
    let mut above = Vec::new();
    for (what, before, after, more) in [
        (
            "MiB of memory",
            before[0] / MEBIBYTE,
            after[0] / MEBIBYTE,
            0.0,
        ),
        ("open files", before[1], after[1], 2.0),
    ] {
        if after > (before + more) * MORE {
            above.push(format!(
                "{name}: {after:.1} {what} at the end, {before:.1} {when}"
            ));
        }
    }
    above
}

/// What is said of the time of an image.
fn judge(what: &str, ratio: Ratio) -> Option<String> {
    let Ratio { whole, least, most } = ratio;
    let words = format!(
        "{what} for an image: {whole:.3} times that of fresh programs ({least:.3} to {most:.3} in ten \
         slices)"
    );
    if whole > MORE {
        return Some(words);
    }
    console::passed(words);
    None
}

/// The parts of the programs that are watched, those of the fresh ones, and both side by side.
fn measure(site: &Site, options: &Options) -> Result<(Vec<Part>, Vec<Part>, Beside)> {
    let each = options.images / PARTS;
    let images = each * PARTS;
    let mut old = Pair::start("old", site, options, (images, each))?;
    let mut fresh: Option<Pair> = None;
    let mut beside = Beside::default();
    let bar = ProgressBar::new(images).with_style(
        ProgressStyle::with_template("   {bar:40} {pos}/{len} images, {per_sec}, {eta} left")
            .context("the form of the bar")?,
    );
    while !(old.is_done() && fresh.as_ref().is_some_and(Pair::is_done)) {
        std::thread::sleep(LOOK);
        let seen = old.look()?;
        bar.set_position(seen.images);
        let Some(fresh) = &mut fresh else {
            if seen.images >= images - FRESH * each {
                fresh = Some(Pair::start("fresh", site, options, (FRESH * each, each))?);
            }
            continue;
        };
        let other = fresh.look()?;
        let are_warm = other.images >= each && seen.images >= images - (FRESH - 1) * each;
        if are_warm && !old.is_done() && !fresh.is_done() {
            beside.add(seen, other);
        }
    }
    bar.finish_and_clear();
    let fresh = fresh.context("the fresh programs were started")?;
    Ok((old.end()?, fresh.end()?, beside))
}

fn print(parts: &[Part]) {
    console::note(
        "part  images   per s | transmitter: us  +kernel   MiB  files | receiver: us  +kernel   MiB  files",
    );
    for (number, part) in (1..).zip(parts) {
        let [own, other] = part.sides;
        console::note(format_args!(
            "{number:>4}  {:>6}  {:>6.0} | {:>15.0}  {:>7.0}  {:>4.1}  {:>5} | {:>12.0}  {:>7.0}  {:>4.1}  {:>5}",
            part.images,
            part.images as f64 / part.seconds,
            own.times.user,
            own.times.with_kernel,
            own.memory / MEBIBYTE,
            own.files,
            other.times.user,
            other.times.with_kernel,
            other.memory / MEBIBYTE,
            other.files
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::pair::{Cost, Times};
    use super::*;

    #[test]
    fn a_tenth_more_is_no_growth_and_more_than_that_is() {
        let before = [20e6, 30.0];
        assert!(compare("x", "then", &before, &before).is_empty());
        assert!(compare("x", "then", &before, &[21.9e6, 34.0]).is_empty());
        for (after, what) in [([22.1e6, 30.0], "memory"), ([20e6, 36.0], "files")] {
            let above = compare("x", "then", &before, &after);
            assert!(above.len() == 1 && above[0].contains(what), "{above:?}");
        }
        let ratio = |whole| Ratio {
            whole,
            least: 0.9,
            most: 1.2,
        };
        assert_eq!(judge("time", ratio(1.09)), None);
        assert!(
            judge("time", ratio(1.11)).is_some_and(|words| words.contains("time for an image"))
        );
    }

    #[test]
    fn of_an_end_the_most_counts() {
        let part = |memory, files| Part {
            images: 1,
            seconds: 1.0,
            sides: [Cost {
                times: Times {
                    user: 1.0,
                    with_kernel: 2.0,
                },
                memory,
                files,
            }; 2],
        };
        let parts = [part(1.0, 9), part(3.0, 7), part(2.0, 8)];
        assert_eq!(at_an_end(&parts, 1), [3.0, 9.0]);
    }
}
