//! What is tried again, and what is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tonic::body::Body;
use tonic::{Code, Status};
use tower::ServiceExt as _;

use super::contract::{CREATE, LIST, READ, UPLOAD, call_with, list};
use super::*;
use crate::calls::retry::{Final, NeverSent};
use crate::calls::{
    Outcome, PREVIOUS_ATTEMPTS_HEADER, Retry, RetryOptions, TIMEOUT_HEADER, parse_timeout,
};
use crate::trace::{TRACEPARENT, context_of};

fn unavailable() -> Status {
    Status::unavailable("not now")
}

/// Fails so many times.
async fn failing(times: usize, answer: Answer) -> Station {
    let failures = AtomicUsize::new(0);
    Station::start(move |_| {
        if failures.fetch_add(1, Ordering::Relaxed) < times {
            answer.clone()
        } else {
            Answer::Done
        }
    })
    .await
}

fn previous(station: &Station) -> Vec<Option<String>> {
    let previous = |seen: station::Seen| {
        let value = seen.headers.get(PREVIOUS_ATTEMPTS_HEADER)?;
        Some(value.to_str().unwrap().to_owned())
    };
    station.seen().into_iter().map(previous).collect()
}

#[tokio::test]
async fn the_third_attempt_succeeds_and_each_says_which_it_is() {
    let station = failing(2, Answer::Fail(unavailable())).await;
    let caller = caller(&[&station], patient());
    assert_eq!(call(&caller, READ, "hello").await.unwrap(), "done");
    assert_eq!(
        previous(&station),
        [None, Some("1".into()), Some("2".into())]
    );
    assert!(station.seen().iter().all(|seen| seen.said == "hello"));
    let timeouts: Vec<_> = (station.seen().iter())
        .map(|seen| parse_timeout(seen.headers[TIMEOUT_HEADER].as_bytes()).unwrap())
        .collect();
    assert!(
        timeouts.is_sorted_by(|earlier, later| earlier > later),
        "{timeouts:?}"
    );
    let counts = caller.counts();
    assert_eq!((counts.calls, counts.attempts), (1, 3));
}

#[tokio::test]
async fn every_attempt_stands_where_its_caller_says() {
    let station = failing(1, Answer::Fail(unavailable())).await;
    let caller = caller(&[&station], patient());
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut request = tonic::Request::new(String::new());
    let metadata = request.metadata_mut();
    metadata.insert(TRACEPARENT, parent.parse().unwrap());
    call_with(&caller, READ, request).await.unwrap();
    let seen = station.seen();
    assert_eq!(seen.len(), 2);
    let place = |seen: &station::Seen| context_of(&seen.headers).map(|it| it.to_string());
    assert!(
        seen.iter()
            .all(|seen| place(seen).as_deref() == Some(parent))
    );
}

#[tokio::test]
async fn there_is_no_fourth() {
    let station = failing(usize::MAX, Answer::Fail(unavailable())).await;
    let caller = caller(&[&station], patient());
    let status = call(&caller, READ, "").await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "not now")
    );
    assert_eq!(station.seen().len(), 3);
}

#[tokio::test]
async fn a_call_that_broke_before_its_head_is_tried_again_if_idempotent() {
    let station = failing(1, Answer::Break).await;
    let first = caller(&[&station], patient());
    assert_eq!(call(&first, READ, "").await.unwrap(), "done");
    assert_eq!(station.seen().len(), 2);

    let station = failing(1, Answer::Break).await;
    let second = caller(&[&station], patient());
    let status = call(&second, CREATE, "").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(
        status.message().contains("broke during the call"),
        "{status}"
    );
    assert_eq!(station.seen().len(), 1);
}

#[tokio::test]
async fn nothing_else_is_tried_again() {
    let cases = [
        (CREATE, Answer::Fail(unavailable())),
        (UPLOAD, Answer::Fail(unavailable())),
        ("/test.Things/Unknown", Answer::Fail(unavailable())),
        (READ, Answer::Fail(Status::internal(""))),
        // Its head has come: it is committed.
        (READ, Answer::FailLate(unavailable())),
        (READ, Answer::PushBack(unavailable(), "-1")),
    ];
    for (path, answer) in cases {
        let station = failing(usize::MAX, answer).await;
        let caller = caller(&[&station], patient());
        call(&caller, path, "").await.unwrap_err();
        assert_eq!(station.seen().len(), 1, "{path}");
    }
}

