//! What is wrong with a folder, and how one gets out of it.

use rcgen::{Issuer, KeyPair};
use shared::security::identity::StationId;
use time::OffsetDateTime;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::super::authority::{Authority, Root};
use super::super::{issue, show};
use super::*;

/// A list: the numbers on it, and its own.
type List = (Vec<String>, u64);

impl Rig {
    fn code(&self, args: &[&str]) -> u8 {
        self.refusal(args).code()
    }

    /// Every file below the folder with its content.
    fn snapshot(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.path("keys")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => drop(found.insert(path.clone(), fs::read(path).unwrap())),
                }
            }
        }
        found
    }

    /// Stations and their states, and what is wrong with the folder.
    fn states(&self) -> (BTreeMap<String, String>, Vec<String>) {
        let keys = self.keys(&["show"]);
        let KeysCommand::Show(options) = &keys.command else {
            unreachable!()
        };
        show::states(&Folder::open(&keys.dir).unwrap(), options)
    }

    fn state(&self, name: &str) -> String {
        self.states().0.remove(name).unwrap()
    }

    fn checks(&self) -> bool {
        attempt(&self.keys(&["show", "--check", "1d"])).unwrap() == ExitCode::SUCCESS
    }

    fn serial(&self, name: &str) -> String {
        let text = self.read(&format!("keys/{name}/cert.pem"));
        let (_, pem) = x509_parser::pem::parse_x509_pem(&text).unwrap();
        super::super::authority::hex(pem.parse_x509().unwrap().raw_serial())
    }

    /// The list, which the CA in the folder has signed.
    fn list(&self) -> List {
        let text = self.read("keys/revoked.pem");
        let (_, pem) = x509_parser::pem::parse_x509_pem(&text).unwrap();
        let (_, list) = CertificateRevocationList::from_der(&pem.contents).unwrap();
        let root = Root::open(&Folder::open(&self.path("keys")).unwrap()).unwrap();
        assert!(root.has_signed_list(&list));
        let serials = list
            .iter_revoked_certificates()
            .map(|entry| super::super::authority::hex(entry.raw_serial()));
        let number = list.crl_number().unwrap().to_u64_digits()[0];
        (serials.collect(), number)
    }

    /// A folder with these transmitters.
    fn with(names: &[&str]) -> Self {
        let rig = Self::new();
        for name in names {
            rig.does(&["issue", "transmitter", name]);
        }
        rig
    }
}

#[test]
fn what_is_wrong_with_one_station_keeps_no_other_from_being_renewed() {
    let rig = Rig::with(&["cam-1", "eye", "zoo"]);
    fs::write(rig.path("keys/eye/cert.pem"), "junk").unwrap();
    let before = rig.snapshot();
    let words = rig.refuses(&["renew", "--all"]);
    assert_eq!(words, "1 of 3 stations could not be renewed: eye");
    assert_eq!(rig.code(&["renew", "--all"]), 1);
    for (name, is_new) in [("cam-1", true), ("eye", false), ("zoo", true)] {
        let path = rig.path("keys").join(name).join("cert.pem");
        assert_eq!(fs::read(&path).unwrap() != before[&path], is_new, "{name}");
    }
    // Of stations that are named, too; of one, what is wrong with it.
    let words = rig.refuses(&["renew", "eye", "zoo"]);
    assert!(words.starts_with("1 of 2"), "{words}");
    let words = rig.refuses(&["renew", "eye"]);
    assert!(
        words.ends_with("eye/cert.pem: is no certificate in PEM"),
        "{words}"
    );
}

#[test]
fn a_key_that_does_not_go_with_the_certificate_signs_nothing() {
    let rig = Rig::with(&["cam-1"]);
    fs::copy(Rig::new().path("keys/ca.key"), rig.path("keys/ca.key")).unwrap();
    let before = rig.snapshot();
    for args in [
        &["issue", "transmitter", "cam-2"][..],
        &["issue", "transmitter", "cam-1", "--force"],
        &["renew", "cam-1"],
        &["renew", "--all"],
        &["revoke", "cam-1"],
        &["revoke", "--new-list"],
    ] {
        let words = rig.refuses(args);
        assert!(words.contains("ca.key does not go with ca.pem"), "{words}");
        assert_eq!(rig.code(args), 1);
    }
    assert!(rig.snapshot() == before, "nothing is written");
    let (states, problems) = rig.states();
    assert_eq!(states["cam-1"], "valid");
    assert!(
        problems[0].contains("does not go with ca.pem"),
        "{problems:?}"
    );
    assert!(!rig.checks());
    // It may be kept elsewhere.
    fs::remove_file(rig.path("keys/ca.key")).unwrap();
    assert!(rig.states().1.is_empty() && rig.checks());
}

