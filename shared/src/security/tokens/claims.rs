//! What a token says, read only after its signature has been checked.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::{Number, Value};

use crate::security::access::{Identity, Scopes, Unknown};

/// Claims as they stand in a token, so that one that cannot be read can be named. One that is null is
/// not there; one that is there twice makes the token unreadable (RFC 7519, section 4).
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    sub: Option<Value>,
    exp: Option<Value>,
    nbf: Option<Value>,
    aud: Option<Value>,
    scope: Option<Value>,
}

/// The end of the year 9999, which is as far as dates go. What lies beyond was counted in milliseconds.
const LAST: u64 = 253_402_300_799;

impl Claims {
    /// Who has said this, if it holds at `now`.
    pub(super) fn identity(self, now: SystemTime) -> Result<Identity, Unknown> {
        let until = self.exp.ok_or(Unknown::NoExpiry)?;
        let until = instant("exp", &until, f64::floor)?;
        if until <= now {
            return Err(Unknown::Expired);
        }
        if let Some(from) = self.nbf
            && instant("nbf", &from, f64::ceil)? > now
        {
            return Err(Unknown::NotYetValid);
        }
        let of_names = |aud: Value| match aud {
            Value::String(_) => true,
            Value::Array(names) => names.iter().all(Value::is_string),
            _ => false,
        };
        if !self.aud.is_none_or(of_names) {
            let expected = "text or a list of texts";
            return Err(Unknown::Claim("aud", expected));
        }
        let name = match self.sub {
            None => return Err(Unknown::NoSubject),
            Some(Value::String(name)) if name.is_empty() => return Err(Unknown::NoSubject),
            Some(Value::String(name)) => name,
            Some(_) => return Err(Unknown::Claim("sub", "text")),
        };
        let scopes = match self.scope {
            None => Scopes::NONE,
            Some(Value::String(words)) => Scopes::parse(&words),
            Some(_) => {
                let expected = "one text of words with spaces between them (RFC 8693)";
                return Err(Unknown::Claim("scope", expected));
            }
        };
        Ok(Identity {
            name,
            scopes,
            until: Some(until),
        })
    }
}

/// A `NumericDate` (RFC 7519, section 2): seconds since 1970, perhaps with a fraction, which is rounded
/// to where the token is valid for a shorter time.
fn instant(
    claim: &'static str,
    value: &Value,
    rounded: fn(f64) -> f64,
) -> Result<SystemTime, Unknown> {
    let seconds = match value {
        Value::Number(number) => seconds(number, rounded),
        _ => None,
    };
    let instant = seconds.and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
    let expected = "a number of seconds since 1970, and before the year 10000";
    instant.ok_or(Unknown::Claim(claim, expected))
}

fn seconds(number: &Number, rounded: fn(f64) -> f64) -> Option<u64> {
    if let Some(seconds) = number.as_u64() {
        return Some(seconds).filter(|seconds| *seconds <= LAST);
    }
    let seconds = rounded(number.as_f64()?);
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "what is cast is whole and in these bounds, far below 2^53; no comparison holds for NaN"
    )]
    (0.0..=LAST as f64)
        .contains(&seconds)
        .then_some(seconds as u64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;

    fn at(seconds: f64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs_f64(seconds)
    }

    fn check(claims: &str, now: f64) -> Result<Identity, Unknown> {
        let claims: Claims = serde_json::from_str(claims).unwrap();
        claims.identity(at(now))
    }

    #[test]
    fn fractions_of_seconds_make_a_token_valid_for_a_shorter_time() {
        let token = r#"{"sub": "cam-1", "iat": 99.5, "nbf": 100.25, "exp": 200.75}"#;
        assert_eq!(check(token, 100.5), Err(Unknown::NotYetValid));
        assert_eq!(check(token, 101.0).unwrap().until, Some(at(200.0)));
        assert!(check(token, 199.9).is_ok());
        assert_eq!(check(token, 200.0), Err(Unknown::Expired));
        // As large numbers are written by some.
        let token = r#"{"sub": "cam-1", "exp": 4e9}"#;
        assert_eq!(check(token, 1.0).unwrap().until, Some(at(4e9)));
    }

    #[test]
    fn times_that_are_none_are_refused_by_name() {
        for value in [
            "-1",
            "-0.5e1",
            "\"200\"",
            "true",
            "[200]",
            "1e300",
            "1.8446744073709552e19",
            "18446744073709551615",
            "1790000000000",
            "253402300800",
        ] {
            let exp = check(&format!(r#"{{"sub": "cam-1", "exp": {value}}}"#), 1.0);
            assert!(matches!(exp, Err(Unknown::Claim("exp", _))), "{value}");
            let nbf = format!(r#"{{"sub": "cam-1", "exp": 200, "nbf": {value}}}"#);
            let nbf = check(&nbf, 1.0);
            assert!(matches!(nbf, Err(Unknown::Claim("nbf", _))), "{value}");
        }
        let last = check(r#"{"sub": "cam-1", "exp": 253402300799}"#, 1.0);
        assert!(last.is_ok());
        for wild in ["1e400", "NaN", "-Infinity"] {
            let claims = format!(r#"{{"sub": "cam-1", "exp": {wild}}}"#);
            assert!(serde_json::from_str::<Claims>(&claims).is_err(), "{wild}");
        }
    }

    #[test]
    fn a_claim_of_another_form_is_named_and_its_content_is_not() {
        for (claim, value) in [
            ("scope", r#"["upload"]"#),
            ("scope", "7"),
            ("sub", "7"),
            ("aud", "7"),
            ("aud", r#"["pantelegraph", 7]"#),
        ] {
            let mut claims = serde_json::json!({"sub": "cam-1", "exp": 200});
            claims[claim] = serde_json::from_str(value).unwrap();
            let words = check(&claims.to_string(), 1.0).unwrap_err().to_string();
            assert!(
                words.starts_with(&format!("Token claim {claim} ")),
                "{words}"
            );
            assert!(!words.contains("upload") && !words.contains('7'), "{words}");
            // As RFC 6750, section 3, has it for what follows `error_description`.
            assert!(!words.contains(['"', '\\']), "{words}");
        }
    }

    #[test]
    fn what_is_null_is_not_there() {
        let token = r#"{"sub": "cam-1", "exp": 200, "nbf": null, "aud": null, "scope": null}"#;
        assert_eq!(check(token, 1.0).unwrap().scopes, Scopes::NONE);
        let endless = r#"{"sub": "cam-1", "exp": null}"#;
        assert_eq!(check(endless, 1.0), Err(Unknown::NoExpiry));
        let nobody = r#"{"sub": null, "exp": 200}"#;
        assert_eq!(check(nobody, 1.0), Err(Unknown::NoSubject));
        let twice = r#"{"sub": "cam-1", "exp": 200, "exp": 300}"#;
        assert!(serde_json::from_str::<Claims>(twice).is_err());
    }
}
