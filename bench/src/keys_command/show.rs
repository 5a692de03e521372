//! What has been issued, and until when it is valid.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use comfy_table::{Cell, CellAlignment, Color, Table, presets};
use serde::Serialize;
use shared::security::identity::StationId;
use shared::telemetry::say;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;

use super::authority::{self, Root, date, hex, later};
use super::folder::{Folder, read};
use super::revoke::Revoked;
use super::{KeysError, print};
use crate::cli::keys::Show;

/// A certificate, for people and programs.
#[derive(Debug, Serialize)]
struct Row {
    file: PathBuf,
    subject: String,
    names: Vec<String>,
    serial: String,
    #[serde(serialize_with = "rfc3339")]
    from: OffsetDateTime,
    #[serde(serialize_with = "rfc3339")]
    until: OffsetDateTime,
    days_left: i64,
    state: State,
}

impl Row {
    /// Role and name of the station, in whichever domain; the subject of what is no station.
    fn station(&self) -> String {
        let station = self.subject.parse::<StationId>();
        station.map_or_else(
            |_| self.subject.clone(),
            |id| format!("{} {}", id.role, id.name),
        )
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Valid,
    Expiring,
    Expired,
    Early,
    Revoked,
    /// Another CA has signed it: whoever trusts this one does not let it in.
    Foreign,
}

impl State {
    /// For people.
    fn word(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Expiring => "expiring",
            Self::Expired => "expired",
            Self::Early => "early",
            Self::Revoked => "revoked",
            Self::Foreign => "of another CA",
        }
    }
}

fn rfc3339<S: serde::Serializer>(time: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    use serde::ser::Error as _;
    let time = jiff::Timestamp::from_second(time.unix_timestamp()).map_err(S::Error::custom)?;
    serializer.collect_str(&time)
}

/// Days before its end from which on a certificate is called expiring when nothing else is asked for.
const SOON: std::time::Duration = std::time::Duration::from_secs(14 * 86_400);

/// Shows certificates.
pub(super) fn show(folder: &Folder, options: &Show) -> Result<ExitCode, KeysError> {
    let (rows, problems) = look(folder, options)?;
    for problem in &problems {
        say(format_args!("pantelegraph keys: {problem}"));
    }
    match options.json {
        true => print(&lines(&rows)),
        false => print(&table(&rows)),
    }
    let alarming =
        |row: &Row| matches!(row.state, State::Expiring | State::Expired | State::Foreign);
    let alarm = !problems.is_empty() || rows.iter().any(alarming);
    Ok(ExitCode::from(u8::from(options.check.is_some() && alarm)))
}

/// What is to be shown, and what is wrong with the folder.
fn look(folder: &Folder, options: &Show) -> Result<(Vec<Row>, Vec<String>), KeysError> {
    let now = OffsetDateTime::from(SystemTime::now());
    let soon = later(now, options.check.unwrap_or(SOON))?;
    let files = match options.files.is_empty() {
        true => all(folder)?,
        false => options.files.clone(),
    };
    // Files can be looked at where no CA is.
    let root = match folder.authority().exists() {
        true => Some(Root::open(folder)?),
        false => None,
    };
    let (revoked, unusable) = Revoked::known(folder, root.as_ref())?;
    let mut problems = Vec::new();
    problems.extend(unusable.map(|unusable| unusable.words(folder, &revoked)));
    if let Some(root) = &root
        && options.files.is_empty()
    {
        problems.extend(of_key(folder, root));
    }
    let known = Known {
        now,
        soon,
        root,
        revoked,
    };
    let mut rows = Vec::new();
    for path in &files {
        rows.extend(certificates(path, &known)?);
    }
    if options.files.is_empty() && !options.all {
        rows = newest(rows);
    }
    rows.sort_by(|a, b| (a.until, &a.subject).cmp(&(b.until, &b.subject)));
    Ok((rows, problems))
}

/// What certificates are judged by.
struct Known {
    now: OffsetDateTime,
    soon: OffsetDateTime,
    root: Option<Root>,
    revoked: Revoked,
}

impl Known {
    fn state(&self, certificate: &X509Certificate<'_>) -> State {
        let (from, until) = ends(certificate);
        let is_ours = |root: &Root| root.has_signed(certificate);
        if !self.root.as_ref().is_none_or(is_ours) {
            State::Foreign
        } else if self.revoked.has(certificate.raw_serial()) {
            State::Revoked
        } else if until <= self.now {
            State::Expired
        } else if from > self.now {
            State::Early
        } else if until <= self.soon {
            State::Expiring
        } else {
            State::Valid
        }
    }
}

