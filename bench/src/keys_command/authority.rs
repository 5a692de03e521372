//! The CA: who signs.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use ring::rand::{SecureRandom, SystemRandom};
use shared::security::identity::{Role, StationId};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, Pem};

use super::folder::{Existing, Folder, Readers, read, write};
use super::{KeysError, print};
use crate::cli::keys::{Init, TokenAlgorithm};

/// How long before the present a certificate begins to be valid: clocks of devices are slow sometimes.
pub(super) const BACKDATED: Duration = Duration::from_secs(3_600);

/// Who signs, in memory.
pub(super) struct Authority {
    pub(super) issuer: Issuer<'static, KeyPair>,
    pub(super) trust_domain: String,
    /// Until when it can sign.
    pub(super) until: OffsetDateTime,
    /// Its certificate.
    pub(super) pem: String,
}

/// Makes a CA.
pub(super) fn init(folder: &Folder, options: &Init) -> Result<ExitCode, KeysError> {
    // Only its domain is of interest: no station has this name.
    StationId::new(&options.trust_domain, Role::Admin, "x").map_err(KeysError::Request)?;
    folder.make()?;
    let existing = Existing::replaced(options.force);
    if existing == Existing::Keep {
        let mut kept = [folder.authority_key(), folder.token_key()].into_iter();
        if let Some(key) = kept.find(|key| key.exists()) {
            return Err(KeysError::Exists(key));
        }
    }
    let now = OffsetDateTime::from(SystemTime::now());
    let key = KeyPair::generate()?;
    let serial = serial()?;
    let mut params = CertificateParams::default();
    // Two CAs of one domain are told apart by it.
    let name = format!(
        "Pantelegraph CA {} {}",
        options.trust_domain,
        &hex(&serial)[..8]
    );
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let domain = format!("spiffe://{}", options.trust_domain);
    params.subject_alt_names = vec![SanType::URI(domain.as_str().try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now - BACKDATED;
    params.not_after = later(now, options.valid)?;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    let certificate = params.self_signed(&key)?;
    write(
        &folder.authority_key(),
        key.serialize_pem().as_bytes(),
        Readers::Owner,
        existing,
    )?;
    write(
        &folder.authority(),
        certificate.pem().as_bytes(),
        Readers::All,
        Existing::Replace,
    )?;
    let authority = Authority::open(folder)?;
    authority.write_revoked(folder, Vec::new(), 1)?;
    token_keys(folder, options.tokens, existing)?;
    print(&format!(
        "made a CA for spiffe://{} in {}, valid until {}\n\n  {:<28} {}\n  {:<28} {}\n  {:<28} {}\n\n\
         Next: pantelegraph keys issue receiver --name HOST, pantelegraph keys issue transmitter NAME\n",
        options.trust_domain,
        folder.path().display(),
        date(params_until(&authority)),
        folder.authority().display(),
        "trust in it: --tls-ca, --tls-client-ca",
        folder.revoked().display(),
        "what is revoked: --tls-crl of receivers",
        match options.tokens {
            TokenAlgorithm::Eddsa => folder.token_public(),
            TokenAlgorithm::Hs256 => folder.token_key(),
        }
        .display(),
        "checks tokens: --token-key-file of receivers",
    ));
    Ok(ExitCode::SUCCESS)
}

fn params_until(authority: &Authority) -> OffsetDateTime {
    authority.until
}

/// Makes what tokens are signed with.
fn token_keys(
    folder: &Folder,
    algorithm: TokenAlgorithm,
    existing: Existing,
) -> Result<(), KeysError> {
    match algorithm {
        TokenAlgorithm::Eddsa => {
            let key = KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
            write(
                &folder.token_key(),
                key.serialize_pem().as_bytes(),
                Readers::Owner,
                existing,
            )?;
            let public = key.public_key_pem();
            write(
                &folder.token_public(),
                public.as_bytes(),
                Readers::All,
                Existing::Replace,
            )
        }
        TokenAlgorithm::Hs256 => {
            let secret = format!("{}\n", hex(&random::<32>()?));
            // One that an earlier CA left goes with another key.
            let _ = std::fs::remove_file(folder.token_public());
            write(
                &folder.token_key(),
                secret.as_bytes(),
                Readers::Owner,
                existing,
            )
        }
    }
}

impl Authority {
    /// The CA of a folder.
    pub(super) fn open(folder: &Folder) -> Result<Self, KeysError> {
        let path = folder.authority();
        if !path.exists() {
            let path = folder.path().display();
            return Err(KeysError::Request(format!(
                "there is no CA in {path}; make one with `pantelegraph keys init --dir {path}`"
            )));
        }
        let content = |problem: &str| KeysError::Content {
            path: path.clone(),
            problem: problem.to_owned(),
        };
        let pem = read(&path)?;
        let key = KeyPair::from_pem(&read(&folder.authority_key())?)?;
        let (_, parsed) = x509_parser::pem::parse_x509_pem(pem.as_bytes())
            .map_err(|_| content("is no certificate in PEM"))?;
        let certificate = parsed
            .parse_x509()
            .map_err(|_| content("is no certificate"))?;
        let trust_domain = uris(&certificate)
            .find_map(|uri| uri.strip_prefix("spiffe://"))
            .ok_or_else(|| content("names no trust domain (spiffe://DOMAIN)"))?
            .to_owned();
        let until = certificate.validity().not_after.to_datetime();
        drop(parsed);
        Ok(Self {
            issuer: Issuer::from_ca_cert_pem(&pem, key)?,
            trust_domain,
            until,
            pem,
        })
    }

    /// Writes the list of what is revoked.
    pub(super) fn write_revoked(
        &self,
        folder: &Folder,
        revoked: Vec<RevokedCertParams>,
        number: u64,
    ) -> Result<(), KeysError> {
        let now = OffsetDateTime::from(SystemTime::now());
        let list = CertificateRevocationListParams {
            this_update: now - BACKDATED,
            // There is a new one with each revocation; until then this one is right.
            next_update: self.until,
            crl_number: SerialNumber::from_slice(&minimal(number)),
            issuing_distribution_point: None,
            revoked_certs: revoked,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let pem = list.signed_by(&self.issuer)?.pem()?;
        write(
            &folder.revoked(),
            pem.as_bytes(),
            Readers::All,
            Existing::Replace,
        )
    }
}

/// The bytes of a number without zeros before it.
fn minimal(number: u64) -> Vec<u8> {
    let bytes = number.to_be_bytes();
    let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(7);
    bytes[first..].to_vec()
}

/// The URI names in a certificate.
pub(super) fn uris<'a>(certificate: &'a X509Certificate<'_>) -> impl Iterator<Item = &'a str> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map(|names| names.value.general_names.iter());
    names.into_iter().flatten().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    })
}

