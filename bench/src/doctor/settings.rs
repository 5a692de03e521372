//! Settings: those that the daemon would read.

use std::ffi::OsString;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use shared::settings::{Changed, CliError, Environment, Program, Request, Values};

use super::{Finding, Group, Kind, Level, Subject};
use crate::cli::doctor::Station as Asked;

/// What the words behind the station's name ask for.
pub(crate) enum Read {
    /// To look at this station; what was found in its settings.
    Station(Box<Subject>, Vec<Finding>),
    /// Nothing more, as its settings cannot be read to their end.
    Refused(Vec<Finding>),
    /// This text.
    Print(String),
}

/// Reads the settings of a station as its daemon does.
///
/// # Errors
/// All mistakes in them.
pub(crate) fn read(
    asked: &Asked,
    environment: &dyn Environment,
    dotenv: Option<&Path>,
) -> Result<Read, CliError> {
    let (program, settings): (&'static Program, _) = match asked {
        Asked::Transmitter { settings } => (&transmitter::cli::PROGRAM, settings),
        Asked::Receiver { settings } => (&receiver::cli::PROGRAM, settings),
        Asked::Users { settings } => (&users::cli::PROGRAM, settings),
    };
    let args = std::iter::once(OsString::from(program.name)).chain(settings.iter().cloned());
    let mut values = match shared::settings::read(program, args, environment, dotenv)? {
        Request::Use(values) => values,
        Request::Print(text) => return Ok(Read::Print(text)),
        Request::Complete { .. } => {
            return Ok(Read::Print("see pantelegraph completions\n".to_owned()));
        }
    };
    let refused = refused(program, &mut values);
    if !refused.is_empty() {
        return Ok(Read::Refused(refused));
    }
    let (kind, mut warnings) = station(asked, &mut values);
    values.finish()?;
    if let Some(text) = values.printed() {
        return Ok(Read::Print(text));
    }
    warnings.splice(0..0, values.warnings().iter().cloned());
    let findings = judge(program, &values.changed(), &warnings);
    let secrets = secrets(program, &mut values);
    Ok(Read::Station(Box::new(Subject { kind, secrets }), findings))
}

/// Settings that name files which nobody else should read.
const SECRETS: [&str; 3] = ["tls-key", "token-file", "token-key-file"];

/// Those of these files that could not be read without waiting for somebody, perhaps for ever.
fn refused(program: &Program, values: &mut Values) -> Vec<Finding> {
    let mut refused = Vec::new();
    // The weaker one of them is not read.
    values.keep_strongest(&["token-file", "token"]);
    for setting in SECRETS.iter().filter_map(|key| program.setting(key)) {
        let key = setting.key;
        let paths = values.list(key, |path| Ok(PathBuf::from(path)));
        refused.extend(paths.iter().filter_map(|path| irregular(key, path)));
    }
    refused
}

/// That this is no file that can be read again and again. What is not there, or a folder, fails at once.
fn irregular(key: &str, path: &Path) -> Option<Finding> {
    let kind = std::fs::metadata(path).ok()?.file_type();
    if kind.is_file() || kind.is_dir() {
        return None;
    }
    let what = match kind.is_fifo() {
        true => "a pipe (FIFO)",
        false if kind.is_socket() => "a socket",
        false => "a device",
    };
    let path = path.display();
    let found = format!("{path} (--{key}) is {what} and not a regular file: nothing was read");
    let fix = format!(
        "put the secret into a file (chmod 600) and name it with --{key}: daemons read it again and again, and whoever \
         reads a pipe waits until somebody writes"
    );
    let place = (Group::Certificates, "regular");
    Some(Finding::bad(Level::Problem, place, found, fix))
}

/// Files that nobody else should read.
fn secrets(program: &Program, values: &mut Values) -> Vec<(&'static str, PathBuf)> {
    let mut secrets = Vec::new();
    for setting in SECRETS.iter().filter_map(|key| program.setting(key)) {
        let key = setting.key;
        let is_public = |path: &PathBuf| {
            // The half of a key that only checks tokens is for everybody.
            let text = std::fs::read_to_string(path).unwrap_or_default();
            text.contains("BEGIN PUBLIC KEY")
        };
        let paths = values.list(key, |path| Ok(PathBuf::from(path)));
        let paths = paths.into_iter().filter(|path| !is_public(path));
        secrets.extend(paths.map(|path| (setting.key, path)));
    }
    secrets
}

