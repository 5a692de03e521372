use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::security::identity::Role;

/// A CA and a folder for what it signs.
struct World {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// What is special about a certificate.
#[derive(Default)]
struct Special {
    from: Option<Duration>,
    expired: bool,
    only_server: bool,
    only_client: bool,
    no_id: bool,
    serial: u8,
}

const DAY: Duration = Duration::from_secs(86_400);

fn now() -> OffsetDateTime {
    OffsetDateTime::from(std::time::SystemTime::now())
}

impl World {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        let world = Self {
            folder,
            issuer: Issuer::new(params, key),
        };
        world.station(Role::Receiver, "gw", Special::default());
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn station(&self, role: Role, name: &str, special: Special) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        let id = format!("spiffe://test/{role}/{name}");
        if !special.no_id {
            params
                .subject_alt_names
                .push(SanType::URI(id.as_str().try_into().unwrap()));
        }
        let dns = format!("{name}.test");
        params
            .subject_alt_names
            .push(SanType::DnsName(dns.as_str().try_into().unwrap()));
        if !special.only_client {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        if !special.only_server {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        params.not_before = now() - DAY + special.from.unwrap_or_default();
        params.not_after = match special.expired {
            true => now() - Duration::from_secs(1),
            false => now() + 30 * DAY,
        };
        params.serial_number = Some(SerialNumber::from_slice(&[0x40, special.serial]));
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    fn revoke(&self, serials: &[u8]) {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&[0x40, *serial]),
            revocation_time: now() - DAY,
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: now() - DAY,
            next_update: now() + DAY,
            crl_number: SerialNumber::from_slice(&[1]),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).unwrap().pem().unwrap();
        replace(&self.path("revoked.pem"), list.as_bytes());
    }

    fn server_files(&self, optional: bool) -> ServerFiles {
        let revoked = self.path("revoked.pem");
        ServerFiles {
            certificate: self.path("gw.pem"),
            key: self.path("gw.key"),
            clients: Some(ClientAuth {
                ca: self.path("ca.pem"),
                revoked: revoked.exists().then_some(revoked),
                optional,
            }),
        }
    }

    fn server(&self) -> Arc<ServerTls> {
        ServerTls::open(self.server_files(false), &[H2]).unwrap()
    }

    /// A client that trusts this CA and shows the certificate of `name`.
    fn client(&self, name: Option<&str>) -> Arc<ClientTls> {
        self.client_with(self.path("ca.pem"), name)
    }

    fn client_with(&self, ca: PathBuf, name: Option<&str>) -> Arc<ClientTls> {
        let own = name.map(|name| {
            (
                self.path(&format!("{name}.pem")),
                self.path(&format!("{name}.key")),
            )
        });
        ClientTls::open(ClientFiles {
            ca: Some(ca),
            own,
            revoked: None,
        })
        .unwrap()
    }
}

/// As those do who renew certificates: nobody sees half of a file.
fn replace(path: &Path, content: &[u8]) {
    let part = path.with_extension("part");
    fs::write(&part, content).unwrap();
    fs::rename(part, path).unwrap();
}

type Met = (
    Result<Accepted<tokio::io::DuplexStream>, Refused>,
    std::io::Result<ClientStream<tokio::io::DuplexStream>>,
);

/// Both shake hands.
async fn meet(server: &Arc<ServerTls>, client: &Arc<ClientTls>, host: &str) -> Met {
    let (here, there) = tokio::io::duplex(64 << 10);
    let accepting = server.accept(here, DAY, CancellationToken::new());
    let connecting = client.connect(host, there, H2, &[Role::Receiver]);
    let (accepted, connected) = tokio::join!(accepting, connecting);
    (accepted, connected.map(|(stream, _)| stream))
}

async fn refusal(server: &Arc<ServerTls>, client: &Arc<ClientTls>) -> &'static str {
    let (accepted, _) = meet(server, client, "gw.test").await;
    accepted.map_or_else(|refused| refused.key(), |_| "let in")
}

