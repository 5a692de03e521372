use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::security::access::Scope;

const FAR: u64 = 4_000_000_000;
/// The examples of RFC 8410, sections 10.3 and 10.1.
const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\n\
     MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
     -----END PRIVATE KEY-----\n";
const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\n\
     MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n\
     -----END PUBLIC KEY-----\n";

fn secret(byte: u8) -> TokenKey {
    TokenKey::from_secret(Secret::new(vec![byte; 32])).unwrap()
}

fn pem(text: &str) -> TokenKey {
    TokenKey::parse(Secret::new(text.as_bytes().to_vec())).unwrap()
}

fn claims(expires: u64) -> NewToken<'static> {
    NewToken {
        subject: "cam-1",
        audience: None,
        scope: "upload",
        not_before: None,
        issued: None,
        expires,
    }
}

fn check(key: &TokenKey, claims: &NewToken<'_>) -> Result<Identity, Unknown> {
    Tokens::new(vec![key.clone()], None).check(&key.sign(claims).unwrap())
}

#[test]
fn both_kinds_of_key_sign_and_check() {
    for key in [secret(7), pem(PRIVATE)] {
        let identity = check(&key, &claims(FAR)).unwrap();
        assert_eq!(identity.name, "cam-1");
        assert!(identity.scopes.allow(Scope::Upload) && !identity.scopes.allow(Scope::Read));
        assert_eq!(identity.until, Some(UNIX_EPOCH + Duration::from_secs(FAR)));
    }
}

#[test]
fn the_public_half_checks_and_does_not_sign() {
    let tokens = Tokens::new(vec![pem(PUBLIC)], None);
    assert!(
        tokens
            .check(&pem(PRIVATE).sign(&claims(FAR)).unwrap())
            .is_ok()
    );
    assert!(pem(PUBLIC).sign(&claims(FAR)).is_err());
}

#[test]
fn a_public_key_is_no_secret() {
    // The well-known confusion: an HMAC with the bytes of a public key.
    let public = pem(PUBLIC);
    for bytes in [
        public.checking.reveal().to_vec(),
        PUBLIC.trim_ascii_end().as_bytes().to_vec(),
    ] {
        let forged = TokenKey::from_secret(Secret::new(bytes)).unwrap();
        let forged = forged.sign(&claims(FAR)).unwrap();
        let tokens = Tokens::new(vec![public.clone()], None);
        assert_eq!(tokens.check(&forged), Err(Unknown::Algorithm("EdDSA")));
    }
}

#[test]
fn each_fault_has_its_reason() {
    let key = secret(7);
    assert_eq!(check(&key, &claims(1)), Err(Unknown::Expired));
    let early = NewToken {
        not_before: Some(FAR - 1),
        ..claims(FAR)
    };
    assert_eq!(check(&key, &early), Err(Unknown::NotYetValid));
    let other = NewToken {
        audience: Some("elsewhere"),
        ..claims(FAR)
    };
    assert_eq!(check(&key, &other), Err(Unknown::Audience));
    let nobody = NewToken {
        subject: "",
        ..claims(FAR)
    };
    assert_eq!(check(&key, &nobody), Err(Unknown::NoSubject));
    let tokens = Tokens::new(vec![key.clone()], None);
    let foreign = secret(8).sign(&claims(FAR)).unwrap();
    assert_eq!(tokens.check(&foreign), Err(Unknown::Signature));
    for garbage in ["", "x", "x.y.z", "e30.e30.", "..", "eyJhbGciOiJIUzI1NiJ9"] {
        assert_eq!(tokens.check(garbage), Err(Unknown::Unreadable), "{garbage}");
    }
    // {"alg":"none"} . {"sub":"ada","exp":4000000000,"scope":"admin"} .
    let none =
        "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZGEiLCJleHAiOjQwMDAwMDAwMDAsInNjb3BlIjoiYWRtaW4ifQ.";
    assert_eq!(tokens.check(none), Err(Unknown::Algorithm("HS256")));
}

