//! `Repr-Digest` and `Content-Digest` (RFC 9530) of an upload.
//!
//! Besides the registered `sha-256` and `sha-512`, `xxh3-128` and `blake3` are known; digests of
//! other algorithms are ignored, as the RFC asks.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use sha2::{Digest as _, Sha256, Sha512};
use shared::digest::{Digest, DigestAlgorithm};

/// Digests that the sender of an image declared.
#[derive(Default)]
pub(super) struct Declared {
    /// One that the intake checks.
    pub(super) native: Option<Digest>,
    foreign: Vec<Foreign>,
}

enum Foreign {
    Sha256(Sha256, Vec<u8>),
    Sha512(Sha512, Vec<u8>),
    /// A second digest of a kind that the intake can check only one of.
    Native(shared::digest::Hasher, Digest),
}

impl Declared {
    /// Reads the headers.
    ///
    /// # Errors
    /// When one cannot be read, or a value has the wrong length.
    pub(super) fn from_headers(headers: &HeaderMap) -> Result<Self, String> {
        let mut declared = Self::default();
        for name in ["repr-digest", "content-digest"] {
            for value in headers.get_all(name) {
                let text = value.to_str().map_err(|_| format!("{name} is not ASCII"))?;
                for member in text
                    .split(',')
                    .map(str::trim)
                    .filter(|member| !member.is_empty())
                {
                    declared.add(name, member)?;
                }
            }
        }
        Ok(declared)
    }

    fn add(&mut self, header: &str, member: &str) -> Result<(), String> {
        let malformed =
            || format!("{header}: {member:?} is not of the form sha-256=:BASE64: (RFC 9530)");
        let (key, value) = member.split_once('=').ok_or_else(malformed)?;
        let value = value.trim().split(';').next().unwrap_or_default().trim();
        let base64 = value
            .strip_prefix(':')
            .and_then(|rest| rest.strip_suffix(':'));
        let key = key.trim();
        let known = matches!(key, "sha-256" | "sha-512" | "xxh3-128" | "blake3");
        if !known {
            return Ok(());
        }
        let bytes = base64
            .and_then(|base64| STANDARD.decode(base64).ok())
            .ok_or_else(malformed)?;
        let length = |expected: usize| {
            if bytes.len() == expected {
                return Ok(());
            }
            Err(format!(
                "{header}: {key} has {expected} bytes, {} were sent",
                bytes.len()
            ))
        };
        match key {
            "sha-256" => {
                length(32)?;
                self.foreign.push(Foreign::Sha256(Sha256::new(), bytes));
            }
            "sha-512" => {
                length(64)?;
                self.foreign.push(Foreign::Sha512(Sha512::new(), bytes));
            }
            _ => {
                let algorithm: DigestAlgorithm = key.parse()?;
                length(algorithm.length())?;
                let digest = Digest::new(algorithm, &bytes).ok_or_else(malformed)?;
                match self.native {
                    None => self.native = Some(digest),
                    Some(_) => self
                        .foreign
                        .push(Foreign::Native(algorithm.hasher(), digest)),
                }
            }
        }
        Ok(())
    }

    /// Takes the next bytes of the image.
    pub(super) fn update(&mut self, data: &[u8]) {
        for foreign in &mut self.foreign {
            match foreign {
                Foreign::Sha256(hasher, _) => hasher.update(data),
                Foreign::Sha512(hasher, _) => hasher.update(data),
                Foreign::Native(hasher, _) => hasher.update(data),
            }
        }
    }

    /// Whether the digests that the intake does not check are right.
    ///
    /// # Errors
    /// Names the one that is wrong.
    pub(super) fn check(self) -> Result<(), String> {
        for foreign in self.foreign {
            let (name, found, declared) = match foreign {
                Foreign::Sha256(hasher, declared) => {
                    ("sha-256", hasher.finalize().to_vec(), declared)
                }
                Foreign::Sha512(hasher, declared) => {
                    ("sha-512", hasher.finalize().to_vec(), declared)
                }
                Foreign::Native(hasher, declared) => (
                    declared.algorithm().key(),
                    hasher.finish().as_bytes().to_vec(),
                    declared.as_bytes().to_vec(),
                ),
            };
            if found != declared {
                return Err(format!(
                    "image has digest {name}=:{}:, declared {name}=:{}:",
                    STANDARD.encode(found),
                    STANDARD.encode(declared)
                ));
            }
        }
        Ok(())
    }
}

/// The value of a `Repr-Digest` header for `digest`.
pub(super) fn repr_digest(digest: &Digest) -> String {
    format!(
        "{}=:{}:",
        digest.algorithm(),
        STANDARD.encode(digest.as_bytes())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(value: &str) -> Result<Declared, String> {
        let mut headers = HeaderMap::new();
        headers.insert("repr-digest", value.parse().expect("a header value"));
        Declared::from_headers(&headers)
    }

    fn check(value: &str, data: &[u8]) -> Result<(), String> {
        let mut declared = declared(value)?;
        declared.update(data);
        declared.check()
    }

    // From RFC 9530, appendix D: the digest of `{"hello": "world"}` with a line feed.
    const RFC: &str = "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:";

    #[test]
    fn checks_the_example_of_the_rfc() {
        assert_eq!(check(RFC, b"{\"hello\": \"world\"}\n"), Ok(()));
        assert!(check(RFC, b"{\"hello\": \"World\"}\n").is_err());
    }

    #[test]
    fn ignores_algorithms_it_does_not_know() {
        assert_eq!(check("md5=:AAAA:, unixsum=:AAAA:", b"x"), Ok(()));
        assert!(check(&format!("md5=:AAAA:, {RFC}"), b"x").is_err());
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        assert!(declared("sha-256=RK/0").is_err());
        assert!(declared("sha-256").is_err());
        assert!(declared("sha-256=:AAAA:").is_err());
        assert!(declared("xxh3-128=:AAAA:").is_err());
    }

    #[test]
    fn hands_native_digests_to_the_intake_and_checks_a_second_one_itself() {
        let xxh3 = DigestAlgorithm::Xxh3.digest(b"image");
        let blake3 = DigestAlgorithm::Blake3.digest(b"another");
        let text = format!("{}, {}", repr_digest(&xxh3), repr_digest(&blake3));
        let mut declared = declared(&text).expect("two digests");
        assert_eq!(declared.native, Some(xxh3));
        declared.update(b"image");
        assert!(declared.check().is_err());
    }
}
