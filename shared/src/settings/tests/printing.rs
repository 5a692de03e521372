//! What is shown, and what is not.

use super::*;

#[test]
fn printed_settings_read_back_as_the_same_settings() {
    let sources = Sources {
        args: &[
            "--size",
            "64KiB",
            "--label",
            "it's \"so\" \\ # é",
            "--item",
            "a,b",
            "--print-config",
        ],
        environment: &[("PROBE_DEEP", "true")],
        dotenv: "PROBE_COUNT=7",
        ..Sources::default()
    };
    let printed = sources.values().printed().unwrap();
    for line in [
        "size = \"64KiB\" # command line",
        "deep = true # environment",
        "format = \"png\" # default",
        "# token is not set",
    ] {
        assert!(
            printed.lines().any(|printed| printed == line),
            "{line} in\n{printed}"
        );
    }
    let again = Sources {
        file: &printed,
        args: &["--print-config"],
        ..Sources::default()
    };
    let (first, again) = (sources.values(), again.values());
    assert_eq!(again.finish(), Ok(()));
    for setting in PROGRAM.settings().filter(|setting| setting.key != "config") {
        let texts = |values: &Values| values.in_force(setting).map(|(texts, _)| texts);
        assert_eq!(texts(&first), texts(&again), "{}", setting.key);
    }
}

#[test]
fn secrets_and_passwords_are_never_shown() {
    let sources = Sources {
        args: &["--print-config"],
        environment: &[
            ("PROBE_TOKEN", "hunter2"),
            ("PROBE_SOURCE_URL", "ftp://me:hunter3@host/x"),
        ],
        ..Sources::default()
    };
    let text = sources.mistakes().join("\n") + &sources.values().printed().unwrap();
    assert!(!text.contains("hunter"), "{text}");
    assert!(
        text.contains("PROBE_TOKEN=*** (environment): \"***\" is too long"),
        "{text}"
    );
    assert!(text.contains("ftp://me:***@host/x"), "{text}");
}

#[test]
fn a_command_line_holds_no_secrets() {
    for args in [&["--token", "hunter2"][..], &["--token=hunter2"]] {
        let sources = Sources {
            args,
            ..Sources::default()
        };
        let mistakes = sources.mistakes();
        assert_eq!(
            mistakes,
            [
                "--token (command line): is a secret, which others could read on a command line; put it into \
                 the variable PROBE_TOKEN"
            ]
        );
    }
}

#[test]
fn a_hidden_password_does_not_become_a_password() {
    let sources = Sources {
        file: "source-url = 'http://me:***@host/'",
        ..Sources::default()
    };
    assert!(sources.mistakes()[0].contains("the password was hidden by --print-config"));
}

#[test]
fn help_version_and_completions_are_answered_whatever_else_is_wrong() {
    let answer = |args: &[&str]| {
        Sources {
            args,
            ..Sources::default()
        }
        .request()
    };
    let Ok(Request::Print(help)) = answer(&["--size", "x", "--nonsense", "--help"]) else {
        panic!("no help");
    };
    for part in [
        "--print-config",
        "--completions",
        "--config",
        "[default: 1KiB]",
        "PROBE_",
        "  2  ",
    ] {
        assert!(help.contains(part), "{part} in\n{help}");
    }
    assert!(!help.contains("--print-env"));
    assert!(help.contains("More about it."));
    let Ok(Request::Print(version)) = answer(&["--version"]) else {
        panic!("no version")
    };
    assert_eq!(version, "probe 1.2.3\n");
    let Ok(Request::Complete { shell, .. }) = answer(&["--completions", "fish"]) else {
        panic!("no completions");
    };
    assert_eq!(shell, "fish");
    let sources = Sources {
        args: &["--completions", "cmd"],
        ..Sources::default()
    };
    assert!(
        sources.mistakes()[0].starts_with("--completions cmd (command line): unknown shell; use")
    );
}

#[test]
fn the_example_sets_the_defaults_and_can_be_read() {
    let Ok(Request::Print(example)) = Sources {
        args: &["--print-env"],
        ..Sources::default()
    }
    .request() else {
        panic!("no example");
    };
    assert!(
        example.contains("# A size (SIZE)\nPROBE_SIZE=1KiB\n"),
        "{example}"
    );
    assert!(
        example.contains("# A text (LABEL)\n# PROBE_LABEL=\n"),
        "{example}"
    );
    let sources = Sources {
        dotenv: &example,
        ..Sources::default()
    };
    assert_eq!(sources.mistakes(), [""; 0]);
    assert!(sources.values().warnings().is_empty());
}

#[test]
fn the_error_as_a_whole_tells_how_many_and_where_to_look() {
    let sources = Sources {
        args: &["--zzz", "--yyy"],
        ..Sources::default()
    };
    let error = sources.values().finish().unwrap_err().to_string();
    assert!(
        error.starts_with("probe: 2 mistakes in the settings\n  --zzz (command line)"),
        "{error}"
    );
    assert!(error.ends_with("probe --help"), "{error}");
}

#[test]
fn only_what_is_set_to_something_else_counts_as_changed() {
    let sources = Sources {
        args: &["--size", "64KiB", "--format", "png", "--item", "a,b"],
        environment: &[("PROBE_DEEP", "true"), ("PROBE_TOKEN", "hunter2hunter2")],
        ..Sources::default()
    };
    let changed = sources.values().changed();
    let lines: Vec<_> = changed
        .iter()
        .map(|it| format!("{} = {} ({})", it.key, it.value, it.origin))
        .collect();
    for line in [
        "size = \"64KiB\" (command line)",
        "item = [\"a\", \"b\"] (command line)",
        "deep = true (environment)",
        "token = \"***\" (environment)",
    ] {
        assert!(lines.iter().any(|it| it == line), "{line} in {lines:?}");
    }
    assert_eq!(lines.len(), 4, "png is the default: {lines:?}");
}
