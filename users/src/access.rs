//! Who may do what, the same over every face.
//!
//! A caller shows a token or a certificate; [`Access`] makes a [`Requester`] of it or says why not. To
//! read and to listen needs the scope `read`, to create and to say something the scope `upload`. The role
//! `admin` is given only by a caller with the scope `admin`, also where nobody is asked who it is.

use std::time::SystemTime;

use http::{HeaderMap, header};
use shared::door::Peer;
use shared::security::access::{Caller, Denied, Scope, Unknown};
use shared::security::live::LivePolicy;
use shared::security::policy::Policy;
use shared::security::rate::{Pace, Rates};
use shared::security::settings::ServerSettings;
use shared::security::tls::Certificate;

use crate::refusal::Refusal;
use crate::user::NewUser;

/// What becomes of callers who show nothing where something is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Anonymous {
    /// They are refused.
    #[default]
    Refused,
    /// They may do all but give the role `admin`.
    Admitted,
}

/// Decides who gets in.
#[derive(Debug, Clone, Default)]
pub struct Access {
    policy: LivePolicy,
    anonymous: Anonymous,
    rates: Rates,
}

impl Access {
    /// With what these settings ask for.
    pub fn new(settings: &ServerSettings, anonymous: Anonymous) -> Self {
        let policy = Policy::new(settings.tokens.clone(), settings.asks_certificates());
        Self {
            policy: LivePolicy::new(policy),
            anonymous,
            rates: Rates::default(),
        }
    }

    /// What is asked of callers, to be changed.
    pub(crate) fn policy(&self) -> &LivePolicy {
        &self.policy
    }

    /// The same, and nobody asks more often than `rates` allow.
    #[must_use]
    pub fn limited(self, rates: Rates) -> Self {
        Self { rates, ..self }
    }

    /// How often `requester`, who is at the other end of this connection, may ask.
    pub fn pace(&self, requester: &Requester, peer: Option<&Peer>) -> Pace {
        // Without a connection there is one caller only, as in a test.
        peer.map_or_else(Pace::default, |peer| {
            self.rates.of(requester.name(), peer.address.ip())
        })
    }

    /// Who makes a request with these headers over a connection that has shown this certificate. A token
    /// that is no good is refused, whoever gets in without one.
    ///
    /// # Errors
    /// When it has not proved who it is, and has to.
    pub fn admit(
        &self,
        headers: &HeaderMap,
        certificate: Option<&Certificate>,
    ) -> Result<Requester, Denied> {
        let policy = self.policy.now();
        if policy.is_open() {
            let shown = headers.contains_key(header::AUTHORIZATION);
            return Ok(Requester::Nobody(match shown {
                true => Nobody::ShowedInVain,
                false => Nobody::Lacks(Unknown::MissingToken),
            }));
        }
        match policy.admit(headers, certificate) {
            Ok(caller) => Ok(Requester::Known(caller)),
            Err(Denied::Unknown(
                missing @ (Unknown::MissingToken | Unknown::MissingCertificate),
            )) if self.anonymous == Anonymous::Admitted => {
                Ok(Requester::Nobody(Nobody::Lacks(missing)))
            }
            Err(denied) => Err(denied),
        }
    }
}

/// Who makes a request: among its extensions once it has been let in.
#[derive(Debug, Clone)]
pub enum Requester {
    /// Who has proved it.
    Known(Caller),
    /// Who need not say it.
    Nobody(Nobody),
}

/// What somebody unknown did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nobody {
    /// It lacks this.
    Lacks(Unknown),
    /// It showed a token that nobody here can check.
    ShowedInVain,
}

