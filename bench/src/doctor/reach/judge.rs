//! What the steps of a probe mean.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use shared::image::Transport;
use shared::report::format::duration;
use url::Host;

use super::super::certificates::{WARN_WITHIN, days, until};
use super::super::{Finding, Group, Level, advice};
use super::Shown;
use super::{Handshake, Reached, Session, Target, denial};

const GROUP: Group = Group::Reachability;

fn millis(time: Duration) -> String {
    duration(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

fn figure(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Judges how far a probe came.
pub(crate) fn judge(
    target: &Target,
    reached: &Reached,
    shown: &Shown,
    now: SystemTime,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    // An address is no name that anybody would have to find.
    let is_name =
        matches!(target.url.host(), Some(Host::Domain(name)) if name.parse::<IpAddr>().is_err());
    if let Some(resolved) = reached.resolved.as_ref().filter(|_| is_name) {
        findings.push(match resolved {
            Ok((addresses, took)) => {
                let texts: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
                let found = format!("{target}: the name is {} ({})", texts.join(", "), millis(*took));
                Finding::ok(GROUP, "name", found).with("resolve_ms", figure(*took))
            }
            Err(words) => {
                let (host, setting) = (target.host(), target.setting);
                let found = format!("{target}: {host} has no address: {words}");
                let fix = format!(
                    "correct the name in {setting}, or enter it in DNS or /etc/hosts; `getent hosts {host}` asks as the \
                     daemon does"
                );
                Finding::bad(Level::Problem, (GROUP, "name"), found, fix)
            }
        });
    }
    if let Some(connected) = &reached.connected {
        findings.push(match connected {
            Ok((address, took)) => {
                let found = format!("{target}: {address} answers ({})", millis(*took));
                Finding::ok(GROUP, "connection", found).with("connect_ms", figure(*took))
            }
            Err((kind, words)) => unreachable(target, *kind, words),
        });
    }
    match &reached.shaken {
        Some(Ok(shaken)) => findings.push(encrypted(target, shaken, shown, now)),
        Some(Err(words)) => {
            let otherwise = "see that the port is the encrypted one, and that --tls-ca is the CA of that station";
            let (found, fix) = advice(words, otherwise);
            // The words name the file; the fix has to say what belongs there.
            let fix = match found.contains("is not signed by the CA") {
                true => "copy ca.pem of that station's keys here, and name it with --tls-ca",
                false if found.contains("has another role") => {
                    "dial a receiver; `pantelegraph keys show FILE` says whose certificate it is"
                }
                false => fix,
            };
            let found = format!("{target}: {found}");
            findings.push(Finding::bad(
                Level::Problem,
                (GROUP, "encryption"),
                found,
                fix,
            ));
        }
        None => {}
    }
    if let Some(session) = &reached.session {
        findings.push(admitted(target, session, shown));
    }
    if let Some(ready) = &reached.ready {
        findings.push(readiness(&target.to_string(), "receiver", ready));
    }
    let about = |finding: Finding| finding.with("target", target.url.as_str());
    findings.into_iter().map(about).collect()
}

fn unreachable(target: &Target, kind: ErrorKind, words: &str) -> Finding {
    let (setting, port) = (target.setting, target.port());
    let fix = match kind {
        ErrorKind::ConnectionRefused => {
            let (who, listeners) = match target.speaks {
                true => ("receiver", "--grpc-listen, --http-listen"),
                false => ("transmitter", "--listen"),
            };
            format!(
                "nobody listens there: start the {who}, see its listener ({listeners}), or correct the port in {setting}"
            )
        }
        ErrorKind::TimedOut => format!(
            "somebody on the way drops it: open TCP port {port} in the firewalls of both stations and between them; \
             `traceroute -T -p {port} {}` shows where it ends",
            target.host()
        ),
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => {
            "this machine has no way there: see `ip route` and the cable, the modem or the VPN"
                .to_owned()
        }
        _ => format!("see {setting}, and the network between the stations"),
    };
    let found = format!("{target}: no connection: {words}");
    Finding::bad(Level::Problem, (GROUP, "connection"), found, fix)
}

fn encrypted(target: &Target, shaken: &Handshake, shown: &Shown, now: SystemTime) -> Finding {
    let Handshake {
        version,
        suite,
        protocol,
        peer,
        until: end,
        took,
    } = shaken;
    let peer = peer
        .as_ref()
        .map_or_else(|| target.host().to_owned(), ToString::to_string);
    let by = shown.ca.as_ref().map_or_else(
        || "a CA that this system trusts".to_owned(),
        |ca| format!("the CA in {}", ca.display()),
    );
    let mut found = format!(
        "{target}: {version}, {suite}, ALPN {protocol} ({}); it is {peer}, says {by}",
        millis(*took)
    );
    let place = (GROUP, "encryption");
    let Some(end) = end else {
        return Finding::ok(place.0, place.1, found);
    };
    let left = days(*end, now);
    found.push_str(&format!("; its certificate is valid until {}", until(*end)));
    let finding = match end
        .duration_since(now)
        .is_ok_and(|left| left >= WARN_WITHIN)
    {
        true => Finding::ok(place.0, place.1, found),
        false => {
            let fix = "renew it there: `pantelegraph keys renew --all --within 30d`, and copy cert.pem to the station";
            Finding::bad(Level::Warning, place, format!("{found}, {left} days"), fix)
        }
    };
    finding
        .with("days_left", left)
        .with("handshake_ms", figure(*took))
}

fn admitted(target: &Target, session: &Session, shown: &Shown) -> Finding {
    let place = (GROUP, "session");
    let (found, fix) = match session {
        Session::Welcomed(who, largest) => {
            let name = &shown.name;
            let mut found = format!("{target}: {name} is let in by {who}");
            if target.transport != Transport::Grpc && (shown.shows || shown.token.is_some()) {
                // Only a session of gRPC says a name before there is an image.
                found = format!(
                    "{target}: what this station shows lets it in; whether as {name}, see certificates"
                );
            }
            let finding = Finding::ok(place.0, place.1, found);
            return match largest {
                Some(largest) => finding.with("max_message_bytes", *largest),
                None => finding,
            };
        }
        Session::Denied { known, words } => {
            let said = words
                .split_once("; ")
                .map_or(words.as_str(), |(said, _)| said);
            let found = format!("{target}: {} is turned away: {said}", shown.name);
            (found, denial::fix(words, *known, shown))
        }
        Session::Foreign(words) => (
            format!("{target}: somebody answers there, but not as a receiver: {words}"),
            format!(
                "correct the address in {}: a receiver has one port for gRPC and one for REST and WebSocket",
                target.setting
            ),
        ),
        Session::Lost(words) => (
            format!("{target}: the conversation broke off: {words}"),
            "where the receiver encrypts, take https:// or wss://; else see its log".to_owned(),
        ),
    };
    Finding::bad(Level::Problem, place, found, fix)
}

/// What /readyz of a receiver says, or of whoever else has one.
pub(crate) fn readiness(of: &str, who: &str, ready: &Value) -> Finding {
    let place = (GROUP, "ready");
    if ready["ready"] == true {
        return Finding::ok(place.0, place.1, format!("{of}: the {who} is ready"));
    }
    let checks = ready["checks"].as_object().into_iter().flatten();
    let failed: Vec<_> = checks
        .filter_map(|(part, told)| {
            // What goes on, or is not needed, has no problem.
            let problem = told["problem"].as_str()?;
            Some(format!("{part}: {problem}"))
        })
        .collect();
    let found = format!("{of}: the {who} is not ready: {}", failed.join("; "));
    // The user service is called as the doctor calls it.
    let station = if who == "receiver" { who } else { "users" };
    let fix = format!("see the {who}'s log, and `pantelegraph doctor {station}` there");
    Finding::bad(Level::Problem, place, found, fix)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn target() -> Target {
        Target {
            transport: Transport::Grpc,
            url: "https://station.example:50051".parse().expect("a URL"),
            setting: "--to",
            roles: super::super::RECEIVERS,
            speaks: true,
        }
    }

    fn only(reached: Reached) -> Finding {
        let mut findings = judge(
            &target(),
            &reached,
            &Shown::default(),
            SystemTime::UNIX_EPOCH,
        );
        assert_eq!(findings.len(), 1, "{findings:?}");
        findings.remove(0)
    }

    #[test]
    fn a_certificate_of_the_other_side_is_warned_of_in_time() {
        let day = Duration::from_secs(86_400);
        let shaken = |left: u32| Reached {
            shaken: Some(Ok(Handshake {
                version: "TLSv1_3".to_owned(),
                suite: "TLS13_AES_128_GCM_SHA256".to_owned(),
                protocol: "h2".to_owned(),
                peer: None,
                until: Some(SystemTime::UNIX_EPOCH + day * left),
                took: Duration::from_millis(3),
            })),
            ..Reached::default()
        };
        assert_eq!(only(shaken(30)).level, Level::Ok);
        let soon = only(shaken(29));
        assert_eq!(
            (soon.level, &soon.figures["days_left"]),
            (Level::Warning, &json!(29))
        );
        assert!(soon.found.contains("29 days"), "{}", soon.found);
    }

    #[test]
    fn each_way_to_fail_has_its_own_fix() {
        let connected = |kind, words: &str| Reached {
            connected: Some(Err((kind, words.to_owned()))),
            ..Reached::default()
        };
        for (reached, part) in [
            (
                connected(ErrorKind::ConnectionRefused, "refused"),
                "start the receiver",
            ),
            (
                connected(ErrorKind::TimedOut, "late"),
                "open TCP port 50051",
            ),
            (connected(ErrorKind::NetworkUnreachable, "no"), "ip route"),
            (
                Reached {
                    resolved: Some(Err("not known".to_owned())),
                    ..Reached::default()
                },
                "getent hosts station.example",
            ),
            (
                Reached {
                    session: Some(Session::Foreign("HTTP status 404".to_owned())),
                    ..Reached::default()
                },
                "correct the address in --to",
            ),
            (
                Reached {
                    ready: Some(
                        json!({"ready": false, "checks": {"disk": {"state": "full", "problem": "the disk is full"}, "catalogue": {"state": "ok"}, "settling": {"state": "going-on"}}}),
                    ),
                    ..Reached::default()
                },
                "doctor receiver",
            ),
        ] {
            let finding = only(reached);
            assert_eq!(finding.level, Level::Problem, "{finding:?}");
            assert!(
                finding.fix.as_deref().unwrap_or_default().contains(part),
                "{finding:?}"
            );
        }
    }

    #[test]
    fn only_what_fails_is_named_of_readiness() {
        let ready = json!({"ready": false, "checks": {"disk": {"state": "full", "problem": "the disk is full"}, "catalogue": {"state": "ok"}, "settling": {"state": "going-on"}}});
        let finding = readiness("it", "receiver", &ready);
        assert_eq!(
            finding.found,
            "it: the receiver is not ready: disk: the disk is full"
        );
        assert_eq!(
            readiness("it", "receiver", &json!({"ready": true, "checks": {}})).level,
            Level::Ok
        );
    }
}
