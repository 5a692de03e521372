//! What counts no more.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::process::ExitCode;
use std::time::SystemTime;

use rcgen::{RevokedCertParams, SerialNumber};
use shared::security::identity::StationId;
use time::OffsetDateTime;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::authority::{self, Authority, Root, hex};
use super::folder::{self, Existing, Folder, MARK, Readers, failed, read, write};
use super::{Doing, KeysError, print};
use crate::cli::keys::Revoke;

/// Fewest digits that a certificate goes by: what is revoked stays so, also by a slip of the pen.
const FEWEST_DIGITS: usize = 8;

/// What is revoked: what the list says, and what the marks in the folder say.
pub(super) struct Revoked {
    entries: BTreeMap<Vec<u8>, OffsetDateTime>,
    number: u64,
}

/// Why the list of a folder is not to be relied upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    #[error("is missing")]
    Missing,
    #[error("is no list of revoked certificates (X509 CRL)")]
    Damaged,
    #[error("is not signed by this CA (ca.pem)")]
    Foreign,
}

impl Unusable {
    /// What is wrong, and what to do.
    pub(super) fn words(self, folder: &Folder, revoked: &Revoked) -> String {
        let known = match revoked.entries.len() {
            0 => "an empty one: this folder remembers no revocation, and each has to be done again"
                .to_owned(),
            count => format!(
                "one from what this folder remembers, revoked: {count}; any other has to be revoked again"
            ),
        };
        format!(
            "{} {self}; put back the newest copy that a receiver has (--tls-crl). Where none is left, `pantelegraph \
             keys revoke --new-list` makes {known}",
            folder.revoked().display()
        )
    }
}

impl Revoked {
    /// What is revoked in a folder.
    pub(super) fn open(folder: &Folder, root: &Root) -> Result<Self, KeysError> {
        match Self::known(folder, Some(root))? {
            (revoked, None) => Ok(revoked),
            (revoked, Some(unusable)) => Err(KeysError::Refused(unusable.words(folder, &revoked))),
        }
    }

    /// What is known to be revoked, and why the list is of no use, if it is of none.
    pub(super) fn known(
        folder: &Folder,
        root: Option<&Root>,
    ) -> Result<(Self, Option<Unusable>), KeysError> {
        let path = folder.revoked();
        let (mut revoked, unusable) = match fs::read(&path) {
            Ok(content) => Self::parse(&content, root),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                (Self::none(), root.and(Some(Unusable::Missing)))
            }
            Err(source) => return Err(failed(&path, Doing::Read, source)),
        };
        for (serial, time) in marks(folder, root)? {
            revoked.entries.entry(serial).or_insert(time);
        }
        Ok((revoked, unusable))
    }

    fn none() -> Self {
        Self {
            entries: BTreeMap::new(),
            number: 0,
        }
    }

    /// What a list says, be it as it may.
    fn parse(content: &[u8], root: Option<&Root>) -> (Self, Option<Unusable>) {
        let pem = x509_parser::pem::parse_x509_pem(content).ok();
        let list = pem.as_ref().and_then(|(_, pem)| {
            let parsed = CertificateRevocationList::from_der(&pem.contents);
            parsed.ok().map(|(_, list)| list)
        });
        let Some(list) = list else {
            return (Self::none(), Some(Unusable::Damaged));
        };
        let entries = list.iter_revoked_certificates().map(|entry| {
            let time = entry.revocation_date.to_datetime();
            (entry.raw_serial().to_vec(), time)
        });
        let number = list
            .crl_number()
            .and_then(|number| number.to_u64_digits().first().copied());
        let revoked = Self {
            entries: entries.collect(),
            number: number.unwrap_or(1),
        };
        let is_foreign = root.is_some_and(|root| !root.has_signed_list(&list));
        (revoked, is_foreign.then_some(Unusable::Foreign))
    }

    /// Whether the certificate with this number is revoked.
    pub(super) fn has(&self, serial: &[u8]) -> bool {
        self.entries.contains_key(serial)
    }

    /// Writes it all: first the marks, so that nothing is on the list of which the folder does not know.
    fn write(self, folder: &Folder, authority: &Authority) -> Result<(), KeysError> {
        folder::make(&folder.issued())?;
        let of = authority.root.serial();
        for (serial, time) in &self.entries {
            let path = folder.mark(&hex(serial));
            if !path.exists() {
                let text = format!("{} {of}\n", time.unix_timestamp());
                write(&path, text.as_bytes(), Readers::All, Existing::Replace)?;
            }
        }
        let entries = self
            .entries
            .into_iter()
            .map(|(serial, time)| RevokedCertParams {
                serial_number: SerialNumber::from_slice(&serial),
                revocation_time: time,
                reason_code: None,
                invalidity_date: None,
            });
        authority.write_revoked(folder, entries.collect(), self.number.saturating_add(1))
    }
}