#[tokio::test]
async fn a_station_is_known_by_its_certificate() {
    let world = World::new("ca");
    world.station(Role::Transmitter, "cam-1", Special::default());
    let server = world.server();
    let (accepted, connected) = meet(&server, &world.client(Some("cam-1")), "gw.test").await;
    let (mut accepted, mut connected) = (accepted.unwrap(), connected.unwrap());
    let certificate = accepted.certificate.as_ref().unwrap();
    let station = certificate.station.as_ref().unwrap();
    assert_eq!(station.to_string(), "spiffe://test/transmitter/cam-1");
    let left = certificate
        .until
        .unwrap()
        .duration_since(std::time::SystemTime::now())
        .unwrap();
    assert!(left > 29 * DAY && left <= 30 * DAY, "{left:?}");
    connected.write_all(b"image").await.unwrap();
    connected.flush().await.unwrap();
    let mut bytes = [0; 5];
    accepted.stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"image");
}

#[tokio::test]
async fn whoever_should_not_come_in_is_told_apart() {
    let world = World::new("ca");
    let late = Special {
        expired: true,
        ..Special::default()
    };
    world.station(Role::Transmitter, "late", late);
    let early = Special {
        from: Some(2 * DAY),
        ..Special::default()
    };
    world.station(Role::Transmitter, "early", early);
    let withdrawn = Special {
        serial: 7,
        ..Special::default()
    };
    world.station(Role::Transmitter, "withdrawn", withdrawn);
    let server_only = Special {
        only_server: true,
        ..Special::default()
    };
    world.station(Role::Transmitter, "server-only", server_only);
    world.station(
        Role::Transmitter,
        "good",
        Special {
            serial: 8,
            ..Special::default()
        },
    );
    world.revoke(&[7]);
    let other = World::new("other ca");
    other.station(Role::Transmitter, "stranger", Special::default());
    let namesake = World::new("ca");
    namesake.station(Role::Transmitter, "namesake", Special::default());
    let server = world.server();
    let ours = world.path("ca.pem");
    for (client, expected) in [
        (world.client(Some("good")), "let in"),
        (world.client(Some("late")), "expired-certificate"),
        (world.client(Some("early")), "early-certificate"),
        (world.client(Some("withdrawn")), "revoked-certificate"),
        (world.client(Some("server-only")), "bad-certificate"),
        (world.client(None), "missing-certificate"),
        (
            other.client_with(ours.clone(), Some("stranger")),
            "unknown-issuer",
        ),
        (
            namesake.client_with(ours.clone(), Some("namesake")),
            "unknown-issuer",
        ),
    ] {
        assert_eq!(refusal(&server, &client).await, expected);
    }
    let optional = ServerTls::open(world.server_files(true), &[H2]).unwrap();
    assert_eq!(refusal(&optional, &world.client(None)).await, "let in");
    assert_eq!(
        refusal(&optional, &world.client(Some("withdrawn"))).await,
        "revoked-certificate"
    );
}

#[tokio::test]
async fn without_an_id_nobody_is_named() {
    let world = World::new("ca");
    world.station(
        Role::Transmitter,
        "cam-1",
        Special {
            no_id: true,
            ..Special::default()
        },
    );
    let (accepted, _) = meet(&world.server(), &world.client(Some("cam-1")), "gw.test").await;
    assert_eq!(accepted.unwrap().certificate.unwrap().station, None);
}

