//! Certificates, keys and tokens in files.

mod files;
mod token;

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use shared::security::identity::{Role, StationId};
use shared::security::tls::TlsError;

use super::{Finding, Group, Level, advice};

pub(crate) use files::{Files, papers};

const GROUP: Group = Group::Certificates;

/// How long before its end something should have been renewed: `keys issue` makes them for ninety days, so that
/// a month is left to notice.
pub(crate) const WARN_WITHIN: Duration = Duration::from_secs(30 * 86_400);

/// Whole days until then; fewer than none when it is over.
pub(crate) fn days(end: SystemTime, now: SystemTime) -> i64 {
    let whole = |days: u64| i64::try_from(days).unwrap_or(i64::MAX);
    match end.duration_since(now) {
        Ok(left) => whole(left.as_secs() / 86_400),
        Err(over) => -whole(over.duration().as_secs().div_ceil(86_400)),
    }
}

/// A time for people.
pub(crate) fn until(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(
        |_| "the end of time".to_owned(),
        |time| time.strftime("%Y-%m-%d %H:%M UTC").to_string(),
    )
}

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Paper {
    /// Who it is of, in words.
    pub(super) of: String,
    /// Its station, if it names one.
    pub(super) station: Option<StationId>,
    pub(super) serial: Vec<u8>,
    pub(super) from: SystemTime,
    pub(super) until: SystemTime,
    /// Who it is issued to and by, as distinguished names.
    pub(super) subject: String,
    pub(super) issuer: String,
    /// By which names it is dialled.
    pub(super) names: Vec<String>,
}

/// Looks at all files of a station.
pub(crate) fn examine(files: &Files) -> Vec<Finding> {
    let now = SystemTime::now();
    let mut findings = Vec::new();
    if files.is_empty() {
        let found = "nothing is encrypted, and nobody is asked who it is";
        findings.push(Finding::ok(GROUP, "none", found));
        return findings;
    }
    if let Some(loaded) = files.load() {
        findings.extend(usable(loaded));
    }
    for (setting, path) in &files.secrets {
        findings.extend(readers(setting, path, mode(path)));
    }
    let revoked = files
        .revoked
        .as_ref()
        .map(|path| (path, files::revoked(path)));
    if let Some(path) = &files.own {
        match papers(path) {
            Ok(chain) => {
                if let Some(own) = chain.first() {
                    findings.push(validity("this station's certificate", path, own, now));
                    findings.extend(name(own, files.name.as_deref(), files.role));
                    if let Some((list, Ok((_, serials)))) = &revoked
                        && serials.contains(&own.serial)
                    {
                        findings.push(is_revoked(path, list));
                    }
                }
                findings.extend(order(path, &chain));
            }
            Err(problem) => findings.push(unreadable(&problem)),
        }
    }
    if let Some(path) = &files.ca {
        match papers(path) {
            Ok(papers) => {
                let judged = papers
                    .iter()
                    .map(|paper| validity("the CA", path, paper, now));
                findings.extend(judged);
            }
            Err(problem) => findings.push(unreadable(&problem)),
        }
    }
    match revoked {
        Some((path, Ok((next, serials)))) => findings.push(list(path, next, serials.len(), now)),
        Some((_, Err(problem))) => findings.push(unreadable(&problem)),
        None => {}
    }
    if let Some(header) = files.token() {
        findings.push(match header {
            Ok(header) => token::judge(&token::claims(&header), files.name.as_deref(), now),
            Err(problem) => unreadable(&problem),
        });
    }
    findings
}

fn mode(path: &Path) -> Option<u32> {
    std::fs::metadata(path)
        .ok()
        .map(|data| data.mode() & 0o7777)
}

/// Whether the files go together, and let in and be let in.
fn usable(loaded: Result<Vec<String>, TlsError>) -> Vec<Finding> {
    let place = (GROUP, "usable");
    let wrong = match loaded {
        Ok(warnings) => warnings,
        Err(error) => vec![error.to_string()],
    };
    if wrong.is_empty() {
        let found = "certificates, keys and lists can be read and go together";
        return vec![Finding::ok(place.0, place.1, found)];
    }
    let otherwise =
        "name the files of one station: cert.pem and key.pem of its folder of `pantelegraph keys`";
    let judged = wrong.iter().map(|words| {
        let (found, fix) = advice(words, otherwise);
        Finding::bad(Level::Problem, place, found, fix)
    });
    judged.collect()
}