impl Requester {
    /// Its name, if it has one.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Known(caller) => caller.name(),
            Self::Nobody(_) => None,
        }
    }

    /// When it has to prove anew who it is.
    pub fn until(&self) -> Option<SystemTime> {
        match self {
            Self::Known(caller) => caller.until(),
            Self::Nobody(_) => None,
        }
    }

    /// Whether it may do this. Who need not say who it is may do everything but give the role `admin`.
    ///
    /// # Errors
    /// When it lacks the scope.
    pub fn may(&self, scope: Scope) -> Result<(), Refusal> {
        match self {
            Self::Known(caller) => Ok(caller.may(scope)?),
            Self::Nobody(_) => Ok(()),
        }
    }

    /// Whether it may create this user.
    ///
    /// # Errors
    /// When it may not, or has not proved that it may.
    pub fn may_create(&self, user: &NewUser) -> Result<(), Refusal> {
        self.may(Scope::Upload)?;
        if !user.is_privileged() {
            return Ok(());
        }
        match self {
            Self::Known(caller) if caller.may(Scope::Admin).is_ok() => Ok(()),
            Self::Known(_) => Err(Refusal::Forbidden(
                "the role admin is given only by callers who have the scope admin",
            )),
            Self::Nobody(Nobody::Lacks(missing)) => Err((*missing).into()),
            Self::Nobody(Nobody::ShowedInVain) => Err(Refusal::Forbidden(
                "this server takes no tokens, so nobody gives the role admin; start it with \
                 --token-key-file",
            )),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;
    use crate::user::Draft;
    use shared::security::Secret;
    use shared::security::tokens::{TokenKey, Tokens};

    const FAR: u64 = 4_000_000_000;

    fn user(role: &str) -> NewUser {
        let draft = Draft {
            name: "Ada".to_owned(),
            email: "ada@example.com".to_owned(),
            age: 36,
            roles: vec![role.to_owned()],
        };
        draft.check().unwrap()
    }

    fn key(byte: u8) -> TokenKey {
        TokenKey::from_secret(Secret::new(vec![byte; 32])).unwrap()
    }

    fn access(anonymous: Anonymous) -> Access {
        let settings = ServerSettings {
            tokens: Some(Tokens::new(vec![key(7)], None)),
            ..ServerSettings::default()
        };
        Access::new(&settings, anonymous)
    }

    fn answer(access: &Access, authorization: Option<&str>, role: &str) -> String {
        let value = authorization.map(|value| (header::AUTHORIZATION, value.parse().unwrap()));
        let headers = HeaderMap::from_iter(value);
        let admitted = access.admit(&headers, None).map_err(Refusal::from);
        match admitted.and_then(|requester| requester.may_create(&user(role))) {
            Ok(()) => "allowed".to_owned(),
            Err(refusal) => format!("{}: {refusal}", refusal.code().name()),
        }
    }

    #[test]
    fn the_role_admin_needs_its_scope() {
        for anonymous in [Anonymous::Refused, Anonymous::Admitted] {
            let access = access(anonymous);
            let with = |scope: &str, expires| {
                let token = key(7).token("ada", scope, expires).unwrap();
                answer(&access, Some(&format!("bearer {token}")), "admin")
            };
            assert_eq!(with("read admin", FAR), "allowed");
            let words = "PERMISSION_DENIED: the role admin is given only by callers who have";
            assert!(with("upload", FAR).starts_with(words));
            assert!(with("read", FAR).starts_with("PERMISSION_DENIED: ada lacks the scope upload"));
            assert_eq!(with("admin", 1), "UNAUTHENTICATED: Token expired");
            let answer = |shown: Option<&str>| answer(&access, shown, "admin");
            assert_eq!(answer(None), "UNAUTHENTICATED: Missing token");
            assert!(answer(Some("Basic x")).starts_with("UNAUTHENTICATED: "));
            assert!(answer(Some("Bearer x.y.z")).starts_with("UNAUTHENTICATED: "));
            let other = key(8).token("ada", "admin", FAR).unwrap();
            let other = answer(Some(&format!("Bearer {other}")));
            assert_eq!(other, "UNAUTHENTICATED: Token signature is wrong");
        }
    }

    #[test]
    fn who_shows_nothing_gets_in_only_where_that_is_said() {
        let refused = answer(&access(Anonymous::Refused), None, "user");
        assert_eq!(refused, "UNAUTHENTICATED: Missing token");
        let access = access(Anonymous::Admitted);
        assert_eq!(answer(&access, None, "user"), "allowed");
        let bad = answer(&access, Some("Bearer x.y.z"), "user");
        assert!(bad.starts_with("UNAUTHENTICATED: "), "{bad}");
    }

    #[test]
    fn a_server_without_a_key_gives_admin_to_nobody() {
        let access = Access::default();
        assert_eq!(answer(&access, None, "user"), "allowed");
        assert_eq!(answer(&access, Some("Bearer x"), "user"), "allowed");
        let shown = answer(&access, Some("Bearer x"), "admin");
        assert!(shown.starts_with("PERMISSION_DENIED: this server takes no tokens"));
        let missing = answer(&access, None, "admin");
        assert_eq!(missing, "UNAUTHENTICATED: Missing token");
    }

    #[test]
    fn keys_are_not_shown() {
        let shown = format!("{:?}", access(Anonymous::Refused));
        assert_eq!(shown.matches("55").count(), 0, "{shown}");
        assert!(!shown.contains("7, 7"), "{shown}");
    }
}
