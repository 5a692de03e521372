use std::collections::BTreeMap;
use std::fs;

use super::*;

fn invoke(args: &[&str]) -> Result<Invocation, CliError> {
    let args = ["pantelegraph-receiver"]
        .iter()
        .chain(args)
        .map(OsString::from);
    parse(args, &BTreeMap::new(), None)
}

fn printed(args: &[&str]) -> String {
    match invoke(args) {
        Ok(Invocation::Print(text)) => text,
        other => panic!("nothing is printed: {other:?}"),
    }
}

#[test]
fn help_names_every_flag_and_exit_code() {
    for help in [printed(&["--help"]), printed(&["-h"])] {
        for setting in PROGRAM.settings().filter(|setting| !setting.secret) {
            assert!(
                help.contains(&format!("--{} ", setting.key))
                    || help.contains(&format!("--{}[", setting.key)),
                "{}",
                setting.key
            );
        }
        assert!(help.contains("Examples:\n  For transmitters on this machine"));
    }
    let help = printed(&["--help"]);
    assert!(help.contains("RECEIVER_TOKEN_KEY  "));
    for (code, meaning) in PROGRAM.exit_codes {
        assert!(help.contains(&format!("{code:>3}  {meaning}")), "{code}");
    }
}

/// The command lines among the examples of a help.
fn examples(text: &str) -> Vec<Vec<OsString>> {
    let text = text.replace("\\\n", " ");
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| line.starts_with("pantelegraph-receiver"))
        .map(|line| line.split_whitespace().map(OsString::from).collect())
        .collect()
}

#[test]
fn the_examples_of_the_help_are_good_invocations() {
    let commands = [PROGRAM.examples, fsck::PROGRAM.examples].map(examples);
    assert_eq!(commands.each_ref().map(Vec::len), [7, 2]);
    for command in commands.into_iter().flatten() {
        let line = format!("{command:?}");
        let environment = BTreeMap::new();
        let good = if fsck::is_asked(&command) {
            let read = fsck::parse(command, &environment, None);
            matches!(read, Ok(fsck::Invocation::Check(..)))
        } else {
            let read = parse(command.into_iter(), &environment, None);
            matches!(read, Ok(Invocation::Run(..)))
        };
        assert!(good, "{line}");
    }
}

#[test]
fn completions_know_flags_and_words() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = printed(&["--completions", shell]);
        assert!(script.contains("grpc-listen"), "{shell}");
    }
    assert!(printed(&["--completions", "bash"]).contains("memory written synced"));
}

#[test]
fn printed_settings_read_back_as_the_same_settings() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("receiver.toml");
    for args in [
        &[][..],
        &[
            "--data",
            "/srv/my \"images\"",
            "--grpc-listen",
            "off",
            "--max-pixels",
            "18446744073709551615",
        ],
        &[
            "--pull",
            "ws://a:1,http://b:2",
            "--durability",
            "memory",
            "--name",
            "station 7",
        ],
    ] {
        let first = printed(&[args, &["--print-config"]].concat());
        fs::write(&file, &first).unwrap();
        let Ok(Invocation::Run(config, _)) = invoke(args) else {
            panic!("{args:?}")
        };
        let Ok(Invocation::Run(again, _)) = invoke(&["--config", file.to_str().unwrap()]) else {
            panic!("{first}");
        };
        assert_eq!(format!("{config:?}"), format!("{again:?}"));
    }
}

#[test]
fn the_example_file_is_up_to_date_and_changes_nothing() {
    let part = printed(&["--print-env"]);
    let example = include_str!("../../../.env.example");
    assert!(
        example.contains(&format!("\n{part}\n")),
        ".env.example is out of date; regenerate it:\n  \
         {{ cargo run -qp pantelegraph-transmitter -- --print-env; echo; \
         cargo run -qp pantelegraph-receiver -- --print-env; echo; \
         cargo run -qp pantelegraph -- users serve --print-env; }} > .env.example"
    );
    let folder = tempfile::tempdir().unwrap();
    let dotenv = folder.path().join(".env");
    fs::write(&dotenv, example).unwrap();
    let args = || ["x"].iter().map(OsString::from);
    let environment = BTreeMap::new();
    let with = parse(args(), &environment, Some(&dotenv)).unwrap();
    let without = parse(args(), &environment, None).unwrap();
    assert_eq!(format!("{with:?}"), format!("{without:?}"));
}
