//! Deadlines, at both ends.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer as _, Service as _};

use super::contract::{CREATE, READ, call_with, list};
use super::*;
use crate::calls::{Deadlines, HonourDeadlineLayer, TIMEOUT_HEADER, parse_timeout};

/// So short that a test ends soon. Nothing depends on what happens before it.
const SHORT: Duration = Duration::from_millis(20);

fn timeouts(station: &Station) -> Vec<Option<Duration>> {
    let timeout = |seen: station::Seen| {
        let value = seen.headers.get(TIMEOUT_HEADER)?;
        Some(parse_timeout(value.as_bytes()).unwrap())
    };
    station.seen().into_iter().map(timeout).collect()
}

#[tokio::test]
async fn every_unary_call_carries_one() {
    let station = Station::start(|_| Answer::Done).await;
    let caller = caller(&[&station], patient());
    call(&caller, CREATE, "").await.unwrap();
    let mut request = tonic::Request::new(String::new());
    request.set_timeout(LONG / 2);
    call_with(&caller, CREATE, request).await.unwrap();
    call(&caller, "/test.Things/Unknown", "").await.unwrap();
    let mut answers = list(&caller, tonic::Request::new(String::new()))
        .await
        .unwrap();
    while answers.message().await.unwrap().is_some() {}
    assert_eq!(timeouts(&station), [Some(LONG), Some(LONG / 2), None, None]);
}

#[tokio::test]
async fn without_an_option_it_is_five_seconds() {
    assert_eq!(Options::default().deadline, Duration::from_secs(5));
}

#[tokio::test]
async fn ends_a_call_at_both_ends() {
    let dropped = CancellationToken::new();
    let token = dropped.clone();
    let station = Station::start(move |_| Answer::Hold(token.clone())).await;
    let caller = caller(&[&station], patient());
    ready(&caller, 1).await;
    // The server may not have seen the request before a deadline so short: then the next one.
    while !dropped.is_cancelled() {
        let mut request = tonic::Request::new(String::new());
        request.set_timeout(SHORT);
        let status = call_with(&caller, CREATE, request).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        if !station.seen().is_empty() {
            dropped.cancelled().await;
        }
    }
}

#[tokio::test]
async fn ends_a_stream_of_answers_if_it_was_asked_for() {
    let dropped = CancellationToken::new();
    let token = dropped.clone();
    let station = Station::start(move |_| Answer::HoldLate(token.clone())).await;
    let caller = caller(&[&station], patient());
    ready(&caller, 1).await;
    loop {
        let mut request = tonic::Request::new(String::new());
        request.set_timeout(SHORT);
        // As above: the deadline may come before the head.
        let mut answers = match list(&caller, request).await {
            Ok(answers) => answers,
            Err(status) => {
                assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
                continue;
            }
        };
        let status = loop {
            match answers.message().await {
                Ok(Some(first)) => assert_eq!(first, "first"),
                Ok(None) => panic!("the stream ended in order"),
                Err(status) => break status,
            }
        };
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        break;
    }
    dropped.cancelled().await;
}

#[tokio::test]
async fn a_wait_for_a_server_ends_at_the_deadline_and_says_why() {
    let mut station = Station::start(|_| Answer::Done).await;
    station.kill().await;
    let mut options = patient();
    options.deadline = SHORT;
    let caller = caller(&[&station], options);
    let status = call(&caller, READ, "").await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(status.message().contains("no server of"), "{status}");
}

fn request(timeout: &str) -> http::Request<Body> {
    http::Request::builder()
        .uri(READ)
        .header("content-type", "application/grpc+proto")
        .header(TIMEOUT_HEADER, timeout)
        .body(Body::empty())
        .unwrap()
}

fn code(headers: &http::HeaderMap) -> Option<Code> {
    Status::from_header_map(headers).map(|status| status.code())
}

#[tokio::test(start_paused = true)]
async fn a_server_answers_at_the_deadline_of_its_client() {
    let dropped = CancellationToken::new();
    let token = dropped.clone();
    let handler = tower::service_fn(move |_: http::Request<Body>| {
        let guard = token.clone().drop_guard();
        async move {
            let _guard = guard;
            std::future::pending::<()>().await;
            Ok::<_, Infallible>(http::Response::new(Body::empty()))
        }
    });
    let mut server = HonourDeadlineLayer.layer(handler);
    let begun = tokio::time::Instant::now();
    let response = server.call(request("300m")).await.unwrap();
    assert_eq!(begun.elapsed(), Duration::from_millis(300));
    assert_eq!(code(response.headers()), Some(Code::DeadlineExceeded));
    assert!(dropped.is_cancelled(), "the handler goes on");

    let mut other = request("300m");
    other.headers_mut().remove("content-type");
    let passed = tokio::time::timeout(LONG, server.call(other)).await;
    assert!(passed.is_err(), "what is no gRPC was ended");

    let response = server.call(request("0S")).await.unwrap();
    assert_eq!(code(response.headers()), Some(Code::DeadlineExceeded));
    let response = server.call(request("soon")).await.unwrap();
    assert_eq!(code(response.headers()), Some(Code::InvalidArgument));
}

/// Always has another byte to say, after a second each.
struct Endless(std::pin::Pin<Box<tokio::time::Sleep>>);

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        std::task::ready!(self.0.as_mut().poll(context));
        self.0 = Box::pin(tokio::time::sleep(Duration::from_secs(1)));
        let data = http_body::Frame::data(Bytes::from_static(b"."));
        std::task::Poll::Ready(Some(Ok(data)))
    }
}

fn endless() -> Body {
    Body::new(Endless(Box::pin(tokio::time::sleep(Duration::from_secs(
        1,
    )))))
}

#[tokio::test(start_paused = true)]
async fn a_server_ends_an_endless_answer_with_trailers() {
    let handler = tower::service_fn(|_: http::Request<Body>| async {
        Ok::<_, Infallible>(http::Response::new(endless()))
    });
    let mut server = HonourDeadlineLayer.layer(handler);
    let response = server.call(request("3500m")).await.unwrap();
    let begun = tokio::time::Instant::now();
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(begun.elapsed(), Duration::from_millis(3_500));
    let trailers = body.trailers().cloned().unwrap();
    assert_eq!(code(&trailers), Some(Code::DeadlineExceeded));
    assert_eq!(body.to_bytes(), "...");
}

#[tokio::test(start_paused = true)]
async fn a_client_ends_an_endless_answer_with_an_error() {
    let server = tower::service_fn(|_: http::Request<Body>| async {
        Ok::<_, Status>(http::Response::new(endless()))
    });
    let mut client = Deadlines::new(server, METHODS.clone(), Duration::from_millis(2_500));
    let request = http::Request::builder()
        .uri(READ)
        .body(Body::empty())
        .unwrap();
    let mut body = client.call(request).await.unwrap().into_body();
    for _ in 0..2 {
        assert_eq!(
            body.frame().await.unwrap().unwrap().into_data().unwrap(),
            "."
        );
    }
    let status = body.frame().await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(body.frame().await.is_none());
}
