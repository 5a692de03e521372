//! New certificates for stations that have one.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use rcgen::{KeyPair, SubjectPublicKeyInfo};
use shared::security::identity::{StationId, check_name};
use shared::telemetry::say;
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;

use super::authority::{self, Authority, Root, date, later};
use super::folder::{Existing, Folder, Readers, failed, read, write};
use super::issue::{Subject, address, end, keep, sign};
use super::revoke::Revoked;
use super::{Doing, KeysError, print};
use crate::cli::keys::Renew;

/// How many names are told to somebody who has given another one.
const NAMES_TOLD: usize = 10;

/// Makes new certificates for stations that have one. What is wrong with one station keeps no other from
/// getting its own.
pub(super) fn renew(folder: &Folder, options: &Renew) -> Result<ExitCode, KeysError> {
    let authority = Authority::open(folder)?;
    let revoked = Revoked::open(folder, &authority.root)?;
    let present = stations(folder)?;
    for name in &options.stations {
        known(folder, name, &present)?;
    }
    let names = match options.all {
        true => &present,
        false => &options.stations,
    };
    let now = OffsetDateTime::from(SystemTime::now());
    let soon = options
        .within
        .map(|within| later(now, within))
        .transpose()?;
    let mut faults = Vec::new();
    let mut wanted = Vec::new();
    for name in names {
        match due(folder, name, options, (&authority.root, &revoked), soon) {
            Ok(present) => wanted.extend(present.map(|present| (name, present))),
            Err(fault) => faults.push((name, fault)),
        }
    }
    if !wanted.is_empty() {
        let until = end(&authority, now, options.valid)?;
        for (name, present) in wanted {
            if let Err(fault) = one(folder, &authority, name, present, options.new_key, until) {
                faults.push((name, fault));
            }
        }
    }
    if options.stations.len() == 1
        && let Some((_, fault)) = faults.pop()
    {
        return Err(fault);
    }
    for (name, fault) in &faults {
        say(format_args!("pantelegraph keys: {name}: {fault}"));
    }
    if faults.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let failed: Vec<_> = faults.iter().map(|(name, _)| name.as_str()).collect();
    Err(KeysError::Refused(format!(
        "{} of {} stations could not be renewed: {}",
        failed.len(),
        names.len(),
        failed.join(", ")
    )))
}

/// Names of all stations that have a certificate.
fn stations(folder: &Folder) -> Result<Vec<String>, KeysError> {
    let fail = |source| failed(folder.path(), Doing::Read, source);
    let mut names = Vec::new();
    for entry in fs::read_dir(folder.path()).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        // Where nobody may look, there is something that cannot be renewed, which should be told.
        let has_one = match entry.path().join("cert.pem").try_exists() {
            Ok(has_one) => has_one,
            Err(_) => entry.path().is_dir(),
        };
        if let Ok(name) = entry.file_name().into_string()
            && has_one
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Whether a station with this name is there.
fn known(folder: &Folder, name: &String, present: &[String]) -> Result<(), KeysError> {
    check_name(name).map_err(KeysError::Usage)?;
    if present.contains(name) {
        return Ok(());
    }
    let told = present.get(..NAMES_TOLD).unwrap_or(present).join(", ");
    let others = match present.len() {
        0 => "nor has any other; `pantelegraph keys issue` makes one".to_owned(),
        1..=NAMES_TOLD => format!("these have: {told}"),
        _ => format!("these have, and others: {told}; `pantelegraph keys show` has all"),
    };
    let path = folder.station(name).join("cert.pem");
    Err(KeysError::Usage(format!(
        "no station {name:?} has a certificate here ({}); {others}",
        path.display()
    )))
}

/// The certificate that a station has, if it is to be renewed.
fn due(
    folder: &Folder,
    name: &str,
    options: &Renew,
    (root, revoked): (&Root, &Revoked),
    soon: Option<OffsetDateTime>,
) -> Result<Option<Present>, KeysError> {
    check_name(name).map_err(KeysError::Refused)?;
    let present = Present::read(&folder.station(name).join("cert.pem"), root)?;
    if present.is_foreign {
        // Whether its key was revoked, the other CA's list said.
        return match options.new_key {
            true => Ok(Some(present)),
            false => Err(KeysError::Refused(format!(
                "{name} has a certificate of another CA, and nobody knows here whether that was revoked; renew it \
                 with --new-key"
            ))),
        };
    }
    if soon.is_some_and(|soon| present.until > soon) {
        return Ok(None);
    }
    if revoked.has(&present.serial) && !options.new_key {
        if options.all {
            say(format_args!(
                "pantelegraph keys: {name} is revoked and stays so"
            ));
            return Ok(None);
        }
        return Err(KeysError::Refused(format!(
            "{name} is revoked, perhaps because its key is known to others; renew it with --new-key"
        )));
    }
    Ok(Some(present))
}

/// Makes a new certificate for a station.
fn one(
    folder: &Folder,
    authority: &Authority,
    name: &str,
    present: Present,
    new_key: bool,
    until: OffsetDateTime,
) -> Result<(), KeysError> {
    let own = folder.station(name);
    let mut subject = present.subject;
    if present.is_foreign {
        let StationId { role, name, .. } = &subject.station;
        subject.station =
            StationId::new(&authority.trust_domain, *role, name).map_err(KeysError::Refused)?;
    }
    let signed = match new_key {
        true => {
            let key = KeyPair::generate()?;
            let signed = sign(authority, &subject, &key, until)?;
            let (path, text) = (own.join("key.pem"), key.serialize_pem());
            write(&path, text.as_bytes(), Readers::Owner, Existing::Replace)?;
            signed
        }
        // The private key may be elsewhere by now, where it should be.
        false => sign(authority, &subject, &present.key, until)?,
    };
    keep(folder, authority, &own, &signed)?;
    print(&format!(
        "{} until {}, number {}\n",
        subject.station,
        date(until),
        signed.serial
    ));
    Ok(())
}

/// The certificate that a station has.
struct Present {
    subject: Subject,
    key: SubjectPublicKeyInfo,
    until: OffsetDateTime,
    serial: Vec<u8>,
    /// Whether another CA has signed it.
    is_foreign: bool,
}

impl Present {
    fn read(path: &Path, root: &Root) -> Result<Self, KeysError> {
        let content = |problem: &str| KeysError::Content {
            path: path.to_owned(),
            problem: problem.to_owned(),
        };
        let text = read(path)?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(text.as_bytes())
            .map_err(|_| content("is no certificate in PEM"))?;
        let certificate = authority::parse(&pem).ok_or_else(|| content("is no certificate"))?;
        let station = authority::uris(&certificate).find_map(|uri| uri.parse().ok());
        let (mut names, mut addresses) = (Vec::<String>::new(), Vec::<IpAddr>::new());
        let all = certificate.subject_alternative_name().ok().flatten();
        for name in all.iter().flat_map(|all| &all.value.general_names) {
            match name {
                GeneralName::DNSName(name) => names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => addresses.extend(address(bytes)),
                _ => {}
            }
        }
        Ok(Self {
            subject: Subject {
                station: station.ok_or_else(|| content("names no station"))?,
                names,
                addresses,
            },
            key: SubjectPublicKeyInfo::from_der(certificate.public_key().raw)?,
            until: certificate.validity().not_after.to_datetime(),
            serial: certificate.raw_serial().to_vec(),
            is_foreign: !root.has_signed(&certificate),
        })
    }
}
