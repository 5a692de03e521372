//! Sessions whose answers go nowhere. The clock of these tests runs only when nothing else does.

use std::time::Duration;

use shared::image::Transport;
use shared::wire::{Hello, PROTOCOL_VERSION};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::intake::sample::{Rig, meta};

fn ping() -> Result<ClientMessage, Reject> {
    let t1 = UnixNanos(1);
    Ok(ClientMessage::ClockPing { id: 1, t1 })
}

/// Pings until the session ends or an hour has gone.
async fn ping_until_it_ends(stop: CancellationToken) -> Option<String> {
    let rig = Rig::new();
    // Room for one answer, which nobody takes.
    let (replies, _unread) = mpsc::channel(1);
    let patience = Patience {
        idle_timeout: Duration::from_secs(60),
        stop,
    };
    let intake = Arc::clone(&rig.intake);
    let mut session = Session::new(
        intake,
        Origin::new(Transport::Grpc, "", &Caller::Anyone),
        1,
        replies,
        patience,
        rig.intake.budget().holder(),
        false,
    );
    let pinging = async {
        loop {
            if let ControlFlow::Break(reason) = session.handle(ping()).await {
                return reason;
            }
        }
    };
    let hour = Duration::from_secs(3_600);
    let reason = tokio::time::timeout(hour, pinging).await.ok();
    let closed = tokio::time::timeout(hour, session.close()).await;
    closed.expect("the session closes");
    reason
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_answers_are_not_read_ends() {
    assert!(ping_until_it_ends(CancellationToken::new()).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_answers_are_not_read_ends_soon_when_the_receiver_stops() {
    let stop = CancellationToken::new();
    stop.cancel();
    let begun = tokio::time::Instant::now();
    assert!(ping_until_it_ends(stop).await.is_some());
    assert!(begun.elapsed() < Duration::from_secs(10));
}

/// A session and its answers, of which `room` may wait.
fn session(rig: &Rig, room: usize) -> (Session, mpsc::Receiver<ServerMessage>) {
    let (replies, waiting) = mpsc::channel(room);
    let patience = Patience {
        idle_timeout: Duration::from_secs(60),
        stop: CancellationToken::new(),
    };
    let memory = rig.intake.budget().holder();
    let intake = Arc::clone(&rig.intake);
    let session = Session::new(
        intake,
        Origin::new(Transport::WebSocket, "", &Caller::Anyone),
        1 << 20,
        replies,
        patience,
        memory,
        false,
    );
    (session, waiting)
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_gives_way_when_others_need_its_memory() {
    let rig = Rig::new();
    let budget = rig.intake.budget();
    let all = budget.usage().capacity;
    let (mut session, _unread) = session(&rig, 1);
    // The message that is being handled takes all there is.
    session.memory.lease(all).await.unwrap();
    assert!(session.handle(ping()).await.is_continue());
    session.memory.lease(all).await.unwrap();
    let begun = tokio::time::Instant::now();
    let good = budget.holder();
    let ending = async {
        let flow = session.handle(ping()).await;
        assert!(flow.is_break() && session.is_revoked());
        session.close().await;
    };
    let (lease, ()) = tokio::join!(good.lease(all), ending);
    lease.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn what_is_said_of_images_is_leased_until_their_end() {
    let rig = Rig::with(|parts| parts.limits.max_metadata.0 = 16 << 10);
    let leased = || rig.intake.budget().usage().leased;
    let (mut session, _waiting) = session(&rig, 16);
    let mut ids = Vec::new();
    for _ in 0..8 {
        let mut meta = meta(b"four");
        meta.name = Some("n".repeat(10_000));
        ids.push(meta.id);
        let begin = Begin { meta, offset: 0 };
        assert!(
            session
                .handle(Ok(ClientMessage::Begin(begin)))
                .await
                .is_continue()
        );
    }
    assert!(leased() >= 8 * 10_000, "{}", leased());
    for image_id in ids {
        let abort = ClientMessage::Abort {
            image_id,
            reason: String::new(),
        };
        assert!(session.handle(Ok(abort)).await.is_continue());
    }
    assert_eq!(leased(), 0);
}

#[tokio::test]
async fn a_name_that_no_series_can_have_ends_the_session() {
    let rig = Rig::new();
    let (mut session, mut waiting) = session(&rig, 16);
    let hello = Hello {
        protocol_version: PROTOCOL_VERSION,
        transmitter: "t".repeat(513),
        ..Hello::default()
    };
    let flow = session.handle(Ok(ClientMessage::Hello(hello))).await;
    assert!(flow.is_break());
    let Some(ServerMessage::Reject(reject)) = waiting.recv().await else {
        panic!("no rejection")
    };
    assert_eq!(reject.reason, RejectReason::Limit);
    assert!(reject.message.contains("512"), "{reject}");
}

#[tokio::test]
async fn an_image_for_which_memory_is_short_is_turned_down_for_now_and_the_others_go_on() {
    let rig = Rig::new();
    let budget = rig.intake.budget();
    let (mut session, mut waiting) = session(&rig, 16);
    let begin = |meta| Ok(ClientMessage::Begin(Begin { meta, offset: 0 }));
    let (first, second) = (meta(b"four"), meta(b"four"));
    assert!(session.handle(begin(first.clone())).await.is_continue());
    let other = budget.holder();
    let free = budget.usage().capacity - budget.usage().leased;
    assert!(other.try_lease(free));
    assert!(session.handle(begin(second.clone())).await.is_continue());
    let Some(ServerMessage::Reject(reject)) = waiting.recv().await else {
        panic!("no rejection")
    };
    assert_eq!(reject.reason, RejectReason::Unavailable);
    assert!(reject.retryable && reject.image_id == Some(second.id));
    assert!(session.uploads.contains_key(&first.id));
    drop(other);
    assert!(session.handle(begin(second.clone())).await.is_continue());
    assert!(session.uploads.contains_key(&second.id));
}

/// A second's worth of `number` images, for a session alone.
fn pace(number: u32) -> Pace {
    let rates = shared::security::rate::Rates::new(std::num::NonZeroU32::new(number));
    rates.of(Some("camera"), std::net::IpAddr::from([127, 0, 0, 1]))
}

#[tokio::test(start_paused = true)]
async fn a_session_is_read_on_later_when_its_images_begin_too_often() {
    let rig = Rig::with(|parts| parts.limits.max_unfinished = 100);
    let (session, mut waiting) = session(&rig, 16);
    let mut session = session.paced(pace(10));
    let begun = tokio::time::Instant::now();
    for _ in 0..40 {
        let meta = meta(b"four");
        let begin = ClientMessage::Begin(Begin { meta, offset: 0 });
        assert!(session.handle(Ok(begin)).await.is_continue());
        // What keeps it alive, and the images' bytes, are not counted.
        assert!(session.handle(ping()).await.is_continue());
        let pong = waiting.recv().await;
        assert!(
            matches!(pong, Some(ServerMessage::ClockPong { .. })),
            "{pong:?}"
        );
    }
    assert_eq!(session.uploads.len(), 40, "none was turned down");
    let took = begun.elapsed();
    let right = Duration::from_millis(2_900)..Duration::from_millis(3_400);
    assert!(right.contains(&took), "{took:?}");
    let figures = rig.intake.metrics().handle().render();
    let held = "pantelegraph_held_back_total{transport=\"websocket\"} 30";
    assert!(figures.lines().any(|line| line == held), "{figures}");
}

#[tokio::test]
async fn an_image_whose_turn_does_not_come_is_to_be_tried_again_and_the_session_goes_on() {
    let rig = Rig::new();
    let (mut session, mut waiting) = session(&rig, 16);
    let meta = meta(b"four");
    let time = Duration::from_millis(70);
    session.begins_too_often(&meta, time).await;
    let Some(ServerMessage::Reject(reject)) = waiting.recv().await else {
        panic!("no rejection")
    };
    assert_eq!(
        (reject.reason, reject.image_id),
        (RejectReason::Rate, Some(meta.id))
    );
    assert!(reject.retryable && reject.retry_after_ms == Some(70));
    // The rest of it is passed over.
    let (image_id, digest) = (meta.id, None);
    let end = ClientMessage::End { image_id, digest };
    assert!(session.handle(Ok(end)).await.is_continue());
    assert!(session.handle(ping()).await.is_continue());
    let pong = waiting.recv().await;
    assert!(matches!(pong, Some(ServerMessage::ClockPong { .. })));
}
