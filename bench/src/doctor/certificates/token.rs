//! What this side's token says. Nobody here can verify it, which is the receiver's business.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::HeaderValue;
use serde::Deserialize;
use shared::security::access::{Scope, Scopes};

use super::{GROUP, WARN_WITHIN, days, until};
use crate::doctor::{Finding, Level};

/// The claims of a JSON Web Token.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Claims {
    sub: Option<String>,
    /// Seconds, perhaps with a fraction (RFC 7519, section 2).
    exp: Option<f64>,
    nbf: Option<f64>,
    #[serde(default)]
    scope: String,
}

/// What the token of this header says; `None` when it is of another kind.
pub(super) fn claims(header: &HeaderValue) -> Option<Claims> {
    let token = header.to_str().ok()?.strip_prefix("Bearer ")?;
    let claims = token.split('.').nth(1)?;
    let claims = BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?;
    serde_json::from_slice(&claims).ok()
}

/// Judges it for a transmitter of this name.
pub(super) fn judge(claims: &Option<Claims>, name: Option<&str>, now: SystemTime) -> Finding {
    let place = (GROUP, "token");
    let name = name.unwrap_or("NAME");
    let make = |name: &str| {
        format!(
            "where the keys are: `pantelegraph keys token --subject {name} --scope upload --expires 90d --output \
             {name}.token`, and put it into --token-file; it is noticed without a restart"
        )
    };
    let Some(claims) = claims else {
        let found = "the token is none that receivers can read: a JSON Web Token with numbers for exp and nbf, and \
                     text for sub and scope";
        return Finding::bad(Level::Problem, place, found, make(name));
    };
    let at = |seconds: f64| UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?);
    let of = claims.sub.as_deref().unwrap_or("nobody");
    let scopes = Scopes::parse(&claims.scope);
    let Some(end) = claims.exp.map(f64::floor).and_then(at) else {
        let found =
            format!("the token of {of} has no expiry (exp), and receivers take none without");
        return Finding::bad(Level::Problem, place, found, make(name));
    };
    let left = days(end, now);
    let bad = |level, found: String, fix| Finding::bad(level, place, found, fix);
    let finding = if end <= now {
        bad(
            Level::Problem,
            format!("the token of {of} has expired on {}", until(end)),
            make(name),
        )
    } else if let Some(begin) = claims
        .nbf
        .map(f64::ceil)
        .and_then(at)
        .filter(|begin| *begin > now)
    {
        let fix = "set this clock right (`timedatectl`), or wait".to_owned();
        bad(
            Level::Problem,
            format!("the token of {of} is not valid before {}", until(begin)),
            fix,
        )
    } else if !scopes.allow(Scope::Upload) {
        bad(
            Level::Problem,
            format!(
                "the token of {of} allows {:?}, and not to upload",
                claims.scope
            ),
            make(name),
        )
    } else if of != name && !scopes.allow(Scope::Admin) {
        let fix = format!("--name {of}, or a token for {name}");
        bad(
            Level::Problem,
            format!(
                "this station is called {name}, and its token is of {of}: receivers turn its images away"
            ),
            fix,
        )
    } else if end < now + WARN_WITHIN {
        bad(
            Level::Warning,
            format!(
                "the token of {of} expires in {left} days, on {}",
                until(end)
            ),
            make(name),
        )
    } else {
        Finding::ok(
            place.0,
            place.1,
            format!(
                "the token of {of} may {scopes}, until {}, {left} days",
                until(end)
            ),
        )
    };
    finding.with("days_left", left)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;

    const DAY: f64 = 86_400.0;

    fn seconds(days: u32) -> f64 {
        f64::from(days) * DAY
    }

    fn level(sub: &str, scope: &str, exp: Option<u32>, nbf: Option<u32>) -> Level {
        let now = UNIX_EPOCH + Duration::from_secs_f64(1_000.0 * DAY);
        let claims = Claims {
            sub: Some(sub.to_owned()),
            exp: exp.map(seconds),
            nbf: nbf.map(seconds),
            scope: scope.to_owned(),
        };
        judge(&Some(claims), Some("cam-1"), now).level
    }

    #[test]
    fn a_token_is_judged_by_what_it_says() {
        assert_eq!(level("cam-1", "upload", Some(1_030), Some(999)), Level::Ok);
        assert_eq!(level("cam-1", "upload", Some(1_029), None), Level::Warning);
        assert_eq!(level("cam-1", "upload", Some(1_000), None), Level::Problem);
        assert_eq!(level("cam-1", "upload", None, None), Level::Problem);
        assert_eq!(
            level("cam-1", "upload", Some(1_100), Some(1_001)),
            Level::Problem
        );
        assert_eq!(level("cam-1", "read", Some(1_100), None), Level::Problem);
        assert_eq!(level("cam-2", "upload", Some(1_100), None), Level::Problem);
        assert_eq!(level("ada", "admin", Some(1_100), None), Level::Ok);
    }

    #[test]
    fn fractions_of_seconds_are_read() {
        let payload = r#"{"sub": "cam-1", "exp": 4000000000.75, "nbf": 1.5, "scope": "upload"}"#;
        let token = format!("Bearer x.{}.x", BASE64_URL_SAFE_NO_PAD.encode(payload));
        let claims = claims(&HeaderValue::try_from(token).unwrap());
        assert_eq!(
            judge(&claims, Some("cam-1"), UNIX_EPOCH + Duration::from_secs(2)).level,
            Level::Ok
        );
    }

    #[test]
    fn what_is_no_token_has_no_claims_and_is_not_repeated() {
        let header = HeaderValue::from_static("Bearer my-password");
        let claims = claims(&header);
        let finding = judge(&claims, Some("cam-1"), UNIX_EPOCH);
        assert_eq!(finding.level, Level::Problem);
        assert!(!format!("{finding:?}").contains("my-password"));
    }
}
