//! HMAC SHA-256 and Ed25519 for tokens, and nothing else: what is not offered cannot be chosen by a
//! token.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind, Result};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use ring::hmac;
use ring::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use signature::{Signer, Verifier};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key: &EncodingKey| match algorithm {
        Algorithm::HS256 => Ok(Box::new(Hs256::new(key.as_bytes()))),
        Algorithm::EdDSA => Ok(Box::new(EdDsaSigner::new(key.as_bytes())?)),
        _ => Err(Error::from(ErrorKind::InvalidAlgorithm)),
    },
    verifier_factory: |algorithm, key: &DecodingKey| match algorithm {
        Algorithm::HS256 => Ok(Box::new(Hs256::new(key.try_get_as_bytes()?))),
        Algorithm::EdDSA => Ok(Box::new(EdDsaVerifier(key.try_get_as_bytes()?.to_vec()))),
        _ => Err(Error::from(ErrorKind::InvalidAlgorithm)),
    },
    key_utils: KeyUtils::new_unimplemented(),
};

/// Makes them what tokens are signed and checked with in this process.
pub(super) fn install() {
    // The second time they are there already.
    let _ = PROVIDER.install_default();
}

/// The key pair in a PKCS #8 document, with or without the public half (RFC 5958; openssl leaves it
/// out).
pub(super) fn key_pair(document: &[u8]) -> Option<Ed25519KeyPair> {
    Ed25519KeyPair::from_pkcs8_maybe_unchecked(document).ok()
}

type Verified = std::result::Result<(), signature::Error>;

struct Hs256(hmac::Key);

impl Hs256 {
    fn new(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }
}

impl Signer<Vec<u8>> for Hs256 {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, signature::Error> {
        Ok(hmac::sign(&self.0, message).as_ref().to_vec())
    }
}

impl Verifier<Vec<u8>> for Hs256 {
    fn verify(&self, message: &[u8], mac: &Vec<u8>) -> Verified {
        hmac::verify(&self.0, message, mac).map_err(|_| signature::Error::new())
    }
}

impl JwtSigner for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

impl JwtVerifier for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

struct EdDsaSigner(Ed25519KeyPair);

impl EdDsaSigner {
    fn new(document: &[u8]) -> Result<Self> {
        let pair = key_pair(document).ok_or(ErrorKind::InvalidEddsaKey)?;
        Ok(Self(pair))
    }
}

impl Signer<Vec<u8>> for EdDsaSigner {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, signature::Error> {
        Ok(self.0.sign(message).as_ref().to_vec())
    }
}

impl JwtSigner for EdDsaSigner {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDSA
    }
}

struct EdDsaVerifier(Vec<u8>);

impl Verifier<Vec<u8>> for EdDsaVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Verified {
        let key = UnparsedPublicKey::new(&ED25519, &self.0);
        let verified = key.verify(message, signature);
        verified.map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for EdDsaVerifier {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDSA
    }
}
