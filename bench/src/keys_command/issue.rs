//! Certificates for stations.

use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use shared::security::identity::{Role, StationId};
use shared::telemetry::say;
use time::OffsetDateTime;

use super::authority::{self, Authority, BACKDATED, date, hex, later};
use super::folder::{self, Existing, Folder, Readers, write};
use super::{KeysError, print};
use crate::cli::keys::Issue;

/// What a certificate says.
pub(super) struct Subject {
    pub(super) station: StationId,
    pub(super) names: Vec<String>,
    pub(super) addresses: Vec<IpAddr>,
}

/// Makes a certificate with a new private key.
pub(super) fn issue(folder: &Folder, options: &Issue) -> Result<ExitCode, KeysError> {
    let authority = Authority::open(folder)?;
    let Some(name) = options.station.as_ref().or(options.name.first()) else {
        return Err(KeysError::Usage("which station? give its name".to_owned()));
    };
    let subject = Subject {
        station: station(&authority, options.role, name)?,
        names: options.name.clone(),
        addresses: options.ip.clone(),
    };
    if options.role == Role::Receiver && subject.names.is_empty() && subject.addresses.is_empty() {
        return Err(KeysError::Usage(
            "a receiver is dialled by a name or an address, and its certificate has to have it; give \
             --name or --ip"
                .to_owned(),
        ));
    }
    let own = folder.station(name);
    let key_path = own.join("key.pem");
    if key_path.exists() && !options.force {
        return Err(KeysError::Exists(key_path));
    }
    let now = OffsetDateTime::from(SystemTime::now());
    let until = end(&authority, now, options.valid)?;
    let key = KeyPair::generate()?;
    let signed = sign(&authority, &subject, &key, until)?;
    folder::make(&own)?;
    let existing = Existing::replaced(options.force);
    write(
        &key_path,
        key.serialize_pem().as_bytes(),
        Readers::Owner,
        existing,
    )?;
    keep(folder, &authority, &own, &signed)?;
    print(&format!(
        "{} until {}, number {}\n{}",
        subject.station,
        date(until),
        signed.serial,
        settings(folder, options.role, name)
    ));
    Ok(ExitCode::SUCCESS)
}

fn station(authority: &Authority, role: Role, name: &str) -> Result<StationId, KeysError> {
    if Folder::is_taken(name) {
        let words =
            format!("{name:?} is the name of something else in this folder; choose another");
        return Err(KeysError::Usage(words));
    }
    StationId::new(&authority.trust_domain, role, name).map_err(KeysError::Usage)
}

/// The settings that a station needs, for a shell.
fn settings(folder: &Folder, role: Role, name: &str) -> String {
    let own = folder.station(name);
    let [ca, cert, key] = ["ca.pem", "cert.pem", "key.pem"].map(|file| quoted(&own.join(file)));
    match role {
        Role::Receiver => format!(
            "\n  pantelegraph-receiver --tls-cert {cert} --tls-key {key} \\\n      \
             --tls-client-ca {ca} --tls-crl {}\n",
            quoted(&folder.revoked())
        ),
        // A receiver takes images of a transmitter only under the name in its certificate.
        Role::Transmitter => {
            // Without the sign it would look like a flag.
            let equals = if name.starts_with('-') { '=' } else { ' ' };
            format!(
                "\n  pantelegraph-transmitter --to https://... --name{equals}{} --tls-ca {ca} \\\n      \
                 --tls-cert {cert} --tls-key {key}\n",
                quoted(Path::new(name))
            )
        }
        Role::Reader | Role::Admin | Role::Gateway => {
            format!("\n  curl --cacert {ca} --cert {cert} --key {key} https://...\n")
        }
    }
}

/// As a shell takes it for one word.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    shlex::try_quote(&text).map_or_else(|_| text.clone(), Into::into)
}

