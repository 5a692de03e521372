use std::collections::BTreeMap;
use std::fs;

use super::*;

fn invoke(args: &[&str]) -> Result<Invocation, CliError> {
    invoke_with(args, &[])
}

fn invoke_with(args: &[&str], variables: &[(&str, &str)]) -> Result<Invocation, CliError> {
    let args = ["pantelegraph-transmitter"]
        .iter()
        .chain(args)
        .map(OsString::from);
    let environment: BTreeMap<String, String> = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    parse(args, &environment, None)
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
        assert!(help.contains("Examples:\n  Ten generated images"));
    }
    let help = printed(&["--help"]);
    for (code, meaning) in PROGRAM.exit_codes {
        assert!(help.contains(&format!("{code:>3}  {meaning}")), "{code}");
    }
    assert!(help.contains("TRANSMITTER_LOG"));
}

#[test]
fn the_examples_of_the_help_are_good_invocations() {
    let examples = PROGRAM.examples.replace("\\\n", " ");
    let commands = examples
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pantelegraph-transmitter "));
    let mut count = 0;
    for command in commands {
        let words = shlex::split(command).unwrap();
        let args: Vec<&str> = words.iter().map(String::as_str).collect();
        assert!(
            matches!(
                invoke(&args),
                Ok(Invocation::Run(..) | Invocation::Outbox(_))
            ),
            "{command}: {:?}",
            invoke(&args)
        );
        count += 1;
    }
    assert_eq!(count, 5);
}

#[test]
fn completions_know_flags_and_words() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = printed(&["--completions", shell]);
        assert!(script.contains("chunk-size"), "{shell}");
    }
    assert!(printed(&["--completions", "bash"]).contains("grpc websocket rest"));
}

#[test]
fn printed_settings_read_back_as_the_same_settings() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("transmitter.toml");
    for args in [
        &[
            "--pattern",
            "640x480",
            "--seed",
            "18446744073709551615",
            "--count",
            "3",
            "--rate",
            "30/m",
        ][..],
        &[
            "--file",
            "it's a \"photo\".jpg",
            "--repeat",
            "2",
            "--transport",
            "rest,grpc",
            "--to",
            "http://h",
        ],
        &[
            "--folder",
            "/x",
            "--include",
            "*.jpg,*.png",
            "--once",
            "--after-delivery",
            "archive:/y",
        ],
        &[
            "--command",
            "a 'b c'",
            "--listen",
            "0.0.0.0:8081",
            "--insecure",
            "--log",
            "info,hyper=warn",
        ],
        &["--snapshot-url", "http://cam/x?a=1", "--run", "7"],
    ] {
        let first = printed(&[args, &["--print-config"]].concat());
        fs::write(&file, &first).unwrap();
        let again = printed(&["--config", file.to_str().unwrap(), "--print-config"]);
        let values = |text: &str| -> Vec<String> {
            let lines = text
                .lines()
                .map(|line| line.rsplit_once(" # ").map_or(line, |(v, _)| v));
            lines.map(str::to_owned).collect()
        };
        assert_eq!(values(&first), values(&again));
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
fn warnings_reach_the_program() {
    let variables = [("TRANSMITTER_CHUNKSIZE", "1"), ("RECEIVER_CHUNKSIZE", "1")];
    match invoke_with(&["--file", "x"], &variables) {
        Ok(Invocation::Run(_, read)) => assert_eq!(
            read.warnings,
            [
                "TRANSMITTER_CHUNKSIZE (environment) is no setting; did you mean \
                 TRANSMITTER_CHUNK_SIZE?"
            ]
        ),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_example_file_is_up_to_date_and_changes_nothing() {
    let part = printed(&["--print-env"]);
    let example = include_str!("../../../.env.example");
    assert!(
        example.starts_with(&part),
        ".env.example is out of date; regenerate it:\n  \
         {{ cargo run -qp pantelegraph-transmitter -- --print-env; echo; \
         cargo run -qp pantelegraph-receiver -- --print-env; echo; \
         cargo run -qp pantelegraph -- users serve --print-env; }} > .env.example"
    );
    let folder = tempfile::tempdir().unwrap();
    let dotenv = folder.path().join(".env");
    fs::write(&dotenv, example).unwrap();
    let args = || ["x", "--file", "x"].iter().map(OsString::from);
    let environment = BTreeMap::new();
    let with = parse(args(), &environment, Some(&dotenv)).unwrap();
    let without = parse(args(), &environment, None).unwrap();
    assert_eq!(format!("{with:?}"), format!("{without:?}"));
}