/// From when and until when it is valid.
fn ends(certificate: &X509Certificate<'_>) -> (OffsetDateTime, OffsetDateTime) {
    let validity = certificate.validity();
    (
        validity.not_before.to_datetime(),
        validity.not_after.to_datetime(),
    )
}

/// What is wrong with the CA's private key. It may be kept elsewhere, or be readable for others only.
fn of_key(folder: &Folder, root: &Root) -> Option<String> {
    if !folder.authority_key().exists() {
        return None;
    }
    match authority::private(folder, root) {
        Ok(_) | Err(KeysError::File { .. }) => None,
        Err(problem) => Some(problem.to_string()),
    }
}

/// The CA's certificate and everything that it has issued.
fn all(folder: &Folder) -> Result<Vec<PathBuf>, KeysError> {
    let authority = folder.authority();
    if !authority.exists() {
        let path = folder.path().display();
        return Err(KeysError::Refused(format!(
            "there is no CA in {path}; make one with `pantelegraph keys init --dir {path}`, or name files to show"
        )));
    }
    let mut files = vec![authority];
    files.extend(folder.issued_files("pem")?);
    Ok(files)
}

/// The certificates in a file.
fn certificates(path: &Path, known: &Known) -> Result<Vec<Row>, KeysError> {
    let content = || KeysError::Content {
        path: path.to_owned(),
        problem: "there is no certificate in it; PEM is expected".to_owned(),
    };
    let text = read(path)?;
    let mut rows = Vec::new();
    for pem in x509_parser::pem::Pem::iter_from_buffer(text.as_bytes()) {
        let pem = pem.map_err(|_| content())?;
        let Some(certificate) = authority::parse(&pem) else {
            return Err(content());
        };
        let (from, until) = ends(&certificate);
        let uri = authority::uris(&certificate).next();
        let subject = uri.map_or_else(|| certificate.subject().to_string(), str::to_owned);
        rows.push(Row {
            file: path.to_owned(),
            subject,
            names: names(&certificate),
            serial: hex(certificate.raw_serial()),
            from,
            until,
            days_left: (until - known.now).whole_days(),
            state: known.state(&certificate),
        });
    }
    if rows.is_empty() {
        return Err(content());
    }
    Ok(rows)
}

/// Names and addresses by which the station is dialled.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    use x509_parser::extensions::GeneralName;
    let all = certificate.subject_alternative_name().ok().flatten();
    let all = all.iter().flat_map(|all| &all.value.general_names);
    let text = all.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => super::issue::address(bytes).map(|ip| ip.to_string()),
        _ => None,
    });
    text.collect()
}

/// Of each station, the certificate that ends last. One of another CA is shown when there is no other.
fn newest(rows: Vec<Row>) -> Vec<Row> {
    let mut newest: BTreeMap<String, Row> = BTreeMap::new();
    let rank = |row: &Row| (row.state != State::Foreign, row.until, row.from);
    for row in rows {
        let station = row.station();
        match newest.get(&station) {
            Some(other) if rank(other) >= rank(&row) => {}
            _ => drop(newest.insert(station, row)),
        }
    }
    newest.into_values().collect()
}

fn lines(rows: &[Row]) -> String {
    let line = |row| serde_json::to_string(row).expect("texts and numbers can be written as JSON");
    rows.iter().map(|row| line(row) + "\n").collect()
}

fn table(rows: &[Row]) -> String {
    let colour = std::io::stdout().is_terminal();
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "station",
        "dialled as",
        "state",
        "valid until",
        "days",
        "number",
    ]);
    for row in rows {
        let station = row.station();
        let state = Cell::new(row.state.word());
        let state = match row.state {
            _ if !colour => state,
            State::Valid => state.fg(Color::Green),
            State::Expiring | State::Early => state.fg(Color::Yellow),
            State::Expired | State::Revoked | State::Foreign => state.fg(Color::Red),
        };
        table.add_row([
            Cell::new(station),
            Cell::new(row.names.join(", ")),
            state,
            Cell::new(date(row.until)),
            Cell::new(row.days_left).set_alignment(CellAlignment::Right),
            Cell::new(&row.serial),
        ]);
    }
    format!("{}\n", table.trim_fmt())
}

/// The states of all certificates in a folder, by station, and what is wrong with the folder.
#[cfg(test)]
pub(super) fn states(folder: &Folder, options: &Show) -> (BTreeMap<String, String>, Vec<String>) {
    let (rows, problems) = look(folder, options).expect("the folder can be looked at");
    let state = |row: Row| {
        let name = row.subject.rsplit('/').next().unwrap_or_default();
        (name.to_owned(), row.state.word().to_owned())
    };
    (rows.into_iter().map(state).collect(), problems)
}
