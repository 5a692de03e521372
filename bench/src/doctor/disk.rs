//! How long this disk takes to keep something.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use shared::report::format::duration;

use super::{Finding, Group, Level, space};

const PLACE: (Group, &str) = (Group::Disk, "sync");

/// Images that are kept, at most, and time for it.
const ROUNDS: usize = 64;
const TIME: Duration = Duration::from_secs(3);

/// Bytes of each: a small image.
const SIZE: usize = 64 << 10;

/// Times of one kept image: its bytes, and its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sample {
    file: Duration,
    folder: Duration,
}

/// Keeps small files as daemons keep images, in a folder that goes when it is done. It ends early when `stop` is set.
///
/// # Errors
/// When nothing can be written.
pub(crate) fn measure(folder: &Path, stop: &AtomicBool) -> io::Result<Vec<Sample>> {
    let root = space::nearest(folder);
    let folder = tempfile::Builder::new()
        .prefix(".pantelegraph-doctor-")
        .tempdir_in(root)?;
    let bytes = vec![0x5a; SIZE];
    let begun = Instant::now();
    let mut samples = Vec::with_capacity(ROUNDS);
    while samples.len() < ROUNDS && begun.elapsed() < TIME && !stop.load(Ordering::Relaxed) {
        let number = samples.len();
        let path = folder.path().join(format!("{number}.part"));
        let start = Instant::now();
        let mut file = File::create_new(&path)?;
        file.write_all(&bytes)?;
        file.sync_data()?;
        let file = start.elapsed();
        let start = Instant::now();
        std::fs::rename(&path, folder.path().join(number.to_string()))?;
        File::open(folder.path())?.sync_all()?;
        samples.push(Sample {
            file,
            folder: start.elapsed(),
        });
    }
    folder.close()?;
    Ok(samples)
}

/// Nothing was to be written.
pub(crate) fn skipped() -> Finding {
    let found = "the disk was not timed (--no-disk-test)";
    Finding::bad(
        Level::Note,
        PLACE,
        found,
        "leave --no-disk-test out: some 4 MB are written, and removed",
    )
}

/// From here on a disk holds up a camera of five images a second.
const SLOW: Duration = Duration::from_millis(100);

/// Judges the times; `synced` when this station's receipts or its outbox wait for them, `busy` when its daemon
/// used the disk as well.
pub(crate) fn judge(
    folder: &Path,
    measured: &io::Result<Vec<Sample>>,
    synced: bool,
    busy: bool,
) -> Finding {
    let shown = folder.display();
    let samples = match measured {
        Ok(samples) => samples,
        Err(error) => {
            let found = format!("{shown}: nothing can be kept there: {error}");
            let fix = "see the group space; a disk that fails shows in dmesg and `smartctl -H`";
            return Finding::bad(Level::Problem, PLACE, found, fix);
        }
    };
    let whole = sorted(samples.iter().map(|sample| sample.file + sample.folder));
    let files = sorted(samples.iter().map(|sample| sample.file));
    let (Some(p50), Some(p99), Some(max)) = (at(&whole, 50), at(&whole, 99), whole.last().copied())
    else {
        return Finding::bad(Level::Note, PLACE, "the disk was not timed", "try again");
    };
    // Bytes and name, and then the entry in the catalogue or the index, which is a file that is synced too.
    let each = p50 + at(&files, 50).unwrap_or_default();
    let rate = 1.0 / each.as_secs_f64().max(1e-9);
    let means = format!(
        "about {} images/s with durability synced on one stream, more with several",
        if rate < 10.0 {
            format!("{rate:.1}")
        } else {
            format!("{rate:.0}")
        }
    );
    let show = |time: Duration| duration(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    let beside = if busy { ", beside the daemon" } else { "" };
    let found = format!(
        "{shown}: keeping 64 KiB (fsync of file and folder) takes p50 {}, p99 {}, max {} ({} times{beside}): {means}",
        show(p50),
        show(p99),
        show(max),
        samples.len()
    );
    let fix = "put the folder on an SSD with protection against power loss, or on a disk that nobody else uses; where images \
               may be lost with the power, --durability written (transmitter: --outbox-durability written)";
    let level = match (p99 >= SLOW, synced) {
        (false, _) => Level::Ok,
        (true, true) => Level::Warning,
        (true, false) => Level::Note,
    };
    let finding = match level {
        Level::Ok => Finding::ok(PLACE.0, PLACE.1, found),
        level => Finding::bad(level, PLACE, found, fix),
    };
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    finding
        .with("p50_ms", millis(p50))
        .with("p99_ms", millis(p99))
        .with("max_ms", millis(max))
        .with("images_per_second", rate)
        .with("samples", samples.len())
}

fn sorted(times: impl Iterator<Item = Duration>) -> Vec<Duration> {
    let mut times: Vec<_> = times.collect();
    times.sort_unstable();
    times
}

/// The time that so many of a hundred keep (nearest rank).
fn at(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;

    fn samples(millis: &[u64]) -> io::Result<Vec<Sample>> {
        let half = |millis: u64| Duration::from_micros(millis * 500);
        let sample = |millis: &u64| Sample {
            file: half(*millis),
            folder: half(*millis),
        };
        Ok(millis.iter().map(sample).collect())
    }

    #[test]
    fn what_is_written_is_taken_away() {
        let folder = tempfile::tempdir().unwrap();
        let go_on = AtomicBool::new(false);
        let samples = measure(&folder.path().join("not/there/yet"), &go_on).unwrap();
        assert!(!samples.is_empty() && samples.len() <= ROUNDS);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let stopped = measure(folder.path(), &AtomicBool::new(true)).unwrap();
        assert_eq!(stopped, []);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn times_become_images_a_second() {
        let finding = judge(Path::new("/d"), &samples(&[10; 64]), true, false);
        assert_eq!(finding.level, Level::Ok);
        assert!(
            finding
                .found
                .contains("p50 10.0ms, p99 10.0ms, max 10.0ms (64 times): about 67 images/s"),
            "{finding:?}"
        );
    }

    #[test]
    fn a_slow_disk_matters_to_those_who_wait_for_it() {
        let slow = samples(&[1, 1, 1, 100]);
        assert_eq!(
            judge(Path::new("/d"), &slow, true, false).level,
            Level::Warning
        );
        assert_eq!(
            judge(Path::new("/d"), &slow, false, false).level,
            Level::Note
        );
        assert_eq!(
            judge(Path::new("/d"), &samples(&[1, 1, 99]), true, false).level,
            Level::Ok
        );
        let broken = Err(io::ErrorKind::ReadOnlyFilesystem.into());
        assert_eq!(
            judge(Path::new("/d"), &broken, true, false).level,
            Level::Problem
        );
    }
}