#[tokio::test]
async fn a_client_tells_what_is_wrong_with_the_server() {
    let world = World::new("ca");
    world.station(Role::Transmitter, "cam-1", Special::default());
    let server = world.server();
    let words = async |client: &Arc<ClientTls>, host: &str| {
        let (_, connected) = meet(&server, client, host).await;
        connected.unwrap_err().to_string()
    };
    let client = world.client(Some("cam-1"));
    let wrong_name = words(&client, "other.test").await;
    assert!(wrong_name.contains("not for other.test"), "{wrong_name}");
    let other = World::new("other ca");
    let wrong_ca = words(
        &world.client_with(other.path("ca.pem"), Some("cam-1")),
        "gw.test",
    )
    .await;
    assert!(wrong_ca.contains("not signed by the CA in"), "{wrong_ca}");
    let no_name = words(&client, "not a name").await;
    assert!(no_name.contains("no name"), "{no_name}");
}

#[tokio::test]
async fn a_client_stays_away_from_a_revoked_server() {
    let world = World::new("ca");
    world.revoke(&[]);
    let client = ClientTls::open(ClientFiles {
        ca: Some(world.path("ca.pem")),
        own: None,
        revoked: Some(world.path("revoked.pem")),
    })
    .unwrap();
    let server = {
        let files = ServerFiles {
            clients: None,
            ..world.server_files(false)
        };
        ServerTls::open(files, &[H2]).unwrap()
    };
    assert!(meet(&server, &client, "gw.test").await.1.is_ok());
    world.revoke(&[0]);
    let error = meet(&server, &client, "gw.test").await.1.unwrap_err();
    assert!(error.to_string().contains("is revoked"), "{error}");
}

#[tokio::test]
async fn a_camera_is_no_receiver() {
    let world = World::new("ca");
    world.station(Role::Transmitter, "cam-1", Special::default());
    let mut files = world.server_files(false);
    files.certificate = world.path("cam-1.pem");
    files.key = world.path("cam-1.key");
    let server = ServerTls::open(files, &[H2]).unwrap();
    let (_, connected) = meet(&server, &world.client(Some("cam-1")), "cam-1.test").await;
    let words = connected.unwrap_err().to_string();
    assert!(words.contains("another role"), "{words}");
}

#[tokio::test]
async fn plain_text_and_silence_are_told_apart() {
    let world = World::new("ca");
    let server = world.server();
    let (here, mut there) = tokio::io::duplex(1 << 10);
    there.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(
        server
            .accept(here, DAY, CancellationToken::new())
            .await
            .unwrap_err(),
        Refused::PlainText
    );
    let (here, there) = tokio::io::duplex(1 << 10);
    drop(there);
    assert_eq!(
        server
            .accept(here, DAY, CancellationToken::new())
            .await
            .unwrap_err(),
        Refused::Gone
    );
}

#[tokio::test(start_paused = true)]
async fn whoever_says_nothing_is_let_go() {
    let world = World::new("ca");
    let (here, _there) = tokio::io::duplex(1 << 10);
    let refused = world
        .server()
        .accept(here, DAY, CancellationToken::new())
        .await
        .unwrap_err();
    assert_eq!(refused, Refused::TimedOut(DAY));
}

#[tokio::test]
async fn renewed_certificates_are_shown_to_the_next() {
    let world = World::new("ca");
    world.station(Role::Transmitter, "cam-1", Special::default());
    let (server, client) = (world.server(), world.client(Some("cam-1")));
    let serial = async || {
        let (accepted, connected) = meet(&server, &client, "gw.test").await;
        let connected = connected.unwrap();
        let shown = &connected.get_ref().1.peer_certificates().unwrap()[0];
        let client = accepted.unwrap().certificate.unwrap().serial;
        (Certificate::read(shown).unwrap().serial, client)
    };
    assert_eq!(serial().await, ("4000".to_owned(), "4000".to_owned()));
    assert!(matches!(server.reload(), Ok(Reloaded::Unchanged)));
    // The certificate comes before its key: for a moment they do not go together.
    let (old, key) = (
        fs::read(world.path("gw.pem")).unwrap(),
        fs::read(world.path("gw.key")).unwrap(),
    );
    world.station(
        Role::Receiver,
        "gw",
        Special {
            serial: 1,
            ..Special::default()
        },
    );
    let new = fs::read(world.path("gw.pem")).unwrap();
    let new_key = fs::read(world.path("gw.key")).unwrap();
    replace(&world.path("gw.key"), &key);
    assert!(
        server
            .reload()
            .unwrap_err()
            .to_string()
            .contains("does not go with")
    );
    assert_eq!(serial().await.0, "4000", "the old one goes on to count");
    replace(&world.path("gw.key"), &new_key);
    let reloaded = server.reload().unwrap();
    assert!(
        matches!(reloaded, Reloaded::Changed { ended: 0, .. }),
        "{reloaded:?}"
    );
    assert_eq!(serial().await.0, "4001");
    world.station(
        Role::Transmitter,
        "cam-1",
        Special {
            serial: 2,
            ..Special::default()
        },
    );
    assert_eq!(serial().await.1, "4002");
    assert_ne!(old, new);
}

