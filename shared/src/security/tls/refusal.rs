//! Why somebody is not let in before the first byte of a request.

use std::io;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

/// Why a handshake came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "their words say it")]
pub enum Refused {
    #[error("the handshake was not finished within {0:?}")]
    TimedOut(Duration),
    #[error("it does not speak TLS")]
    PlainText,
    #[error("it shows no certificate")]
    NoCertificate,
    #[error("its certificate has expired")]
    Expired,
    #[error("its certificate is not valid yet; compare the clocks")]
    NotYetValid,
    #[error("its certificate is revoked")]
    Revoked,
    #[error("its certificate is signed by nobody who is trusted here")]
    UnknownIssuer,
    #[error("no list of revoked certificates is there for the issuer of its certificate")]
    UnknownRevocation,
    #[error("its certificate is not made for this purpose")]
    Purpose,
    #[error("its certificate is wrong: {0}")]
    Certificate(String),
    #[error("it turned this side's certificate down: {0}")]
    TurnedDown(String),
    #[error("it speaks none of the protocols that are spoken here (ALPN)")]
    Protocol,
    #[error("it speaks no TLS that is spoken here, which is 1.3: {0}")]
    Version(String),
    #[error("it went away")]
    Gone,
    #[error("{0}")]
    Other(String),
}

impl Refused {
    /// A word for figures.
    pub fn key(&self) -> &'static str {
        match self {
            Self::TimedOut(_) => "handshake-timeout",
            Self::PlainText => "plain-text",
            Self::NoCertificate => "missing-certificate",
            Self::Expired => "expired-certificate",
            Self::NotYetValid => "early-certificate",
            Self::Revoked => "revoked-certificate",
            Self::UnknownIssuer => "unknown-issuer",
            Self::UnknownRevocation => "unknown-revocation",
            Self::Purpose | Self::Certificate(_) => "bad-certificate",
            Self::TurnedDown(_) => "turned-down",
            Self::Protocol => "alpn",
            Self::Version(_) => "tls-version",
            Self::Gone => "gone",
            Self::Other(_) => "handshake",
        }
    }

    /// What an error of a handshake means.
    pub(super) fn from_io(error: &io::Error) -> Self {
        let inner = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<Error>());
        match (inner, error.kind()) {
            (Some(error), _) => Self::from_rustls(error),
            (
                None,
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe,
            ) => Self::Gone,
            (None, _) => Self::Other(error.to_string()),
        }
    }

    pub(super) fn from_rustls(error: &Error) -> Self {
        match error {
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => Self::PlainText,
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::InvalidCertificate(problem) => Self::from_certificate(problem),
            Error::AlertReceived(alert) => Self::TurnedDown(format!("{alert:?}")),
            Error::NoApplicationProtocol => Self::Protocol,
            Error::PeerIncompatible(problem) => Self::Version(format!("{problem:?}")),
            other => Self::Other(other.to_string()),
        }
    }

    fn from_certificate(problem: &CertificateError) -> Self {
        use CertificateError as E;
        match problem {
            E::Expired | E::ExpiredContext { .. } => Self::Expired,
            E::NotValidYet | E::NotValidYetContext { .. } => Self::NotYetValid,
            E::Revoked => Self::Revoked,
            // A CA of the same name with another key, too.
            E::UnknownIssuer | E::BadSignature => Self::UnknownIssuer,
            E::UnknownRevocationStatus => Self::UnknownRevocation,
            E::InvalidPurpose | E::InvalidPurposeContext { .. } => Self::Purpose,
            other => Self::Certificate(other.to_string()),
        }
    }
}

/// What the other side has against this one, where that is what an error of an encrypted connection
/// says. A server of TLS 1.3 says so only when the client takes its handshake for done, so that it is
/// met in reading.
pub fn turned_down(error: &io::Error) -> Option<String> {
    use AlertDescription as A;
    let inner = error.get_ref()?.downcast_ref::<Error>()?;
    let Error::AlertReceived(alert) = inner else {
        return None;
    };
    let advice = match alert {
        A::CertificateRequired => {
            return Some(
                "it asks for a certificate, and none was shown (CertificateRequired); give --tls-cert and \
                 --tls-key"
                    .to_owned(),
            );
        }
        A::CertificateExpired => "renew it (--tls-cert), and compare the clocks",
        A::CertificateRevoked => "get another one (--tls-cert)",
        // A CA of the same name with another key, too.
        A::UnknownCA | A::DecryptError => "get one from a CA that it trusts (--tls-cert)",
        A::BadCertificate | A::UnsupportedCertificate | A::CertificateUnknown | A::AccessDenied => {
            "its log says why"
        }
        other => return Some(format!("it broke off the encryption: {other:?}")),
    };
    Some(format!(
        "it turned this side's certificate down: {alert:?}; {advice}"
    ))
}
