//! Where the servers are, as a user writes it.

use std::fmt;
use std::str::FromStr;

/// What a target is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `http://host:port`: one server.
    Server(String),
    /// `dns:///host:port`: a server at each address that the name has, now and later.
    Name(String),
}

/// One target or more, separated by commas: `http://10.0.0.1:50051,http://10.0.0.2:50051` or
/// `dns:///users.internal:50051`. Without a scheme it is `http://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Targets(Vec<Target>);

/// A target that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{target:?} is no server: {reason}; write http://host:port or dns:///host:port")]
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
        let (make, authority): (fn(String) -> Self, _) = match text.split_once("://") {
            None => (Self::Server, text),
            Some(("http", authority)) => {
                let authority = authority.strip_suffix('/').unwrap_or(authority);
                (Self::Server, authority)
            }
            Some(("dns", path)) => {
                let name = path.strip_prefix('/');
                (
                    Self::Name,
                    name.ok_or_else(|| invalid("dns: needs three slashes"))?,
                )
            }
            Some(("https", _)) => return Err(invalid("TLS is not supported")),
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
        Ok(make(authority.to_owned()))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(authority) => write!(formatter, "http://{authority}"),
            Self::Name(authority) => write!(formatter, "dns:///{authority}"),
        }
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
        let targets: Targets = "http://10.0.0.1:1/, [::1]:2,dns:///users.internal:3,[::1]:2"
            .parse()
            .unwrap();
        let expected = [
            Target::Server("10.0.0.1:1".into()),
            Target::Server("[::1]:2".into()),
            Target::Name("users.internal:3".into()),
        ];
        assert!(targets.iter().eq(&expected));
        let text = targets.to_string();
        assert_eq!(
            text,
            "http://10.0.0.1:1,http://[::1]:2,dns:///users.internal:3"
        );
        assert_eq!(text.parse(), Ok(targets));
    }

    #[test]
    fn says_what_is_wrong_and_what_to_write() {
        let cases = [
            ("", "not a host"),
            ("http://a", "no port"),
            ("a:1,", "not a host"),
            ("https://a:1", "TLS"),
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
