//! Stations that are known, and do what is not theirs.

use http::StatusCode;
use pantelegraph_tests::raw::{RawSession, begin, chunk};
use shared::clock::UnixNanos;
use shared::receipt::RejectReason;
use shared::wire::{ClientMessage, Hello, LossReport, PROTOCOL_VERSION, ServerMessage};

use super::*;

#[tokio::test]
async fn a_station_uploads_as_itself_only() {
    let site = Site::start(&[]).await;
    let station = &site.station;
    let caller = site.caller("cam-1");
    let put = put_by_grpc(&caller, station.grpc(), "cam-2").await.unwrap();
    assert_eq!(code(&put), PERMISSION_DENIED, "{put:?}");
    assert_eq!(put.header("pantelegraph-reason"), "forbidden");
    assert_eq!(put.header("pantelegraph-retryable"), "true");
    let put = put_by_rest(&caller, station.http(), "cam-2").await.unwrap();
    assert_eq!(
        (put.status, put.json()["reason"].as_str()),
        (403, Some("forbidden"))
    );
    let sessions = [
        RawSession::grpc_as(&caller, station.grpc()).await,
        RawSession::websocket_as(&caller, station.http()).await,
    ];
    for mut session in sessions {
        session
            .send(ClientMessage::Hello(Hello {
                protocol_version: PROTOCOL_VERSION,
                transmitter: "cam-2".to_owned(),
                ..Hello::default()
            }))
            .await;
        let reject = session.reject().await;
        assert_eq!(reject.reason, RejectReason::Forbidden);
        assert!(
            reject.retryable && reject.message.contains("cam-1"),
            "{reject:?}"
        );
        session.finish().await;
    }
    assert_eq!(stored(station), 0);
    // Without a name, it has its own.
    for transmitter in ["", "cam-1"] {
        let put = put_by_grpc(&caller, station.grpc(), transmitter)
            .await
            .unwrap();
        assert_eq!(code(&put), "0", "{put:?}");
        let put = put_by_rest(&caller, station.http(), transmitter)
            .await
            .unwrap();
        assert_eq!(put.status, 201, "{put:?}");
    }
    let listed = site
        .admin
        .get(station.http(), "/v1/images")
        .await
        .unwrap()
        .json();
    let images = listed["images"].as_array().unwrap();
    assert_eq!(images.len(), 4);
    assert!(
        images.iter().all(|image| image["transmitter"] == "cam-1"),
        "{images:?}"
    );
    // An admin may do it for others.
    let put = put_by_rest(&site.admin, station.http(), "cam-9")
        .await
        .unwrap();
    assert_eq!(put.status, 201);
}

#[tokio::test]
async fn what_others_have_begun_is_not_touched() {
    let site = Site::start(&[]).await;
    let station = &site.station;
    let picture = pictures::jpeg(1);
    let mut session = RawSession::websocket_as(&site.caller("cam-1"), station.http()).await;
    session.hello_as("cam-1").await;
    let (id, announced) = begin(&picture);
    session.send(announced.clone()).await;
    let first = &picture.bytes[..100];
    session.send(chunk(id, 0, first)).await;
    // It is there when the clock is answered.
    session
        .send(ClientMessage::ClockPing {
            id: 1,
            t1: UnixNanos(1),
        })
        .await;
    while !matches!(session.next().await, Ok(ServerMessage::ClockPong { .. })) {}

    let thief = site.caller("cam-2");
    let mut other = RawSession::grpc_as(&thief, station.grpc()).await;
    other
        .send(ClientMessage::Hello(Hello {
            protocol_version: PROTOCOL_VERSION,
            transmitter: "cam-2".to_owned(),
            unfinished: vec![id],
            ..Hello::default()
        }))
        .await;
    match other.next().await {
        Ok(ServerMessage::Welcome(welcome)) => assert_eq!(welcome.held, []),
        message => panic!("{message:?}"),
    }
    other.send(announced).await;
    assert_eq!(other.reject().await.reason, RejectReason::Forbidden);
    let upload = format!("/v1/uploads/{id}");
    let tus = thief.clone().with("tus-resumable", "1.0.0");
    let patching = tus
        .clone()
        .with("content-type", "application/offset+octet-stream")
        .with("upload-offset", "100");
    for (caller, method) in [
        (&tus, Method::HEAD),
        (&patching, Method::PATCH),
        (&tus, Method::DELETE),
    ] {
        let answer = caller
            .ask(station.http(), method.clone(), &upload, &b""[..])
            .await
            .unwrap();
        assert_eq!(answer.status, 403, "{method}: {answer:?}");
    }
    // The session did not notice.
    session.send(chunk(id, 100, &picture.bytes[100..])).await;
    session.send(pantelegraph_tests::raw::end(id)).await;
    assert_eq!(session.answer().await.unwrap().image_id, id);
    for method in [Method::HEAD, Method::DELETE] {
        let answer = tus.ask(station.http(), method, &upload, &b""[..]).await;
        assert_eq!(
            answer.unwrap().status,
            403,
            "what is stored is no less its own"
        );
    }
    assert_eq!(stored(station), 1);
}