fn unreadable(problem: &str) -> Finding {
    let fix = "name a file that this user can read; `pantelegraph keys` makes them";
    Finding::bad(Level::Problem, (GROUP, "readable"), problem, fix)
}

/// Whether others may read a secret.
fn readers(setting: &str, path: &Path, mode: Option<u32>) -> Option<Finding> {
    let (mode, shown) = (mode?, path.display());
    let place = (GROUP, "readers");
    Some(match mode & 0o077 {
        0 => Finding::ok(
            place.0,
            place.1,
            format!("{shown} (--{setting}) is for its owner only ({mode:04o})"),
        ),
        _ => {
            let found = format!(
                "{shown} (--{setting}) is a secret, and others on this machine may use it ({mode:04o})"
            );
            Finding::bad(Level::Warning, place, found, format!("chmod 600 {shown}"))
        }
    })
}

fn validity(what: &str, path: &Path, paper: &Paper, now: SystemTime) -> Finding {
    let place = (GROUP, "validity");
    let (left, path, of) = (days(paper.until, now), path.display(), &paper.of);
    let renew = match what {
        "the CA" => {
            "make a new CA (`pantelegraph keys init --force` in another folder), and give its ca.pem to all stations before the old one ends"
        }
        _ => {
            "where the keys are: `pantelegraph keys renew --all --within 30d`, and copy cert.pem here; it is noticed without a restart"
        }
    };
    let finding = if now < paper.from {
        let found = format!(
            "{what} in {path}, of {of}, is not valid before {}",
            until(paper.from)
        );
        let fix = "set this clock right (`timedatectl`), or wait; `pantelegraph keys renew` makes one that counts from now on";
        Finding::bad(Level::Problem, place, found, fix)
    } else if paper.until <= now {
        let found = format!(
            "{what} in {path}, of {of}, has expired on {}",
            until(paper.until)
        );
        Finding::bad(Level::Problem, place, found, renew)
    } else if paper.until < now + WARN_WITHIN {
        let found = format!(
            "{what} in {path}, of {of}, expires in {left} days, on {}",
            until(paper.until)
        );
        Finding::bad(Level::Warning, place, found, renew)
    } else {
        let found = format!(
            "{what} in {path}, of {of}, is valid until {}, {left} days",
            until(paper.until)
        );
        Finding::ok(place.0, place.1, found)
    };
    finding.with("days_left", left)
}

/// Whether the certificate is that of this station.
fn name(own: &Paper, name: Option<&str>, role: Role) -> Option<Finding> {
    let place = (GROUP, "identity");
    let Some(station) = &own.station else {
        let found = "this station's certificate names no station (spiffe://DOMAIN/ROLE/NAME)";
        let fix = format!(
            "where the keys are: `pantelegraph keys issue {role} {}`",
            name.unwrap_or("NAME")
        );
        return Some(Finding::bad(Level::Warning, place, found, fix));
    };
    if station.role != role && station.role != Role::Admin {
        let found = format!("this station's certificate is of {station}, and a {role} shows it");
        let fix = format!(
            "take the files of a {role}: `pantelegraph keys issue {role} {}`",
            name.unwrap_or("NAME")
        );
        return Some(Finding::bad(Level::Problem, place, found, fix));
    }
    let name = name?;
    Some(if station.name == name || station.role == Role::Admin {
        Finding::ok(
            place.0,
            place.1,
            format!("{name} is the name in its certificate, {station}"),
        )
    } else {
        let found = format!(
            "this station is called {name}, and its certificate is of {station}: receivers turn its images away"
        );
        Finding::bad(
            Level::Problem,
            place,
            found,
            format!("--name {}, or a certificate for {name}", station.name),
        )
    })
}

fn is_revoked(path: &Path, list: &Path) -> Finding {
    let found = format!(
        "this station's certificate in {} is revoked, says {}",
        path.display(),
        list.display()
    );
    let fix = "where the keys are: `pantelegraph keys renew --new-key STATION`, and copy cert.pem and key.pem here";
    Finding::bad(Level::Problem, (GROUP, "revoked"), found, fix)
}

/// Whether each certificate is followed by that of its issuer: whoever verifies them needs them so.
fn order(path: &Path, chain: &[Paper]) -> Option<Finding> {
    let broken = chain
        .windows(2)
        .find(|pair| pair[0].issuer != pair[1].subject)?;
    let found = format!(
        "in {}, the certificate of {} is followed by that of {}, which has not issued it",
        path.display(),
        broken[0].of,
        broken[1].of
    );
    let fix = "put the station's certificate first, then that of its issuer, and so on; without the CA itself";
    Some(Finding::bad(Level::Warning, (GROUP, "chain"), found, fix))
}

