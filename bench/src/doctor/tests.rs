//! The doctor and real receivers: what is wrong is found, and what is right is left alone.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use clap::ValueEnum as _;
use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use receiver::server::{Listeners, Receiver};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::cli::doctor::Station as Asked;
use crate::keys_command::tests::Rig;

/// A receiver in this process, and keys for it.
struct Station {
    rig: Rig,
    receiver: Receiver,
}

/// The files of `keys` that a server shows and asks for.
const MUTUAL: &[(&str, &str)] = &[
    ("--tls-cert", "keys/gw/cert.pem"),
    ("--tls-key", "keys/gw/key.pem"),
    ("--tls-client-ca", "keys/gw/ca.pem"),
];

impl Station {
    async fn start(files: &[(&str, &str)]) -> Self {
        let rig = Rig::new();
        rig.does(&["issue", "receiver", "gw", "--ip", "127.0.0.1"]);
        rig.does(&["issue", "transmitter", "cam-1"]);
        let mut args = vec!["receiver".into(), "--data".into(), rig.path("data").into()];
        for listener in ["--grpc-listen", "--http-listen"] {
            args.extend([OsString::from(listener), "127.0.0.1:0".into()]);
        }
        for (flag, file) in files {
            args.extend([OsString::from(flag), rig.path(file).into()]);
        }
        let environment = BTreeMap::<String, String>::new();
        let parsed = receiver::cli::parse(args.into_iter(), &environment, None).unwrap();
        let receiver::cli::Invocation::Run(config, _) = parsed else {
            panic!("these are settings");
        };
        let listeners = Listeners::open(&config).await.unwrap();
        let receiver = Receiver::start(*config, listeners).await.unwrap();
        Self { rig, receiver }
    }

    fn grpc(&self) -> u16 {
        self.receiver.grpc_address.unwrap().port()
    }

    fn http(&self) -> u16 {
        self.receiver.http_address.unwrap().port()
    }

    /// Where it is, over all transports.
    fn to(&self, encrypted: &str) -> String {
        let (grpc, http) = (self.grpc(), self.http());
        format!(
            "grpc=http{encrypted}://127.0.0.1:{grpc},websocket=ws{encrypted}://127.0.0.1:{http},\
             rest=http{encrypted}://127.0.0.1:{http}"
        )
    }

    /// What the doctor finds in the settings of a transmitter called cam-1, which shows these files.
    async fn transmitter(&self, encrypted: &str, files: &[(&str, PathBuf)]) -> Vec<Finding> {
        let mut args: Vec<OsString> = ["--pattern", "8x8", "--count", "1", "--transport"]
            .map(Into::into)
            .to_vec();
        args.extend(["grpc,websocket,rest", "--name", "cam-1", "--to"].map(Into::into));
        args.push(self.to(encrypted).into());
        args.extend(["--outbox".into(), self.rig.path("outbox").into()]);
        for (flag, file) in files {
            args.extend([OsString::from(flag), file.into()]);
        }
        examined(&Asked::Transmitter { settings: args }).await
    }

    fn files(&self, cert: &str) -> Vec<(&'static str, PathBuf)> {
        let path = |name: &str| self.rig.path("keys").join(cert).join(name);
        vec![
            ("--tls-ca", path("ca.pem")),
            ("--tls-cert", path("cert.pem")),
            ("--tls-key", path("key.pem")),
        ]
    }
}

/// All findings but those of this machine, whose disk, memory and clock are what they are.
async fn examined(asked: &Asked) -> Vec<Finding> {
    let Read::Station(subject, settings) = read(asked, &BTreeMap::new(), None).unwrap() else {
        panic!("these are settings");
    };
    let own = [Group::Disk, Group::Limits, Group::Space];
    let options = Options {
        timeout: Duration::from_secs(30),
        groups: Group::value_variants()
            .iter()
            .copied()
            .filter(|group| !own.contains(group))
            .collect(),
        disk_test: false,
        stop: Arc::new(AtomicBool::new(false)),
    };
    let mut findings = examine(&subject, settings, &options, &|_| {}).await;
    findings.retain(|finding| finding.check != "synchronised");
    findings
}

