//! The command line.

use std::ffi::OsString;

use clap::builder::{OsStringValueParser, PossibleValuesParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint};

use super::mistakes::{CliError, Mistake};
use super::table::{Kind, OWN_HEADING, Program, Setting};
use super::values::Values;
use super::{Request, output};

const PRINT_CONFIG: &str = "print-config";
const PRINT_ENV: &str = "print-env";
const COMPLETIONS: &str = "completions";
/// What the help says of a setting that needs no restart.
const RELOADABLE: &str = "Taken over at SIGHUP.";
const SHELLS: [&str; 5] = ["bash", "elvish", "fish", "powershell", "zsh"];

/// What stands on a command line.
pub(super) enum Arguments {
    /// Settings with all their values.
    Given(Vec<(&'static Setting, Vec<OsString>)>),
    /// Something that needs no settings.
    Answered(Request),
}

/// Reads the command line; mistakes go into `values`.
pub(super) fn read(
    program: &'static Program,
    args: impl Iterator<Item = OsString>,
    values: &mut Values,
) -> Result<Arguments, CliError> {
    let matches = match matches(program, args.collect(), values)? {
        Ok(matches) => matches,
        Err(text) => return Ok(Arguments::Answered(Request::Print(text))),
    };
    if matches.get_flag(PRINT_ENV) {
        let text = output::env_example(program);
        return Ok(Arguments::Answered(Request::Print(text)));
    }
    if let Some(shell) = matches.get_one::<OsString>(COMPLETIONS) {
        let shell = shell.to_string_lossy();
        if SHELLS.contains(&&*shell) {
            let (shell, command) = (shell.into_owned(), Box::new(command(program, true)));
            return Ok(Arguments::Answered(Request::Complete { shell, command }));
        }
        let place = format!("--{COMPLETIONS} {} (command line)", shell.escape_debug());
        let known = super::units::or_list(&SHELLS);
        values.note(Mistake::at(place, format!("unknown shell; use {known}")));
    }
    if matches.get_flag(PRINT_CONFIG) {
        values.ask_to_print();
    }
    let given = program.settings().filter(|setting| !setting.secret);
    let given = given.filter_map(|setting| {
        let texts = matches.get_many::<OsString>(setting.key)?;
        Some((setting, texts.cloned().collect()))
    });
    Ok(Arguments::Given(given.collect()))
}

/// Takes one argument after another off until clap is content, so that all mistakes are found and
/// not only the first. The inner error is a text that was asked for.
fn matches(
    program: &'static Program,
    mut args: Vec<OsString>,
    values: &mut Values,
) -> Result<Result<ArgMatches, String>, CliError> {
    let command = command(program, false);
    loop {
        let error = match command.clone().try_get_matches_from(&args) {
            Ok(matches) => return Ok(Ok(matches)),
            Err(error) => error,
        };
        if matches!(
            error.kind(),
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
        ) {
            return Ok(Err(error.render().to_string()));
        }
        let culprit = culprit(&error);
        note(program, &error, &culprit, values);
        if !take_off(&mut args, &error, &culprit) {
            // Cannot be attributed to a word, so nothing after it can be trusted either.
            return Err(values.error());
        }
    }
}

/// The argument that an error of clap is about, without its value.
fn culprit(error: &clap::Error) -> String {
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(arg)) if error.kind() == ErrorKind::UnknownArgument => arg
            .split_once('=')
            .map_or(arg.as_str(), |(name, _)| name)
            .to_owned(),
        // For a known flag: its usage, such as `--file <PATH>` or `--once[=<true|false>]`.
        Some(ContextValue::String(arg)) => arg
            .split([' ', '[', '=', '<'])
            .next()
            .unwrap_or_default()
            .to_owned(),
        _ => String::new(),
    }
}

fn note(program: &'static Program, error: &clap::Error, culprit: &str, values: &mut Values) {
    let place = format!("{} (command line)", culprit.escape_debug());
    let key = culprit.trim_start_matches('-');
    if error.kind() != ErrorKind::UnknownArgument {
        let problem = match error.kind() {
            ErrorKind::InvalidValue | ErrorKind::TooFewValues => "needs a value".to_owned(),
            ErrorKind::TooManyValues => "takes no value".to_owned(),
            _ => {
                let text = error.to_string();
                let first = text.lines().next().unwrap_or_default();
                first.trim_start_matches("error: ").to_owned()
            }
        };
        let mistake = Mistake::at(place, problem);
        return match program.setting(key) {
            Some(setting) => values.fail(setting.key, mistake),
            None => values.note(mistake),
        };
    }
    if !culprit.starts_with('-') {
        let problem = "a word without a flag; every setting has one, see --help, and a value with \
                       spaces needs quotes";
        return values.cannot_read(Mistake::at(place, problem));
    }
    let setting = program.setting(key);
    if let Some(setting) = setting.filter(|setting| culprit.starts_with("--") && setting.secret) {
        let problem = format!(
            "is a secret, which others could read on a command line; put it into the variable {}",
            setting.variable(program)
        );
        return values.fail(setting.key, Mistake::at(place, problem));
    }
    let advice = match program.nearest(key).filter(|setting| !setting.secret) {
        Some(setting) => format!("no such flag; did you mean --{}?", setting.key),
        None => "no such flag".to_owned(),
    };
    values.unknown(Mistake::at(place, advice), key);
}

