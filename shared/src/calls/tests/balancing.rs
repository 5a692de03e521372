//! Which server gets a call.

use tokio::task::JoinSet;
use tonic::Code;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::contract::{CREATE, PUT, READ};
use super::*;

#[tokio::test]
async fn takes_three_servers_in_turn() {
    let mut stations = Vec::new();
    for _ in 0..3 {
        stations.push(Station::start(|_| Answer::Done).await);
    }
    let caller = caller(&stations.iter().collect::<Vec<_>>(), patient());
    ready(&caller, 3).await;
    for _ in 0..30 {
        assert_eq!(call(&caller, READ, "hello").await.unwrap(), "done");
    }
    for station in &stations {
        assert_eq!(station.seen().len(), 10);
    }
    let counts = caller.counts();
    assert_eq!((counts.calls, counts.attempts), (30, 30));
    assert!(counts.by_server.iter().all(|(_, calls)| *calls == 10));
    assert_eq!(counts.by_server.len(), 3);
}

#[tokio::test]
async fn a_call_waits_for_the_only_server() {
    let mut station = Station::start(|_| Answer::Done).await;
    station.kill().await;
    let caller = caller(&[&station], patient());
    let calling = {
        let caller = caller.clone();
        tokio::spawn(async move { call(&caller, CREATE, "").await })
    };
    station.revive();
    assert_eq!(calling.await.unwrap().unwrap(), "done");
    assert_eq!(station.seen().len(), 1);
}

#[tokio::test]
async fn says_why_no_server_is_ready() {
    let mut station = Station::start(|_| Answer::Done).await;
    station.kill().await;
    let mut options = patient();
    options.balance.ready_within = Duration::from_millis(1);
    let caller = caller(&[&station], options);
    // The first attempt to connect may not have failed yet; then there is nothing to tell of it.
    let status = loop {
        let status = call(&caller, READ, "").await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        if status.message().contains("cannot be watched") {
            break status;
        }
    };
    let words = status.message();
    assert!(words.contains(&station.url()), "{words}");
    assert!(words.contains("see whether they run"), "{words}");
    let counts = caller.counts();
    assert_eq!(
        counts.calls, counts.attempts,
        "waited once, not three times"
    );
}

#[tokio::test]
async fn one_that_drains_gets_no_calls_while_it_still_listens() {
    let draining = Station::start(|_| Answer::Done).await;
    let staying = Station::start(|_| Answer::Done).await;
    let caller = caller(&[&draining, &staying], patient());
    ready(&caller, 2).await;
    draining.report(ServingStatus::NotServing).await;
    ready(&caller, 1).await;
    for _ in 0..10 {
        call(&caller, CREATE, "").await.unwrap();
    }
    assert_eq!((draining.seen().len(), staying.seen().len()), (0, 10));
    draining.report(ServingStatus::Serving).await;
    ready(&caller, 2).await;
    for _ in 0..10 {
        call(&caller, CREATE, "").await.unwrap();
    }
    assert_eq!((draining.seen().len(), staying.seen().len()), (5, 15));
}

#[tokio::test]
async fn a_server_without_a_health_service_is_ready() {
    let mut station = Station::with(None::<HealthReporter>, |_| Answer::Done).await;
    let caller = caller(&[&station], patient());
    call(&caller, READ, "1").await.unwrap();
    station.kill().await;
    station.revive();
    call(&caller, READ, "2").await.unwrap();
    assert_eq!(station.seen().len(), 2);
}

#[tokio::test]
async fn a_server_on_which_a_call_broke_rests() {
    // Without a health service only calls can tell.
    let breaking = Station::with(None::<HealthReporter>, |_| Answer::Break).await;
    let staying = Station::with(None::<HealthReporter>, |_| Answer::Done).await;
    let mut options = patient();
    options.balance.watch_backoff.initial = LONG;
    options.balance.watch_backoff.max = LONG;
    let caller = caller(&[&breaking, &staying], options);
    ready(&caller, 2).await;
    let mut broken = 0;
    for _ in 0..10 {
        broken += usize::from(call(&caller, CREATE, "").await.is_err());
    }
    assert_eq!(
        (broken, breaking.seen().len(), staying.seen().len()),
        (1, 1, 9)
    );
}

#[tokio::test]
async fn a_server_that_does_not_know_the_service_is_not_ready() {
    let station = Station::start(|_| Answer::Done).await;
    let mut options = patient();
    options.balance.health_service = "test.Things".to_owned();
    options.balance.ready_within = Duration::from_millis(1);
    let caller = caller(&[&station], options);
    loop {
        let status = call(&caller, READ, "").await.unwrap_err();
        if status.message().contains("service not registered") {
            break;
        }
    }
    assert!(station.seen().is_empty());
}

