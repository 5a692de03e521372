use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::units::{ByteSize, number_within};
use super::*;

mod printing;

static PROGRAM: Program = Program {
    name: "probe",
    version: "1.2.3",
    prefix: "PROBE",
    about: "Probes",
    groups: &[Group {
        heading: "Things",
        settings: &[
            Setting::value("size", "SIZE", "A size").default("1KiB"),
            Setting::value("count", "N", "A number").default("1"),
            Setting::value("label", "LABEL", "A text").long("More about it."),
            Setting::list("item", "NAME", "Some texts"),
            Setting::flag("deep", "A switch"),
            Setting::value("format", "jpeg|png", "A word").default("png"),
            Setting::value("token", "TOKEN", "A secret").secret(),
            Setting::value("source-url", "URL", "An address"),
        ],
    }],
    examples: "  probe --size 1MiB",
    exit_codes: &[(0, "fine"), (2, "the settings are wrong")],
};

#[derive(Default)]
struct Sources<'a> {
    args: &'a [&'a str],
    environment: &'a [(&'a str, &'a str)],
    dotenv: &'a str,
    file: &'a str,
}

impl Sources<'_> {
    fn request(&self) -> Result<Request, CliError> {
        let folder = tempfile::tempdir().unwrap();
        let dotenv = folder.path().join(".env");
        fs::write(&dotenv, self.dotenv).unwrap();
        let mut args: Vec<OsString> = vec!["probe".into()];
        args.extend(self.args.iter().map(OsString::from));
        if !self.file.is_empty() {
            let file = folder.path().join("probe.toml");
            fs::write(&file, self.file).unwrap();
            args.extend(["--config".into(), file.into()]);
        }
        let environment: BTreeMap<String, String> = self
            .environment
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect();
        read(&PROGRAM, args.into_iter(), &environment, Some(&dotenv))
    }

    fn values(&self) -> Values {
        match self.request() {
            Ok(Request::Use(values)) => *values,
            other => panic!("no values: {other:?}"),
        }
    }

    /// Reads everything, as a program does.
    fn mistakes(&self) -> Vec<String> {
        let mut values = match self.request() {
            Ok(Request::Use(values)) => *values,
            Ok(other) => panic!("no values: {other:?}"),
            Err(error) => return error.mistakes().collect(),
        };
        read_all(&mut values);
        let folder = std::env::temp_dir().display().to_string();
        // Where the files lie differs from run to run.
        let plain = |text: String| match text.find(&folder) {
            Some(at) => {
                let end = text[at..]
                    .find("probe.toml")
                    .or(text[at..].find(".env"))
                    .unwrap();
                format!("{}{}", &text[..at], &text[at + end..])
            }
            None => text,
        };
        values
            .finish()
            .map_or_else(|error| error.mistakes().map(plain).collect(), |()| vec![])
    }
}

fn read_all(values: &mut Values) {
    values.required("size", str::parse::<ByteSize>);
    values.required("count", number_within(1..=10));
    values.optional("label", label);
    values.list("item", label);
    values.flag("deep");
    values.required("format", |text| {
        units::word(text, &[("jpeg", 1), ("png", 2)])
    });
    values.optional("token", |text| {
        if text.len() < 4 {
            Ok(())
        } else {
            Err(format!("{text:?} is too long"))
        }
    });
    values.optional("source-url", |text| {
        address::parse_plain_url(text, &["http"])
    });
}

#[test]
fn the_strongest_source_counts() {
    let all = Sources {
        args: &["--size", "1MiB"],
        environment: &[("PROBE_SIZE", "2MiB"), ("PROBE_COUNT", "2")],
        dotenv: "PROBE_SIZE=3MiB\nPROBE_COUNT=3\nPROBE_LABEL=three\n",
        file: "size = '4MiB'\ncount = 4\nlabel = 'four'\nformat = 'jpeg'\n",
    };
    let mut values = all.values();
    assert_eq!(
        values.required("size", str::parse::<ByteSize>),
        ByteSize::mib(1)
    );
    assert_eq!(values.required("count", number_within(1..=10)), 2);
    assert_eq!(values.optional("label", label).as_deref(), Some("three"));
    assert_eq!(
        values.required("format", |text| Ok(text.to_owned())),
        "jpeg"
    );
    assert!(!values.flag("deep"));
    assert_eq!(values.finish(), Ok(()));
}