/// Removes the argument, with the word after it where that can only be its value.
fn take_off(args: &mut Vec<OsString>, error: &clap::Error, culprit: &str) -> bool {
    let is_culprit = |arg: &OsString| {
        let arg = arg.to_string_lossy();
        arg == culprit
            || arg.strip_prefix(culprit).is_some_and(|rest| rest.starts_with('='))
            // Letters after a single dash are reported one by one.
            || (culprit.starts_with('-') && !culprit.starts_with("--") && arg.starts_with(culprit))
    };
    if culprit.is_empty() {
        return false;
    }
    let Some(at) = args.iter().skip(1).position(is_culprit).map(|at| at + 1) else {
        return false;
    };
    let alone = args.remove(at).to_string_lossy() == culprit && culprit.starts_with('-');
    if alone && error.kind() == ErrorKind::UnknownArgument {
        let next = args.get(at).map(|next| next.to_string_lossy());
        if next.is_some_and(|next| !next.starts_with('-')) {
            args.remove(at);
        }
    }
    true
}

/// The command for clap. Completions know the words that a setting takes; in parsing they are left
/// to the setting itself, whose message is the same whatever the source.
fn command(program: &'static Program, for_completion: bool) -> Command {
    let groups = program.all_groups();
    let settings = groups.flat_map(|(heading, settings)| {
        settings
            .iter()
            .filter(|setting| !setting.secret)
            .map(move |setting| argument(setting, heading, for_completion))
    });
    let own = |name| Arg::new(name).long(name).help_heading(OWN_HEADING);
    Command::new(program.name)
        .bin_name(program.name)
        .version(program.version)
        .about(program.about)
        .max_term_width(100)
        .after_help(format!(
            "Examples:\n{}",
            program.examples.trim_matches('\n')
        ))
        .after_long_help(output::after_help(program))
        .args(settings)
        .arg(
            own(PRINT_CONFIG)
                .action(ArgAction::SetTrue)
                .help("Print the settings in force as TOML, each with its origin, and end"),
        )
        .arg(
            own(PRINT_ENV)
                .action(ArgAction::SetTrue)
                .hide(true)
                .help("Print all variables with their defaults, for .env.example, and end"),
        )
        .arg(shell_argument(own(COMPLETIONS), for_completion))
}

fn shell_argument(arg: Arg, for_completion: bool) -> Arg {
    let arg = arg
        .value_name("SHELL")
        .value_parser(OsStringValueParser::new())
        .help("Print completions for this shell, and end: bash, elvish, fish, powershell or zsh");
    if for_completion {
        arg.value_parser(PossibleValuesParser::new(SHELLS))
    } else {
        arg
    }
}

fn argument(setting: &'static Setting, heading: &'static str, for_completion: bool) -> Arg {
    let default = setting.default.filter(|_| setting.kind != Kind::Flag);
    let default = default
        .map(|default| format!(" [default: {default}]"))
        .unwrap_or_default();
    let help = format!("{}{default}", setting.help);
    let arg = Arg::new(setting.key)
        .long(setting.key)
        .value_name(setting.value_name)
        .help_heading(heading)
        .action(ArgAction::Append)
        .value_parser(OsStringValueParser::new())
        .value_hint(hint(setting));
    let reload = setting.reloadable.then_some(RELOADABLE);
    let more = [setting.long_help, reload.unwrap_or_default()];
    let more: Vec<&str> = more.into_iter().filter(|more| !more.is_empty()).collect();
    let arg = match more.as_slice() {
        [] => arg.help(help),
        more => {
            let more = more.join(" ");
            arg.long_help(format!("{help}\n\n{more}")).help(help)
        }
    };
    let arg = match setting.kind {
        Kind::Flag => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true"),
        // A negative number is a value, which the setting refuses with its reason.
        Kind::Value | Kind::List => arg.num_args(1).allow_negative_numbers(true),
    };
    let words = setting.value_name.split('|');
    let only_words = words.clone().count() > 1
        && words
            .clone()
            .all(|word| !word.contains(|c: char| c.is_ascii_uppercase()));
    if for_completion && only_words {
        return arg.value_parser(PossibleValuesParser::new(words));
    }
    arg
}

fn hint(setting: &Setting) -> ValueHint {
    match setting.value_name {
        "PATH" | "FILE" => ValueHint::FilePath,
        "DIR" => ValueHint::DirPath,
        "URL" => ValueHint::Url,
        "CMD" => ValueHint::CommandString,
        _ => ValueHint::Unknown,
    }
}
