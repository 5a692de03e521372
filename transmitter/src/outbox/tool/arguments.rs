//! The command line of the tool.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::{Action, Image, Output, Part, Request};

/// The word that comes before these arguments.
pub const WORD: &str = "outbox";

const EXAMPLES: &str = "\
Examples:
  What is owed, and what is lost:
    pantelegraph-transmitter outbox list --outbox /var/lib/camera/outbox
    pantelegraph-transmitter outbox list --ledger --limit all

  Whether every image is what it was, and putting right what is not:
    pantelegraph-transmitter outbox fsck --repair

  An image from quarantine once more, and one that nobody wants:
    pantelegraph-transmitter outbox requeue 01932f3e-7b5c-7c3a-9d4e-2f1a6b8c0d1e
    pantelegraph-transmitter outbox drop 17

Exit codes:
    0  done, and all is well
    1  something is damaged, failed, or was declined
    2  the arguments are wrong
    3  a transmitter has the outbox open
    4  there is no such outbox or image";

/// The commands, for help and completions. `outbox` is the folder when none is named.
pub fn command(outbox: OsString) -> Command {
    let images = || {
        Arg::new("images")
            .value_name("ID|SEQUENCE")
            .num_args(1..)
            .value_parser(|text: &str| text.parse::<Image>())
            .help("Images, by id or sequence number")
    };
    Command::new("pantelegraph-transmitter outbox")
        .bin_name("pantelegraph-transmitter outbox")
        .about("Looks into an outbox that no transmitter has open, and puts right what is wrong")
        .after_help(EXAMPLES)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .arg(
            Arg::new("outbox")
                .long("outbox")
                .value_name("DIR")
                .global(true)
                .default_value(outbox)
                .value_parser(value_parser!(PathBuf))
                .help("Folder of the outbox [variable: TRANSMITTER_OUTBOX]"),
        )
        .arg(
            Arg::new("output")
                .long("output")
                .value_name("text|json")
                .global(true)
                .default_value("text")
                .value_parser(["text", "json"])
                .hide_possible_values(true)
                .help("For people, or an object of JSON on each line"),
        )
        .subcommand(list())
        .subcommand(
            Command::new("show")
                .about("Tell everything of one image")
                .arg(images().num_args(1).required(true)),
        )
        .subcommand(
            Command::new("fsck")
                .about("Read all images and compare them with their digests")
                .arg(
                    Arg::new("repair")
                        .long("repair")
                        .action(ArgAction::SetTrue)
                        .help("Enter damaged images into the ledger, remove what is left over"),
                ),
        )
        .subcommand(
            Command::new("requeue")
                .about("Put images from quarantine back, with new sequence numbers")
                .arg(images().required(true)),
        )
        .subcommand(
            Command::new("drop")
                .about("Give images up: they enter the ledger, their files are removed")
                .arg(images().required_unless_present("all"))
                .arg(
                    Arg::new("all")
                        .long("all")
                        .conflicts_with("images")
                        .action(ArgAction::SetTrue)
                        .help("Every image that is owed"),
                )
                .arg(
                    Arg::new("yes")
                        .long("yes")
                        .action(ArgAction::SetTrue)
                        .help("Without asking"),
                ),
        )
}

fn list() -> Command {
    Command::new("list")
        .about("Name what is owed, oldest first")
        .arg(
            Arg::new("ledger")
                .long("ledger")
                .action(ArgAction::SetTrue)
                .help("Name what is lost instead"),
        )
        .arg(
            Arg::new("quarantine")
                .long("quarantine")
                .conflicts_with("ledger")
                .action(ArgAction::SetTrue)
                .help("Name the files that were put aside instead"),
        )
        .arg(
            Arg::new("after")
                .long("after")
                .value_name("SEQUENCE")
                .default_value("0")
                .value_parser(value_parser!(u64))
                .help("Only numbers above this one"),
        )
        .arg(
            Arg::new("limit")
                .long("limit")
                .value_name("N|all")
                .default_value("100")
                .value_parser(limit)
                .help("So many at most"),
        )
}

