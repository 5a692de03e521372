//! Which pages may call from a browser (CORS).

use std::str::FromStr;

/// An origin that is let in: `https://app.example`, `http://localhost:*` for any port, or `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(Pattern);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Any,
    Exact(String),
    /// Scheme and host; any port, or none.
    AnyPort(String),
}

impl Origin {
    /// Whether a page of `origin` is let in.
    pub fn admits(&self, origin: &str) -> bool {
        match &self.0 {
            Pattern::Any => true,
            Pattern::Exact(exact) => origin.eq_ignore_ascii_case(exact),
            Pattern::AnyPort(host) => {
                let Some((start, rest)) = origin.split_at_checked(host.len()) else {
                    return false;
                };
                let is_port = |rest: &str| {
                    rest.strip_prefix(':')
                        .is_some_and(|port| port.parse::<u16>().is_ok())
                };
                start.eq_ignore_ascii_case(host) && (rest.is_empty() || is_port(rest))
            }
        }
    }
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self(Pattern::Any));
        }
        let wrong = || {
            format!(
                "{text:?} is no origin; write for example https://app.example or http://localhost:*"
            )
        };
        let (host, any_port) = match text.strip_suffix(":*") {
            Some(host) => (host, true),
            None => (text, false),
        };
        let url = url::Url::parse(host).map_err(|_| wrong())?;
        let is_web = matches!(url.scheme(), "http" | "https");
        let rest = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        let is_bare = !host.ends_with('/') && url.username().is_empty() && url.password().is_none();
        if !is_web || !rest || !is_bare || (any_port && url.port().is_some()) {
            return Err(wrong());
        }
        let origin = host.to_owned();
        Ok(Self(match any_port {
            true => Pattern::AnyPort(origin),
            false => Pattern::Exact(origin),
        }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;

    #[test]
    fn origins_admit_what_they_say_and_no_more() {
        let admits = |origin: &str, page: &str| origin.parse::<Origin>().unwrap().admits(page);
        assert!(admits("https://app.example", "https://app.example"));
        assert!(!admits("https://app.example", "https://app.example:8443"));
        assert!(!admits("https://app.example", "https://app.example.evil"));
        assert!(!admits("https://app.example", "http://app.example"));
        assert!(admits("http://localhost:*", "http://localhost:5173"));
        assert!(admits("http://localhost:*", "http://localhost"));
        assert!(!admits("http://localhost:*", "http://localhost.evil"));
        assert!(!admits("http://localhost:*", "http://localhost:80.evil"));
        assert!(!admits("http://localhost:*", "http://localhostevil:80"));
        assert!(!admits("http://localhost:*", "null"));
        assert!(admits("*", "null"));
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for text in [
            "",
            "localhost",
            "ftp://a",
            "http://a/",
            "http://a/b",
            "http://u@a",
            "http://a:1:*",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }
}
