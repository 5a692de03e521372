//! Tokens: JSON Web Tokens (RFC 7519) signed with HMAC SHA-256 or Ed25519, given as
//! `authorization: Bearer TOKEN`.
//!
//! A key goes with one algorithm, so that no token can have a public key taken for a secret.

mod claims;
mod signatures;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests;

use std::fmt;
use std::path::Path;
use std::time::SystemTime;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use ring::signature::KeyPair as _;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use serde::{Deserialize, Serialize};

use super::Secret;
use super::access::{Identity, Unknown};
use claims::Claims;

/// Fewest bytes of a secret: as many as the hash has (RFC 7518, section 3.2).
pub const MIN_SECRET: usize = 32;

/// Whom tokens are for when nothing else is set.
pub const AUDIENCE: &str = "pantelegraph";

/// What tokens are signed with, or checked with, or both.
#[derive(Clone)]
pub struct TokenKey {
    algorithm: Algorithm,
    /// The secret, or the private key as PKCS #8.
    signing: Option<Secret>,
    /// The secret, or the 32 bytes of the public key.
    checking: Secret,
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKey({}, ***)", self.algorithm())
    }
}

impl PartialEq for TokenKey {
    fn eq(&self, other: &Self) -> bool {
        self.algorithm == other.algorithm && self.checking.reveal() == other.checking.reveal()
    }
}

/// What stands before the 32 bytes of an Ed25519 key in its `SubjectPublicKeyInfo` (RFC 8410,
/// section 4).
const ED25519_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

impl TokenKey {
    /// The secret with these bytes.
    ///
    /// # Errors
    /// When there are fewer than [`MIN_SECRET`].
    pub fn from_secret(secret: Secret) -> Result<Self, String> {
        let length = secret.reveal().len();
        if length < MIN_SECRET {
            return Err(format!(
                "a key of {length} bytes is too short; make one of {MIN_SECRET} or more, for example with \
                 `openssl rand -hex 32`"
            ));
        }
        Ok(Self {
            algorithm: Algorithm::HS256,
            signing: Some(secret.clone()),
            checking: secret,
        })
    }

    /// The key in a file: an Ed25519 key in PEM, private or public, or else a secret.
    ///
    /// # Errors
    /// When it cannot be read, or is another kind of key. The words name the file.
    pub fn read(path: &Path) -> Result<Self, String> {
        let content = Secret::read(path)?;
        Self::parse(content).map_err(|problem| format!("{}: {problem}", path.display()))
    }

    /// The same for what is in the file.
    ///
    /// # Errors
    /// When it is another kind of key.
    pub fn parse(content: Secret) -> Result<Self, String> {
        let other =
            || "this is not an Ed25519 key; make one with `pantelegraph keys init`".to_owned();
        let bytes = content.reveal();
        if !bytes.starts_with(b"-----BEGIN ") {
            return Self::from_secret(content);
        }
        if let Ok(key) = PrivatePkcs8KeyDer::from_pem_slice(bytes) {
            let document = key.secret_pkcs8_der();
            let pair = signatures::key_pair(document).ok_or_else(other)?;
            return Ok(Self {
                algorithm: Algorithm::EdDSA,
                checking: Secret::new(pair.public_key().as_ref().to_vec()),
                signing: Some(Secret::new(document.to_vec())),
            });
        }
        let key = SubjectPublicKeyInfoDer::from_pem_slice(bytes).map_err(|_| other())?;
        let public = key.strip_prefix(&ED25519_PREFIX).ok_or_else(other)?;
        if public.len() != 32 {
            return Err(other());
        }
        Ok(Self {
            algorithm: Algorithm::EdDSA,
            signing: None,
            checking: Secret::new(public.to_vec()),
        })
    }

    /// The name of its algorithm (RFC 7518; RFC 8037).
    pub fn algorithm(&self) -> &'static str {
        name(self.algorithm)
    }

    /// A token for `subject` with these scopes that expires at `expires`, seconds since 1970.
    ///
    /// # Errors
    /// When this is a public key.
    pub fn token(&self, subject: &str, scope: &str, expires: u64) -> Result<String, String> {
        self.sign(&NewToken {
            subject,
            audience: None,
            scope,
            not_before: None,
            issued: None,
            expires,
        })
    }

    /// A signed token.
    ///
    /// # Errors
    /// When this is a public key.
    pub fn sign(&self, claims: &NewToken<'_>) -> Result<String, String> {
        let Some(key) = &self.signing else {
            return Err("a public key only checks tokens; sign with the private one".to_owned());
        };
        let key = match self.algorithm {
            Algorithm::HS256 => EncodingKey::from_secret(key.reveal()),
            _ => EncodingKey::from_ed_der(key.reveal()),
        };
        signatures::install();
        jsonwebtoken::encode(&Header::new(self.algorithm), claims, &key)
            .map_err(|error| error.to_string())
    }
}

