//! Tokens that are not good enough, on every transport.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http_body_util::channel::Channel;

use super::*;

/// A receiver that asks for tokens signed with a secret, on loopback and in the clear.
async fn station(key: &tempfile::NamedTempFile, flags: &[&str]) -> Station {
    std::fs::write(key.path(), [7; 32]).unwrap();
    let path = key.path().to_str().unwrap();
    Station::start(&[&["--token-key-file", path][..], flags].concat()).await
}

fn claims<'a>(subject: &'a str, scope: &'a str) -> NewToken<'a> {
    NewToken {
        subject,
        audience: None,
        scope,
        not_before: None,
        issued: None,
        expires: FAR,
    }
}

fn unsigned(head: &str, body: &str) -> String {
    let [head, body] = [head, body].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
    format!("{head}.{body}.")
}

#[tokio::test]
async fn each_fault_of_a_token_has_its_own_words_on_every_transport() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let station = station(&file, &[]).await;
    let (key, other) = (secret(7), secret(8));
    let sign = |token: NewToken<'_>| format!("Bearer {}", key.sign(&token).unwrap());
    let good = claims("cam-1", "upload");
    let body = r#"{"sub":"cam-1","exp":4000000000,"scope":"admin"}"#;
    let none = unsigned(r#"{"alg":"none","typ":"JWT"}"#, body);
    let rs256 = unsigned(r#"{"alg":"RS256"}"#, body);
    let mut flipped = sign(good.clone());
    // A character of the claims.
    let dot = flipped.find('.').unwrap();
    let changed = if flipped.as_bytes()[dot + 9] == b'A' {
        "B"
    } else {
        "A"
    };
    flipped.replace_range(dot + 9..dot + 10, changed);
    for (case, value, words, reason) in [
        (
            "none at all",
            String::new(),
            "Missing token",
            "missing-token",
        ),
        (
            "expired",
            sign(NewToken {
                expires: 1_700_000_000,
                ..good.clone()
            }),
            "Token expired",
            "expired-token",
        ),
        (
            "early",
            sign(NewToken {
                not_before: Some(FAR - 1),
                ..good.clone()
            }),
            "Token is not valid yet",
            "early-token",
        ),
        (
            "another key",
            format!("Bearer {}", token(&other, "cam-1", "upload")),
            "Token signature is wrong",
            "token-signature",
        ),
        (
            "changed",
            flipped,
            "Token signature is wrong",
            "token-signature",
        ),
        (
            "another audience",
            sign(NewToken {
                audience: Some("bank"),
                ..good.clone()
            }),
            "Token is for another audience",
            "token-audience",
        ),
        (
            "alg none",
            format!("Bearer {none}"),
            "Token must be signed with HS256",
            "token-algorithm",
        ),
        (
            "alg RS256",
            format!("Bearer {rs256}"),
            "Token must be signed with HS256",
            "token-algorithm",
        ),
        (
            "no subject",
            sign(claims("", "upload")),
            "Token must have a subject (sub)",
            "token-claims",
        ),
        (
            "garbage",
            "Bearer a.b.c".to_owned(),
            "Token cannot be read",
            "unreadable-token",
        ),
        (
            "basic",
            "Basic dXNlcjpwYXNz".to_owned(),
            "authorization must be Bearer and a token",
            "unreadable-token",
        ),
    ] {
        let caller = match value.as_str() {
            "" => Caller::default(),
            value => Caller::default().with("authorization", value),
        };
        let put = put_by_grpc(&caller, station.grpc(), "cam-1").await.unwrap();
        assert_eq!(code(&put), UNAUTHENTICATED, "{case}");
        let told = percent_encoding(put.header("grpc-message"));
        assert_eq!(told, words, "{case}");
        let rest = put_by_rest(&caller, station.http(), "cam-1").await.unwrap();
        let socket = upgrade(&caller, station.http()).await.unwrap();
        let read = caller.get(station.http(), "/v1/images").await.unwrap();
        for answer in [rest, socket, read] {
            assert_eq!(answer.status, 401, "{case}");
            assert_eq!(answer.header("content-type"), "application/problem+json");
            let problem = answer.json();
            assert_eq!(problem["detail"], words, "{case}");
            assert_eq!(problem["reason"], reason, "{case}");
            let challenge = answer.header("www-authenticate");
            assert!(
                challenge.starts_with("Bearer realm="),
                "{case}: {challenge}"
            );
            assert_eq!(
                challenge.contains("invalid_token"),
                case != "none at all",
                "{case}"
            );
        }
        let admin = Caller::default().bearing(&token(&key, "root", "admin"));
        assert!(refused(&admin, &station, reason).await >= 4, "{case}");
    }
    assert_eq!(stored(&station), 0);
    let twice = Caller::default()
        .bearing(&token(&key, "cam-1", "upload"))
        .bearing(&token(&key, "cam-1", "upload"));
    assert_eq!(
        put_by_rest(&twice, station.http(), "")
            .await
            .unwrap()
            .status,
        401
    );
    let good = Caller::default().bearing(&token(&key, "cam-1", "upload"));
    assert_eq!(
        put_by_rest(&good, station.http(), "").await.unwrap().status,
        201
    );
    let put = put_by_grpc(&good, station.grpc(), "cam-1").await.unwrap();
    assert_eq!(code(&put), "0");
    assert_eq!(upgrade(&good, station.http()).await.unwrap().status, 101);
}

fn percent_encoding(text: &str) -> String {
    text.replace("%20", " ")
        .replace("%28", "(")
        .replace("%29", ")")
}

#[tokio::test]
async fn a_token_has_its_scopes_and_no_more() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let station = station(&file, &["--open-metrics"]).await;
    let key = secret(7);
    for (scope, put, read) in [
        ("upload", 201, 403),
        ("read", 403, 200),
        ("upload read", 201, 200),
        ("admin", 201, 200),
        ("Admin uploads", 403, 403),
        ("", 403, 403),
    ] {
        let caller = Caller::default().bearing(&token(&key, "cam-1", scope));
        let answer = put_by_rest(&caller, station.http(), "cam-1").await.unwrap();
        assert_eq!(answer.status, put, "{scope}");
        let answer = caller.get(station.http(), "/v1/images").await.unwrap();
        assert_eq!(answer.status, read, "{scope}");
        if read == 403 {
            let challenge = answer.header("www-authenticate");
            assert!(challenge.contains("insufficient_scope"), "{challenge}");
        }
    }
    let nobody = Caller::default();
    assert_eq!(
        nobody.get(station.http(), "/metrics").await.unwrap().status,
        200
    );
}