/// Random bytes.
pub(super) fn random<const N: usize>() -> Result<[u8; N], KeysError> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| KeysError::Random)?;
    Ok(bytes)
}

/// A number for a certificate: positive, and never given twice (RFC 5280, section 4.1.2.2).
pub(super) fn serial() -> Result<[u8; 16], KeysError> {
    let mut bytes = random::<16>()?;
    // The first bit is a sign, and zeros at the beginning would not be written.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(bytes)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A time after `now`.
pub(super) fn later(now: OffsetDateTime, by: Duration) -> Result<OffsetDateTime, KeysError> {
    let by = time::Duration::try_from(by).ok();
    let later = by.and_then(|by| now.checked_add(by));
    later.filter(|time| *time > now).ok_or_else(|| {
        KeysError::Request(
            "--valid must be more than nothing, and end before the year 9999".to_owned(),
        )
    })
}

/// A day for people.
pub(super) fn date(time: OffsetDateTime) -> String {
    let time = time.to_offset(time::UtcOffset::UTC);
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02} UTC",
        time.hour(),
        time.minute()
    )
}

/// A certificate in PEM, taken apart.
pub(super) fn parse(pem: &Pem) -> Option<X509Certificate<'_>> {
    X509Certificate::from_der(&pem.contents)
        .ok()
        .map(|(_, certificate)| certificate)
}
