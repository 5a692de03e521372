//! `pantelegraph-receiver fsck`.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use shared::settings::units::word;
use shared::settings::{CliError, Environment, Group, Program, Request, Setting};

use super::Exit;
use crate::fsck::{Findings, FsckError, Options, Problem, Progress, fsck};

/// Its name on the command line.
const NAME: &str = "fsck";

/// What a command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// To check a folder.
    Check(Options, Output),
    /// To print this text to standard output, as it is, and to end.
    Print(String),
}

/// Whether a command line, which begins with the program's name, asks for a check.
#[must_use]
pub fn is_asked(args: &[OsString]) -> bool {
    args.get(1).is_some_and(|word| word == NAME)
}

/// The check and its settings.
pub static PROGRAM: Program = Program {
    name: "pantelegraph-receiver fsck",
    version: env!("CARGO_PKG_VERSION"),
    prefix: "RECEIVER",
    about: "Checks a data folder while no receiver runs: every file against the catalogue and the \
            other way round",
    groups: GROUPS,
    examples: r"
  Every image under ./data, read from its first byte to its last:
    pantelegraph-receiver fsck

  Put in order what is found, as JSON for a script:
    pantelegraph-receiver fsck --data /srv/images --repair --output json

  An entry whose file is missing or damaged is taken out of the catalogue and named as a loss
  (GET /v1/losses), so that the image is welcome again. A damaged file, and one that the catalogue
  does not know, is moved to orphans/ and never removed. A file that cannot be read is reported and
  left as it is: it may be whole. Look for the reason (permissions, a failing disk), and check again.
  When nearly all files are missing, as below a file system that is not mounted, nothing is repaired
  without --accept-missing.
",
    exit_codes: &[
        (
            Exit::Stopped as u8,
            "everything is in order, or was put in order",
        ),
        (
            Exit::Problems as u8,
            "problems were found, and are left as they are, all of them or some",
        ),
        (Exit::Usage as u8, "the settings are wrong"),
        (Exit::Internal as u8, "internal error"),
        (
            Exit::DataUnusable as u8,
            "the data folder cannot be used, for example because a receiver runs on it",
        ),
    ],
};

static GROUPS: &[Group] = &[Group {
    heading: "Check",
    settings: &[
        Setting::value("data", "DIR", "Folder for images and catalogue").default("./data"),
        Setting::flag("repair", "Put in order what is found"),
        Setting::flag(
            "accept-missing",
            "Repair even if nearly all files are missing: they are lost",
        ),
        Setting::value("output", "text|json", "Form of the findings").default("text"),
    ],
}];

/// Form of the findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// A table.
    Text,
    /// One JSON object.
    Json,
}

/// Reads the settings of a check from all sources.
///
/// # Errors
/// All mistakes in the settings at once.
pub fn parse(
    args: Vec<OsString>,
    env: &dyn Environment,
    dotenv: Option<&Path>,
) -> Result<Invocation, CliError> {
    // The word itself is no setting.
    let words = args.into_iter().enumerate();
    let args = words.filter_map(|(at, word)| (at != 1).then_some(word));
    let mut values = match shared::settings::read(&PROGRAM, args, env, dotenv)? {
        Request::Use(values) => values,
        Request::Print(text) => return Ok(Invocation::Print(text)),
        Request::Complete { shell, command } => {
            return Ok(Invocation::Print(super::completions(&shell, *command)));
        }
    };
    let options = Options {
        data: values.required("data", |text| Ok::<_, String>(PathBuf::from(text))),
        repair: values.required("repair", yes_or_no),
        accept_missing: values.required("accept-missing", yes_or_no),
    };
    let output = values.required("output", |text| {
        word(text, &[("text", Output::Text), ("json", Output::Json)])
    });
    values.finish()?;
    Ok(match values.printed() {
        Some(text) => Invocation::Print(text),
        // Variables of the daemon are no mistakes here.
        None => Invocation::Check(options, output),
    })
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    word(text, &[("true", true), ("false", false)])
}