#[tokio::test]
async fn a_public_key_is_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let (private, public) = (pair.serialize_pem(), pair.public_key_pem());
    let path = folder.path().join("token.pub");
    std::fs::write(&path, &public).unwrap();
    let station = Station::start(&["--token-key-file", path.to_str().unwrap()]).await;
    let key = TokenKey::parse(Secret::new(private.into_bytes())).unwrap();
    let good = Caller::default().bearing(&token(&key, "cam-1", "upload"));
    assert_eq!(
        put_by_rest(&good, station.http(), "").await.unwrap().status,
        201
    );
    // Signed by HMAC with what everybody may know.
    for public in [public.trim_end().as_bytes(), pair.public_key_raw()] {
        let confused = TokenKey::from_secret(Secret::new(public.to_vec())).unwrap();
        let caller = Caller::default().bearing(&token(&confused, "cam-1", "admin"));
        let answer = put_by_rest(&caller, station.http(), "").await.unwrap();
        assert_eq!(answer.json()["detail"], "Token must be signed with EdDSA");
    }
}

#[tokio::test]
async fn a_token_cannot_speak_for_another_station_than_the_certificate() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), [7; 32]).unwrap();
    let site = Site::start(&["--token-key-file", file.path().to_str().unwrap()]).await;
    site.authority.issue(Role::Gateway, "envoy");
    let token = token(&secret(7), "cam-1", "upload");
    for (name, status) in [("cam-1", 201), ("cam-2", 401), ("envoy", 201)] {
        let caller = site.caller(name).bearing(&token);
        let answer = put_by_rest(&caller, site.station.http(), "cam-1")
            .await
            .unwrap();
        assert_eq!(answer.status, status, "{name}");
    }
    let silent = put_by_rest(&site.caller("envoy"), site.station.http(), "cam-1")
        .await
        .unwrap();
    assert_eq!(silent.json()["detail"], "Missing token");
}

#[tokio::test]
async fn whoever_asks_by_head_is_turned_away_without_a_body() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let station = station(&file, &[]).await;
    let reader = Caller::default().bearing(&token(&secret(7), "eye", "read"));
    let nobody = Caller::default();
    for (caller, path, status) in [
        (&nobody, "/v1/images", 401),
        (
            &nobody,
            "/v1/uploads/0190163d-8694-739b-aea5-966c26f8ad91",
            401,
        ),
        (
            &reader,
            "/v1/uploads/0190163d-8694-739b-aea5-966c26f8ad91",
            403,
        ),
        (&reader, "/v1/nothing", 404),
        (&reader, "/v1/images", 200),
    ] {
        // A body would be an error of HTTP/2, which the client tells.
        let head = http::Request::head(path);
        let answer = caller
            .ask_http2(station.http(), head, String::new())
            .await
            .unwrap();
        assert_eq!((answer.status, answer.body.len()), (status, 0), "{path}");
        let get = http::Request::get(path);
        let whole = caller
            .ask_http2(station.http(), get, String::new())
            .await
            .unwrap();
        if whole.status == status {
            let length = whole.body.len().to_string();
            assert_eq!(answer.header("content-length"), length, "{path}");
        }
    }
}

#[tokio::test]
async fn a_body_that_nobody_wants_is_read_before_the_stream_ends() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let station = station(&file, &[]).await;
    let caller = Caller::default().bearing(&token(&secret(7), "cam-1", "upload"));
    for (method, path, status) in [("POST", "/v1/nothing", 404), ("PATCH", "/v1/runs", 405)] {
        let (up, body) = Channel::<Bytes>::new(1);
        let request = http::Request::builder().method(method).uri(path);
        let asking = caller.ask_http2(station.http(), request, body);
        let sending = async move {
            let mut up = up;
            // More than is on its way at a time: most of it has to be read.
            for _ in 0..28 {
                let piece = Bytes::from(vec![0; 256 << 10]);
                up.send_data(piece).await.expect("it is still read");
            }
        };
        let (answer, ()) = tokio::join!(asking, sending);
        assert_eq!(answer.unwrap().status, status, "{path}");
    }
}
