//! Who may do what.
//!
//! Whoever reaches the service may use it, but for one thing: the role `admin` is given only by a
//! caller whose token says that it may. A token is a JSON Web Token (RFC 7519) signed with HMAC
//! SHA-256, in the metadata or header `authorization: Bearer ...`.

mod hmac_sha256;

use std::fmt;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::refusal::Refusal;
use crate::user::NewUser;

/// The scope that lets its bearer give the role `admin`.
pub const ADMIN_SCOPE: &str = "admin";
/// Fewest bytes of a key: as many as the hash has (RFC 7518, section 3.2).
pub const MIN_KEY: usize = 32;

/// What tokens are signed with. Never shown.
#[derive(Clone)]
pub struct TokenKey(Vec<u8>);

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(..)")
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    #[serde(default)]
    sub: String,
    /// Seconds since 1970. Always there: it is checked before anything is read.
    #[serde(default)]
    exp: u64,
    /// Words with spaces between them (RFC 8693, section 4.2).
    #[serde(default)]
    scope: String,
}

impl TokenKey {
    /// The key with these bytes.
    ///
    /// # Errors
    /// When there are fewer than [`MIN_KEY`].
    pub fn new(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() < MIN_KEY {
            return Err(format!(
                "a key of {} bytes is too short; make one of {MIN_KEY} or more, for example with \
                 `openssl rand -hex 32`",
                bytes.len()
            ));
        }
        Ok(Self(bytes.to_vec()))
    }

    /// A token for `subject` with these scopes that expires at `expires`, seconds since 1970.
    pub fn token(&self, subject: &str, scope: &str, expires: u64) -> String {
        let claims = Claims {
            sub: subject.to_owned(),
            exp: expires,
            scope: scope.to_owned(),
        };
        let key = EncodingKey::from_secret(&self.0);
        hmac_sha256::install();
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)
            .expect("text and a number can be written as JSON")
    }
}

/// Decides what callers may do.
#[derive(Debug, Clone, Default)]
pub struct Access {
    key: Option<TokenKey>,
}

/// What a caller showed: the value of `authorization`, if there was one.
#[derive(Clone, Copy, Default)]
pub struct Credentials<'a>(pub Option<&'a str>);

impl Access {
    /// With tokens signed by `key`; without a key, nobody is known.
    pub fn new(key: Option<TokenKey>) -> Self {
        Self { key }
    }

    /// Whether the caller may create this user.
    ///
    /// # Errors
    /// When it needs a token and showed none, a bad one, or one that does not allow it.
    pub fn may_create(&self, credentials: Credentials<'_>, user: &NewUser) -> Result<(), Refusal> {
        if !user.is_privileged() {
            return Ok(());
        }
        let scope = self.scope(credentials)?;
        if scope.split(' ').any(|word| word == ADMIN_SCOPE) {
            return Ok(());
        }
        Err(Refusal::Forbidden(format!(
            "the role admin is given only by callers whose token has the scope {ADMIN_SCOPE}"
        )))
    }

    fn scope(&self, credentials: Credentials<'_>) -> Result<String, Refusal> {
        let token = match credentials.0 {
            None => return Err(Refusal::Unauthenticated("Missing token")),
            Some(value) => bearer(value).ok_or(Refusal::Unauthenticated(
                "authorization must be Bearer and a token",
            ))?,
        };
        let Some(key) = &self.key else {
            return Err(Refusal::Forbidden(
                "this server takes no tokens, so nobody gives the role admin; start it with \
                 --token-key-file"
                    .to_owned(),
            ));
        };
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = 0;
        validation.validate_nbf = true;
        let key = DecodingKey::from_secret(&key.0);
        hmac_sha256::install();
        let words = match jsonwebtoken::decode::<Claims>(token, &key, &validation) {
            // What it says must be understood (RFC 7515, section 4.1.11), and nothing of it is.
            Ok(token) if token.header.crit.is_some() => {
                "Token has extensions that must be understood"
            }
            Ok(token) => return Ok(token.claims.scope),
            Err(error) => match error.kind() {
                ErrorKind::ExpiredSignature => "Token expired",
                ErrorKind::InvalidSignature => "Token signature is wrong",
                ErrorKind::InvalidAlgorithm => "Token must be signed with HS256",
                ErrorKind::ImmatureSignature => "Token is not valid yet",
                ErrorKind::MissingRequiredClaim(_) => "Token must have an expiry (exp)",
                _ => "Token cannot be read",
            },
        };
        Err(Refusal::Unauthenticated(words))
    }
}

