//! `Upload-Checksum`: a sum over the body of one request.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crc_fast::CrcAlgorithm;
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

/// Value of `Tus-Checksum-Algorithm`.
pub(super) const ALGORITHMS: &str = "sha1,sha256,sha512,md5,crc32c";

/// A declared sum, and the one in the making.
pub(super) struct Checksum {
    name: &'static str,
    sum: Sum,
    declared: Vec<u8>,
}

enum Sum {
    Sha1(Sha1),
    Sha256(Sha256),
    Sha512(Sha512),
    Md5(Md5),
    /// Four bytes in network order.
    Crc32c(crc_fast::Digest),
}

impl Checksum {
    /// Reads the value of the header, for example `sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=`.
    ///
    /// # Errors
    /// When the algorithm is not known, or the sum is not one.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (name, base64) = text
            .trim()
            .split_once(' ')
            .ok_or_else(|| "Upload-Checksum is not of the form sha1 BASE64".to_owned())?;
        let (name, sum, length) = match name {
            "sha1" => ("sha1", Sum::Sha1(Sha1::new()), 20),
            "sha256" => ("sha256", Sum::Sha256(Sha256::new()), 32),
            "sha512" => ("sha512", Sum::Sha512(Sha512::new()), 64),
            "md5" => ("md5", Sum::Md5(Md5::new()), 16),
            "crc32c" => {
                let digest = crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi);
                ("crc32c", Sum::Crc32c(digest), 4)
            }
            other => {
                let other: String = other.chars().take(32).collect();
                return Err(format!(
                    "Upload-Checksum: algorithm {other:?} is not known here; use one of {ALGORITHMS}"
                ));
            }
        };
        let declared = STANDARD.decode(base64.trim());
        let declared = declared.map_err(|error| format!("Upload-Checksum: {error}"))?;
        if declared.len() != length {
            let found = declared.len();
            return Err(format!(
                "Upload-Checksum: {name} has {length} bytes, {found} were sent"
            ));
        }
        Ok(Self {
            name,
            sum,
            declared,
        })
    }

    /// Takes the next bytes of the body.
    pub(super) fn update(&mut self, data: &[u8]) {
        match &mut self.sum {
            Sum::Sha1(sum) => sum.update(data),
            Sum::Sha256(sum) => sum.update(data),
            Sum::Sha512(sum) => sum.update(data),
            Sum::Md5(sum) => sum.update(data),
            Sum::Crc32c(sum) => sum.update(data),
        }
    }

    /// Whether the body has the declared sum.
    ///
    /// # Errors
    /// Names both sums.
    pub(super) fn check(self) -> Result<(), String> {
        let found = match self.sum {
            Sum::Sha1(sum) => sum.finalize().to_vec(),
            Sum::Sha256(sum) => sum.finalize().to_vec(),
            Sum::Sha512(sum) => sum.finalize().to_vec(),
            Sum::Md5(sum) => sum.finalize().to_vec(),
            Sum::Crc32c(sum) => (sum.finalize() as u32).to_be_bytes().to_vec(),
        };
        if found == self.declared {
            return Ok(());
        }
        let name = self.name;
        let (found, declared) = (STANDARD.encode(found), STANDARD.encode(self.declared));
        Err(format!(
            "the body has {name} {found}, declared {declared}; none of it was taken, send it again"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(header: &str, body: &[u8]) -> Result<(), String> {
        let mut checksum = Checksum::parse(header)?;
        let (head, tail) = body.split_at(body.len() / 2);
        checksum.update(head);
        checksum.update(tail);
        checksum.check()
    }

    #[test]
    fn every_offered_algorithm_tells_right_from_wrong() {
        // Of the body `hello world`, by coreutils; CRC-32C of `123456789` is in RFC 3720's family
        // of check values (e3069283).
        for (header, body) in [
            ("sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=", "hello world"),
            (
                "sha256 uU0nuZNNPgilLlLX2n2r+sSE7+N6U4DukIj3rOLvzek=",
                "hello world",
            ),
            ("md5 XrY7u+Ae7tCTyyK7j1rNww==", "hello world"),
            ("crc32c 4waSgw==", "123456789"),
        ] {
            assert_eq!(check(header, body.as_bytes()), Ok(()), "{header}");
            let wrong = check(header, b"hello World").unwrap_err();
            assert!(wrong.contains("declared"), "{wrong}");
        }
        let sha512 = format!("sha512 {}", STANDARD.encode(Sha512::digest(b"x")));
        assert_eq!(check(&sha512, b"x"), Ok(()));
        for algorithm in ALGORITHMS.split(',') {
            let error = check(&format!("{algorithm} AAA="), b"").unwrap_err();
            assert!(error.contains("bytes, 2 were sent"), "{error}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for header in ["", "sha1", "sha1 ?", "sha1Kq5s", "crc32 AAAAAA==", "SHA1 x"] {
            assert!(Checksum::parse(header).is_err(), "{header}");
        }
        assert!(
            Checksum::parse("whirlpool AA==")
                .err()
                .is_some_and(|error| error.contains(ALGORITHMS))
        );
    }
}
