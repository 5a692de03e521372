//! Who a caller is, from what it shows: a token, a certificate, or nothing.

use std::sync::Arc;

use http::{HeaderMap, header};

use super::access::{Caller, Denied, Identity, Unknown};
use super::identity::Role;
use super::tls::Certificate;
use super::tokens::Tokens;

/// What a server asks of its callers.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    tokens: Option<Arc<Tokens>>,
    certificates: bool,
}

impl Policy {
    /// Callers show a token that `tokens` takes, or, with `certificates`, a certificate. Where neither
    /// is asked for, nobody is asked who it is.
    pub fn new(tokens: Option<Tokens>, certificates: bool) -> Self {
        Self {
            tokens: tokens.map(Arc::new),
            certificates,
        }
    }

    /// Whether nobody is asked who it is.
    pub fn is_open(&self) -> bool {
        self.tokens.is_none() && !self.certificates
    }

    /// Who calls with these headers over a connection that has shown this certificate. A token says who
    /// calls, wherever the connection comes from, as through a gateway; but a station with a
    /// certificate of its own is nobody else.
    ///
    /// # Errors
    /// When it has not proved who it is.
    pub fn admit(
        &self,
        headers: &HeaderMap,
        certificate: Option<&Certificate>,
    ) -> Result<Caller, Denied> {
        if self.is_open() {
            return Ok(Caller::Anyone);
        }
        let shown = certificate.filter(|_| self.certificates);
        let station = shown.and_then(|certificate| certificate.station.as_ref());
        if let Some(tokens) = &self.tokens {
            let mut values = headers.get_all(header::AUTHORIZATION).iter();
            match (values.next(), values.next()) {
                (Some(_), Some(_)) => return Err(Unknown::SeveralTokens.into()),
                (Some(value), None) => {
                    let identity = tokens.check_header(value.as_bytes())?;
                    let is_other = station.is_some_and(|station| {
                        station.role != Role::Gateway && station.name != identity.name
                    });
                    if is_other {
                        return Err(Unknown::Mismatch.into());
                    }
                    return Ok(Caller::Known(Arc::new(identity)));
                }
                (None, _) => {}
            }
        }
        match (shown, station) {
            (_, Some(station)) if station.role == Role::Gateway && self.tokens.is_some() => {
                Err(Unknown::MissingToken.into())
            }
            (_, Some(station)) => Ok(Caller::Known(Arc::new(Identity {
                name: station.name.clone(),
                scopes: station.role.scopes(),
                // Connections are looked at now and then as long as they are open.
                until: None,
            }))),
            (Some(_), None) if self.tokens.is_none() => Err(Unknown::NamelessCertificate.into()),
            _ if self.tokens.is_some() => Err(Unknown::MissingToken.into()),
            _ => Err(Unknown::MissingCertificate.into()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;
    use crate::security::Secret;
    use crate::security::access::Scope;
    use crate::security::tokens::{NewToken, TokenKey};

    fn key() -> TokenKey {
        TokenKey::from_secret(Secret::new(vec![7; 32])).unwrap()
    }

    fn policy(tokens: bool, certificates: bool) -> Policy {
        Policy::new(tokens.then(|| Tokens::new(vec![key()], None)), certificates)
    }

    fn token(subject: &str) -> HeaderMap {
        let token = key().sign(&NewToken {
            subject,
            audience: None,
            scope: "upload",
            not_before: None,
            issued: None,
            expires: 4_000_000_000,
        });
        let value = format!("Bearer {}", token.unwrap());
        HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())])
    }

    fn certificate(role: Role, name: &str) -> Certificate {
        let id = format!("spiffe://test/{role}/{name}");
        Certificate {
            station: id.parse().ok(),
            until: None,
            serial: String::new(),
        }
    }

    fn answer(policy: &Policy, headers: &HeaderMap, certificate: Option<&Certificate>) -> String {
        match policy.admit(headers, certificate) {
            Ok(caller) => caller.name().unwrap_or("anyone").to_owned(),
            Err(denied) => denied.key().to_owned(),
        }
    }

    #[test]
    fn nobody_is_asked_where_nothing_is_set() {
        assert_eq!(
            answer(&policy(false, false), &HeaderMap::new(), None),
            "anyone"
        );
        assert_eq!(
            answer(&policy(false, false), &token("cam-1"), None),
            "anyone"
        );
    }

    #[test]
    fn a_token_or_a_certificate_says_who_calls() {
        let none = HeaderMap::new();
        let camera = certificate(Role::Transmitter, "cam-1");
        let gateway = certificate(Role::Gateway, "envoy");
        let both = policy(true, true);
        for (headers, certificate, expected) in [
            (&none, None, "missing-token"),
            (&none, Some(&camera), "cam-1"),
            (&token("cam-2"), None, "cam-2"),
            (&token("cam-1"), Some(&camera), "cam-1"),
            (&token("cam-2"), Some(&camera), "mismatch"),
            (&token("cam-2"), Some(&gateway), "cam-2"),
            (&none, Some(&gateway), "missing-token"),
        ] {
            assert_eq!(answer(&both, headers, certificate), expected);
        }
        let certificates = policy(false, true);
        assert_eq!(answer(&certificates, &none, None), "missing-certificate");
        let nameless = Certificate {
            station: None,
            ..camera.clone()
        };
        assert_eq!(
            answer(&certificates, &none, Some(&nameless)),
            "nameless-certificate"
        );
        let gateway = certificates.admit(&none, Some(&gateway)).unwrap();
        assert!(gateway.may(Scope::Read).is_err() && gateway.may(Scope::Upload).is_err());
    }

    #[test]
    fn certificates_that_nobody_has_checked_say_nothing() {
        let camera = certificate(Role::Transmitter, "cam-1");
        assert_eq!(
            answer(&policy(true, false), &HeaderMap::new(), Some(&camera)),
            "missing-token"
        );
    }

    #[test]
    fn two_tokens_are_none() {
        let mut headers = token("cam-1");
        headers.append(header::AUTHORIZATION, "Bearer x".parse().unwrap());
        assert_eq!(
            answer(&policy(true, false), &headers, None),
            "unreadable-token"
        );
    }
}
