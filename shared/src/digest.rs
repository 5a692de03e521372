//! Digests of whole images.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How an image's digest is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DigestAlgorithm {
    /// XXH3 with 128 bits, seed 0: finds every accident, at memory speed. Not against forgery.
    #[default]
    Xxh3,
    /// BLAKE3 with 256 bits: tamper evidence and content addressing.
    Blake3,
}

impl DigestAlgorithm {
    /// The word in settings, JSON and `Repr-Digest`: `xxh3-128` or `blake3`.
    pub fn key(self) -> &'static str {
        match self {
            Self::Xxh3 => "xxh3-128",
            Self::Blake3 => "blake3",
        }
    }

    /// Length of the digest in bytes.
    pub fn length(self) -> usize {
        match self {
            Self::Xxh3 => 16,
            Self::Blake3 => 32,
        }
    }

    /// Starts a digest.
    pub fn hasher(self) -> Hasher {
        match self {
            Self::Xxh3 => Hasher(State::Xxh3(Box::new(twox_hash::XxHash3_128::new()))),
            Self::Blake3 => Hasher(State::Blake3(Box::new(blake3::Hasher::new()))),
        }
    }

    /// The digest of `data`.
    pub fn digest(self, data: &[u8]) -> Digest {
        let mut hasher = self.hasher();
        hasher.update(data);
        hasher.finish()
    }
}

impl fmt::Display for DigestAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.key())
    }
}

impl FromStr for DigestAlgorithm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "xxh3-128" | "xxh3" => Ok(Self::Xxh3),
            "blake3" => Ok(Self::Blake3),
            _ => Err(format!("unknown digest {text:?}; use xxh3-128 or blake3")),
        }
    }
}

/// A digest in the making; fed with the image's bytes in order. Cloning it is a checkpoint.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Xxh3(Box<twox_hash::XxHash3_128>),
    Blake3(Box<blake3::Hasher>),
}

impl Hasher {
    /// Takes the next bytes.
    pub fn update(&mut self, data: &[u8]) {
        match &mut self.0 {
            State::Xxh3(state) => state.write(data),
            State::Blake3(state) => {
                state.update(data);
            }
        }
    }

    /// The digest of all bytes so far.
    pub fn finish(&self) -> Digest {
        match &self.0 {
            State::Xxh3(state) => Digest::Xxh3(state.finish_128().to_be_bytes()),
            State::Blake3(state) => Digest::Blake3(*state.finalize().as_bytes()),
        }
    }

    /// The algorithm that this digest is made with.
    pub fn algorithm(&self) -> DigestAlgorithm {
        match &self.0 {
            State::Xxh3(_) => DigestAlgorithm::Xxh3,
            State::Blake3(_) => DigestAlgorithm::Blake3,
        }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hasher({})", self.algorithm())
    }
}

/// The digest of an image. As text and JSON: `xxh3-128:2d06800538d394c2...` in lower-case hex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Digest {
    /// XXH3-128 in canonical (big-endian) order.
    Xxh3([u8; 16]),
    /// BLAKE3.
    Blake3([u8; 32]),
}

impl Digest {
    /// The digest with these bytes, `None` when their number is wrong.
    pub fn new(algorithm: DigestAlgorithm, value: &[u8]) -> Option<Self> {
        match algorithm {
            DigestAlgorithm::Xxh3 => value.try_into().ok().map(Self::Xxh3),
            DigestAlgorithm::Blake3 => value.try_into().ok().map(Self::Blake3),
        }
    }

    /// How it was made.
    pub fn algorithm(&self) -> DigestAlgorithm {
        match self {
            Self::Xxh3(_) => DigestAlgorithm::Xxh3,
            Self::Blake3(_) => DigestAlgorithm::Blake3,
        }
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Xxh3(value) => value,
            Self::Blake3(value) => value,
        }
    }

    /// Its bytes, for a message.
    pub fn to_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(self.as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.algorithm())?;
        self.as_bytes()
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || format!("digest {text:?} is not of the form xxh3-128:HEX or blake3:HEX");
        let (algorithm, hex) = text.split_once(':').ok_or_else(invalid)?;
        let algorithm: DigestAlgorithm = algorithm.parse()?;
        if hex.len() != algorithm.length() * 2 || !hex.is_ascii() {
            return Err(invalid());
        }
        let value: Option<Vec<u8>> = (0..hex.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).ok())
            .collect();
        value
            .and_then(|value| Self::new(algorithm, &value))
            .ok_or_else(invalid)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_published_test_vectors() {
        // XXH3_128 of no bytes, seed 0 (xxHash, tests/sanity_test_vectors.h) and BLAKE3 of no bytes
        // (BLAKE3, test_vectors.json).
        assert_eq!(
            DigestAlgorithm::Xxh3.digest(b"").to_string(),
            "xxh3-128:99aa06d3014798d86001c324468d497f"
        );
        assert_eq!(
            DigestAlgorithm::Blake3.digest(b"").to_string(),
            "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
    }

    #[test]
    fn text_reads_back() {
        for algorithm in [DigestAlgorithm::Xxh3, DigestAlgorithm::Blake3] {
            let digest = algorithm.digest(b"pantelegraph");
            assert_eq!(digest.to_string().parse(), Ok(digest));
        }
        assert!("xxh3-128:00".parse::<Digest>().is_err());
        assert!("md5:00".parse::<Digest>().is_err());
    }
}