/// Those at this level or above, as group, check and found.
fn above(findings: &[Finding], level: Level) -> Vec<String> {
    let bad = findings.iter().filter(|finding| finding.level >= level);
    bad.map(|it| {
        let fix = it.fix.as_deref().unwrap_or_default();
        format!("{} {}: {} -> {fix}", it.group.key(), it.check, it.found)
    })
    .collect()
}

/// That each of these is found as a problem, over all three transports.
fn thrice(findings: &[Finding], check: &str, part: &str) {
    let problems = above(findings, Level::Problem);
    let of = problems
        .iter()
        .filter(|problem| problem.contains(check) && problem.contains(part));
    assert_eq!(of.count(), 3, "{check} {part}: {problems:#?}");
}

#[tokio::test]
async fn where_all_is_well_nothing_is_complained_of() {
    let station = Station::start(&[]).await;
    let findings = station.transmitter("", &[]).await;
    assert_eq!(above(&findings, Level::Note), Vec::<String>::new());
    let welcomed = findings.iter().filter(|it| it.check == "session").count();
    let offsets = findings.iter().filter(|it| it.check == "offset").count();
    let ready = findings.iter().filter(|it| it.check == "ready").count();
    assert_eq!((welcomed, offsets, ready), (3, 3, 2), "{findings:#?}");
    assert!(
        !station.rig.path("outbox").exists(),
        "nothing is made by looking"
    );
    station.receiver.stop().await;
}