#[tokio::test]
async fn connections_of_the_revoked_end_and_others_stay() {
    let world = World::new("ca");
    world.revoke(&[]);
    for (name, serial) in [("cam-1", 1), ("cam-2", 2)] {
        world.station(
            Role::Transmitter,
            name,
            Special {
                serial,
                ..Special::default()
            },
        );
    }
    let server = world.server();
    let (first, _first) = meet(&server, &world.client(Some("cam-1")), "gw.test").await;
    let (second, _second) = meet(&server, &world.client(Some("cam-2")), "gw.test").await;
    let (first, second) = (first.unwrap(), second.unwrap());
    world.revoke(&[1]);
    assert!(matches!(
        server.reload(),
        Ok(Reloaded::Changed { ended: 1, .. })
    ));
    assert!(first.ended.token().is_cancelled() && !second.ended.token().is_cancelled());
    assert_eq!(
        refusal(&server, &world.client(Some("cam-1"))).await,
        "revoked-certificate"
    );
    assert_eq!(
        refusal(&server, &world.client(Some("cam-2"))).await,
        "let in"
    );
    drop(first);
    assert_eq!(server.review(), 0);
}

#[tokio::test]
async fn other_files_are_taken_over_as_a_whole_or_not_at_all() {
    let (world, other) = (World::new("ca"), World::new("other"));
    for world in [&world, &other] {
        world.station(Role::Transmitter, "cam-1", Special::default());
    }
    let server = world.server();
    let ours = world.client(Some("cam-1"));
    let theirs = other.client(Some("cam-1"));
    let (open, _stream) = meet(&server, &ours, "gw.test").await;
    let open = open.unwrap();
    let mut half = other.server_files(false);
    half.key = world.path("gw.key");
    let words = server.prepare(half).unwrap_err().to_string();
    assert!(words.contains("does not go with"), "{words}");
    let same = server.prepare(world.server_files(false)).unwrap();
    assert!(!server.use_prepared(same), "nothing is new");
    assert_eq!(refusal(&server, &ours).await, "let in");
    let prepared = server.prepare(other.server_files(false)).unwrap();
    assert_eq!(refusal(&server, &ours).await, "let in", "not in use yet");
    assert!(server.use_prepared(prepared));
    assert!(open.ended.token().is_cancelled(), "its CA counts no more");
    assert_eq!(refusal(&server, &theirs).await, "let in");
    assert!(matches!(server.reload(), Ok(Reloaded::Unchanged)));
    // The client, likewise.
    let files = ClientFiles {
        ca: Some(other.path("ca.pem")),
        own: Some((other.path("cam-1.pem"), other.path("cam-1.key"))),
        revoked: None,
    };
    assert!(meet(&server, &ours, "gw.test").await.1.is_err());
    assert!(ours.use_prepared(ClientTls::prepare(files.clone()).unwrap()));
    assert!(!ours.use_prepared(ClientTls::prepare(files).unwrap()));
    assert_eq!(refusal(&server, &ours).await, "let in");
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let world = World::new("ca");
    let words = |change: &dyn Fn(&mut ServerFiles)| {
        let mut files = world.server_files(false);
        change(&mut files);
        ServerTls::open(files, &[H2]).unwrap_err().to_string()
    };
    let missing = words(&|files| files.certificate = world.path("none.pem"));
    assert!(missing.contains("none.pem: No such file"), "{missing}");
    let swapped = words(&|files| files.key = files.certificate.clone());
    assert!(
        swapped.contains("gw.pem: there is no private key in it"),
        "{swapped}"
    );
    fs::write(world.path("empty"), "").unwrap();
    let empty = words(&|files| files.clients.as_mut().unwrap().ca = world.path("empty"));
    assert!(
        empty.contains("empty: there is no certificate in it"),
        "{empty}"
    );
    let list = words(&|files| files.clients.as_mut().unwrap().revoked = Some(world.path("ca.pem")));
    assert!(list.contains("list of revoked"), "{list}");
}