#[test]
fn what_an_earlier_ca_has_signed_is_not_valid_and_needs_a_new_key() {
    let rig = Rig::with(&["cam-1", "stolen"]);
    rig.does(&["revoke", "stolen"]);
    rig.does(&["init", "--force", "--trust-domain", "new.example"]);
    for name in ["cam-1", "stolen"] {
        assert_eq!(rig.state(name), "of another CA");
        let words = rig.refuses(&["renew", name]);
        assert!(
            words.contains("another CA") && words.contains("--new-key"),
            "{words}"
        );
    }
    assert!(!rig.checks());
    let words = rig.refuses(&["renew", "--all", "--within", "1d"]);
    assert!(words.starts_with("2 of 2"), "{words}");
    let key = rig.read("keys/cam-1/key.pem");
    rig.does(&[
        "renew",
        "--all",
        "--within",
        "1d",
        "--new-key",
        "--valid",
        "2d",
    ]);
    assert_ne!(rig.read("keys/cam-1/key.pem"), key);
    // Although those of the earlier CA would have been valid for longer, and are of another domain.
    let (states, problems) = rig.states();
    assert_eq!(states["cam-1"], "expiring");
    assert_eq!(states["stolen"], "expiring");
    assert!(problems.is_empty() && rig.checks());
    assert!(rig.list().0.is_empty(), "the new CA has revoked nothing");
}

#[test]
fn a_signature_and_no_name_says_which_ca_it_was() {
    let rig = Rig::with(&["cam-1"]);
    let folder = Folder::open(&rig.path("keys")).unwrap();
    let root = Root::open(&folder).unwrap();
    let other = KeyPair::generate().unwrap();
    let until = OffsetDateTime::from(std::time::SystemTime::now()) + Duration::from_secs(864_000);
    let impostor = Authority {
        issuer: Issuer::from_ca_cert_pem(&root.text, other).unwrap(),
        trust_domain: "test.example".to_owned(),
        until,
        root,
    };
    let subject = issue::Subject {
        station: StationId::new("test.example", Role::Transmitter, "cam-2").unwrap(),
        names: Vec::new(),
        addresses: Vec::new(),
    };
    let signed = issue::sign(&impostor, &subject, &KeyPair::generate().unwrap(), until).unwrap();
    let own = folder.station("cam-2");
    fs::create_dir(&own).unwrap();
    issue::keep(&folder, &impostor, &own, &signed).unwrap();
    drop(folder);
    assert_eq!(rig.state("cam-1"), "valid");
    assert_eq!(rig.state("cam-2"), "of another CA");
    assert!(rig.refuses(&["renew", "cam-2"]).contains("--new-key"));
}

#[tokio::test]
async fn a_list_that_is_lost_is_made_again_and_forgets_nothing_that_the_folder_knows() {
    let rig = Rig::with(&["cam-1", "cam-2", "cam-3"]);
    rig.does(&["issue", "receiver", "--name", "gw.example"]);
    rig.does(&["revoke", "cam-1"]);
    let (_, number) = rig.list();
    let foreign = Rig::new().read("keys/revoked.pem");
    let damages: [(&str, Option<&[u8]>); 3] = [
        ("is missing", None),
        ("is no list", Some(b"-----BEGIN X509 CRL-----\nMIIB")),
        ("is not signed by this CA", Some(&foreign)),
    ];
    for (part, content) in damages {
        match content {
            None => fs::remove_file(rig.path("keys/revoked.pem")).unwrap(),
            Some(content) => fs::write(rig.path("keys/revoked.pem"), content).unwrap(),
        }
        let before = rig.snapshot();
        for args in [&["revoke", "cam-2"][..], &["renew", "cam-2"]] {
            let words = rig.refuses(args);
            for part in [
                part,
                "revoked.pem",
                "a receiver",
                "--new-list",
                "revoked: 1;",
            ] {
                assert!(words.contains(part), "{part}: {words}");
            }
        }
        assert!(rig.snapshot() == before, "nothing is written");
        assert!(rig.states().1[0].contains(part) && !rig.checks());
        assert_eq!(rig.state("cam-1"), "revoked");
    }
    rig.does(&["revoke", "--new-list", "cam-2"]);
    let (serials, later) = rig.list();
    assert_eq!(serials.len(), 2);
    assert!(later > number && rig.checks());
    for name in ["cam-1", "cam-2"] {
        let revoked = seen(&rig.server(), &rig.client(name), "gw.example").await;
        assert_eq!(revoked, "revoked-certificate");
    }
    let other = seen(&rig.server(), &rig.client("cam-3"), "gw.example").await;
    assert!(other.ends_with("/cam-3"), "{other}");
}

#[test]
fn an_old_copy_of_the_list_brings_nothing_back() {
    let rig = Rig::with(&["cam-1", "cam-2", "cam-3"]);
    rig.does(&["revoke", "cam-1"]);
    let old = rig.read("keys/revoked.pem");
    rig.does(&["revoke", "cam-2"]);
    let (_, number) = rig.list();
    fs::write(rig.path("keys/revoked.pem"), old).unwrap();
    assert_eq!(rig.state("cam-2"), "revoked");
    assert!(rig.refuses(&["renew", "cam-2"]).contains("is revoked"));
    rig.does(&["revoke", "cam-3"]);
    let (serials, later) = rig.list();
    assert_eq!(serials.len(), 3);
    assert!(later >= number);
    // A list that is whole loses nothing by a new one, whatever the folder remembers.
    for name in ["cam-1", "cam-2", "cam-3"] {
        let mark = format!("keys/issued/{}.revoked", rig.serial(name));
        fs::remove_file(rig.path(&mark)).unwrap();
    }
    rig.does(&["revoke", "--new-list"]);
    assert_eq!(rig.list().0, serials);
}

