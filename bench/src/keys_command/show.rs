//! What has been issued, and until when it is valid.

use std::collections::BTreeMap;
use std::fs;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use comfy_table::{Cell, CellAlignment, Color, Table, presets};
use serde::Serialize;
use shared::security::identity::StationId;
use time::OffsetDateTime;

use super::authority::{self, date, hex, later};
use super::folder::{Folder, failed, read};
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Valid,
    Expiring,
    Expired,
    Early,
    Revoked,
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
    let now = OffsetDateTime::from(SystemTime::now());
    let soon = later(now, options.check.unwrap_or(SOON))?;
    let revoked = match folder.revoked().exists() {
        true => Some(Revoked::open(folder)?),
        false => None,
    };
    let files = match options.files.is_empty() {
        true => all(folder)?,
        false => options.files.clone(),
    };
    let mut rows = Vec::new();
    for path in &files {
        rows.extend(certificates(path, now, soon, revoked.as_ref())?);
    }
    if options.files.is_empty() && !options.all {
        rows = newest(rows);
    }
    rows.sort_by(|a, b| (a.until, &a.subject).cmp(&(b.until, &b.subject)));
    match options.json {
        true => print(&lines(&rows)),
        false => print(&table(&rows)),
    }
    let alarming = |row: &&Row| matches!(row.state, State::Expiring | State::Expired);
    let alarm = options.check.is_some() && rows.iter().any(|row| alarming(&row));
    Ok(ExitCode::from(u8::from(alarm)))
}

/// The CA's certificate and everything that it has issued.
fn all(folder: &Folder) -> Result<Vec<PathBuf>, KeysError> {
    let authority = folder.authority();
    if !authority.exists() {
        let path = folder.path().display();
        return Err(KeysError::Request(format!(
            "there is no CA in {path}; make one with `pantelegraph keys init --dir {path}`, or name files to show"
        )));
    }
    let mut files = vec![authority];
    let path = folder.issued();
    match fs::read_dir(&path) {
        Ok(entries) => {
            for entry in entries {
                let entry = entry.map_err(|source| failed(&path, source))?;
                if entry.path().extension().is_some_and(|kind| kind == "pem") {
                    files.push(entry.path());
                }
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => return Err(failed(&path, source)),
    }
    Ok(files)
}

/// The certificates in a file.
fn certificates(
    path: &Path,
    now: OffsetDateTime,
    soon: OffsetDateTime,
    revoked: Option<&Revoked>,
) -> Result<Vec<Row>, KeysError> {
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
        let (from, until) = (
            certificate.validity().not_before,
            certificate.validity().not_after,
        );
        let (from, until) = (from.to_datetime(), until.to_datetime());
        let serial = certificate.raw_serial();
        let state = if revoked.is_some_and(|revoked| revoked.has(serial)) {
            State::Revoked
        } else if until <= now {
            State::Expired
        } else if from > now {
            State::Early
        } else if until <= soon {
            State::Expiring
        } else {
            State::Valid
        };
        let uri = authority::uris(&certificate).next();
        let subject = uri.map_or_else(|| certificate.subject().to_string(), str::to_owned);
        rows.push(Row {
            file: path.to_owned(),
            subject,
            names: names(&certificate),
            serial: hex(serial),
            from,
            until,
            days_left: (until - now).whole_days(),
            state,
        });
    }
    if rows.is_empty() {
        return Err(content());
    }
    Ok(rows)
}

/// Names and addresses by which the station is dialled.
fn names(certificate: &x509_parser::certificate::X509Certificate<'_>) -> Vec<String> {
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

/// Of each station, the certificate that ends last.
fn newest(rows: Vec<Row>) -> Vec<Row> {
    let mut newest: BTreeMap<String, Row> = BTreeMap::new();
    for row in rows {
        match newest.get(&row.subject) {
            Some(other) if (other.until, other.from) >= (row.until, row.from) => {}
            _ => {
                newest.insert(row.subject.clone(), row);
            }
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
        let station = row.subject.parse::<StationId>();
        let station = station.map_or_else(
            |_| row.subject.clone(),
            |id| format!("{} {}", id.role, id.name),
        );
        let state = Cell::new(format!("{:?}", row.state).to_lowercase());
        let state = match row.state {
            _ if !colour => state,
            State::Valid => state.fg(Color::Green),
            State::Expiring | State::Early => state.fg(Color::Yellow),
            State::Expired | State::Revoked => state.fg(Color::Red),
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
