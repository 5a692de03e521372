//! What a certificate says of its owner.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, Error, KeyUsage};

use crate::security::identity::StationId;

/// What was read in a certificate that has been verified, or is one's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Its owner, if it names exactly one station.
    pub station: Option<StationId>,
    /// Until when it is valid.
    pub until: Option<SystemTime>,
    /// Its number, in hexadecimal digits.
    pub serial: String,
}

impl Certificate {
    /// Reads a certificate; `None` when it is none.
    pub fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let parsed = EndEntityCert::try_from(certificate).ok()?;
        let mut ids = parsed
            .valid_uri_names()
            .filter(|name| name.starts_with("spiffe://"));
        // Exactly one (X509-SVID, section 2): with several, nobody knows who it is.
        let station = match (ids.next(), ids.next()) {
            (Some(id), None) => id.parse().ok(),
            _ => None,
        };
        Some(Self {
            station,
            until: validity(certificate).map(|(_, until)| until),
            serial: hex(parsed.serial()),
        })
    }
}

/// Whether a certificate may be shown to those who dial; `None` when it cannot be read.
pub(super) fn serves(certificate: &CertificateDer<'_>) -> Option<bool> {
    let parsed = EndEntityCert::try_from(certificate).ok()?;
    let (from, _) = validity(certificate)?;
    let from = from.duration_since(UNIX_EPOCH).unwrap_or_default();
    // The purpose is looked at before the issuer, of whom there is none here.
    let verified = parsed.verify_for_usage(
        &[],
        &[],
        &[],
        UnixTime::since_unix_epoch(from),
        KeyUsage::server_auth(),
        None,
        None,
    );
    Some(!matches!(
        verified,
        Err(Error::RequiredEkuNotFoundContext(_))
    ))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Text takes everything.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// From when and until when a certificate is valid. The parser has no words for it but its refusals at
/// the ends of time, which come before it looks at anything else.
pub fn validity(certificate: &CertificateDer<'_>) -> Option<(SystemTime, SystemTime)> {
    let parsed = EndEntityCert::try_from(certificate).ok()?;
    let refusal = |time: UnixTime| {
        let usage = KeyUsage::client_auth();
        let verified = parsed.verify_for_usage(&[], &[], &[], time, usage, None, None);
        verified.err()
    };
    let time = |time: UnixTime| UNIX_EPOCH.checked_add(Duration::from_secs(time.as_secs()));
    let from = match refusal(UnixTime::since_unix_epoch(Duration::ZERO))? {
        Error::CertNotValidYet { not_before, .. } => time(not_before)?,
        _ => UNIX_EPOCH,
    };
    match refusal(UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX)))? {
        Error::CertExpired { not_after, .. } => Some((from, time(not_after)?)),
        _ => None,
    }
}
