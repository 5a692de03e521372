mod faults;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use shared::security::access::{Scope, Unknown};
use shared::security::identity::Role;
use shared::security::tls::{ClientAuth, ClientFiles, ClientTls, H2, ServerFiles, ServerTls};
use shared::security::tokens::{TokenKey, Tokens};
use tokio_util::sync::CancellationToken;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    keys: Keys,
}

/// A folder, and commands on it.
pub(crate) struct Rig(tempfile::TempDir);

impl Rig {
    pub(crate) fn new() -> Self {
        let rig = Self(tempfile::tempdir().unwrap());
        rig.does(&["init", "--trust-domain", "test.example"]);
        rig
    }

    fn keys(&self, args: &[&str]) -> Keys {
        let folder = self.path("keys");
        let line = ["keys", "--dir", folder.to_str().unwrap()];
        Line::try_parse_from(line.iter().chain(args)).unwrap().keys
    }

    pub(crate) fn does(&self, args: &[&str]) {
        attempt(&self.keys(args)).unwrap();
    }

    fn refusal(&self, args: &[&str]) -> KeysError {
        attempt(&self.keys(args)).unwrap_err()
    }

    fn refuses(&self, args: &[&str]) -> String {
        self.refusal(args).to_string()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    fn server(&self) -> Arc<ServerTls> {
        let files = ServerFiles {
            certificate: self.path("keys/gw.example/cert.pem"),
            key: self.path("keys/gw.example/key.pem"),
            clients: Some(ClientAuth {
                ca: self.path("keys/gw.example/ca.pem"),
                revoked: Some(self.path("keys/revoked.pem")),
                optional: false,
            }),
        };
        ServerTls::open(files, &[H2]).unwrap()
    }

    fn client(&self, name: &str) -> Arc<ClientTls> {
        let folder = self.path("keys").join(name);
        let files = ClientFiles {
            ca: Some(folder.join("ca.pem")),
            own: Some((folder.join("cert.pem"), folder.join("key.pem"))),
            revoked: None,
        };
        ClientTls::open(files).unwrap()
    }
}

/// Who the server sees, or why it does not want it.
async fn seen(server: &Arc<ServerTls>, client: &Arc<ClientTls>, host: &str) -> String {
    let (here, there) = tokio::io::duplex(64 << 10);
    let accepting = server.accept(here, Duration::from_secs(60), CancellationToken::new());
    let connecting = client.connect(host, there, H2, &[Role::Receiver]);
    let (accepted, connected) = tokio::join!(accepting, connecting);
    if let Err(error) = connected {
        return error.to_string();
    }
    match accepted {
        Ok(accepted) => accepted.certificate.unwrap().station.unwrap().to_string(),
        Err(refused) => refused.key().to_owned(),
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn what_is_issued_lets_stations_find_each_other() {
    let rig = Rig::new();
    rig.does(&[
        "issue",
        "receiver",
        "--name",
        "gw.example",
        "--ip",
        "192.0.2.7",
    ]);
    rig.does(&["issue", "transmitter", "cam-1"]);
    let (server, client) = (rig.server(), rig.client("cam-1"));
    let id = "spiffe://test.example/transmitter/cam-1";
    for host in ["gw.example", "192.0.2.7"] {
        assert_eq!(seen(&server, &client, host).await, id);
    }
    let words = seen(&server, &client, "other.example").await;
    assert!(words.contains("not for other.example"), "{words}");
    // A camera is no receiver, whatever name it has.
    rig.does(&["issue", "transmitter", "cam-2", "--name", "gw.example"]);
    fs::copy(
        rig.path("keys/cam-2/cert.pem"),
        rig.path("keys/gw.example/cert.pem"),
    )
    .unwrap();
    fs::copy(
        rig.path("keys/cam-2/key.pem"),
        rig.path("keys/gw.example/key.pem"),
    )
    .unwrap();
    let words = seen(&rig.server(), &client, "gw.example").await;
    assert!(words.contains("another role"), "{words}");
}

#[test]
fn private_keys_are_for_their_owner_and_never_overwritten_by_accident() {
    let rig = Rig::new();
    rig.does(&["issue", "transmitter", "cam-1"]);
    let private = ["keys/ca.key", "keys/token.key", "keys/cam-1/key.pem"];
    let before: BTreeMap<_, _> = private.map(|name| (name, rig.read(name))).into();
    for name in private {
        assert_eq!(mode(&rig.path(name)), 0o600, "{name}");
    }
    assert_eq!(mode(&rig.path("keys")), 0o700);
    assert!(rig.refuses(&["init"]).contains("--force"));
    assert!(
        rig.refuses(&["issue", "transmitter", "cam-1"])
            .contains("--force")
    );
    for (name, content) in &before {
        assert_eq!(&rig.read(name), content, "{name}");
    }
    rig.does(&["issue", "transmitter", "cam-1", "--force"]);
    assert_ne!(rig.read("keys/cam-1/key.pem"), before["keys/cam-1/key.pem"]);
    assert_eq!(rig.read("keys/ca.key"), before["keys/ca.key"]);
}

#[tokio::test]
async fn a_renewed_certificate_is_new_and_its_key_is_not() {
    let rig = Rig::new();
    rig.does(&["issue", "receiver", "--name", "gw.example"]);
    rig.does(&["issue", "transmitter", "cam-1", "--valid", "5d"]);
    let (cert, key) = (
        rig.read("keys/cam-1/cert.pem"),
        rig.read("keys/cam-1/key.pem"),
    );
    rig.does(&["renew", "--all", "--within", "1d"]);
    assert_eq!(
        rig.read("keys/cam-1/cert.pem"),
        cert,
        "it is good for longer"
    );
    rig.does(&["renew", "--all", "--within", "10d"]);
    assert_ne!(rig.read("keys/cam-1/cert.pem"), cert);
    assert_eq!(rig.read("keys/cam-1/key.pem"), key);
    let id = "spiffe://test.example/transmitter/cam-1";
    assert_eq!(
        seen(&rig.server(), &rig.client("cam-1"), "gw.example").await,
        id
    );
    rig.does(&["renew", "cam-1", "--new-key"]);
    assert_ne!(rig.read("keys/cam-1/key.pem"), key);
    assert_eq!(
        seen(&rig.server(), &rig.client("cam-1"), "gw.example").await,
        id
    );
}

#[tokio::test]
async fn whoever_is_revoked_is_not_let_in_until_it_has_a_new_key() {
    let rig = Rig::new();
    rig.does(&["issue", "receiver", "--name", "gw.example"]);
    rig.does(&["issue", "transmitter", "cam-1"]);
    rig.does(&["issue", "transmitter", "cam-2"]);
    rig.does(&["revoke", "cam-1"]);
    let server = rig.server();
    let revoked = seen(&server, &rig.client("cam-1"), "gw.example").await;
    assert_eq!(revoked, "revoked-certificate");
    let other = seen(&server, &rig.client("cam-2"), "gw.example").await;
    assert!(other.ends_with("/cam-2"), "{other}");
    assert!(rig.refuses(&["renew", "cam-1"]).contains("--new-key"));
    rig.does(&["renew", "cam-1", "--new-key"]);
    let again = seen(&server, &rig.client("cam-1"), "gw.example").await;
    assert!(again.ends_with("/cam-1"), "{again}");
    assert!(rig.refuses(&["revoke", "cam-9"]).contains("cam-9"));
}

#[test]
fn tokens_are_good_for_those_who_have_the_public_half() {
    let rig = Rig::new();
    let file = rig.path("cam-1.token");
    let output = file.to_str().unwrap();
    let args = [
        "token",
        "--subject",
        "cam-1",
        "--scope",
        "upload,read",
        "--output",
        output,
    ];
    rig.does(&args);
    assert_eq!(mode(&file), 0o600);
    assert!(rig.refuses(&args).contains("--force"));
    let token = fs::read_to_string(&file).unwrap();
    let key = TokenKey::read(&rig.path("keys/token.pub")).unwrap();
    let tokens = Tokens::new(vec![key], None);
    let identity = tokens.check(token.trim()).unwrap();
    assert_eq!(identity.name, "cam-1");
    assert!(identity.scopes.allow(Scope::Read) && !identity.scopes.allow(Scope::Admin));
    let stranger = Rig::new();
    let key = TokenKey::read(&stranger.path("keys/token.pub")).unwrap();
    let checked = Tokens::new(vec![key], None).check(token.trim());
    assert_eq!(checked.unwrap_err(), Unknown::Signature);
}

#[test]
fn names_that_are_paths_are_refused() {
    let rig = Rig::new();
    for name in ["../x", "a/b", ".", "..", "", "a b", "x\u{e9}"] {
        let words = rig.refuses(&["issue", "transmitter", name]);
        assert!(words.contains("cannot be the name"), "{name}: {words}");
    }
    assert!(!rig.path("x").exists());
}