/// What the folder tells to be revoked, beside the list: for each certificate a file with the time, in
/// seconds since 1970, and the number of the CA. One that cannot be read counts.
fn marks(
    folder: &Folder,
    root: Option<&Root>,
) -> Result<BTreeMap<Vec<u8>, OffsetDateTime>, KeysError> {
    let now = OffsetDateTime::from(SystemTime::now());
    let root = root.map(Root::serial);
    let mut found = BTreeMap::new();
    for path in folder.issued_files(MARK)? {
        let name = path.file_stem().and_then(|name| name.to_str());
        let Some(serial) = name.and_then(bytes) else {
            continue;
        };
        let content = fs::read_to_string(&path).unwrap_or_default();
        let mut words = content.split_whitespace();
        let time = words.next().and_then(|seconds| {
            let seconds = seconds.parse().ok()?;
            OffsetDateTime::from_unix_timestamp(seconds).ok()
        });
        let of = words.next();
        if root.as_deref().zip(of).is_none_or(|(root, of)| root == of) {
            found.insert(serial, time.unwrap_or(now));
        }
    }
    Ok(found)
}

/// The bytes that these hexadecimal digits stand for.
fn bytes(digits: &str) -> Option<Vec<u8>> {
    if digits.is_empty() || !digits.len().is_multiple_of(2) || !digits.is_ascii() {
        return None;
    }
    let pairs = (0..digits.len()).step_by(2).map(|at| &digits[at..at + 2]);
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).ok())
        .collect()
}

/// Puts certificates on the list.
pub(super) fn revoke(folder: &Folder, options: &Revoke) -> Result<ExitCode, KeysError> {
    let authority = Authority::open(folder)?;
    let (mut revoked, unusable) = Revoked::known(folder, Some(&authority.root))?;
    if let Some(unusable) = unusable
        && !options.new_list
    {
        return Err(KeysError::Refused(unusable.words(folder, &revoked)));
    }
    let issued = issued(folder, &authority.root)?;
    let wanted = wanted(&issued, options)?;
    let mut text = String::new();
    if unusable.is_some() {
        text.push_str(
            "a new list; what else was revoked has to be revoked again before you copy it:\n",
        );
        for serial in revoked.entries.keys() {
            let _ = writeln!(text, "{} is on it", hex(serial));
        }
    }
    let now = OffsetDateTime::from(SystemTime::now());
    for certificate in wanted {
        let words = match revoked.has(&certificate.serial) {
            false => "revoked",
            true => "was revoked before",
        };
        let _ = write!(text, "{} {words}", hex(&certificate.serial));
        if let Some(station) = &certificate.station {
            let _ = write!(text, " ({station})");
        }
        text.push_str(match certificate.is_foreign {
            true => "; another CA signed it, and those who trust that one learn nothing of this\n",
            false => "\n",
        });
        revoked
            .entries
            .entry(certificate.serial.clone())
            .or_insert(now);
    }
    revoked.write(folder, &authority)?;
    let _ = writeln!(
        text,
        "copy {} to the receivers (--tls-crl)",
        folder.revoked().display()
    );
    print(&text);
    Ok(ExitCode::SUCCESS)
}

