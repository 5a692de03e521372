//! Clocks: this one, and how far the other station's is off.

use std::path::Path;
use std::time::Duration;

use shared::clock::ClockEstimate;
use shared::report::format::{duration, signed_duration};
use tokio::process::Command;

use super::{Finding, Group, Level};

/// From here on times of images that two stations took are in the wrong order where they were taken a few a
/// second, and people who compare logs of both are led astray. Offsets within a report are corrected
/// whatever they are.
const LARGE: u64 = 100_000_000;

/// From here on tokens and certificates that were just made may count as not valid yet, or as expired while
/// they are used: this is what is left of those that are made for a minute.
const DANGEROUS: u64 = 30_000_000_000;

/// Judges the offset from a receiver's clock.
pub(crate) fn judge(of: &str, estimate: ClockEstimate) -> Finding {
    let ClockEstimate {
        offset_ns,
        error_ns,
        samples,
    } = estimate;
    let place = (Group::Clock, "offset");
    let offset = offset_ns.unsigned_abs();
    let figures = format!(
        "the clock of {of} is {} from this one's, give or take {} ({samples} looks)",
        signed_duration(offset_ns),
        duration(error_ns)
    );
    let fix = "let NTP set both clocks: `timedatectl set-ntp true`, or install chrony; `timedatectl` and `chronyc \
               tracking` show which of them is wrong";
    // Only what is certain: the true offset may be less by the error.
    let certain = offset.saturating_sub(error_ns);
    let finding = if certain > DANGEROUS {
        let found =
            format!("{figures}: tokens and certificates may count as not valid yet, or as expired");
        Finding::bad(Level::Problem, place, found, fix)
    } else if certain > LARGE {
        let found = format!(
            "{figures}: more than {}, so that times of images and logs of both cannot be compared; reports are \
             corrected",
            duration(LARGE)
        );
        Finding::bad(Level::Warning, place, found, fix)
    } else {
        Finding::ok(place.0, place.1, figures)
    };
    finding
        .with("offset_ns", offset_ns)
        .with("error_ns", error_ns)
        .with("samples", samples)
}

/// Whether somebody keeps this clock right.
pub(crate) async fn own(patience: Duration) -> Vec<Finding> {
    vec![judge_own(synchronised(patience).await)]
}

fn judge_own(synchronised: Option<bool>) -> Finding {
    let place = (Group::Clock, "synchronised");
    match synchronised {
        Some(true) => Finding::ok(place.0, place.1, "this clock is kept right by NTP"),
        Some(false) => Finding::bad(
            Level::Warning,
            place,
            "nobody keeps this clock right: it will run away from the other station's",
            "`timedatectl set-ntp true`, or install chrony; without a network, a real-time clock or GPS",
        ),
        None => Finding::bad(
            Level::Note,
            place,
            "this system does not tell whether its clock is kept right by NTP",
            "look at whatever sets it: `chronyc tracking` or `ntpq -p`; in a container, at the machine's",
        ),
    }
}

/// What systemd's client leaves where it has set the clock.
const FLAG: &str = "/run/systemd/timesync/synchronized";

/// What the kernel was told (adjtimex(2)), which cannot be asked for without unsafe code here: systemd asks it
/// for everybody.
async fn synchronised(patience: Duration) -> Option<bool> {
    if Path::new(FLAG).exists() {
        return Some(true);
    }
    let asking = Command::new("timedatectl")
        .args(["show", "--property=NTPSynchronized", "--value"])
        .kill_on_drop(true)
        .output();
    let answer = tokio::time::timeout(patience, asking).await.ok()?.ok()?;
    match answer.stdout.trim_ascii() {
        b"yes" => Some(true),
        b"no" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(offset_ns: i64, error_ns: u64) -> Level {
        let finding = judge(
            "station.example",
            ClockEstimate {
                offset_ns,
                error_ns,
                samples: 4,
            },
        );
        assert_eq!(finding.fix.is_none(), finding.level == Level::Ok);
        assert_eq!(finding.figures["offset_ns"], offset_ns);
        finding.level
    }

    #[test]
    fn offsets_count_as_far_as_they_are_certain() {
        assert_eq!(level(0, 0), Level::Ok);
        assert_eq!(level(-100_000_000, 0), Level::Ok);
        assert_eq!(level(-100_000_001, 0), Level::Warning);
        assert_eq!(level(150_000_000, 60_000_000), Level::Ok);
        assert_eq!(level(30_000_000_000, 0), Level::Warning);
        assert_eq!(level(30_000_000_001, 0), Level::Problem);
        assert_eq!(level(i64::MIN, 5_000_000), Level::Problem);
    }

    #[test]
    fn a_clock_that_nobody_sets_is_warned_of() {
        assert_eq!(judge_own(Some(true)).level, Level::Ok);
        assert_eq!(judge_own(Some(false)).level, Level::Warning);
        assert_eq!(judge_own(None).level, Level::Note);
    }
}