#[test]
fn a_folder_that_remembers_nothing_says_so() {
    let rig = Rig::with(&["cam-1"]);
    rig.does(&["revoke", "cam-1"]);
    let mark = format!("keys/issued/{}.revoked", rig.serial("cam-1"));
    fs::remove_file(rig.path(&mark)).unwrap();
    fs::remove_file(rig.path("keys/revoked.pem")).unwrap();
    let words = rig.refuses(&["renew", "--all"]);
    assert!(words.contains("remembers no revocation"), "{words}");
    // A mark that cannot be read counts.
    fs::write(rig.path(&mark), "\u{fc}").unwrap();
    rig.does(&["revoke", "--new-list"]);
    assert_eq!(rig.list().0, [rig.serial("cam-1")]);
}

#[test]
fn one_certificate_is_revoked_by_the_first_digits_of_its_number() {
    let rig = Rig::with(&["cam-1", "cam-2"]);
    let serial = rig.serial("cam-1");
    assert_eq!(rig.code(&["revoke", "--serial", &serial[..4]]), 2);
    rig.does(&["revoke", "--serial", &serial[..12]]);
    assert_eq!(rig.list().0, [serial]);
}

#[test]
fn mistakes_in_the_command_line_are_told_from_what_cannot_be_done() {
    let rig = Rig::with(&["cam-1"]);
    for args in [
        &["issue", "transmitter", "../x"][..],
        &["issue", "transmitter", "issued"],
        &["issue", "receiver", "gw"],
        &["issue", "transmitter", "cam-2", "--valid", "0"],
        &["renew", "nobody"],
        &["renew", "a b"],
        &["revoke", "nobody"],
        &["revoke", "--serial", "5f9a3c01"],
        &["token", "--subject", "a\tb", "--scope", "read"],
        &["init", "--force", "--trust-domain", "A b"],
    ] {
        assert_eq!(rig.code(args), 2, "{args:?}");
    }
    rig.does(&["revoke", "cam-1"]);
    for args in [
        &["init"][..],
        &["issue", "transmitter", "cam-1"],
        &["renew", "cam-1"],
    ] {
        assert_eq!(rig.code(args), 1, "{args:?}");
    }
}

#[test]
fn a_station_that_is_not_there_is_told_with_those_that_are() {
    let rig = Rig::with(&["cam-1", "cam-2"]);
    let before = rig.snapshot();
    let words = rig.refuses(&["renew", "cam-1", "nobody"]);
    assert!(words.contains("no station \"nobody\""), "{words}");
    assert!(words.ends_with("these have: cam-1, cam-2"), "{words}");
    assert!(rig.snapshot() == before, "nothing is written");
    let words = Rig::new().refuses(&["renew", "nobody"]);
    assert!(words.contains("keys issue"), "{words}");
}

#[test]
fn a_key_or_certificate_that_is_damaged_is_named_with_what_to_do() {
    let rig = Rig::with(&["cam-1"]);
    let key = rig.read("keys/ca.key");
    let broken: [(&str, Option<&[u8]>, &str); 4] = [
        ("ca.key", Some(b"junk"), "is no private key"),
        ("ca.key", Some(&key[..key.len() / 2]), "is no private key"),
        ("ca.key", None, "is missing"),
        ("ca.pem", Some(b"junk"), "is no certificate"),
    ];
    for (name, content, part) in broken {
        match content {
            Some(content) => fs::write(rig.path("keys").join(name), content).unwrap(),
            None => fs::remove_file(rig.path("keys").join(name)).unwrap(),
        }
        let words = rig.refuses(&["issue", "transmitter", "cam-2"]);
        for part in [name, part, "put it back"] {
            assert!(words.contains(part), "{part}: {words}");
        }
    }
}

#[test]
fn what_cannot_be_done_to_a_file_is_said_with_what_to_do() {
    let error = |kind: io::ErrorKind| {
        folder::failed(Path::new("keys"), Doing::Written, io::Error::from(kind)).to_string()
    };
    let words = error(io::ErrorKind::PermissionDenied);
    assert!(words.starts_with("keys cannot be written: "), "{words}");
    assert!(
        words.contains("run this as") && words.contains("--dir"),
        "{words}"
    );
    assert!(error(io::ErrorKind::StorageFull).contains("space"));
    // Where a folder should be, there is a file.
    let rig = Rig::new();
    fs::write(rig.path("keys/cam-1"), "").unwrap();
    let words = rig.refuses(&["issue", "transmitter", "cam-1"]);
    assert!(words.contains("cam-1 cannot be made: "), "{words}");
}