/// Until when a certificate is valid: not longer than the CA.
pub(super) fn end(
    authority: &Authority,
    now: OffsetDateTime,
    valid: std::time::Duration,
) -> Result<OffsetDateTime, KeysError> {
    if authority.until <= now {
        return Err(KeysError::Refused(format!(
            "the CA has expired ({}); make a new one with `pantelegraph keys init` in another folder",
            date(authority.until)
        )));
    }
    let until = later(now, valid)?;
    if until > authority.until {
        say(format_args!(
            "pantelegraph keys: not longer than the CA, which is valid until {}",
            date(authority.until)
        ));
    }
    Ok(until.min(authority.until))
}

/// A signed certificate.
pub(super) struct Signed {
    pem: String,
    pub(super) serial: String,
}

pub(super) fn sign(
    authority: &Authority,
    subject: &Subject,
    key: &impl PublicKeyData,
    until: OffsetDateTime,
) -> Result<Signed, KeysError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // Longer common names are against RFC 5280, appendix A.1; nobody goes by them.
    let common: String = subject.station.name.chars().take(64).collect();
    params.distinguished_name.push(DnType::CommonName, common);
    let uri = SanType::URI(subject.station.to_string().as_str().try_into()?);
    params.subject_alt_names.push(uri);
    for name in &subject.names {
        let name = SanType::DnsName(name.as_str().try_into()?);
        params.subject_alt_names.push(name);
    }
    let addresses = subject.addresses.iter().copied();
    params
        .subject_alt_names
        .extend(addresses.map(SanType::IpAddress));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // A station that only dials is nobody whom one could dial.
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if !subject.names.is_empty() || !subject.addresses.is_empty() {
        params
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    params.use_authority_key_identifier_extension = true;
    params.not_before = OffsetDateTime::from(SystemTime::now()) - BACKDATED;
    params.not_after = until;
    let serial = authority::serial()?;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    let certificate = params.signed_by(key, &authority.issuer)?;
    Ok(Signed {
        pem: certificate.pem(),
        serial: hex(&serial),
    })
}

/// Writes a certificate: first among those that were issued, so that what is in use can be revoked.
pub(super) fn keep(
    folder: &Folder,
    authority: &Authority,
    own: &Path,
    signed: &Signed,
) -> Result<(), KeysError> {
    folder::make(&folder.issued())?;
    let issued = folder.issued().join(format!("{}.pem", signed.serial));
    write(&issued, signed.pem.as_bytes(), Readers::All, Existing::Keep)?;
    write(
        &own.join("ca.pem"),
        authority.root.text.as_bytes(),
        Readers::All,
        Existing::Replace,
    )?;
    write(
        &own.join("cert.pem"),
        signed.pem.as_bytes(),
        Readers::All,
        Existing::Replace,
    )
}

/// The address in a certificate.
pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;

    fn printed(dir: &str, role: Role, name: &str) -> Vec<String> {
        let folder = Folder::open(Path::new(dir)).unwrap();
        shlex::split(&settings(&folder, role, name)).unwrap()
    }

    #[test]
    fn what_is_printed_for_a_transmitter_has_its_name() {
        let words = printed("/no where/it's", Role::Transmitter, "cam-1");
        assert_eq!(words[0], "pantelegraph-transmitter");
        let flag = words.iter().position(|word| word == "--name").unwrap();
        assert_eq!(words[flag + 1], "cam-1");
        assert!(
            words.contains(&"/no where/it's/cam-1/key.pem".to_owned()),
            "{words:?}"
        );
        // A name, and no flag.
        let words = printed("/nowhere", Role::Transmitter, "-x");
        assert!(words.contains(&"--name=-x".to_owned()), "{words:?}");
    }

    #[test]
    fn what_is_printed_for_a_receiver_has_what_is_revoked() {
        let words = printed("/nowhere", Role::Receiver, "gw");
        let flag = words.iter().position(|word| word == "--tls-crl").unwrap();
        assert_eq!(words[flag + 1], "/nowhere/revoked.pem");
    }
}
