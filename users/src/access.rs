//! Who may do what.
//!
//! Whoever reaches the service may use it, but for one thing: the role `admin` is given only by a
//! caller whose token says that it may. A token is a JSON Web Token (RFC 7519) signed with HMAC
//! SHA-256, in the metadata or header `authorization: Bearer ...`.

use shared::security::access::{Identity, Scope, Unknown};
use shared::security::tokens::{TokenKey, Tokens};

use crate::refusal::Refusal;
use crate::user::NewUser;

/// Decides what callers may do.
#[derive(Debug, Clone, Default)]
pub struct Access {
    tokens: Option<Tokens>,
}

/// What a caller showed: the value of `authorization`, if there was one.
#[derive(Clone, Copy, Default)]
pub struct Credentials<'a>(pub Option<&'a str>);

impl Access {
    /// With tokens signed by one of `keys`; without a key, nobody is known.
    pub fn new(keys: Vec<TokenKey>) -> Self {
        Self {
            tokens: (!keys.is_empty()).then(|| Tokens::new(keys, None)),
        }
    }

    /// Whether the caller may create this user.
    ///
    /// # Errors
    /// When it needs a token and showed none, a bad one, or one that does not allow it.
    pub fn may_create(&self, credentials: Credentials<'_>, user: &NewUser) -> Result<(), Refusal> {
        if !user.is_privileged() {
            return Ok(());
        }
        if self.identity(credentials)?.scopes.allow(Scope::Admin) {
            return Ok(());
        }
        Err(Refusal::Forbidden(format!(
            "the role admin is given only by callers whose token has the scope {}",
            Scope::Admin
        )))
    }

    fn identity(&self, credentials: Credentials<'_>) -> Result<Identity, Refusal> {
        let shown = credentials.0.ok_or(Unknown::MissingToken)?;
        let Some(tokens) = &self.tokens else {
            return Err(Refusal::Forbidden(
                "this server takes no tokens, so nobody gives the role admin; start it with \
                 --token-key-file"
                    .to_owned(),
            ));
        };
        Ok(tokens.check_header(shown.as_bytes())?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;
    use crate::user::Draft;
    use shared::security::Secret;

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

    fn answer(access: &Access, authorization: Option<&str>) -> String {
        match access.may_create(Credentials(authorization), &user("admin")) {
            Ok(()) => "allowed".to_owned(),
            Err(refusal) => format!("{}: {refusal}", refusal.code().name()),
        }
    }

    #[test]
    fn the_role_admin_needs_a_token_with_its_scope() {
        let key = key(7);
        let access = Access::new(vec![key.clone()]);
        let with = |scope: &str, expires| {
            let token = key.token("ada", scope, expires).unwrap();
            answer(&access, Some(&format!("bearer {token}")))
        };
        assert_eq!(with("read admin", FAR), "allowed");
        assert!(with("read", FAR).starts_with("PERMISSION_DENIED: "));
        assert_eq!(with("admin", 1), "UNAUTHENTICATED: Token expired");
        assert_eq!(answer(&access, None), "UNAUTHENTICATED: Missing token");
        assert!(answer(&access, Some("Basic x")).starts_with("UNAUTHENTICATED: "));
        assert!(answer(&access, Some("Bearer x.y.z")).starts_with("UNAUTHENTICATED: "));
        let other = key(8).token("ada", "admin", FAR).unwrap();
        let other = answer(&access, Some(&format!("Bearer {other}")));
        assert_eq!(other, "UNAUTHENTICATED: Token signature is wrong");
        assert!(access.may_create(Credentials(None), &user("user")).is_ok());
    }

    #[test]
    fn a_server_without_a_key_gives_admin_to_nobody() {
        let access = Access::default();
        assert!(answer(&access, Some("Bearer x")).starts_with("PERMISSION_DENIED: "));
        assert!(answer(&access, None).starts_with("UNAUTHENTICATED: "));
    }

    #[test]
    fn keys_are_not_shown() {
        assert_eq!(
            format!("{:?}", Access::new(vec![key(b'k')]))
                .matches("107")
                .count(),
            0
        );
    }
}