/// The station, and what its daemon would warn of.
fn station(asked: &Asked, values: &mut Values) -> (Kind, Vec<String>) {
    match asked {
        Asked::Transmitter { .. } => {
            let config = transmitter::config::Config::from_values(values);
            let warnings = config.warnings();
            (Kind::Transmitter(Box::new(config)), warnings)
        }
        Asked::Receiver { .. } => {
            let config = receiver::config::Config::from_values(values);
            let listeners = [
                ("grpc-listen", config.grpc_listen),
                ("http-listen", config.http_listen),
                ("listen-all", config.listen_all),
            ];
            let warnings = config.security.warnings(&listeners);
            (Kind::Receiver(Box::new(config)), warnings)
        }
        Asked::Users { .. } => {
            let config = users::config::Config::from_values(values);
            let warnings = config.warnings();
            (Kind::Users(Box::new(config)), warnings)
        }
    }
}

fn judge(program: &Program, changed: &[Changed], warnings: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for Changed { key, value, origin } in changed {
        // Many cameras want the password in the query.
        let value = match (*key, value.split_once('?')) {
            ("snapshot-url", Some((address, _))) => format!("{address}?***\""),
            _ => value.clone(),
        };
        let found = format!("{key} = {value} ({origin})");
        findings.push(Finding::ok(Group::Settings, "changed", found));
    }
    let defaults = program.settings().count().saturating_sub(changed.len());
    let found = format!(
        "{defaults} settings are as they are by default; {} --print-config shows all",
        program.name
    );
    findings.push(Finding::ok(Group::Settings, "defaults", found).with("defaults", defaults));
    findings.extend(warnings.iter().map(|warning| {
        let otherwise = "see --help, and remove the setting or add what it lacks";
        let (found, fix) = super::advice(warning, otherwise);
        let fix = match warning.contains("gets in") {
            true => "give --tls-cert, --tls-key and --tls-client-ca (`pantelegraph keys`), or listen on 127.0.0.1",
            false if warning.contains("not encrypted") => "give --tls-cert and --tls-key (`pantelegraph keys`)",
            false => fix,
        };
        Finding::bad(Level::Warning, (Group::Settings, "warning"), found, fix)
    }));
    findings
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn read_with(args: &[&str], variables: &[(&str, &str)]) -> Result<Read, CliError> {
        let settings = args.iter().map(OsString::from).collect();
        let variables = variables
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
        let environment: BTreeMap<String, String> = variables.collect();
        read(&Asked::Transmitter { settings }, &environment, None)
    }

    #[test]
    fn what_is_set_is_named_with_its_source_and_without_its_secrets() {
        let args = [
            "--pattern",
            "8x8",
            "--chunk-size",
            "256KiB",
            "--window",
            "8MiB",
        ];
        let secret = ("TRANSMITTER_TOKEN", "aaaa.bbbb.cccc");
        let odd = ("TRANSMITTER_WINDOWS", "1");
        let Read::Station(_, findings) = read_with(&args, &[secret, odd]).unwrap() else {
            panic!("these are settings");
        };
        let text = super::super::text(&findings, false, None);
        for line in [
            "ok       window = \"8MiB\" (command line)",
            "ok       token = \"***\" (environment)",
            "warning  TRANSMITTER_WINDOWS (environment) is no setting",
            "fix: did you mean TRANSMITTER_WINDOW?",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        assert!(
            !text.contains("bbbb") && !text.contains("chunk-size ="),
            "{text}"
        );
    }

    #[test]
    fn nobody_waits_for_a_secret_in_a_pipe() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};

        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("token");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let path = pipe.to_str().unwrap();
        for key in ["--token-file", "--tls-key"] {
            let Read::Refused(findings) = read_with(&["--pattern", "8x8", key, path], &[]).unwrap()
            else {
                panic!("it is a pipe");
            };
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert_eq!(findings[0].level, Level::Problem);
            assert!(
                findings[0]
                    .found
                    .contains(&format!("{path} ({key}) is a pipe"))
            );
        }
        // It is not read where a stronger source gives the token itself.
        let config = folder.path().join("cam-1.toml");
        std::fs::write(&config, format!("token-file = {path:?}\n")).unwrap();
        let args = ["--pattern", "8x8", "--config", config.to_str().unwrap()];
        let stronger = ("TRANSMITTER_TOKEN", "aaaa.bbbb.cccc");
        let read = read_with(&args, &[stronger]).unwrap();
        assert!(matches!(read, Read::Station(..)));
    }

    #[test]
    fn all_mistakes_are_told() {
        let Err(error) = read_with(&["--window", "x", "--connections", "0"], &[]) else {
            panic!("these are mistakes");
        };
        // The third is that there is no source.
        assert_eq!(error.mistakes().count(), 3, "{error}");
    }
}