#[tokio::test]
async fn comes_again_when_the_server_says() {
    let station = failing(1, Answer::PushBack(unavailable(), "0")).await;
    let mut options = patient();
    options.retry.backoff.initial = LONG;
    options.retry.backoff.max = LONG;
    let caller = caller(&[&station], options);
    call(&caller, READ, "").await.unwrap();
    assert_eq!(station.seen().len(), 2);
}

#[tokio::test]
async fn does_not_wait_past_the_deadline() {
    let station = failing(usize::MAX, Answer::Fail(unavailable())).await;
    let mut options = patient();
    options.retry.backoff.initial = LONG * 2;
    options.retry.backoff.max = LONG * 2;
    let caller = caller(&[&station], options);
    // At once, with what the server said.
    let status = call(&caller, READ, "").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(station.seen().len(), 1);
}

#[tokio::test]
async fn a_request_too_large_to_keep_is_sent_once() {
    let station = failing(usize::MAX, Answer::Fail(unavailable())).await;
    let mut options = patient();
    options.retry.max_kept_bytes = 10;
    let caller = caller(&[&station], options);
    let large = "x".repeat(100);
    call(&caller, READ, &large).await.unwrap_err();
    let seen = station.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].said, large);
}

#[tokio::test]
async fn a_stream_of_answers_is_tried_again_before_its_head() {
    let station = failing(2, Answer::Fail(unavailable())).await;
    let caller = caller(&[&station], patient());
    let mut answers = list(&caller, tonic::Request::new(String::new()))
        .await
        .unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap(), "done");
    assert!(answers.message().await.unwrap().is_none());
    assert!(station.seen().iter().all(|seen| seen.path == LIST));
    assert_eq!(station.seen().len(), 3);
}

#[tokio::test]
async fn while_most_calls_fail_nothing_is_tried_again() {
    let station = failing(usize::MAX, Answer::Fail(unavailable())).await;
    let mut options = patient();
    options.retry.throttle = Some(crate::calls::Throttle::new(4, 0.1));
    let caller = caller(&[&station], options);
    call(&caller, READ, "").await.unwrap_err();
    call(&caller, READ, "").await.unwrap_err();
    // One failure leaves 3 of 4 tokens, the next one 2, which is not more than half.
    assert_eq!(station.seen().len(), 3);
}

/// How often a call is sent that always ends so.
async fn attempts(path: &str, outcome: fn() -> Outcome) -> usize {
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&attempts);
    let server = tower::service_fn(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move { outcome() }
    });
    let retry = Retry::new(server, METHODS.clone(), RetryOptions::default());
    let request = http::Request::builder().uri(path).body(Body::empty());
    let _ = retry.oneshot(request.unwrap()).await;
    attempts.load(Ordering::Relaxed)
}

fn unavailable_because(source: impl std::error::Error + Send + Sync + 'static) -> Status {
    let mut status = unavailable();
    status.set_source(Arc::new(source));
    status
}

#[tokio::test(start_paused = true)]
async fn what_was_never_sent_is_sent_again_whatever_it_is() {
    assert_eq!(attempts(CREATE, || Err(unavailable())).await, 1);
    assert_eq!(
        attempts(CREATE, || Err(unavailable_because(NeverSent))).await,
        3
    );
    assert_eq!(
        attempts(UPLOAD, || Err(unavailable_because(NeverSent))).await,
        1
    );
    assert_eq!(attempts(READ, || Err(unavailable_because(Final))).await, 1);
}

fn answer(status: u16) -> http::Response<Body> {
    let response = http::Response::builder().status(status);
    response.body(Body::empty()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_has_no_server_counts_as_unavailable() {
    assert_eq!(attempts(READ, || Ok(answer(503))).await, 3);
    assert_eq!(attempts(READ, || Ok(answer(502))).await, 3);
    assert_eq!(attempts(READ, || Ok(answer(404))).await, 1);
    assert_eq!(attempts(CREATE, || Ok(answer(503))).await, 1);
}
