//! Who a station is, as its certificate says: a SPIFFE id in a URI name,
//! `spiffe://TRUST-DOMAIN/ROLE/NAME`
//! ([SPIFFE-ID](https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md), section 2).

use std::fmt;
use std::str::FromStr;

use super::access::{Scope, Scopes};

/// What a station is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Brings images: its own.
    Transmitter,
    /// Takes images in, or serves users.
    Receiver,
    /// Reads images, reports, figures.
    Reader,
    /// Does everything.
    Admin,
    /// Stands before a receiver and hands on what others say, with their tokens. May do nothing itself.
    Gateway,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 5] = [
        Self::Transmitter,
        Self::Receiver,
        Self::Reader,
        Self::Admin,
        Self::Gateway,
    ];

    /// The word in an id and in settings.
    pub fn key(self) -> &'static str {
        match self {
            Self::Transmitter => "transmitter",
            Self::Receiver => "receiver",
            Self::Reader => "reader",
            Self::Admin => "admin",
            Self::Gateway => "gateway",
        }
    }

    /// What it may do.
    pub fn scopes(self) -> Scopes {
        match self {
            Self::Transmitter => Scopes::NONE.with(Scope::Upload),
            Self::Reader => Scopes::NONE.with(Scope::Read),
            Self::Admin => Scopes::NONE.with(Scope::Admin),
            Self::Receiver | Self::Gateway => Scopes::NONE,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.key())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|role| role.key() == text);
        known.ok_or_else(|| {
            format!("unknown role {text:?}; use transmitter, receiver, reader, admin or gateway")
        })
    }
}

/// A station's id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StationId {
    /// Whose stations these are.
    pub trust_domain: String,
    /// What the station is there for.
    pub role: Role,
    /// Its name, `TRANSMITTER_NAME` for example.
    pub name: String,
}

/// Longest name of a station, as that of a transmitter.
const LONGEST_NAME: usize = 128;
/// Longest trust domain (SPIFFE-ID, section 2.1).
const LONGEST_DOMAIN: usize = 255;

impl StationId {
    /// The id of these three parts.
    ///
    /// # Errors
    /// When the domain or the name has characters that an id cannot have.
    pub fn new(trust_domain: &str, role: Role, name: &str) -> Result<Self, String> {
        let of_domain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
        if trust_domain.is_empty()
            || trust_domain.len() > LONGEST_DOMAIN
            || !trust_domain.bytes().all(of_domain)
        {
            return Err(format!(
                "{trust_domain:?} is not a trust domain; use small letters, digits, dots, hyphens and \
                 underscores, for example cameras.example"
            ));
        }
        check_name(name)?;
        Ok(Self {
            trust_domain: trust_domain.to_owned(),
            role,
            name: name.to_owned(),
        })
    }
}

/// Checks the name of a station: what can stand in a path without escapes.
///
/// # Errors
/// When it has other characters, none, or too many.
pub fn check_name(name: &str) -> Result<(), String> {
    let of_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let is_dots = name == "." || name == "..";
    if name.is_empty() || name.len() > LONGEST_NAME || is_dots || !name.bytes().all(of_name) {
        return Err(format!(
            "{name:?} cannot be the name of a station in a certificate; use 1 to {LONGEST_NAME} letters, \
             digits, dots, hyphens and underscores"
        ));
    }
    Ok(())
}

impl fmt::Display for StationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trust_domain,
            role,
            name,
        } = self;
        write!(f, "spiffe://{trust_domain}/{role}/{name}")
    }
}

impl FromStr for StationId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let other = || format!("{text:?} is not spiffe://TRUST-DOMAIN/ROLE/NAME");
        let rest = text.strip_prefix("spiffe://").ok_or_else(other)?;
        let mut parts = rest.split('/');
        let (Some(domain), Some(role), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(other());
        };
        Self::new(domain, role.parse()?, name)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_written() {
        for role in Role::ALL {
            let id = StationId::new("cameras.example", role, "cam-1").unwrap();
            assert_eq!(
                id.to_string(),
                format!("spiffe://cameras.example/{role}/cam-1")
            );
            assert_eq!(id.to_string().parse(), Ok(id));
        }
    }

    #[test]
    fn whatever_is_no_id_is_refused() {
        for text in [
            "",
            "spiffe://",
            "spiffe://d/transmitter",
            "spiffe://d/transmitter/",
            "spiffe://d/transmitter/a/b",
            "spiffe://d/transmitter/..",
            "spiffe://d/transmitter/a%2Fb",
            "spiffe://d/transmitter/a b",
            "spiffe://D/transmitter/a",
            "spiffe://d:80/transmitter/a",
            "spiffe://d/root/a",
            "https://d/transmitter/a",
            "spiffe://d/transmitter/a?x",
        ] {
            assert!(text.parse::<StationId>().is_err(), "{text}");
        }
        assert!(StationId::new("d", Role::Admin, &"x".repeat(129)).is_err());
    }
}