fn list(path: &Path, next: Option<SystemTime>, count: usize, now: SystemTime) -> Finding {
    let place = (GROUP, "revoked");
    let shown = path.display();
    let finding = match next {
        Some(next) if next <= now => {
            let found = format!(
                "the list of {count} revoked certificates in {shown} should have been renewed on {}; it is believed all the same",
                until(next)
            );
            let fix = "where the keys are: `pantelegraph keys revoke` or `keys renew` writes a new revoked.pem; copy it here";
            Finding::bad(Level::Warning, place, found, fix)
        }
        next => {
            let next = next.map_or_else(String::new, |next| {
                format!("; the next one is due on {}", until(next))
            });
            Finding::ok(
                place.0,
                place.1,
                format!("{count} certificates are revoked ({shown}){next}"),
            )
        }
    };
    finding.with("revoked", count)
}

/// The file of a list or a key, for people.
pub(super) fn problem(path: &Path, words: &dyn std::fmt::Display) -> String {
    format!("{}: {words}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paper(from: i64, until: i64) -> (Paper, SystemTime) {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let at = |days: i64| match u64::try_from(days) {
            Ok(days) => now + Duration::from_secs(days * 86_400),
            Err(_) => now - Duration::from_secs(days.unsigned_abs() * 86_400),
        };
        let paper = Paper {
            of: "cam-1".to_owned(),
            station: "spiffe://d/transmitter/cam-1".parse().ok(),
            serial: vec![1],
            from: at(from),
            until: at(until),
            subject: "CN=a".to_owned(),
            issuer: "CN=b".to_owned(),
            names: Vec::new(),
        };
        (paper, now)
    }

    #[test]
    fn a_certificate_is_warned_of_a_month_before_its_end() {
        let level = |from, until| {
            let (paper, now) = paper(from, until);
            let finding = validity("this station's certificate", Path::new("x"), &paper, now);
            assert_eq!(finding.figures["days_left"], until);
            finding.level
        };
        assert_eq!(level(-1, 30), Level::Ok);
        assert_eq!(level(-1, 29), Level::Warning);
        assert_eq!(level(-1, -1), Level::Problem);
        assert_eq!(level(1, 90), Level::Problem);
    }

    #[test]
    fn the_name_in_the_certificate_is_that_of_the_station() {
        let (mut own, _) = paper(0, 90);
        let level =
            |own: &Paper, called, role| name(own, called, role).map(|finding| finding.level);
        assert_eq!(
            level(&own, Some("cam-1"), Role::Transmitter),
            Some(Level::Ok)
        );
        assert_eq!(
            level(&own, Some("cam-2"), Role::Transmitter),
            Some(Level::Problem)
        );
        assert_eq!(level(&own, None, Role::Receiver), Some(Level::Problem));
        own.station = "spiffe://d/admin/ada".parse().ok();
        assert_eq!(
            level(&own, Some("cam-2"), Role::Transmitter),
            Some(Level::Ok)
        );
        own.station = None;
        assert_eq!(
            level(&own, Some("cam-2"), Role::Transmitter),
            Some(Level::Warning)
        );
    }

    #[test]
    fn secrets_that_others_may_read_come_with_a_chmod() {
        let judged = |mode| readers("tls-key", Path::new("/k/key.pem"), Some(mode));
        assert_eq!(judged(0o600).map(|it| it.level), Some(Level::Ok));
        let open = judged(0o644);
        assert_eq!(open.as_ref().map(|it| it.level), Some(Level::Warning));
        assert_eq!(
            open.and_then(|it| it.fix).as_deref(),
            Some("chmod 600 /k/key.pem")
        );
        assert_eq!(judged(0o640).map(|it| it.level), Some(Level::Warning));
    }

    #[test]
    fn a_chain_is_in_order_and_a_list_is_renewed() {
        let (own, now) = paper(0, 90);
        let (mut issuer, _) = paper(0, 90);
        assert!(order(Path::new("x"), &[own.clone(), issuer.clone()]).is_some());
        "CN=b".clone_into(&mut issuer.subject);
        assert_eq!(order(Path::new("x"), &[own, issuer]), None);
        let level = |next| list(Path::new("x"), next, 1, now).level;
        assert_eq!(level(None), Level::Ok);
        assert_eq!(level(Some(now + WARN_WITHIN)), Level::Ok);
        assert_eq!(level(Some(now)), Level::Warning);
    }
}
