//! Sessions whose answers go nowhere. The clock of these tests runs only when nothing else does.

use super::*;
use crate::intake::sample::Rig;

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
        Transport::Grpc,
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