#[test]
fn an_empty_variable_is_not_set() {
    let sources = Sources {
        environment: &[
            ("PROBE_LABEL", ""),
            ("PROBE_COUNT", " "),
            ("PROBE_ITEM", ""),
        ],
        dotenv: "PROBE_LABEL=\nPROBE_COUNT=3",
        ..Sources::default()
    };
    let mut values = sources.values();
    assert_eq!(values.optional("label", label), None);
    assert_eq!(values.required("count", number_within(1..=10)), 3);
    assert!(!values.is_given("item"));
    assert_eq!(values.finish(), Ok(()));
}

#[test]
fn lists_are_comma_separated_or_repeated_and_come_from_one_source() {
    let sources = Sources {
        args: &["--item", "a, b", "--item=c"],
        environment: &[("PROBE_ITEM", "x,y")],
        ..Sources::default()
    };
    assert_eq!(sources.values().list("item", label), ["a", "b", "c"]);
    let file = Sources {
        file: "item = ['a', 'b,c']",
        ..Sources::default()
    };
    assert_eq!(file.values().list("item", label), ["a", "b,c"]);
    let text = Sources {
        file: "item = 'a,b'",
        ..Sources::default()
    };
    assert_eq!(text.values().list("item", label), ["a", "b"]);
}

#[test]
fn a_flag_can_be_turned_off_again() {
    for (args, expected) in [
        (vec!["--deep"], true),
        (vec!["--deep=false"], false),
        (vec![], true),
    ] {
        let sources = Sources {
            args: &args,
            environment: &[("PROBE_DEEP", "yes")],
            ..Sources::default()
        };
        assert_eq!(sources.values().flag("deep"), expected, "{args:?}");
    }
}

#[test]
fn all_mistakes_are_reported_at_once_with_place_value_and_fix() {
    let sources = Sources {
        args: &[
            "--sise",
            "1MiB",
            "--deep=perhaps",
            "stray",
            "--format",
            "gif",
            "--bogus=1",
        ],
        environment: &[("PROBE_COUNT", "eleven")],
        dotenv: "# comment\nwrong line\nPROBE_LABEL=\"a\\nb\"\n",
        file: "\nlable = 'x'\nsource_url = 'ftp://x'\n\nitem = { a = 1 }\n[table]\nx = 1\n",
    };
    assert_eq!(
        sources.mistakes(),
        [
            "--sise (command line): no such flag; did you mean --size?",
            "stray (command line): a word without a flag; every setting has one, see --help, and a \
             value with spaces needs quotes",
            "--bogus (command line): no such flag",
            ".env line 2: not of the form NAME=value; put a value with spaces, quotes or $ into \
             'single quotes'",
            "lable (probe.toml line 2): no such setting; did you mean label?",
            "item (probe.toml line 5): takes a list of texts, not table",
            "table (probe.toml line 6): no such setting; probe --print-config shows all of them",
            "PROBE_COUNT=eleven (environment): \"eleven\" is not a whole number from 1 to 10",
            "PROBE_LABEL=\"a\\nb\" (.env line 3): \"a\\nb\" is not a name; use 1 to 128 visible \
             characters",
            "--deep=perhaps (command line): \"perhaps\" is not a switch; use true or false",
            "--format gif (command line): \"gif\" is unknown; use jpeg or png",
            "source-url = ftp://x (probe.toml line 3): unknown scheme \"ftp\"; use http://",
        ]
    );
}