fn name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::HS256 => "HS256",
        _ => "EdDSA",
    }
}

/// What a new token says. Times are seconds since 1970.
#[derive(Debug, Clone, Serialize)]
pub struct NewToken<'a> {
    /// Whose it is.
    #[serde(rename = "sub")]
    pub subject: &'a str,
    /// Whom it is for.
    #[serde(rename = "aud", skip_serializing_if = "Option::is_none")]
    pub audience: Option<&'a str>,
    /// What it allows: words with spaces between them.
    pub scope: &'a str,
    /// From when on it is valid.
    #[serde(rename = "nbf", skip_serializing_if = "Option::is_none")]
    pub not_before: Option<u64>,
    /// When it was made.
    #[serde(rename = "iat", skip_serializing_if = "Option::is_none")]
    pub issued: Option<u64>,
    /// Until when it is valid.
    #[serde(rename = "exp")]
    pub expires: u64,
}

/// Checks tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Tokens {
    keys: Vec<TokenKey>,
    audience: String,
    /// Whether a token must say whom it is for.
    strict: bool,
}

impl Tokens {
    /// Takes tokens that one of these keys signed. A token that says whom it is for must be for
    /// `audience`, or for [`AUDIENCE`] without one; with one it must say so.
    pub fn new(keys: Vec<TokenKey>, audience: Option<String>) -> Self {
        Self {
            keys,
            strict: audience.is_some(),
            audience: audience.unwrap_or_else(|| AUDIENCE.to_owned()),
        }
    }

    /// Who shows the value of `authorization`.
    ///
    /// # Errors
    /// When it is not `Bearer` and a good token.
    pub fn check_header(&self, value: &[u8]) -> Result<Identity, Unknown> {
        let value = std::str::from_utf8(value).map_err(|_| Unknown::NotBearer)?;
        self.check(bearer(value).ok_or(Unknown::NotBearer)?)
    }

    /// Who shows this token.
    ///
    /// # Errors
    /// When it is not good, with the reason.
    pub fn check(&self, token: &str) -> Result<Identity, Unknown> {
        let algorithm = algorithm(token)?;
        let mut checked = Err(Unknown::Algorithm(self.expected()));
        for key in self.keys.iter().filter(|key| key.algorithm() == algorithm) {
            checked = self.check_with(key, token);
            // Another key may have signed it.
            if !matches!(checked, Err(Unknown::Signature)) {
                break;
            }
        }
        checked
    }

    fn expected(&self) -> &'static str {
        match self.keys.as_slice() {
            [first, others @ ..] if others.iter().all(|key| key.algorithm == first.algorithm) => {
                first.algorithm()
            }
            _ => "HS256 or EdDSA",
        }
    }

    fn check_with(&self, key: &TokenKey, token: &str) -> Result<Identity, Unknown> {
        let mut validation = Validation::new(key.algorithm);
        // Times are checked by what reads them.
        validation.validate_exp = false;
        validation.required_spec_claims.clear();
        validation.set_audience(&[&self.audience]);
        if self.strict {
            validation.set_required_spec_claims(&["aud"]);
        }
        let bytes = key.checking.reveal();
        let decoding = match key.algorithm {
            Algorithm::HS256 => DecodingKey::from_secret(bytes),
            _ => DecodingKey::from_ed_der(bytes),
        };
        signatures::install();
        let decoded = jsonwebtoken::decode::<Claims>(token, &decoding, &validation);
        let token = decoded.map_err(|error| match error.kind() {
            ErrorKind::InvalidSignature => Unknown::Signature,
            ErrorKind::InvalidAlgorithm => Unknown::Algorithm(self.expected()),
            ErrorKind::InvalidAudience => Unknown::Audience,
            ErrorKind::MissingRequiredClaim(_) => Unknown::Audience,
            _ => Unknown::Unreadable,
        })?;
        // What it says must be understood (RFC 7515, section 4.1.11), and nothing of it is.
        if token.header.crit.is_some() {
            return Err(Unknown::Critical);
        }
        token.claims.identity(SystemTime::now())
    }
}

/// What a token says it is signed with. The library knows only names that sign, and `none` deserves an
/// answer that tells it from garbage.
fn algorithm(token: &str) -> Result<String, Unknown> {
    #[derive(Deserialize)]
    struct Head {
        alg: String,
    }
    let head = token.split('.').next().unwrap_or_default();
    let head = BASE64_URL_SAFE_NO_PAD
        .decode(head)
        .map_err(|_| Unknown::Unreadable)?;
    let head: Head = serde_json::from_slice(&head).map_err(|_| Unknown::Unreadable)?;
    Ok(head.alg)
}

/// The token of `Bearer TOKEN`; the word in any case (RFC 9110, section 11.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