#[test]
fn what_no_expiry_or_unknown_extensions_say_is_refused() {
    let key = secret(7);
    signatures::install();
    let sign = |header: &Header, claims: serde_json::Value| {
        let key = EncodingKey::from_secret(key.checking.reveal());
        jsonwebtoken::encode(header, &claims, &key).unwrap()
    };
    let tokens = Tokens::new(vec![key.clone()], None);
    let header = Header::new(Algorithm::HS256);
    let endless = sign(&header, serde_json::json!({"sub": "ada"}));
    assert_eq!(tokens.check(&endless), Err(Unknown::NoExpiry));
    let list = serde_json::json!({"sub": "ada", "exp": FAR, "scope": ["read"]});
    let named = tokens.check(&sign(&header, list.clone())).unwrap_err();
    assert!(named.to_string().contains("scope"), "{named}");
    // What nobody we know has signed is not worth a word on its content.
    let stranger = Tokens::new(vec![secret(8)], None).check(&sign(&header, list));
    assert_eq!(stranger, Err(Unknown::Signature));
    let critical = Header {
        crit: Some(vec!["more".to_owned()]),
        ..header
    };
    let critical = sign(&critical, serde_json::json!({"sub": "ada", "exp": FAR}));
    assert_eq!(tokens.check(&critical), Err(Unknown::Critical));
}

#[test]
fn an_audience_that_is_set_must_be_named() {
    let key = secret(7);
    let tokens = Tokens::new(vec![key.clone()], Some("gw".to_owned()));
    let with = |audience| {
        let claims = NewToken {
            audience,
            ..claims(FAR)
        };
        tokens
            .check(&key.sign(&claims).unwrap())
            .map(|identity| identity.name)
    };
    assert_eq!(with(Some("gw")), Ok("cam-1".to_owned()));
    assert_eq!(with(Some(AUDIENCE)), Err(Unknown::Audience));
    assert_eq!(with(None), Err(Unknown::Audience));
}

#[test]
fn times_may_have_fractions() {
    let key = secret(7);
    signatures::install();
    let sign = |claims: serde_json::Value| {
        let key = EncodingKey::from_secret(key.checking.reveal());
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap()
    };
    let tokens = Tokens::new(vec![key.clone()], None);
    // As `time.time() + 600` of Python.
    let token = sign(serde_json::json!({
        "sub": "cam-1", "iat": 1_700_000_000.25, "nbf": 1_700_000_000.25, "exp": 4_000_000_000.75,
    }));
    let until = tokens.check(&token).unwrap().until;
    assert_eq!(until, Some(UNIX_EPOCH + Duration::from_secs(FAR)));
    let over = sign(serde_json::json!({"sub": "cam-1", "exp": 1_700_000_000.25}));
    assert_eq!(tokens.check(&over), Err(Unknown::Expired));
}

#[test]
fn keys_are_exchanged_one_by_one() {
    let (old, new) = (secret(7), secret(8));
    let tokens = Tokens::new(vec![old.clone(), pem(PUBLIC), new.clone()], None);
    for key in [old, new, pem(PRIVATE)] {
        assert!(tokens.check(&key.sign(&claims(FAR)).unwrap()).is_ok());
    }
}

#[test]
fn headers_are_bearer_and_a_token() {
    let key = secret(7);
    let tokens = Tokens::new(vec![key.clone()], None);
    let token = key.sign(&claims(FAR)).unwrap();
    for scheme in ["Bearer", "bearer", "BEARER"] {
        assert!(
            tokens
                .check_header(format!("{scheme} {token}").as_bytes())
                .is_ok()
        );
    }
    for value in [token.as_str(), "Bearer", "Bearer ", "Basic eDp5", "\u{fc}"] {
        assert_eq!(
            tokens.check_header(value.as_bytes()),
            Err(Unknown::NotBearer)
        );
    }
}

#[test]
fn keys_are_long_enough_and_not_shown() {
    let short = TokenKey::from_secret(Secret::new(vec![1; 31]));
    assert!(short.unwrap_err().contains("31 bytes"));
    assert_eq!(format!("{:?}", secret(b'k')), "TokenKey(HS256, ***)");
    let rsa =
        "-----BEGIN PUBLIC KEY-----\nMFwwDQYJKoZIhvcNAQEBBQADSwAwSAJB\n-----END PUBLIC KEY-----";
    assert!(TokenKey::parse(Secret::new(rsa.as_bytes().to_vec())).is_err());
}
