//! Where the servers are, as a user writes it.

use std::fmt;
use std::str::FromStr;

/// What a target is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `http://host:port`: one server.
    Server(Authority),
    /// `dns:///host:port`: a server at each address that the name has, now and later.
    Name(Authority),
}

/// Host and port of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// As they were written.
    pub text: String,
    /// Whether connections are encrypted: `https://` and `dns+https:///`.
    pub encrypted: bool,
}

/// One target or more, separated by commas: `http://10.0.0.1:50051,http://10.0.0.2:50051` or
/// `dns:///users.internal:50051`; encrypted with `https://` and `dns+https:///`. Without a scheme it is
/// `http://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Targets(Vec<Target>);

/// A target that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{target:?} is no server: {reason}; write http://host:port or dns:///host:port, encrypted https:// or dns+https:///"
)]
pub struct InvalidTarget {
    /// What was written.
    pub target: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Targets {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Target> {
        self.0.iter()
    }

    /// Whether connections to any of them are encrypted.
    pub fn any_encrypted(&self) -> bool {
        self.iter().any(|target| target.authority().encrypted)
    }
}

impl FromStr for Targets {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        let mut targets = Vec::new();
        for part in text.split(',') {
            let target = part.trim().parse()?;
            if !targets.contains(&target) {
                targets.push(target);
            }
        }
        Ok(Self(targets))
    }
}

impl FromStr for Target {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        let invalid = |reason| InvalidTarget {
            target: text.to_owned(),
            reason,
        };
        let (make, authority): (fn(Authority) -> Self, _) = match text.split_once("://") {
            None => (Self::Server, text),
            Some(("http" | "https", authority)) => {
                let authority = authority.strip_suffix('/').unwrap_or(authority);
                (Self::Server, authority)
            }
            Some(("dns" | "dns+https", path)) => {
                let name = path.strip_prefix('/');
                (
                    Self::Name,
                    name.ok_or_else(|| invalid("dns: needs three slashes"))?,
                )
            }
            Some(_) => return Err(invalid("its scheme is not known")),
        };
        let parsed: http::uri::Authority = authority
            .parse()
            .map_err(|_| invalid("that is not a host and a port"))?;
        if parsed.as_str().contains('@') {
            return Err(invalid("it has a user's name"));
        }
        if parsed.port_u16().is_none_or(|port| port == 0) {
            return Err(invalid("it has no port between 1 and 65535"));
        }
        Ok(make(Authority {
            text: authority.to_owned(),
            encrypted: text.starts_with("https:") || text.starts_with("dns+https:"),
        }))
    }
}

impl Target {
    /// Its host and port.
    pub fn authority(&self) -> &Authority {
        match self {
            Self::Server(authority) | Self::Name(authority) => authority,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Authority { text, encrypted } = self.authority();
        let scheme = match (self, encrypted) {
            (Self::Server(_), false) => "http://",
            (Self::Server(_), true) => "https://",
            (Self::Name(_), false) => "dns:///",
            (Self::Name(_), true) => "dns+https:///",
        };
        write!(formatter, "{scheme}{text}")
    }
}

impl fmt::Display for Targets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, target) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            write!(formatter, "{separator}{target}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_servers_and_names() {
        let list = "http://10.0.0.1:1/, [::1]:2,dns:///users.internal:3,[::1]:2,https://a:4,dns+https:///b:5";
        let targets: Targets = list.parse().unwrap();
        let authority = |text: &str, encrypted| Authority {
            text: text.to_owned(),
            encrypted,
        };
        let expected = [
            Target::Server(authority("10.0.0.1:1", false)),
            Target::Server(authority("[::1]:2", false)),
            Target::Name(authority("users.internal:3", false)),
            Target::Server(authority("a:4", true)),
            Target::Name(authority("b:5", true)),
        ];
        assert!(targets.iter().eq(&expected));
        let text = targets.to_string();
        assert_eq!(
            text,
            "http://10.0.0.1:1,http://[::1]:2,dns:///users.internal:3,https://a:4,dns+https:///b:5"
        );
        assert_eq!(text.parse(), Ok(targets));
    }

    #[test]
    fn says_what_is_wrong_and_what_to_write() {
        let cases = [
            ("", "not a host"),
            ("http://a", "no port"),
            ("a:1,", "not a host"),
            ("https://a", "no port"),
            ("dns+https://a:1", "three slashes"),
            ("dns://a:1", "three slashes"),
            ("ftp://a:1", "scheme"),
            ("http://a:1/path", "not a host"),
            ("http://me@a:1", "user's name"),
            ("http://a:99999", "no port"),
            ("a:0", "no port"),
        ];
        for (text, reason) in cases {
            let error = text.parse::<Targets>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
            assert!(error.contains("write http://host:port"), "{error}");
        }
    }
}
