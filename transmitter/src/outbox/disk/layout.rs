//! Names of files and folders in an outbox (docs/specs/outbox.md).

use std::path::{Path, PathBuf};

use shared::digest::{Digest, DigestAlgorithm};
use shared::image::{ImageId, Transport};

/// Numbers that share a folder, one after another.
const SEGMENT: u64 = 1_024;

/// Folders below `images/`.
pub(super) const SEGMENTS: u64 = 1_024;

/// Where everything in an outbox is.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(super) root: PathBuf,
}

impl Layout {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
        }
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(super) fn mark(&self) -> PathBuf {
        self.root.join("mark")
    }

    pub(super) fn index(&self) -> PathBuf {
        self.root.join("index.redb")
    }

    pub(super) fn new_index(&self) -> PathBuf {
        self.incoming().join("index.redb")
    }

    pub(super) fn copied_index(&self) -> PathBuf {
        self.incoming().join("index.copy")
    }

    pub(super) fn ballast(&self) -> PathBuf {
        self.root.join("ballast")
    }

    pub(super) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub(super) fn incoming(&self) -> PathBuf {
        self.root.join("incoming")
    }

    pub(super) fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    pub(super) fn segment(&self, number: u64) -> PathBuf {
        self.images().join(format!("{number:03x}"))
    }

    pub(super) fn segment_of(&self, sequence: u64) -> PathBuf {
        self.segment(segment_number(sequence))
    }

    pub(super) fn image(&self, name: &FileName) -> PathBuf {
        self.segment_of(name.sequence).join(name.to_string())
    }

    /// Whether a name in the outbox's own folder is one of its own.
    pub(super) fn is_own(name: &str) -> bool {
        [
            "lock",
            "mark",
            "index.redb",
            "ballast",
            "images",
            "incoming",
            "quarantine",
        ]
        .contains(&name)
    }
}

/// The folder of an image.
pub(super) fn segment_number(sequence: u64) -> u64 {
    sequence / SEGMENT % SEGMENTS
}

/// What the name of an image's file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileName {
    pub(crate) sequence: u64,
    pub(crate) id: ImageId,
    pub(crate) digest: Digest,
    pub(crate) transport: Transport,
    /// Key of its mark.
    pub(crate) mark: Option<u128>,
}

fn transport_letter(transport: Transport) -> char {
    match transport {
        Transport::Grpc => 'g',
        Transport::WebSocket => 'w',
        Transport::Rest => 'r',
    }
}

impl std::fmt::Display for FileName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let algorithm = match self.digest.algorithm() {
            DigestAlgorithm::Xxh3 => 'x',
            DigestAlgorithm::Blake3 => 'b',
        };
        write!(f, "{:020}-{}-{algorithm}", self.sequence, self.id)?;
        for byte in self.digest.as_bytes() {
            write!(f, "{byte:02x}")?;
        }
        write!(f, "-{}", transport_letter(self.transport))?;
        match self.mark {
            None => Ok(()),
            Some(mark) => write!(f, "-{mark:032x}"),
        }
    }
}

impl FileName {
    /// Reads a name; `None` when it is not exactly one that an outbox gives.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let sequence: u64 = text.get(..20)?.parse().ok()?;
        let id: ImageId = text.get(21..57)?.parse().ok()?;
        let mut rest = text.get(58..)?.split('-');
        let digest = rest.next()?;
        let digest = match digest.split_at_checked(1)? {
            ("x", hex) => format!("xxh3-128:{hex}").parse().ok()?,
            ("b", hex) => format!("blake3:{hex}").parse().ok()?,
            _ => return None,
        };
        let letter = rest.next()?;
        let transport = Transport::ALL
            .into_iter()
            .find(|transport| letter == transport_letter(*transport).to_string())?;
        let mark = match rest.next() {
            None => None,
            Some(hex) => Some(u128::from_str_radix(hex, 16).ok()?),
        };
        let name = Self {
            sequence,
            id,
            digest,
            transport,
            mark,
        };
        // One image, one spelling.
        (name.to_string() == text && sequence > 0).then_some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn names_read_back(
            sequence in 1u64..,
            id in 1u128..,
            data: Vec<u8>,
            blake: bool,
            transport in 0usize..3,
            mark: Option<u128>,
        ) {
            let algorithm = if blake { DigestAlgorithm::Blake3 } else { DigestAlgorithm::Xxh3 };
            let name = FileName {
                sequence,
                id: ImageId::from_u128(id).expect("not zero"),
                digest: algorithm.digest(&data),
                transport: Transport::ALL[transport],
                mark,
            };
            let text = name.to_string();
            prop_assert!(text.len() < 255);
            prop_assert_eq!(FileName::parse(&text), Some(name));
            prop_assert_eq!(FileName::parse(&text.to_uppercase()), None);
            prop_assert_eq!(FileName::parse(&text[1..]), None);
        }

        #[test]
        fn no_text_is_too_odd(text: String) {
            prop_assert_eq!(FileName::parse(&text), None);
        }
    }

    #[test]
    fn a_million_images_in_a_row_fill_every_folder_with_about_a_thousand() {
        let mut files = vec![0; 1_024];
        for sequence in 5_000..1_005_000 {
            files[usize::try_from(segment_number(sequence)).expect("below 1,024")] += 1;
        }
        assert!(files.iter().all(|files| *files <= 1_024));
    }
}
