//! Sessions with clients that do not read. The clock of these tests runs only when nothing else
//! does.

use super::*;
use crate::intake::sample::Rig;
use shared::clock::UnixNanos;
use shared::wire::{ClientMessage, Hello, PROTOCOL_VERSION, encode_client};
use tokio::io::DuplexStream;

const IDLE: Duration = Duration::from_secs(60);

fn endpoint(rig: &Rig) -> Endpoint {
    Endpoint {
        intake: Arc::clone(&rig.intake),
        credit: 1 << 20,
        idle_timeout: IDLE,
        stop: CancellationToken::new(),
        tasks: TaskTracker::new(),
    }
}

async fn socket(io: DuplexStream, role: Role) -> WebSocketStream<DuplexStream> {
    WebSocketStream::from_raw_socket(io, role, Some(config(1 << 20, READ_BUFFER))).await
}

fn message(message: ClientMessage) -> Message {
    Message::Binary(encode_client(message).head)
}

/// Sends what is answered, again and again, and reads nothing, until nothing moves any more.
async fn flood(client: &mut WebSocketStream<DuplexStream>) {
    let hello = Hello {
        protocol_version: PROTOCOL_VERSION,
        ..Hello::default()
    };
    client
        .send(message(ClientMessage::Hello(hello)))
        .await
        .unwrap();
    for id in 0.. {
        let t1 = UnixNanos(1);
        let ping = message(ClientMessage::ClockPing { id, t1 });
        let moment = Duration::from_millis(1);
        if tokio::time::timeout(moment, client.send(ping))
            .await
            .is_err()
        {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_given_up_when_it_has_been_idle_for_too_long() {
    let rig = Rig::new();
    let (near, far) = tokio::io::duplex(1 << 10);
    let serving = tokio::spawn(serve(
        endpoint(&rig),
        socket(near, Role::Server).await,
        rig.intake.budget().holder(),
    ));
    let mut client = socket(far, Role::Client).await;
    flood(&mut client).await;
    let served = tokio::time::timeout(IDLE * 4, serving).await;
    served.expect("the session ends").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_does_not_hold_up_the_stop() {
    let rig = Rig::new();
    let (near, far) = tokio::io::duplex(1 << 10);
    let endpoint = endpoint(&rig);
    let stop = endpoint.stop.clone();
    let serving = tokio::spawn(serve(
        endpoint,
        socket(near, Role::Server).await,
        rig.intake.budget().holder(),
    ));
    let mut client = socket(far, Role::Client).await;
    flood(&mut client).await;
    stop.cancel();
    let served = tokio::time::timeout(Duration::from_secs(8), serving).await;
    served.expect("the session ends").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_for_the_end_of_the_connection_does_not_wait_in_vain() {
    let rig = Rig::new();
    let (near, far) = tokio::io::duplex(1 << 10);
    let serving = tokio::spawn(serve(
        endpoint(&rig),
        socket(near, Role::Server).await,
        rig.intake.budget().holder(),
    ));
    let mut client = socket(far, Role::Client).await;
    let hello = Hello {
        protocol_version: PROTOCOL_VERSION,
        ..Hello::default()
    };
    let goodbye = ClientMessage::Goodbye {
        reason: "done".to_owned(),
    };
    let start = tokio::time::Instant::now();
    for one in [ClientMessage::Hello(hello), goodbye] {
        client.send(message(one)).await.unwrap();
    }
    // Answers the close frame, then waits for the server to close (RFC 6455, section 7.1.1).
    while let Some(Ok(_)) = client.next().await {}
    assert!(start.elapsed() < CLOSING, "{:?}", start.elapsed());
    serving.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_gives_way_when_others_need_its_memory() {
    let rig = Rig::new();
    let budget = rig.intake.budget();
    let (near, far) = tokio::io::duplex(1 << 10);
    let memory = budget.holder();
    memory.lease(budget.usage().capacity).await.unwrap();
    // As for the rest of a message that never comes.
    memory.set_arriving(budget.usage().capacity);
    let socket_here = socket(near, Role::Server).await;
    let serving = tokio::spawn(serve(endpoint(&rig), socket_here, memory));
    let mut client = socket(far, Role::Client).await;
    flood(&mut client).await;
    let good = budget.holder();
    let lease = tokio::time::timeout(IDLE / 10, good.lease(1_000)).await;
    lease.expect("the session gives way").unwrap();
    serving.await.unwrap();
}

#[test]
fn what_is_small_is_taken_out_of_the_buffer_of_something_large() {
    let whole = Bytes::from(vec![7; 4 << 20]);
    let usual = (1 << 10)..(257 << 10);
    let mut largest = 0;
    let same = detached(whole.slice(usual.clone()), &mut largest);
    assert_eq!(same.as_ptr(), whole[usual.clone()].as_ptr());
    let same = detached(whole.clone(), &mut largest);
    assert_eq!(same.as_ptr(), whole.as_ptr());
    let copied = detached(whole.slice(usual.clone()), &mut largest);
    assert_ne!(copied.as_ptr(), whole[usual.clone()].as_ptr());
    assert_eq!(copied, whole[usual]);
}