/// The token of `Bearer TOKEN`; the word in any case (RFC 9110, section 11.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;
    use crate::user::Draft;

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

    fn answer(access: &Access, authorization: Option<&str>) -> String {
        match access.may_create(Credentials(authorization), &user("admin")) {
            Ok(()) => "allowed".to_owned(),
            Err(refusal) => format!("{}: {refusal}", refusal.code().name()),
        }
    }

    #[test]
    fn the_role_admin_needs_a_token_with_its_scope() {
        let key = TokenKey::new(&[7; 32]).unwrap();
        let access = Access::new(Some(key.clone()));
        let with = |scope: &str, expires| {
            let token = key.token("ada", scope, expires);
            answer(&access, Some(&format!("bearer {token}")))
        };
        assert_eq!(with("read admin", FAR), "allowed");
        assert!(with("read", FAR).starts_with("PERMISSION_DENIED: "));
        assert_eq!(with("admin", 1), "UNAUTHENTICATED: Token expired");
        assert_eq!(answer(&access, None), "UNAUTHENTICATED: Missing token");
        assert!(answer(&access, Some("Basic x")).starts_with("UNAUTHENTICATED: "));
        assert!(answer(&access, Some("Bearer x.y.z")).starts_with("UNAUTHENTICATED: "));
        let other = TokenKey::new(&[8; 32]).unwrap().token("ada", "admin", FAR);
        let other = answer(&access, Some(&format!("Bearer {other}")));
        assert_eq!(other, "UNAUTHENTICATED: Token signature is wrong");
        assert!(access.may_create(Credentials(None), &user("user")).is_ok());
    }

    #[test]
    fn a_token_without_a_signature_is_none() {
        // {"alg":"none"} . {"sub":"ada","exp":4000000000,"scope":"admin"} .
        let token =
            "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZGEiLCJleHAiOjQwMDAwMDAwMDAsInNjb3BlIjoiYWRtaW4ifQ.";
        let access = Access::new(Some(TokenKey::new(&[7; 32]).unwrap()));
        let answer = answer(&access, Some(&format!("Bearer {token}")));
        assert!(answer.starts_with("UNAUTHENTICATED: "), "{answer}");
    }

    #[test]
    fn tokens_that_are_not_valid_yet_or_never_end_are_refused() {
        let key = TokenKey::new(&[7; 32]).unwrap();
        let access = Access::new(Some(key.clone()));
        hmac_sha256::install();
        let with = |header: &Header, claims: serde_json::Value| {
            let signed = EncodingKey::from_secret(&key.0);
            let token = jsonwebtoken::encode(header, &claims, &signed).unwrap();
            answer(&access, Some(&format!("Bearer {token}")))
        };
        let header = Header::new(Algorithm::HS256);
        let claims = |more: serde_json::Value| {
            let mut claims = serde_json::json!({"sub": "ada", "scope": "admin"});
            let more = more.as_object().unwrap().clone();
            claims.as_object_mut().unwrap().extend(more);
            claims
        };
        let good = claims(serde_json::json!({ "exp": FAR }));
        assert_eq!(with(&header, good.clone()), "allowed");
        let early = claims(serde_json::json!({ "exp": FAR, "nbf": FAR - 1 }));
        assert_eq!(
            with(&header, early),
            "UNAUTHENTICATED: Token is not valid yet"
        );
        let endless = claims(serde_json::json!({}));
        assert_eq!(
            with(&header, endless),
            "UNAUTHENTICATED: Token must have an expiry (exp)"
        );
        let critical = Header {
            crit: Some(vec!["more".to_owned()]),
            ..header
        };
        assert!(with(&critical, good).starts_with("UNAUTHENTICATED: "));
    }

    #[test]
    fn a_server_without_a_key_gives_admin_to_nobody() {
        let access = Access::default();
        assert!(answer(&access, Some("Bearer x")).starts_with("PERMISSION_DENIED: "));
        assert!(answer(&access, None).starts_with("UNAUTHENTICATED: "));
    }

    #[test]
    fn keys_are_long_and_not_shown() {
        assert!(TokenKey::new(&[1; 31]).is_err());
        let key = TokenKey::new(&[b'k'; 32]).unwrap();
        assert_eq!(
            format!("{:?}", Access::new(Some(key))),
            "Access { key: Some(TokenKey(..)) }"
        );
    }
}