/// The certificates that are to be revoked.
fn wanted<'a>(issued: &'a [Issued], options: &Revoke) -> Result<Vec<&'a Issued>, KeysError> {
    let mut wanted = BTreeMap::new();
    for name in &options.stations {
        let mut of_station = issued
            .iter()
            .filter(|issued| issued.station.as_ref() == Some(name))
            .peekable();
        if of_station.peek().is_none() {
            let words =
                format!("nothing was issued to {name:?}; `pantelegraph keys show` has all names");
            return Err(KeysError::Usage(words));
        }
        wanted.extend(of_station.map(|issued| (&issued.serial, issued)));
    }
    for given in &options.serial {
        let found = by_number(issued, given).map_err(KeysError::Usage)?;
        wanted.insert(&found.serial, found);
    }
    Ok(wanted.into_values().collect())
}

/// The certificate with this number, or the only one whose number begins so.
fn by_number<'a>(issued: &'a [Issued], given: &str) -> Result<&'a Issued, String> {
    let digits = given.replace(':', "").to_ascii_lowercase();
    if digits.len() < FEWEST_DIGITS {
        return Err(format!(
            "{given:?} is too short for the number of a certificate; give all of its digits, or {FEWEST_DIGITS} and \
             more from its beginning"
        ));
    }
    let begins = |issued: &&Issued| hex(&issued.serial).starts_with(&digits);
    let found: Vec<_> = issued.iter().filter(begins).collect();
    match found.as_slice() {
        [one] => Ok(*one),
        [] => Err(format!(
            "no certificate has the number {digits}; `pantelegraph keys show --all` has them"
        )),
        several => Err(format!(
            "the numbers of {} certificates begin with {digits}; give more digits",
            several.len()
        )),
    }
}

/// A certificate that was issued.
struct Issued {
    serial: Vec<u8>,
    station: Option<String>,
    /// Whether another CA has signed it.
    is_foreign: bool,
}

/// Everything that was issued.
fn issued(folder: &Folder, root: &Root) -> Result<Vec<Issued>, KeysError> {
    let mut found = Vec::new();
    for path in folder.issued_files("pem")? {
        let text = read(&path)?;
        let content = || KeysError::Content {
            path: path.clone(),
            problem: "is no certificate in PEM".to_owned(),
        };
        let (_, pem) = x509_parser::pem::parse_x509_pem(text.as_bytes()).map_err(|_| content())?;
        let certificate = authority::parse(&pem).ok_or_else(content)?;
        let id = authority::uris(&certificate).find_map(|uri| uri.parse::<StationId>().ok());
        found.push(Issued {
            serial: certificate.raw_serial().to_vec(),
            station: id.map(|id| id.name),
            is_foreign: !root.has_signed(&certificate),
        });
    }
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;

    fn with(serial: u128) -> Issued {
        Issued {
            serial: serial.to_be_bytes().to_vec(),
            station: None,
            is_foreign: false,
        }
    }

    #[test]
    fn a_certificate_goes_by_its_number_or_by_a_beginning_that_no_other_has() {
        let issued = [
            with(0x5f9a_3c01_0000_0000_0000_0000_0000_0001),
            with(0x5f9a_3c01_0000_0000_0000_0000_0000_0002),
            with(0x5f9a_3c02_0000_0000_0000_0000_0000_0003),
        ];
        let found = |given| by_number(&issued, given).map(|found| found.serial[15]);
        assert_eq!(found("5f9a3c02"), Ok(3));
        assert_eq!(found("5F:9A:3C:02:00"), Ok(3));
        assert_eq!(found("5f9a3c01000000000000000000000002"), Ok(2));
        for (given, part) in [
            ("5f9a", "too short"),
            ("", "too short"),
            ("5f9a3c01", "2 certificates begin"),
            ("5f9a3c03", "no certificate has"),
            ("5f9a3c020000000000000000000000030", "no certificate has"),
            ("5f9a3c0...", "no certificate has"),
        ] {
            let words = found(given).unwrap_err();
            assert!(words.contains(part), "{given}: {words}");
        }
    }
}