#[test]
fn flags_without_value_twice_or_empty_are_mistakes() {
    let sources = Sources {
        args: &[
            "--count",
            "1",
            "--count",
            "2",
            "--label",
            "",
            "--print-config=x",
            "--size",
        ],
        ..Sources::default()
    };
    assert_eq!(
        sources.mistakes(),
        [
            "--print-config (command line): takes no value",
            "--size (command line): needs a value",
            "--count (command line): given 2 times; give it once",
            "--label \"\" (command line): empty; give a value or leave it out",
        ]
    );
}

#[test]
fn a_file_that_cannot_be_used_is_named() {
    let missing = Sources {
        args: &["--config", "/nonexistent/x.toml"],
        ..Sources::default()
    };
    let mistakes = missing.mistakes();
    assert_eq!(mistakes.len(), 1);
    assert!(mistakes[0].starts_with("--config /nonexistent/x.toml (command line): cannot be read"));

    let folder = Sources {
        environment: &[("PROBE_CONFIG", "/")],
        ..Sources::default()
    };
    assert!(folder.mistakes()[0].contains("PROBE_CONFIG=/ (environment): cannot be read"));

    let broken = Sources {
        file: "size = '1KiB'\ncount = \nlabel = oops\n",
        ..Sources::default()
    };
    let mistakes = broken.mistakes();
    assert!(
        mistakes[0].starts_with("probe.toml line 2: not proper TOML"),
        "{mistakes:?}"
    );
    assert!(
        mistakes
            .iter()
            .any(|text| text.starts_with("probe.toml line 3")),
        "{mistakes:?}"
    );

    let twice = Sources {
        file: "source-url = 'http://a'\nsource_url = 'http://b'\nconfig = 'x'",
        ..Sources::default()
    };
    assert_eq!(
        twice.mistakes(),
        [
            "source-url = http://b (probe.toml line 2): is already set in line 1; remove one of them",
            "config (probe.toml line 3): a settings file cannot name another one; remove this line",
        ]
    );
}

#[test]
fn a_missing_dotenv_is_no_mistake_and_an_endless_one_is() {
    let read_with = |path: PathBuf| {
        let args = ["probe".into()].into_iter();
        match read(&PROGRAM, args, &BTreeMap::new(), Some(&path)) {
            Ok(Request::Use(values)) => values.finish(),
            other => panic!("{other:?}"),
        }
    };
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(read_with(folder.path().join(".env")), Ok(()));
    let error = read_with("/dev/zero".into()).unwrap_err().to_string();
    assert!(
        error.contains("/dev/zero: cannot be read: not a regular file"),
        "{error}"
    );
    let large = folder.path().join("large");
    fs::write(&large, vec![b'#'; (1 << 20) + 1]).unwrap();
    assert!(
        read_with(large)
            .unwrap_err()
            .to_string()
            .contains("larger than 1 MiB")
    );
}

#[test]
fn unknown_variables_are_warnings_with_a_suggestion() {
    let sources = Sources {
        environment: &[("PROBE_CUONT", "1"), ("PROBED", "1"), ("OTHER_SIZE", "x")],
        dotenv: "PROBE_ZZZ=1\nPROBE-SIZE=1\n",
        ..Sources::default()
    };
    let values = sources.values();
    let warnings = values.warnings();
    assert_eq!(
        warnings[0],
        "PROBE_CUONT (environment) is no setting; did you mean PROBE_COUNT?"
    );
    assert!(warnings[1].starts_with("PROBE_ZZZ (") && warnings[1].ends_with("is no setting"));
    assert_eq!(warnings.len(), 2);
}

#[test]
fn among_rivals_only_those_of_the_strongest_source_stay() {
    let sources = Sources {
        args: &["--label", "x"],
        environment: &[("PROBE_ITEM", "y"), ("PROBE_TOKEN", "z")],
        ..Sources::default()
    };
    let mut values = sources.values();
    assert_eq!(
        values.keep_strongest(&["item", "label", "source-url"]),
        ["label"]
    );
    assert!(!values.is_given("item"));
    assert!(values.is_given("token"));
    assert_eq!(values.keep_strongest(&["source-url"]), [""; 0]);
}