#[tokio::test]
async fn certificates_of_both_sides_let_a_transmitter_in() {
    let station = Station::start(MUTUAL).await;
    let findings = station.transmitter("s", &station.files("cam-1")).await;
    assert_eq!(above(&findings, Level::Note), Vec::<String>::new());
    let text = text(&findings, false, None);
    for part in [
        "TLSv1_3",
        "ALPN h2",
        "ALPN http/1.1",
        "spiffe://test.example/receiver/gw",
        "cam-1 is the name in its certificate",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    station.receiver.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_certificates_is_told_with_its_fix() {
    let station = Station::start(MUTUAL).await;
    // Another world's CA.
    let other = Rig::new();
    let mut files = station.files("cam-1");
    files[0].1 = other.path("keys/ca.pem");
    let findings = station.transmitter("s", &files).await;
    thrice(&findings, "encryption", "is not signed by the CA");
    // None is shown.
    let only_ca = &station.files("cam-1")[..1];
    let findings = station.transmitter("s", only_ca).await;
    thrice(&findings, "session", "keys issue transmitter cam-1");
    // One of somebody else.
    station.rig.does(&["issue", "transmitter", "cam-2"]);
    let findings = station.transmitter("s", &station.files("cam-2")).await;
    let problems = above(&findings, Level::Problem).join("\n");
    assert!(
        problems.contains("certificates identity: this station is called cam-1"),
        "{problems}"
    );
    assert!(problems.contains("--name cam-2"), "{problems}");
    // One that is open to others.
    let files = station.files("cam-1");
    fs::set_permissions(&files[2].1, fs::Permissions::from_mode(0o644)).unwrap();
    let findings = station.transmitter("s", &files).await;
    let warnings = above(&findings, Level::Warning);
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    assert!(warnings[0].ends_with(&format!("chmod 600 {}", files[2].1.display())));
    station.receiver.stop().await;
}

#[tokio::test]
async fn a_certificate_that_has_expired_is_found_on_both_sides() {
    let station = Station::start(MUTUAL).await;
    let keys = station.rig.path("keys");
    let read = |name: &str| fs::read_to_string(keys.join(name)).unwrap();
    let signer = KeyPair::from_pem(&read("ca.key")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&read("ca.pem"), signer).unwrap();
    let mut params = CertificateParams::default();
    let id = "spiffe://test.example/transmitter/cam-1";
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    let now = OffsetDateTime::from(SystemTime::now());
    params.not_before = now - time::Duration::days(9);
    params.not_after = now - time::Duration::days(2);
    let key = KeyPair::from_pem(&read("cam-1/key.pem")).unwrap();
    let expired = params.signed_by(&key, &issuer).unwrap();
    fs::write(keys.join("cam-1/cert.pem"), expired.pem()).unwrap();
    let findings = station.transmitter("s", &station.files("cam-1")).await;
    thrice(&findings, "session", "is turned away");
    let problems = above(&findings, Level::Problem).join("\n");
    assert!(problems.contains("has expired on"), "{problems}");
    assert!(problems.contains("keys renew"), "{problems}");
    station.receiver.stop().await;
}

#[tokio::test]
async fn files_that_would_keep_everybody_out_are_found() {
    let (rig, other) = (Rig::new(), Rig::new());
    rig.does(&["issue", "receiver", "gw", "--ip", "127.0.0.1"]);
    rig.does(&["issue", "transmitter", "cam-1"]);
    other.does(&["issue", "transmitter", "cam-9"]);
    let path = |rig: &Rig, name: &str| OsString::from(rig.path("keys").join(name));
    let receiver = vec![
        "--data".into(),
        rig.path("data").into(),
        "--tls-cert".into(),
        path(&rig, "gw/cert.pem"),
        "--tls-key".into(),
        path(&rig, "gw/key.pem"),
        "--tls-client-ca".into(),
        path(&rig, "ca.pem"),
        "--tls-crl".into(),
        path(&other, "revoked.pem"),
    ];
    let waiting = vec![
        "--listen".into(),
        "127.0.0.1:0".into(),
        "--tls-cert".into(),
        path(&rig, "cam-1/cert.pem"),
        "--tls-key".into(),
        path(&rig, "cam-1/key.pem"),
        "--pattern".into(),
        "8x8".into(),
    ];
    for (asked, part) in [
        (Asked::Receiver { settings: receiver }, "list of another CA"),
        (
            Asked::Transmitter { settings: waiting },
            "issue one with `pantelegraph keys issue`",
        ),
    ] {
        let problems = above(&examined(&asked).await, Level::Problem);
        let found = problems.iter().any(|problem| problem.contains(part));
        assert!(found, "{part}: {problems:#?}");
    }
}

#[tokio::test]
async fn tokens_are_told_apart_by_what_is_wrong_with_them() {
    let station = Station::start(&[("--token-key-file", "keys/token.pub")]).await;
    let findings = station.transmitter("", &[]).await;
    thrice(&findings, "session", "Missing token");
    thrice(
        &findings,
        "session",
        "keys token --subject cam-1 --scope upload",
    );
    let token = |scope: &str| {
        let path = station.rig.path(&format!("{scope}.token"));
        let output = path.to_str().unwrap().to_owned();
        let line = [
            "token",
            "--subject",
            "cam-1",
            "--expires",
            "60d",
            "--scope",
            scope,
        ];
        station
            .rig
            .does(&[&line[..], &["--output", &output]].concat());
        path
    };
    let good = [("--token-file", token("upload"))];
    let findings = station.transmitter("", &good).await;
    assert_eq!(above(&findings, Level::Note), Vec::<String>::new());
    let secret = fs::read_to_string(&good[0].1).unwrap();
    let document = serde_json::to_string(&findings).unwrap();
    assert!(!document.contains(secret.trim()), "secrets are never shown");
    let findings = station
        .transmitter("", &[("--token-file", token("read"))])
        .await;
    thrice(&findings, "session", "lacks the scope upload");
    // What it says is judged before anybody is asked.
    let problems = above(&findings, Level::Problem).join("\n");
    assert!(problems.contains("and not to upload"), "{problems}");
    station.receiver.stop().await;
}

#[tokio::test]
async fn where_nobody_listens_or_somebody_else_does_it_is_told() {
    let station = Station::start(&[]).await;
    let (grpc, http) = (station.grpc(), station.http());
    let ask = async |to: String| {
        let args = [
            "--pattern",
            "8x8",
            "--count",
            "1",
            "--outbox",
            "memory",
            "--to",
        ]
        .map(Into::into);
        let mut settings: Vec<OsString> = args.to_vec();
        let websocket = to.starts_with("ws");
        settings.push(to.into());
        if websocket {
            settings.extend(["--transport".into(), "websocket".into()]);
        }
        above(
            &examined(&Asked::Transmitter { settings }).await,
            Level::Problem,
        )
    };
    // The ports of the two listeners are mixed up.
    let problems = ask(format!("http://127.0.0.1:{http}")).await;
    assert!(
        problems.iter().any(|it| it.contains("session")),
        "{problems:#?}"
    );
    // Somebody who hangs up after each answer, as simple servers do.
    let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = other.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let (mut stream, _) = other.accept().await.unwrap();
        let mut head = [0; 1 << 10];
        let _ = stream.read(&mut head).await.unwrap();
        let answer = b"HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(answer).await.unwrap();
    });
    let problems = ask(format!("ws://{address}")).await;
    assert!(
        problems.len() == 1 && problems[0].contains("not as a receiver: HTTP status 404"),
        "{problems:#?}"
    );
    serving.await.unwrap();
    // Nobody: the port is free again.
    station.receiver.stop().await;
    let problems = ask(format!("http://127.0.0.1:{grpc}")).await;
    assert_eq!(problems.len(), 1, "{problems:#?}");
    assert!(problems[0].contains("start the receiver"), "{problems:#?}");
}

