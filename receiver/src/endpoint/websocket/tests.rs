//! Sessions with clients that do not read. The clock of these tests runs only when nothing else
//! does.

use super::buffers::{READ_BUFFER, config};
use super::*;
use crate::intake::sample::Rig;
use shared::clock::UnixNanos;
use shared::wire::{ClientMessage, Hello, PROTOCOL_VERSION, encode_client};
use tokio::io::DuplexStream;
use tokio::task::JoinHandle;

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

/// Serves a session over `io`.
async fn start(rig: &Rig, endpoint: Endpoint, io: DuplexStream) -> JoinHandle<()> {
    start_holding(endpoint, io, rig.intake.budget().holder()).await
}

async fn start_holding(endpoint: Endpoint, io: DuplexStream, memory: Holder) -> JoinHandle<()> {
    let window = Buffers::window(endpoint.intake.budget());
    let buffers = Buffers::new(1 << 20, &window, Role::Server);
    let stream = buffers.metered(io, memory.clone(), false);
    let socket = buffers.socket(stream).await;
    let serving = async move {
        let proof = Proof {
            pace: Pace::default(),
            caller: &Caller::Anyone,
            place: None,
        };
        serve(endpoint, socket, buffers, memory, proof).await;
    };
    tokio::spawn(serving)
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
    let serving = start(&rig, endpoint(&rig), near).await;
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
    let serving = start(&rig, endpoint, near).await;
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
    let serving = start(&rig, endpoint(&rig), near).await;
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
    let serving = start_holding(endpoint(&rig), near, memory).await;
    let mut client = socket(far, Role::Client).await;
    flood(&mut client).await;
    let good = budget.holder();
    let lease = tokio::time::timeout(IDLE / 10, good.lease(1_000)).await;
    lease.expect("the session gives way").unwrap();
    serving.await.unwrap();
}

#[tokio::test]
async fn messages_behind_a_large_one_come_though_its_buffer_is_given_up() {
    let rig = Rig::new();
    let (near, far) = tokio::io::duplex(1 << 20);
    let serving = start(&rig, endpoint(&rig), near).await;
    // Its own buffers have no limit.
    let mut client = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
    let hello = Hello {
        protocol_version: PROTOCOL_VERSION,
        ..Hello::default()
    };
    let ping = |id| {
        let t1 = UnixNanos(1);
        message(ClientMessage::ClockPing { id, t1 })
    };
    let large = Message::Binary(vec![0x3a; 3 << 20].into());
    let sending = async {
        client
            .feed(message(ClientMessage::Hello(hello)))
            .await
            .unwrap();
        for id in 0..4 {
            client.feed(ping(id)).await.unwrap();
            client.feed(large.clone()).await.expect("there is room");
        }
        client.feed(ping(9)).await.unwrap();
        client.flush().await.unwrap();
        let mut answers = 0;
        // A welcome, five pongs, and four rejections: the large ones are above the limit.
        while answers < 10 {
            let answer = client.next().await.unwrap().unwrap();
            answers += u32::from(matches!(answer, Message::Binary(_)));
        }
        client.close(None).await.unwrap();
    };
    let sent = tokio::time::timeout(Duration::from_secs(60), sending).await;
    sent.expect("each is answered");
    drop(client);
    serving.await.unwrap();
}
