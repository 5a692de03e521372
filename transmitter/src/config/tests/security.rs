use super::*;

fn warnings(args: &[&str]) -> Vec<String> {
    config(args).warnings()
}

const KEYS: [&str; 4] = ["--tls-cert", "c.pem", "--tls-key", "c.key"];

#[test]
fn a_listener_beyond_this_machine_is_meant_or_encrypted() {
    let open = mistake(&["--listen", "0.0.0.0:1"]);
    assert!(
        open.contains("--tls-cert") && open.contains("--insecure"),
        "{open}"
    );
    let figures = mistake(&["--status-listen", "[::]:1"]);
    assert!(
        figures.contains("take 127.0.0.1, or --insecure"),
        "{figures}"
    );
    let encrypted = mistakes(
        &[
            &KEYS[..],
            &[
                "--file",
                "x",
                "--status-listen",
                "0.0.0.0:1",
                "--to",
                "https://h",
            ],
        ]
        .concat(),
    );
    assert_eq!(
        encrypted.len(),
        1,
        "certificates do not guard the figures: {encrypted:?}"
    );
    for (args, warning) in [
        (
            &["--listen", "0.0.0.0:1", "--insecure"][..],
            "can take images",
        ),
        (
            &["--status-listen", "0.0.0.0:1", "--insecure"],
            "read the figures",
        ),
        (
            &[&KEYS[..], &["--listen", "0.0.0.0:1"]].concat(),
            "--tls-ca",
        ),
    ] {
        let found = warnings(args);
        assert!(found.len() == 1 && found[0].contains(warning), "{found:?}");
    }
    let guarded = [&KEYS[..], &["--tls-ca", "ca.pem", "--listen", "0.0.0.0:1"]].concat();
    assert_eq!(warnings(&guarded), Vec::<String>::new());
    let files = config(&guarded).listener_files().unwrap();
    assert_eq!(files.clients.unwrap().ca.to_str(), Some("ca.pem"));
    assert!(warnings(&["--listen", "127.0.0.1:1"]).is_empty());
}

#[test]
fn what_means_nothing_without_another_setting_is_a_mistake() {
    assert!(mistake(&["--tls-cert", "c.pem"]).contains("without --tls-key"));
    assert!(mistake(&["--tls-crl", "l.pem"]).contains("without --tls-ca"));
    let unchecked = mistake(&["--listen", "127.0.0.1:1", "--tls-ca", "ca.pem"]);
    assert!(unchecked.contains("give --tls-cert"), "{unchecked}");
    assert!(mistake(&["--token-file", "/nowhere/token"]).contains("/nowhere/token"));
}

#[test]
fn what_is_not_used_or_can_be_read_is_warned_of() {
    let unused = warnings(&["--tls-ca", "ca.pem"]);
    assert_eq!(unused, ["--tls-ca is not used: no address is https or wss"]);
    // An address of a transport that is not in use encrypts nothing.
    let other = ["--tls-ca", "ca.pem", "--to", "rest=https://h"];
    assert_eq!(warnings(&other), unused);
    assert!(warnings(&["--tls-ca", "ca.pem", "--to", "https://h"]).is_empty());
    let token = [("TRANSMITTER_TOKEN", "a.b.c")];
    let with_token = |to: &str| {
        let config = read(&["--file", "x", "--to", to], &token).unwrap();
        assert!(!format!("{config:?}").contains("a.b.c"));
        config.warnings()
    };
    let readable = with_token("http://192.0.2.7");
    assert!(readable[0].contains("can read the token"), "{readable:?}");
    for to in [
        "https://192.0.2.7",
        "http://127.0.0.1",
        "http://[::1]",
        "http://localhost",
    ] {
        assert!(with_token(to).is_empty(), "{to}");
    }
    let listening = read(&["--file", "x", "--listen", "127.0.0.1:1"], &token).unwrap();
    assert!(listening.warnings()[0].contains("the token is not used"));
}
