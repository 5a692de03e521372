//! A call that nobody waits for any more ends at the server too.

use tokio_util::sync::CancellationToken;

use super::contract::{CREATE, READ, list};
use super::*;

#[tokio::test]
async fn dropping_a_call_drops_its_handler() {
    // Once through the layer that keeps the request, once past it.
    for path in [READ, CREATE, "/test.Things/Unknown"] {
        let dropped = CancellationToken::new();
        let token = dropped.clone();
        let station = Station::start(move |_| Answer::Hold(token.clone())).await;
        let caller = caller(&[&station], patient());
        tokio::select! {
            outcome = call(&caller, path, "") => panic!("{outcome:?}"),
            () = station.until_seen(1) => {}
        }
        assert!(!dropped.is_cancelled());
        dropped.cancelled().await;
        assert_eq!(station.seen().len(), 1);
    }
}

#[tokio::test]
async fn dropping_a_stream_of_answers_drops_its_source() {
    let dropped = CancellationToken::new();
    let token = dropped.clone();
    let station = Station::start(move |_| Answer::HoldLate(token.clone())).await;
    let caller = caller(&[&station], patient());
    let mut answers = list(&caller, tonic::Request::new(String::new()))
        .await
        .unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap(), "first");
    drop(answers);
    dropped.cancelled().await;
}
