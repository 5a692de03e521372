//! What a transmitter owes, by the names of the files in its outbox: nothing is opened, so that this may be done
//! beside a transmitter that runs.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use shared::report::format::bytes;
use shared::settings::units::{ByteSize, format_duration};
use transmitter::config::{OutboxFiles, OutboxOptions, WhenFull};

use super::{Finding, Group, Level};

const GROUP: Group = Group::Outbox;

/// What lies there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) exists: bool,
    pub(crate) owed: Files,
    pub(crate) quarantined: Files,
    /// Why it could not be looked through.
    pub(crate) problem: Option<String>,
}

/// Files of images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Files {
    pub(crate) images: u64,
    pub(crate) bytes: u64,
    /// The lowest sequence number, and when that image was captured.
    pub(crate) oldest: Option<(u64, SystemTime)>,
}

/// Looks through it.
pub(crate) fn facts(folder: &Path) -> Facts {
    let mut facts = Facts {
        exists: folder.join("index.redb").exists() || folder.join("images").exists(),
        ..Facts::default()
    };
    let looked = look(&folder.join("images"), true, &mut facts.owed)
        .and_then(|()| look(&folder.join("quarantine"), false, &mut facts.quarantined));
    facts.problem = looked.err().map(|error| error.to_string());
    facts
}

fn look(folder: &Path, deeper: bool, files: &mut Files) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        // Images come and go meanwhile.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        if metadata.is_dir() && deeper {
            look(&entry.path(), false, files)?;
            continue;
        }
        let name = entry.file_name();
        let Some((sequence, captured)) = name.to_str().and_then(named) else {
            continue;
        };
        files.images += 1;
        files.bytes += metadata.len();
        if files.oldest.is_none_or(|(oldest, _)| sequence < oldest) {
            files.oldest = Some((sequence, captured));
        }
    }
    Ok(())
}

/// The sequence number in the name of an image's file, and the time in its id (docs/specs/outbox.md; RFC 9562,
/// section 5.7).
fn named(name: &str) -> Option<(u64, SystemTime)> {
    let sequence = name.get(..20)?.parse().ok()?;
    let id = name.get(21..57)?;
    let millis = u64::from_str_radix(&format!("{}{}", id.get(..8)?, id.get(9..13)?), 16).ok()?;
    Some((
        sequence,
        UNIX_EPOCH.checked_add(Duration::from_millis(millis))?,
    ))
}

/// Judges what is owed.
pub(crate) fn judge(asked: &OutboxOptions, facts: &Facts, now: SystemTime) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(problem) = &facts.problem {
        let found = format!("the outbox cannot be looked through: {problem}");
        let fix = "run the doctor as the transmitter's user (`sudo -u USER`)";
        findings.push(Finding::bad(Level::Problem, (GROUP, "owed"), found, fix));
        return findings;
    }
    if !facts.exists {
        let found = "there is no outbox yet: nothing is owed";
        return vec![Finding::ok(GROUP, "owed", found)];
    }
    findings.push(owed(asked, &facts.owed, now));
    if facts.quarantined.images > 0 {
        let Files {
            images,
            bytes: size,
            ..
        } = &facts.quarantined;
        let found = format!(
            "{images} files are in the outbox's quarantine, {}",
            bytes(*size)
        );
        let fix = "`pantelegraph-transmitter outbox list --quarantine` names them; `outbox requeue` sends them again, `outbox drop` \
                   gives them up";
        let finding = Finding::bad(Level::Note, (GROUP, "quarantined"), found, fix);
        findings.push(finding.with("images", *images).with("bytes", *size));
    }
    findings
}

/// An image that waits so long was not held up by a link that comes and goes.
const LONG: Duration = Duration::from_secs(86_400);