#[tokio::test]
async fn a_receiver_that_runs_is_asked_how_it_is() {
    for files in [&[][..], MUTUAL] {
        let station = Station::start(files).await;
        let listeners = [
            ("--grpc-listen", station.grpc()),
            ("--http-listen", station.http()),
        ];
        let mut settings = vec!["--data".into(), station.rig.path("data").into()];
        for (flag, port) in listeners {
            settings.extend([OsString::from(flag), format!("127.0.0.1:{port}").into()]);
        }
        for (flag, file) in files {
            settings.extend([OsString::from(flag), station.rig.path(file).into()]);
        }
        let findings = examined(&Asked::Receiver { settings }).await;
        assert_eq!(above(&findings, Level::Note), Vec::<String>::new());
        let text = text(&findings, false, None);
        assert!(text.contains("is this station's: process"), "{text}");
        assert!(text.contains("the receiver is ready"), "{text}");
        station.receiver.stop().await;
    }
}

#[tokio::test]
async fn a_user_service_that_runs_is_asked_how_it_is() {
    let rig = Rig::new();
    rig.does(&["issue", "receiver", "gw", "--ip", "127.0.0.1"]);
    for files in [&[][..], MUTUAL] {
        let mut args: Vec<OsString> = vec!["users".into()];
        for listener in ["--grpc-listen", "--http-listen"] {
            args.extend([OsString::from(listener), "127.0.0.1:0".into()]);
        }
        for (flag, file) in files {
            args.extend([OsString::from(flag), rig.path(file).into()]);
        }
        let environment = BTreeMap::<String, String>::new();
        let parsed = users::cli::parse(args.into_iter(), &environment, None).unwrap();
        let users::cli::Invocation::Serve(config, ..) = parsed else {
            panic!("these are settings");
        };
        let listeners = users::server::Listeners::open(&config).await.unwrap();
        let tls = config.security.tls.clone();
        let service = users::server::Server::start(*config, listeners).await;
        let service = service.unwrap();
        let asked = listeners::Asked {
            who: "user service",
            files: tls.as_ref(),
        };
        let patience = Duration::from_secs(30);
        let ready = listeners::ask(&asked, service.http_address.unwrap(), patience).await;
        assert_eq!(ready.level, Level::Ok, "{ready:?}");
        assert!(ready.found.ends_with("the user service is ready"));
        service.stop().await;
    }
}
