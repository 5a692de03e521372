//! What must not be shown.

use std::fmt;
use std::io::Read as _;
use std::path::Path;

use secrecy::{ExposeSecret as _, SecretSlice};

/// Bytes that are wiped from memory when they are not needed any more, and that no format string can
/// print: there is no `Display`, and `Debug` hides them.
#[derive(Clone)]
pub struct Secret(SecretSlice<u8>);

/// Longest secret: the largest private key is much shorter.
const LONGEST: u64 = 64 << 10;

impl Secret {
    /// These bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }

    /// The content of a file, without the white space at its end, which editors add.
    ///
    /// # Errors
    /// When it cannot be read, has nothing in it, or far too much. The words name the file.
    pub fn read(path: &Path) -> Result<Self, String> {
        let problem = |words: &dyn fmt::Display| format!("{}: {words}", path.display());
        let file = std::fs::File::open(path).map_err(|error| problem(&error))?;
        let mut bytes = Vec::new();
        file.take(LONGEST + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| problem(&error))?;
        if bytes.len() as u64 > LONGEST {
            return Err(problem(&"is too large for a secret"));
        }
        bytes.truncate(bytes.trim_ascii_end().len());
        if bytes.is_empty() {
            return Err(problem(&"is empty"));
        }
        Ok(Self::new(bytes))
    }

    /// The bytes, for whoever has to work with them.
    pub fn reveal(&self) -> &[u8] {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        #[derive(Debug)]
        #[allow(dead_code, reason = "it is printed")]
        struct Holder {
            key: Secret,
        }
        let key = Secret::new(b"hunter2".to_vec());
        let text = format!("{:?} {:#?}", key.clone(), Holder { key });
        assert!(!text.contains("hunter2") && !text.contains("104"), "{text}");
        assert!(text.contains("***"), "{text}");
    }

    #[test]
    fn files_are_read_without_the_line_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, " a b \r\n\n").unwrap();
        assert_eq!(Secret::read(&path).unwrap().reveal(), b" a b");
        std::fs::write(&path, "\n").unwrap();
        assert!(Secret::read(&path).unwrap_err().ends_with("key: is empty"));
        std::fs::write(&path, vec![b'x'; 70_000]).unwrap();
        assert!(Secret::read(&path).unwrap_err().contains("too large"));
        assert!(Secret::read(&folder.path().join("none")).is_err());
    }
}
