//! What callers may do.
//!
//! The rules are the same on every transport: an identity may bring images only as itself, and needs
//! the scope for what it asks.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

/// What one may be allowed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Bring something in: images and what is said of them, users.
    Upload,
    /// See what is there.
    Read,
    /// Everything, the other scopes included.
    Admin,
}

impl Scope {
    /// All scopes.
    pub const ALL: [Self; 3] = [Self::Upload, Self::Read, Self::Admin];

    /// The word in a token and in settings.
    pub fn key(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.key())
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|scope| scope.key() == text);
        known.ok_or_else(|| format!("unknown scope {text:?}; use upload, read or admin"))
    }
}

/// A set of scopes.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u8);

impl Scopes {
    /// The empty set.
    pub const NONE: Self = Self(0);

    /// This one too.
    #[must_use]
    pub const fn with(self, scope: Scope) -> Self {
        Self(self.0 | 1 << scope as u8)
    }

    /// Those of words with spaces between them (RFC 8693, section 4.2). Words that mean nothing here
    /// are meant for others.
    pub fn parse(words: &str) -> Self {
        let known = words.split(' ').filter_map(|word| word.parse().ok());
        known.fold(Self::NONE, Self::with)
    }

    /// Whether they allow this.
    pub const fn allow(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u8 | 1 << Scope::Admin as u8) != 0
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has = |scope: &Scope| self.0 & 1 << *scope as u8 != 0;
        let words: Vec<_> = Scope::ALL
            .iter()
            .filter(|scope| has(scope))
            .map(|scope| scope.key())
            .collect();
        f.write_str(&words.join(" "))
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scopes({self})")
    }
}

/// Somebody who has proved who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its name: that in the certificate, or the subject of the token.
    pub name: String,
    /// What it may do.
    pub scopes: Scopes,
    /// Until when the proof holds.
    pub until: Option<SystemTime>,
}

/// Who calls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Caller {
    /// Nobody is asked who it is.
    #[default]
    Anyone,
    /// This one.
    Known(Arc<Identity>),
}

impl Caller {
    /// Its name, if it has one.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Anyone => None,
            Self::Known(identity) => Some(&identity.name),
        }
    }

    /// When it has to prove anew who it is.
    pub fn until(&self) -> Option<SystemTime> {
        match self {
            Self::Anyone => None,
            Self::Known(identity) => identity.until,
        }
    }

    /// Whether it may do this.
    ///
    /// # Errors
    /// When it lacks the scope.
    pub fn may(&self, scope: Scope) -> Result<(), Denied> {
        match self {
            Self::Known(identity) if !identity.scopes.allow(scope) => Err(Denied::Scope {
                name: identity.name.clone(),
                needs: scope,
            }),
            _ => Ok(()),
        }
    }

    /// Whether it may bring something in as `transmitter`: an identity only as itself.
    ///
    /// # Errors
    /// When it lacks the scope, or is another.
    pub fn may_upload_as(&self, transmitter: &str) -> Result<(), Denied> {
        self.may(Scope::Upload)?;
        match self {
            Self::Known(identity)
                if identity.name != transmitter && !identity.scopes.allow(Scope::Admin) =>
            {
                Err(Denied::Other {
                    name: identity.name.clone(),
                    claimed: transmitter.to_owned(),
                })
            }
            _ => Ok(()),
        }
    }
}

/// Why a caller does not get in, or may not do what it asks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It has not proved who it is.
    #[error(transparent)]
    Unknown(#[from] Unknown),
    /// It may not do that.
    #[error("{name} lacks the scope {needs}")]
    Scope {
        /// Who it is.
        name: String,
        /// What it would need.
        needs: Scope,
    },
    /// It speaks for somebody else.
    #[error("{name} may bring in only what is its own, and this says that it is of {claimed:?}")]
    Other {
        /// Who it is.
        name: String,
        /// Who it says to be.
        claimed: String,
    },
}