/// A limit, `u64::MAX` for none.
fn limit(text: &str) -> Result<u64, String> {
    match text {
        "all" => Ok(u64::MAX),
        text => text
            .parse()
            .map_err(|_| format!("{text:?} is neither a number nor all")),
    }
}

/// Reads the arguments after the word [`WORD`]; `outbox` is the folder when none is named.
///
/// # Errors
/// clap's: wrong arguments, or a wish for help.
pub fn parse(
    args: impl Iterator<Item = OsString>,
    outbox: OsString,
) -> Result<Request, clap::Error> {
    let name = OsString::from("pantelegraph-transmitter outbox");
    let matches = command(outbox).try_get_matches_from(std::iter::once(name).chain(args))?;
    let Some((word, given)) = matches.subcommand() else {
        return Err(clap::Error::new(clap::error::ErrorKind::MissingSubcommand));
    };
    let images = || -> Vec<Image> {
        let images = given.get_many::<Image>("images");
        images
            .map(|images| images.copied().collect())
            .unwrap_or_default()
    };
    let action = match word {
        "list" => listing(given),
        "show" => match images().as_slice() {
            [image, ..] => Action::Show(*image),
            [] => return Err(clap::Error::new(clap::error::ErrorKind::TooFewValues)),
        },
        "fsck" => Action::Fsck {
            repair: given.get_flag("repair"),
        },
        "requeue" => Action::Requeue(images()),
        _ => Action::Drop {
            images: images(),
            yes: given.get_flag("yes"),
        },
    };
    let output = match given.get_one::<String>("output").map(String::as_str) {
        Some("json") => Output::Json,
        _ => Output::Text,
    };
    let outbox = given.get_one::<PathBuf>("outbox").cloned();
    Ok(Request {
        outbox: outbox.unwrap_or_default(),
        output,
        action,
    })
}

fn listing(given: &ArgMatches) -> Action {
    let part = if given.get_flag("ledger") {
        Part::Ledger
    } else if given.get_flag("quarantine") {
        Part::Quarantine
    } else {
        Part::Owed
    };
    let limit = given.get_one("limit").copied().unwrap_or(u64::MAX);
    Action::List {
        part,
        after: given.get_one("after").copied().unwrap_or(0),
        limit: (limit != u64::MAX).then_some(limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Request, clap::Error> {
        let words = line.split_whitespace().map(OsString::from);
        parse(words, "./outbox".into())
    }

    #[test]
    fn the_definition_is_sound() {
        command("x".into()).debug_assert();
    }

    #[test]
    fn says_what_is_to_be_done() {
        let request = read("list --ledger --limit all --outbox /o --output json").expect("fine");
        assert_eq!(request.outbox, PathBuf::from("/o"));
        assert_eq!(request.output, Output::Json);
        let expected = Action::List {
            part: Part::Ledger,
            after: 0,
            limit: None,
        };
        assert_eq!(request.action, expected);
        let request =
            read("--outbox /o drop 3 01932f3e-7b5c-7c3a-9d4e-2f1a6b8c0d1e").expect("fine");
        assert_eq!(request.outbox, PathBuf::from("/o"));
        assert!(matches!(request.action, Action::Drop { images, yes: false } if images.len() == 2));
        assert_eq!(
            read("fsck").expect("fine").outbox,
            PathBuf::from("./outbox")
        );
    }

    #[test]
    fn refuses_what_is_unclear() {
        for line in [
            "",
            "drop",
            "drop 1 --all",
            "show",
            "show x",
            "show 1 2",
            "requeue",
            "list --ledger --quarantine",
            "list --limit none",
            "mend",
        ] {
            assert!(read(line).is_err(), "{line}");
        }
    }
}