/// `world` and `other` in one file: the CAs, or the lists.
fn joined(world: &World, other: &World, name: &str) {
    let both = [world, other].map(|world| fs::read_to_string(world.path(name)).unwrap());
    replace(&world.path(name), both.concat().as_bytes());
}

#[tokio::test]
async fn a_list_of_another_ca_is_refused_and_keeps_nobody_out() {
    let (world, other) = (World::new("ca"), World::new("another"));
    // It has the same name, and another key.
    let anew = World::new("ca");
    for world in [&world, &other, &anew] {
        world.revoke(&[9]);
    }
    world.station(Role::Transmitter, "cam-1", Special::default());
    let (server, client) = (world.server(), world.client(Some("cam-1")));
    for foreign in [&other, &anew] {
        let list = fs::read(foreign.path("revoked.pem")).unwrap();
        replace(&world.path("revoked.pem"), &list);
        let refused = server.reload().unwrap_err().to_string();
        assert!(refused.contains("the list of another CA"), "{refused}");
        assert!(refused.contains("revoked.pem"), "{refused}");
        let (accepted, _) = meet(&server, &client, "gw.test").await;
        assert!(accepted.is_ok(), "the list of before goes on to count");
        let start = ServerTls::open(world.server_files(false), &[H2]).unwrap_err();
        assert_eq!(start.to_string(), refused);
        let files = ClientFiles {
            ca: Some(world.path("ca.pem")),
            revoked: Some(world.path("revoked.pem")),
            ..ClientFiles::default()
        };
        let dialling = ClientTls::open(files).unwrap_err();
        assert_eq!(dialling.to_string(), refused);
    }
}

#[tokio::test]
async fn of_several_cas_each_needs_its_list_and_the_others_get_in_all_the_same() {
    let (world, other) = (World::new("ca"), World::new("another"));
    world.station(Role::Transmitter, "cam-1", Special::default());
    world.revoke(&[9]);
    other.revoke(&[9]);
    joined(&world, &other, "ca.pem");
    let server = world.server();
    let warnings = server.warnings();
    let missing = Certificate::read(&files::chain(&other.path("ca.pem")).unwrap()[0]);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].contains(&missing.unwrap().serial),
        "{warnings:?}"
    );
    let (accepted, _) = meet(&server, &world.client(Some("cam-1")), "gw.test").await;
    assert!(accepted.is_ok(), "{accepted:?}");
    joined(&world, &other, "revoked.pem");
    server.reload().unwrap();
    assert_eq!(server.warnings(), Vec::<String>::new());
}

#[test]
fn a_certificate_that_clients_turn_down_is_warned_of() {
    let world = World::new("ca");
    assert_eq!(world.server().warnings(), Vec::<String>::new());
    world.station(
        Role::Receiver,
        "gw",
        Special {
            only_client: true,
            ..Special::default()
        },
    );
    let warnings = world.server().warnings();
    assert!(warnings[0].contains("gw.pem: this certificate is not for those who are dialled"));
}