/// Calls without end, from a few tasks, until told to stop: what was said, and whether it worked.
async fn traffic(
    caller: &Caller,
    path: &'static str,
    stop: &tokio_util::sync::CancellationToken,
) -> JoinSet<Vec<(String, bool)>> {
    let mut tasks = JoinSet::new();
    for task in 0..4 {
        let (caller, stop) = (caller.clone(), stop.clone());
        tasks.spawn(async move {
            let mut calls = Vec::new();
            while !stop.is_cancelled() {
                let say = format!("{task}-{}", calls.len());
                let outcome = call(&caller, path, &say).await;
                if let Err(status) = &outcome {
                    assert_eq!(status.code(), Code::Unavailable, "{status}");
                }
                calls.push((say, outcome.is_ok()));
            }
            calls
        });
    }
    tasks
}

/// Kills one of three servers and starts it again, with calls going on. What was said, and how
/// often each server saw it.
async fn through_a_kill(path: &'static str) -> (Vec<(String, bool)>, Vec<String>) {
    let mut stations = Vec::new();
    for _ in 0..3 {
        stations.push(Station::start(|_| Answer::Done).await);
    }
    let caller = caller(&stations.iter().collect::<Vec<_>>(), patient());
    ready(&caller, 3).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let traffic = traffic(&caller, path, &stop).await;
    for round in 1..=3 {
        stations[0].until_seen(round * 10).await;
        stations[0].kill().await;
        ready(&caller, 2).await;
        let before = stations[1].seen().len();
        stations[1].until_seen(before + 10).await;
        stations[0].revive();
        ready(&caller, 3).await;
    }
    let before = stations[0].seen().len();
    stations[0].until_seen(before + 10).await;
    stop.cancel();
    let said = traffic.join_all().await.concat();
    let seen = stations.iter().flat_map(Station::seen);
    (said, seen.map(|seen| seen.said).collect())
}

#[tokio::test]
async fn no_idempotent_call_is_lost_when_a_server_is_killed() {
    for path in [READ, PUT] {
        let (said, seen) = through_a_kill(path).await;
        for (say, worked) in said {
            assert!(worked, "{say} was lost");
            assert!(seen.contains(&say), "{say} was never seen");
        }
    }
}

#[tokio::test]
async fn no_other_call_is_sent_twice_when_a_server_is_killed() {
    let (said, seen) = through_a_kill(CREATE).await;
    for (say, worked) in said {
        let times = seen.iter().filter(|seen| **seen == say).count();
        assert!(times <= 1, "{say} was sent {times} times");
        assert!(times == 1 || !worked, "{say} was never seen");
    }
}

#[tokio::test]
async fn no_call_at_all_is_lost_when_a_server_drains() {
    let mut draining = Station::start(|_| Answer::Done).await;
    let staying = Station::start(|_| Answer::Done).await;
    let caller = caller(&[&draining, &staying], patient());
    ready(&caller, 2).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let traffic = traffic(&caller, CREATE, &stop).await;
    draining.until_seen(10).await;
    draining.report(ServingStatus::NotServing).await;
    ready(&caller, 1).await;
    // It ends although it is watched: the client lets go of the stream.
    draining.drain().await;
    let before = staying.seen().len();
    staying.until_seen(before + 10).await;
    stop.cancel();
    for (say, worked) in traffic.join_all().await.concat() {
        assert!(worked, "{say} was lost");
    }
    assert_eq!(caller.counts().calls, caller.counts().attempts);
}

#[tokio::test]
async fn everything_ends_with_the_last_clone() {
    let station = Station::start(|_| Answer::Done).await;
    let caller = caller(&[&station], patient());
    let clone = caller.clone();
    let tasks = caller.balance().tasks();
    tasks.close();
    drop(caller);
    call(&clone, READ, "").await.unwrap();
    assert!(!tasks.is_empty());
    drop(clone);
    tasks.wait().await;
}

#[tokio::test]
async fn a_reset_of_one_call_leaves_its_server_in() {
    let station = Station::start(|_| Answer::Reset).await;
    let mut options = patient();
    // One that is taken out does not come back.
    options.balance.watch_backoff.initial = LONG * 2;
    options.balance.watch_backoff.max = LONG * 2;
    let caller = caller(&[&station], options);
    for _ in 0..3 {
        let status = call(&caller, READ, "").await.unwrap_err();
        assert_eq!(status.code(), Code::Internal, "{status}");
        assert!(status.message().contains("broke the call off"), "{status}");
    }
    assert_eq!(caller.counts().attempts, 3);
}
