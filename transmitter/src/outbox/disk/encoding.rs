//! The encoding of values in the index and of its fields (docs/specs/outbox.md).

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use shared::clock::UnixNanos;
use shared::digest::{Digest, DigestAlgorithm};
use shared::image::{ImageId, Transport};

/// First byte of every value.
const VERSION: u8 = 1;

/// Bytes that are no value of this format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an entry of the index is torn or of another version")]
pub(in crate::outbox) struct Malformed;

/// Puts a value together.
pub(super) struct Packer(Vec<u8>);

impl Packer {
    pub(super) fn new() -> Self {
        Self(vec![VERSION])
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn u128(&mut self, value: u128) {
        self.0.extend(value.to_be_bytes());
    }

    pub(super) fn id(&mut self, id: ImageId) {
        self.0.extend(id.as_u128().to_be_bytes());
    }

    pub(super) fn time(&mut self, time: UnixNanos) {
        self.0.extend(time.0.to_le_bytes());
    }

    /// At most 4 GiB; what is longer is cut.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.u32(length);
        self.0.extend(&bytes[..length as usize]);
    }

    pub(super) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub(super) fn path(&mut self, path: &Path) {
        self.bytes(path.as_os_str().as_bytes());
    }

    pub(super) fn digest(&mut self, digest: &Digest) {
        self.u8(match digest.algorithm() {
            DigestAlgorithm::Xxh3 => 1,
            DigestAlgorithm::Blake3 => 2,
        });
        self.0.extend(digest.as_bytes());
    }

    pub(super) fn transport(&mut self, transport: Transport) {
        self.u8(transport_number(transport));
    }

    pub(super) fn optional<T>(&mut self, value: Option<T>, pack: impl FnOnce(&mut Self, T)) {
        match value {
            None => self.u8(0),
            Some(value) => {
                self.u8(1);
                pack(self, value);
            }
        }
    }
}

/// Takes a value apart.
pub(super) struct Unpacker<'a>(&'a [u8]);

impl<'a> Unpacker<'a> {
    pub(super) fn new(value: &'a [u8]) -> Result<Self, Malformed> {
        match value {
            [VERSION, rest @ ..] => Ok(Self(rest)),
            _ => Err(Malformed),
        }
    }

    /// Nothing may be left.
    pub(super) fn finish(&self) -> Result<(), Malformed> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Malformed)
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64, Malformed> {
        self.array().map(i64::from_le_bytes)
    }

    pub(super) fn u128(&mut self) -> Result<u128, Malformed> {
        self.array().map(u128::from_be_bytes)
    }

    pub(super) fn id(&mut self) -> Result<ImageId, Malformed> {
        ImageId::from_u128(u128::from_be_bytes(self.array()?)).ok_or(Malformed)
    }

    pub(super) fn time(&mut self) -> Result<UnixNanos, Malformed> {
        self.i64().map(UnixNanos)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.u32()?).map_err(|_| Malformed)?;
        self.take(length)
    }

    pub(super) fn text(&mut self) -> Result<String, Malformed> {
        let bytes = self.bytes()?.to_vec();
        String::from_utf8(bytes).map_err(|_| Malformed)
    }

    pub(super) fn path(&mut self) -> Result<PathBuf, Malformed> {
        Ok(OsString::from_vec(self.bytes()?.to_vec()).into())
    }

    pub(super) fn digest(&mut self) -> Result<Digest, Malformed> {
        let algorithm = match self.u8()? {
            1 => DigestAlgorithm::Xxh3,
            2 => DigestAlgorithm::Blake3,
            _ => return Err(Malformed),
        };
        let value = self.take(algorithm.length())?;
        Digest::new(algorithm, value).ok_or(Malformed)
    }

    pub(super) fn transport(&mut self) -> Result<Transport, Malformed> {
        let number = self.u8()?;
        let mut all = Transport::ALL.into_iter();
        all.find(|transport| transport_number(*transport) == number)
            .ok_or(Malformed)
    }

    pub(super) fn optional<T>(
        &mut self,
        unpack: impl FnOnce(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Option<T>, Malformed> {
        match self.u8()? {
            0 => Ok(None),
            1 => unpack(self).map(Some),
            _ => Err(Malformed),
        }
    }
}

/// The number of a transport in the index.
pub(super) fn transport_number(transport: Transport) -> u8 {
    match transport {
        Transport::Grpc => 1,
        Transport::WebSocket => 2,
        Transport::Rest => 3,
    }
}
