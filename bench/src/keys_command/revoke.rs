//! What counts no more.

use std::collections::BTreeSet;
use std::fs;
use std::process::ExitCode;
use std::time::SystemTime;

use rcgen::{RevokedCertParams, SerialNumber};
use time::OffsetDateTime;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::authority::{self, Authority, hex};
use super::folder::{Folder, failed, read};
use super::{KeysError, print};
use crate::cli::keys::Revoke;

/// The list of what is revoked.
pub(super) struct Revoked {
    entries: Vec<(Vec<u8>, OffsetDateTime)>,
    number: u64,
}

impl Revoked {
    /// The list of a folder.
    pub(super) fn open(folder: &Folder) -> Result<Self, KeysError> {
        let path = folder.revoked();
        let content = || KeysError::Content {
            path: path.clone(),
            problem: "is no list of revoked certificates (X509 CRL)".to_owned(),
        };
        let text = read(&path)?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(text.as_bytes()).map_err(|_| content())?;
        let (_, list) =
            CertificateRevocationList::from_der(&pem.contents).map_err(|_| content())?;
        let entries = list.iter_revoked_certificates().map(|entry| {
            let time = entry.revocation_date.to_datetime();
            (entry.raw_serial().to_vec(), time)
        });
        let number = list
            .crl_number()
            .and_then(|number| number.to_u64_digits().first().copied());
        Ok(Self {
            entries: entries.collect(),
            number: number.unwrap_or(1),
        })
    }

    /// Whether the certificate with this number is on it.
    pub(super) fn has(&self, serial: &[u8]) -> bool {
        self.entries.iter().any(|(revoked, _)| revoked == serial)
    }
}

/// Puts certificates on the list.
pub(super) fn revoke(folder: &Folder, options: &Revoke) -> Result<ExitCode, KeysError> {
    let authority = Authority::open(folder)?;
    let mut revoked = Revoked::open(folder)?;
    let issued = issued(folder)?;
    let mut wanted = BTreeSet::new();
    for name in &options.stations {
        let mut of_station = issued
            .iter()
            .filter(|issued| issued.station.as_ref() == Some(name))
            .peekable();
        if of_station.peek().is_none() {
            let words =
                format!("nothing was issued to {name:?}; `pantelegraph keys show` has all names");
            return Err(KeysError::Request(words));
        }
        wanted.extend(of_station.map(|issued| issued.serial.clone()));
    }
    for serial in &options.serial {
        let serial = serial.replace(':', "").to_ascii_lowercase();
        let Some(found) = issued.iter().find(|issued| hex(&issued.serial) == serial) else {
            let words = format!(
                "no certificate has the number {serial}; `pantelegraph keys show --all` has them"
            );
            return Err(KeysError::Request(words));
        };
        wanted.insert(found.serial.clone());
    }
    let now = OffsetDateTime::from(SystemTime::now());
    let mut text = String::new();
    for serial in wanted {
        let is_new = !revoked.has(&serial);
        let words = if is_new {
            "revoked"
        } else {
            "was revoked before"
        };
        text.push_str(&format!("{} {words}\n", hex(&serial)));
        if is_new {
            revoked.entries.push((serial, now));
        }
    }
    let entries = revoked
        .entries
        .into_iter()
        .map(|(serial, time)| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&serial),
            revocation_time: time,
            reason_code: None,
            invalidity_date: None,
        });
    authority.write_revoked(folder, entries.collect(), revoked.number + 1)?;
    text.push_str(&format!(
        "copy {} to the receivers (--tls-crl)\n",
        folder.revoked().display()
    ));
    print(&text);
    Ok(ExitCode::SUCCESS)
}

/// A certificate that was issued.
struct Issued {
    serial: Vec<u8>,
    station: Option<String>,
}

/// Everything that was issued.
fn issued(folder: &Folder) -> Result<Vec<Issued>, KeysError> {
    let path = folder.issued();
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed(&path, source)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|source| failed(&path, source))?.path();
        if path.extension().is_none_or(|kind| kind != "pem") {
            continue;
        }
        let text = read(&path)?;
        let content = || KeysError::Content {
            path: path.clone(),
            problem: "is no certificate in PEM".to_owned(),
        };
        let (_, pem) = x509_parser::pem::parse_x509_pem(text.as_bytes()).map_err(|_| content())?;
        let certificate = authority::parse(&pem).ok_or_else(content)?;
        let id = authority::uris(&certificate)
            .find_map(|uri| uri.parse::<shared::security::identity::StationId>().ok());
        found.push(Issued {
            serial: certificate.raw_serial().to_vec(),
            station: id.map(|id| id.name),
        });
    }
    Ok(found)
}