#[tokio::test]
async fn losses_and_accounts_are_told_by_those_whose_they_are() {
    let site = Site::start(&[]).await;
    let station = &site.station;
    let report = LossReport {
        id: 7,
        transmitter: "cam-2".to_owned(),
        standing: None,
        losses: vec![shared::wire::Loss {
            image_id: ImageId::new(),
            sequence: 1,
            run: "r".to_owned(),
            reason: "dropped".to_owned(),
            digest: None,
            at: UnixNanos(1),
        }],
    };
    let tell = async |name: &str, report: &LossReport| {
        let caller = site
            .caller(name)
            .with("content-type", "application/x-protobuf");
        let body = shared::wire::encode_losses(report.clone());
        caller
            .ask(station.http(), Method::POST, "/v1/losses", body)
            .await
            .unwrap()
    };
    // One without losses asks whether images under this name get in.
    let asked = LossReport {
        losses: Vec::new(),
        ..report.clone()
    };
    for report in [&asked, &report] {
        let foreign = tell("cam-1", report).await;
        assert_eq!(foreign.status, 403, "{foreign:?}");
        assert_eq!(foreign.json()["reason"], "forbidden");
        let own = tell("cam-2", report).await;
        assert_eq!(own.status, 204, "{own:?}");
    }
    let losses = site
        .admin
        .get(station.http(), "/v1/losses")
        .await
        .unwrap()
        .json();
    assert_eq!(losses["losses"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn pages_of_other_origins_stay_outside() {
    let station = Station::start(&[]).await;
    let page = Caller::default().with("origin", "https://evil.example");
    assert_eq!(upgrade(&page, station.http()).await.unwrap().status, 403);
    assert_eq!(
        put_by_rest(&page, station.http(), "").await.unwrap().status,
        403
    );
    let told = page.clone().with("content-type", "text/plain");
    let told = told
        .ask(station.http(), Method::POST, "/v1/losses", &b"x"[..])
        .await
        .unwrap();
    assert_eq!(
        told.json()["type"],
        "urn:pantelegraph:problem:foreign-origin"
    );
    assert_eq!(
        refused(&Caller::default(), &station, "foreign-origin").await,
        3
    );
    let own = Caller::default().with("origin", &format!("http://{}", station.http()));
    assert_eq!(upgrade(&own, station.http()).await.unwrap().status, 101);
}

#[tokio::test]
async fn each_scope_opens_its_own_doors() {
    let site = Site::start(&[]).await;
    let station = &site.station;
    let stored = put_by_rest(&site.caller("cam-1"), station.http(), "")
        .await
        .unwrap();
    let image = stored.header("location").to_owned();
    let receipt = format!("{image}/receipt");
    let timeline = format!("{image}/timeline");
    let (open, upload, read) = ("", "upload", "read");
    for (method, path, scope) in [
        (Method::GET, "/healthz", open),
        (Method::GET, "/readyz", open),
        (Method::GET, "/v1/clock", "any"),
        (Method::GET, "/metrics", read),
        (Method::GET, "/v1/images", read),
        (Method::GET, &image, read),
        (Method::HEAD, &image, read),
        (Method::GET, &receipt, read),
        (Method::GET, &timeline, read),
        (Method::GET, "/v1/report", read),
        (Method::GET, "/v1/runs", read),
        (Method::GET, "/v1/losses", read),
        (Method::GET, "/nowhere", read),
        (Method::PUT, "/v1/images/x", upload),
        (Method::POST, "/v1/losses", upload),
        (Method::POST, "/v1/runs/account", upload),
        (Method::POST, "/v1/uploads", upload),
        (Method::GET, "/v1/stream", upload),
        (Method::DELETE, "/v1/images/x", upload),
    ] {
        for (name, has) in [
            ("cam-1", upload),
            ("eye", read),
            ("root", "all"),
            ("gw", "none"),
        ] {
            let caller = site.caller(name);
            let asked = caller
                .ask(station.http(), method.clone(), path, &b""[..])
                .await;
            let status = asked.unwrap().status;
            let forbidden = status == StatusCode::FORBIDDEN;
            let allowed = has == "all" || scope == has || scope == open || scope == "any";
            assert_eq!(forbidden, !allowed, "{name}: {method} {path} {status}");
        }
    }
    let watch = "/pantelegraph.transfer.v1.TransferService/Watch";
    let request = framed(&proto::WatchRequest::default());
    let watched = site
        .caller("cam-1")
        .call(station.grpc(), watch, request)
        .await;
    assert_eq!(code(&watched.unwrap()), PERMISSION_DENIED);
    let unknown = "/pantelegraph.transfer.v1.TransferService/Delete";
    let answered = site
        .caller("gw")
        .call(station.grpc(), unknown, &b""[..])
        .await
        .unwrap();
    assert_eq!(
        code(&answered),
        "12",
        "it is known, and there is no such call"
    );
    let denied = refused(&site.admin, station, "scope").await;
    assert!(denied > 20, "{denied}");
}
