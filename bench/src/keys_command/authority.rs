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
use x509_parser::prelude::{CertificateRevocationList, FromDer, Pem};

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
    pub(super) root: Root,
}

/// The certificate of the CA: with it, its signatures are told from others.
pub(super) struct Root {
    /// It, as a file.
    pub(super) text: String,
    pem: Pem,
}

/// Makes a CA.
pub(super) fn init(folder: &Folder, options: &Init) -> Result<ExitCode, KeysError> {
    // Only its domain is of interest: no station has this name.
    StationId::new(&options.trust_domain, Role::Admin, "x").map_err(KeysError::Usage)?;
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
        let root = Root::open(folder)?;
        let key = private(folder, &root)?;
        let certificate = root.certificate().ok_or_else(|| none(folder))?;
        let trust_domain = uris(&certificate)
            .find_map(|uri| uri.strip_prefix("spiffe://"))
            .ok_or_else(|| KeysError::Content {
                path: folder.authority(),
                problem: "names no trust domain (spiffe://DOMAIN)".to_owned(),
            })?
            .to_owned();
        let until = certificate.validity().not_after.to_datetime();
        Ok(Self {
            issuer: Issuer::from_ca_cert_pem(&root.text, key)?,
            trust_domain,
            until,
            root,
        })
    }

    /// Writes the list of what is revoked. Its number is at least `number`, and at least the time in
    /// milliseconds since 1970: it is higher than that of a list that got lost.
    pub(super) fn write_revoked(
        &self,
        folder: &Folder,
        revoked: Vec<RevokedCertParams>,
        number: u64,
    ) -> Result<(), KeysError> {
        let now = OffsetDateTime::from(SystemTime::now());
        let number = number.max(
            (now.unix_timestamp_nanos() / 1_000_000)
                .try_into()
                .unwrap_or(0),
        );
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

impl Root {
    /// That of a folder.
    pub(super) fn open(folder: &Folder) -> Result<Self, KeysError> {
        let path = folder.authority();
        if !path.exists() {
            let path = folder.path().display();
            return Err(KeysError::Refused(format!(
                "there is no CA in {path}; make one with `pantelegraph keys init --dir {path}`"
            )));
        }
        let text = read(&path)?;
        let (_, pem) =
            x509_parser::pem::parse_x509_pem(text.as_bytes()).map_err(|_| none(folder))?;
        let root = Self { text, pem };
        match root.certificate() {
            Some(_) => Ok(root),
            None => Err(none(folder)),
        }
    }

    /// `None` never, as it was looked at when it was opened.
    fn certificate(&self) -> Option<X509Certificate<'_>> {
        parse(&self.pem)
    }

    /// Its number, in hexadecimal digits.
    pub(super) fn serial(&self) -> String {
        let certificate = self.certificate();
        certificate.map_or_else(String::new, |certificate| hex(certificate.raw_serial()))
    }

    /// Whether this CA has signed a certificate, or it is its own.
    pub(super) fn has_signed(&self, certificate: &X509Certificate<'_>) -> bool {
        self.certificate().is_some_and(|root| {
            root.as_raw() == certificate.as_raw()
                || certificate
                    .verify_signature(Some(root.public_key()))
                    .is_ok()
        })
    }

    /// Whether this CA has signed a list of revoked certificates.
    pub(super) fn has_signed_list(&self, list: &CertificateRevocationList<'_>) -> bool {
        self.certificate()
            .is_some_and(|root| list.verify_signature(root.public_key()).is_ok())
    }
}

/// There is something else in the place of the CA's certificate.
fn none(folder: &Folder) -> KeysError {
    KeysError::Content {
        path: folder.authority(),
        problem: "is no certificate in PEM; put it back from a copy, such as that in the folder of a station"
            .to_owned(),
    }
}

/// The private key that goes with the CA's certificate.
pub(super) fn private(folder: &Folder, root: &Root) -> Result<KeyPair, KeysError> {
    let path = folder.authority_key();
    let path = path.display();
    let advice = "put it back from where you keep a copy; without one, `pantelegraph keys init --force` makes a \
                  new CA, and everything that was issued counts no more";
    if !folder.authority_key().exists() {
        return Err(KeysError::Refused(format!("{path} is missing; {advice}")));
    }
    let text = read(&folder.authority_key())?;
    // The library's words may have parts of the key.
    let key = KeyPair::from_pem(&text).map_err(|_| {
        KeysError::Refused(format!(
            "{path} is no private key (PKCS #8 in PEM); {advice}"
        ))
    })?;
    let goes = root
        .certificate()
        .is_some_and(|root| *root.public_key().subject_public_key.data == *key.public_key_raw());
    match goes {
        true => Ok(key),
        false => Err(KeysError::Refused(format!(
            "{path} does not go with ca.pem: nobody would believe what it signs; put the right one of the two \
             back from where you keep a copy; without one, `pantelegraph keys init --force` makes a new CA, and \
             everything that was issued counts no more"
        ))),
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
        KeysError::Usage(
            "a time must be more than nothing, and end before the year 9999".to_owned(),
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