/// Checks the folder, shows how far that is, and prints what was found.
///
/// # Errors
/// When the folder cannot be used.
pub async fn run(options: &Options, output: Output) -> Result<Exit, FsckError> {
    let bar = bar();
    let mut images = 0;
    let found = fsck(options, &mut |progress: Progress| {
        bar.set_length(progress.of);
        if progress.images != images {
            images = progress.images;
            bar.set_position(images);
        }
        bar.set_message(HumanBytes(progress.bytes).to_string());
    })
    .await;
    bar.finish_and_clear();
    let findings = found?;
    let text = match output {
        Output::Text => text(&findings, options),
        Output::Json => {
            serde_json::to_string_pretty(&findings).expect("plain fields become JSON") + "\n"
        }
    };
    // A reader that has gone (`| head`) is no failure.
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    Ok(match findings.left() {
        0 => Exit::Stopped,
        _ => Exit::Problems,
    })
}

fn bar() -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(0), target);
    let template = "{bar:40} {human_pos} of {human_len} images, {msg}, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

fn text(findings: &Findings, options: &Options) -> String {
    let mut text = String::new();
    for problem in &findings.problems {
        text.push_str(&line(problem));
    }
    let problems = findings.found();
    let unlisted = problems.saturating_sub(findings.problems.len() as u64);
    if unlisted > 0 {
        text.push_str(&format!("and {} more\n", HumanCount(unlisted)));
    }
    if problems > 0 {
        text.push('\n');
    }
    let rows = rows(findings);
    let widest = |of: fn(&(&str, String)) -> usize| rows.iter().map(of).max().unwrap_or(0);
    let (names, figures) = (widest(|row| row.0.len()), widest(|row| row.1.len()));
    for (name, figure) in &rows {
        text.push_str(&format!("{name:<names$}  {figure:>figures$}\n"));
    }
    text.push('\n');
    text.push_str(&verdict(findings, options));
    text
}

fn line(problem: &Problem) -> String {
    let kind = serde_json::to_value(problem.kind).ok();
    let kind = kind.as_ref().and_then(serde_json::Value::as_str);
    let repaired = if problem.repaired { " (repaired)" } else { "" };
    format!(
        "{}: {}: {}{repaired}\n",
        kind.unwrap_or_default(),
        problem.location,
        problem.detail
    )
}

fn rows(findings: &Findings) -> Vec<(&'static str, String)> {
    let count = |number| HumanCount(number).to_string();
    vec![
        ("images in the catalogue", count(findings.entries)),
        ("as stored", count(findings.good)),
        ("kept without bytes", count(findings.without_bytes)),
        ("in quarantine", count(findings.quarantined)),
        ("missing", count(findings.missing)),
        ("damaged", count(findings.damaged)),
        ("not readable", count(findings.unreadable)),
        ("orphans", count(findings.orphans)),
        ("other files", count(findings.other_files)),
        ("unfinished images", count(findings.unfinished)),
        (
            "their verified bytes",
            HumanBytes(findings.unfinished_bytes).to_string(),
        ),
        (
            "their torn bytes",
            HumanBytes(findings.torn_bytes).to_string(),
        ),
        ("read", HumanBytes(findings.bytes).to_string()),
    ]
}

fn verdict(findings: &Findings, options: &Options) -> String {
    let stopped = match findings.stopped_in_order {
        true => "",
        false => "The last receiver did not stop in order.\n",
    };
    let problems = findings.found();
    let verdict = match (problems, findings.left()) {
        (0, _) => "Everything is in order.".to_owned(),
        (_, 0) => format!("{} problems were put in order.", HumanCount(problems)),
        (_, left) if options.repair => format!(
            "{} problems are left; what cannot be read and what is in quarantine is not repaired.",
            HumanCount(left)
        ),
        (_, left) if left == findings.unreadable => format!(
            "{} files cannot be read; find out why, and check again.",
            HumanCount(left)
        ),
        (_, left) => format!(
            "{} problems; put them in order with --repair.",
            HumanCount(left)
        ),
    };
    format!("{stopped}{verdict}\n")
}
