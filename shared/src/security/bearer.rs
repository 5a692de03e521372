//! The token that a client shows.

use std::path::PathBuf;

use http::HeaderValue;

use super::Secret;

/// Where a client's token comes from.
#[derive(Debug, Clone)]
pub struct Bearer(Source);

#[derive(Debug, Clone)]
enum Source {
    File(PathBuf),
    Value(Secret),
}

impl Bearer {
    /// The token in a file, which is read each time that it is shown.
    ///
    /// # Errors
    /// When there is none in it now.
    pub fn file(path: PathBuf) -> Result<Self, String> {
        let bearer = Self(Source::File(path));
        bearer.header().map(|_| bearer)
    }

    /// This token.
    ///
    /// # Errors
    /// When it is none.
    pub fn value(token: Secret) -> Result<Self, String> {
        header(&token)?;
        Ok(Self(Source::Value(token)))
    }

    /// What is shown as `authorization` (RFC 6750, section 2.1). No log and no table of a compression
    /// holds it.
    ///
    /// # Errors
    /// When the file cannot be read, or there is no token in it.
    pub fn header(&self) -> Result<HeaderValue, String> {
        match &self.0 {
            Source::Value(token) => header(token),
            Source::File(path) => {
                let token = Secret::read(path)?;
                header(&token).map_err(|problem| format!("{}: {problem}", path.display()))
            }
        }
    }
}

fn header(token: &Secret) -> Result<HeaderValue, String> {
    let token = token.reveal();
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte);
    if token.is_empty() || !token.iter().all(is_plain) {
        return Err("is no token: one line of letters, digits and -._~+/= is expected".to_owned());
    }
    let value = [b"Bearer ", token].concat();
    let mut value = HeaderValue::from_bytes(&value).map_err(|error| error.to_string())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_when_it_is_shown_and_seen_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        assert!(Bearer::file(path.clone()).is_err());
        std::fs::write(&path, "aaa.bbb.ccc\n").unwrap();
        let bearer = Bearer::file(path.clone()).unwrap();
        assert_eq!(bearer.header().unwrap(), "Bearer aaa.bbb.ccc");
        std::fs::write(&path, "ddd.eee.fff").unwrap();
        let shown = bearer.header().unwrap();
        assert_eq!(shown, "Bearer ddd.eee.fff");
        assert!(!format!("{shown:?} {bearer:?}").contains("ddd"));
        std::fs::write(&path, "two words").unwrap();
        let problem = bearer.header().unwrap_err();
        assert!(
            problem.contains("is no token") && !problem.contains("words"),
            "{problem}"
        );
    }
}