fn owed(asked: &OutboxOptions, owed: &Files, now: SystemTime) -> Finding {
    let place = (GROUP, "owed");
    let limit = asked.limit.0;
    let share = if limit == 0 {
        0.0
    } else {
        owed.bytes as f64 * 100.0 / limit as f64
    };
    let mut shown = match owed.images {
        0 => "nothing is owed".to_owned(),
        images => format!(
            "{images} images are owed, {}, {share:.0} % of the {} of --outbox-limit",
            bytes(owed.bytes),
            ByteSize(limit)
        ),
    };
    if asked.files == OutboxFiles::Reference {
        shown.push_str(" (not counting those of which the outbox has only the path)");
    }
    let waits = owed
        .oldest
        .map(|(_, captured)| now.duration_since(captured).unwrap_or_default());
    if let Some(waits) = waits {
        let whole = Duration::from_secs(waits.as_secs());
        shown.push_str(&format!("; the oldest for {}", format_duration(whole)));
    }
    let full = match asked.when_full {
        WhenFull::Block => "then the source waits, and a camera's images are missed",
        _ => "then images are dropped (--when-full)",
    };
    let deliver = "see the group reachability for why they do not leave; raise --outbox-limit, or --bandwidth if it is capped";
    let finding = if share >= 100.0 {
        Finding::bad(
            Level::Problem,
            place,
            format!("{shown}: it is full, and {full}"),
            deliver,
        )
    } else if share >= 80.0 {
        Finding::bad(
            Level::Warning,
            place,
            format!("{shown}: it will be full soon, and {full}"),
            deliver,
        )
    } else if waits.is_some_and(|waits| waits > LONG) {
        Finding::bad(Level::Warning, place, shown, deliver)
    } else {
        Finding::ok(place.0, place.1, shown)
    };
    let finding = finding
        .with("images", owed.images)
        .with("bytes", owed.bytes)
        .with("limit_bytes", limit);
    match waits {
        Some(waits) => finding.with("oldest_seconds", waits.as_secs()),
        None => finding,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use transmitter::config::{OutboxDurability, OutboxPlace};

    use super::*;

    fn asked() -> OutboxOptions {
        OutboxOptions {
            place: OutboxPlace::Memory,
            memory: ByteSize(0),
            limit: ByteSize(1_000),
            min_free: ByteSize(0),
            when_full: WhenFull::Block,
            durability: OutboxDurability::Synced,
            files: OutboxFiles::Link,
        }
    }

    fn level(size: u64, waits: Duration) -> Level {
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let facts = Facts {
            exists: true,
            owed: Files {
                images: 3,
                bytes: size,
                oldest: Some((1, now - waits)),
            },
            ..Facts::default()
        };
        judge(&asked(), &facts, now)[0].level
    }

    #[test]
    fn an_outbox_is_warned_of_before_it_is_full() {
        assert_eq!(level(794, LONG), Level::Ok);
        assert_eq!(level(800, Duration::ZERO), Level::Warning);
        assert_eq!(level(1_000, Duration::ZERO), Level::Problem);
        assert_eq!(level(1, LONG + Duration::from_secs(1)), Level::Warning);
    }

    #[test]
    fn images_are_known_by_the_names_of_their_files() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(facts(folder.path()), Facts::default());
        let segment = folder.path().join("images/000");
        std::fs::create_dir_all(&segment).unwrap();
        std::fs::create_dir_all(folder.path().join("quarantine")).unwrap();
        // 2026-01-02T03:04:05Z
        let id = "019b7cbc-9088-7000-8000-000000000001";
        let name = |number: u64| format!("{number:020}-{id}-x{:032x}-g", 7);
        std::fs::write(segment.join(name(8)), "123").unwrap();
        std::fs::write(segment.join(name(7)), "12345").unwrap();
        std::fs::write(segment.join("a.tmp"), "1").unwrap();
        std::fs::write(folder.path().join("quarantine").join(name(3)), "1").unwrap();
        let facts = facts(folder.path());
        let captured = UNIX_EPOCH + Duration::from_millis(0x019b_7cbc_9088);
        assert_eq!((facts.owed.images, facts.owed.bytes), (2, 8));
        assert_eq!(facts.owed.oldest, Some((7, captured)));
        let findings = judge(&asked(), &facts, captured + LONG * 2);
        let text = super::super::text(&findings, false, None);
        assert!(
            text.contains("2 images are owed, 8 B, 1 % of the 1000B"),
            "{text}"
        );
        assert!(
            text.contains("1 files are in the outbox's quarantine"),
            "{text}"
        );
    }
}