/// Why somebody counts as unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "their words say it")]
pub enum Unknown {
    #[error("Missing token")]
    MissingToken,
    #[error("Missing client certificate")]
    MissingCertificate,
    #[error("The client certificate names no station (spiffe://DOMAIN/ROLE/NAME)")]
    NamelessCertificate,
    #[error("authorization must be Bearer and a token")]
    NotBearer,
    #[error("authorization is there more than once")]
    SeveralTokens,
    #[error("Token expired")]
    Expired,
    #[error("Token is not valid yet")]
    NotYetValid,
    #[error("Token signature is wrong")]
    Signature,
    #[error("Token must be signed with {0}")]
    Algorithm(&'static str),
    #[error("Token is for another audience")]
    Audience,
    #[error("Token must have an expiry (exp)")]
    NoExpiry,
    #[error("Token must have a subject (sub)")]
    NoSubject,
    #[error("Token has extensions that must be understood")]
    Critical,
    #[error("Token claim {0} must be {1}")]
    Claim(&'static str, &'static str),
    #[error("Token cannot be read")]
    Unreadable,
    #[error("Token is of another station than the client certificate")]
    Mismatch,
}

impl Unknown {
    /// A word for figures.
    pub fn key(self) -> &'static str {
        match self {
            Self::MissingToken => "missing-token",
            Self::MissingCertificate => "missing-certificate",
            Self::NamelessCertificate => "nameless-certificate",
            Self::NotBearer | Self::SeveralTokens | Self::Unreadable => "unreadable-token",
            Self::Expired => "expired-token",
            Self::NotYetValid => "early-token",
            Self::Signature => "token-signature",
            Self::Algorithm(_) => "token-algorithm",
            Self::Audience => "token-audience",
            Self::NoExpiry | Self::NoSubject | Self::Critical | Self::Claim(..) => "token-claims",
            Self::Mismatch => "mismatch",
        }
    }
}

impl Denied {
    /// A word for figures.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Unknown(unknown) => unknown.key(),
            Self::Scope { .. } => "scope",
            Self::Other { .. } => "other-identity",
        }
    }

    /// What HTTP tells a client to show (RFC 6750, section 3).
    pub fn challenge(&self) -> String {
        let realm = "Bearer realm=\"pantelegraph\"";
        match self {
            Self::Unknown(Unknown::MissingToken | Unknown::MissingCertificate) => realm.to_owned(),
            Self::Unknown(unknown) => {
                format!("{realm}, error=\"invalid_token\", error_description=\"{unknown}\"")
            }
            Self::Scope { needs, .. } => {
                format!("{realm}, error=\"insufficient_scope\", scope=\"{needs}\"")
            }
            Self::Other { .. } => format!("{realm}, error=\"insufficient_scope\""),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;

    fn known(name: &str, scopes: &str) -> Caller {
        Caller::Known(Arc::new(Identity {
            name: name.to_owned(),
            scopes: Scopes::parse(scopes),
            until: None,
        }))
    }

    #[test]
    fn scopes_are_words_and_admin_is_all_of_them() {
        let scopes = Scopes::parse("read openid  upload");
        assert_eq!(scopes.to_string(), "upload read");
        assert!(scopes.allow(Scope::Read) && !scopes.allow(Scope::Admin));
        assert!(
            Scope::ALL
                .into_iter()
                .all(|scope| Scopes::parse("admin").allow(scope))
        );
        assert!(
            !Scope::ALL
                .into_iter()
                .any(|scope| Scopes::parse("reader Admin").allow(scope))
        );
    }

    #[test]
    fn an_identity_brings_in_its_own_only() {
        assert_eq!(known("cam-1", "upload").may_upload_as("cam-1"), Ok(()));
        let other = known("cam-1", "upload").may_upload_as("cam-2").unwrap_err();
        assert_eq!(other.key(), "other-identity");
        assert_eq!(known("ada", "admin").may_upload_as("cam-2"), Ok(()));
        assert_eq!(Caller::Anyone.may_upload_as("cam-2"), Ok(()));
        let scope = known("cam-1", "read").may_upload_as("cam-1").unwrap_err();
        assert_eq!(scope.to_string(), "cam-1 lacks the scope upload");
        assert_eq!(
            scope.challenge(),
            "Bearer realm=\"pantelegraph\", error=\"insufficient_scope\", scope=\"upload\""
        );
    }
}
