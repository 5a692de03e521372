//! A session at a transport that does what the test wants.

mod losses;
mod resuming;
mod window;

use super::*;
use crate::link::{Attempt, Connection, DeliveryError};
use crate::outbox::Owed;
use crate::payload::Payload;
use bytes::Bytes;
use shared::chunk::Segments;
use shared::digest::DigestAlgorithm;
use shared::image::ImageMeta;
use shared::receipt::{Durability, ReceiptStatus, ReceiverTimeline};
use shared::settings::units::ByteSize;
use shared::wire::{Begin, Limits, decode_client};

const CHUNK: u64 = 1 << 10;
const CREDIT: u64 = 4 * CHUNK;

/// Longer than anything here takes; the clock of these tests runs only when nothing else does.
const GUARD: Duration = Duration::from_secs(3_600);

fn options() -> LinkOptions {
    LinkOptions {
        bandwidth: Default::default(),
        chunk_size: ByteSize(CHUNK),
        grpc_call: crate::config::GrpcCall::Exchange,
        message_size: ByteSize(1 << 20),
        window: ByteSize(1 << 20),
        connections: 1,
        http2_frame_size: ByteSize(16 << 10),
        connect_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(60),
        clock_interval: Duration::from_secs(5),
    }
}

fn identity() -> Identity {
    Identity {
        outbox: shared::image::OutboxId::new(),
        unfinished: Default::default(),
        limiter: Default::default(),
        transmitter: "test".to_owned(),
        wire: Default::default(),
        clock: Default::default(),
        dialler: Default::default(),
    }
}

fn session(queue: usize) -> (Arc<Session>, mpsc::Receiver<Encoded>) {
    let (session, messages) = session_of(queue, &options(), &identity());
    session.flow.lock().grant(CREDIT);
    (session, messages)
}

fn session_of(
    queue: usize,
    options: &LinkOptions,
    identity: &Identity,
) -> (Arc<Session>, mpsc::Receiver<Encoded>) {
    let (outgoing, messages) = mpsc::channel(queue);
    let session = Session::new(outgoing, "test".to_owned(), options, identity);
    (session, messages)
}

fn image(chunks: u64) -> Owed {
    let bytes = Bytes::from(vec![7; usize::try_from(chunks * CHUNK).expect("small")]);
    let mut meta = ImageMeta::new(ImageId::new(), bytes.len() as u64);
    meta.digest = Some(DigestAlgorithm::Xxh3.digest(&bytes));
    Owed {
        meta,
        payload: Payload::Memory(bytes),
        source_file: None,
        source_mark: None,
        carried: false,
    }
}

fn attempt() -> Attempt<'static> {
    Attempt {
        number: 1,
        started: UnixNanos(1),
        turn: None,
        trace: None,
    }
}

fn duplicate(meta: &ImageMeta) -> Receipt {
    let at = UnixNanos(1);
    Receipt {
        image_id: meta.id,
        status: ReceiptStatus::Duplicate,
        size: meta.size,
        digest: meta.digest.expect("given above"),
        durability: Durability::Synced,
        format: String::new(),
        width: 1,
        height: 1,
        timeline: ReceiverTimeline {
            first_byte: at,
            last_byte: at,
            verified: at,
            durable: at,
        },
        receiver: "test".to_owned(),
    }
}

fn welcome(held: Vec<(ImageId, u64)>) -> ServerMessage {
    ServerMessage::Welcome(Welcome {
        protocol_version: PROTOCOL_VERSION,
        receiver: "test".to_owned(),
        limits: Limits::default(),
        credit: 1 << 30,
        held,
        durability: Durability::Synced,
    })
}

fn stored(begin: &Begin) -> ServerMessage {
    ServerMessage::Receipt(Receipt {
        status: ReceiptStatus::Stored,
        ..duplicate(&begin.meta)
    })
}

/// What a receiver got, in order.
#[derive(Default, Clone)]
struct Got(Arc<Mutex<Vec<ClientMessage>>>);

impl Got {
    /// All announcements.
    fn begins(&self) -> Vec<Begin> {
        let got = self.0.lock();
        let begins = got.iter().filter_map(|message| match message {
            ClientMessage::Begin(begin) => Some(begin.clone()),
            _ => None,
        });
        begins.collect()
    }

    /// From which byte each image was begun.
    fn offsets(&self) -> Vec<u64> {
        self.begins().iter().map(|begin| begin.offset).collect()
    }

    /// All chunks, by image and offset.
    fn chunks(&self) -> Vec<(ImageId, u64)> {
        let got = self.0.lock();
        let chunks = got.iter().filter_map(|message| match message {
            ClientMessage::Chunk(chunk) => Some((chunk.image_id, chunk.offset)),
            _ => None,
        });
        chunks.collect()
    }

    fn hellos(&self) -> Vec<Hello> {
        let got = self.0.lock();
        let hellos = got.iter().filter_map(|message| match message {
            ClientMessage::Hello(hello) => Some(hello.clone()),
            _ => None,
        });
        hellos.collect()
    }
}

/// A receiver that pongs every ping and else answers by `script`, which sees everything it got.
fn play(
    session: &Arc<Session>,
    mut messages: mpsc::Receiver<Encoded>,
    mut script: impl FnMut(&ClientMessage, &Got) -> Vec<ServerMessage> + Send + 'static,
) -> Got {
    let (session, got) = (Arc::clone(session), Got::default());
    let shared = got.clone();
    tokio::spawn(async move {
        while let Some(message) = messages.recv().await {
            let message = decoded(message);
            got.0.lock().push(message.clone());
            if let ClientMessage::ClockPing { id, t1 } = message {
                let (t2, t3) = (t1, t1);
                session.take(ServerMessage::ClockPong { id, t1, t2, t3 });
            }
            for answer in script(&message, &got) {
                session.take(answer);
            }
        }
    });
    shared
}

/// Answers hello with `held`, and every image whose end has come with a receipt.
fn orderly(
    held: impl Fn(&Hello) -> Vec<(ImageId, u64)> + Send + 'static,
) -> impl FnMut(&ClientMessage, &Got) -> Vec<ServerMessage> + Send + 'static {
    move |message, got| match message {
        ClientMessage::Hello(hello) => vec![welcome(held(hello))],
        ClientMessage::End { image_id, .. } => {
            let begins = got.begins();
            let begin = begins.iter().rfind(|begin| begin.meta.id == *image_id);
            begin.map(stored).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

async fn delivered(connection: &SessionConnection, image: &Owed) -> Result<Receipt, DeliveryError> {
    let delivering = tokio::time::timeout(GUARD, connection.deliver(image, attempt()));
    delivering.await.expect("an answer")
}

fn decoded(message: Encoded) -> ClientMessage {
    let mut pieces = Segments::from(message.head);
    for piece in message.payload.pieces() {
        pieces.push(piece.clone());
    }
    decode_client(pieces).expect("a proper message")
}

#[tokio::test(start_paused = true)]
async fn images_answered_before_they_are_sent_cost_no_credit() {
    let (session, mut messages) = session(1);
    let receiver = Arc::clone(&session);
    tokio::spawn(async move {
        while let Some(message) = messages.recv().await {
            if let ClientMessage::Begin(begin) = decoded(message) {
                receiver.take(ServerMessage::Receipt(duplicate(&begin.meta)));
            }
        }
    });
    let connection = SessionConnection(session);
    for number in 0..32 {
        let image = image(8);
        let delivering = connection.deliver(&image, attempt());
        let receipt = tokio::time::timeout(GUARD, delivering).await;
        let receipt = receipt.unwrap_or_else(|_| panic!("image {number} waits for credit"));
        assert_eq!(receipt.expect("a receipt").status, ReceiptStatus::Duplicate);
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_transport_that_is_stuck_once_the_connection_is_lost() {
    // Nothing is ever taken from the queue, and its end stays open.
    let (session, _stuck) = session(1);
    let connection = Arc::new(SessionConnection(Arc::clone(&session)));
    let delivering = tokio::spawn({
        let connection = Arc::clone(&connection);
        async move { connection.deliver(&image(8), attempt()).await }
    });
    tokio::task::yield_now().await;
    session.lose("silence".to_owned());
    let delivered = tokio::time::timeout(GUARD, delivering).await;
    let delivered = delivered.expect("the attempt ends").expect("no panic");
    assert!(
        matches!(&delivered, Err(DeliveryError::Lost(reason)) if reason == "silence"),
        "{delivered:?}"
    );
    let pinging = tokio::time::timeout(GUARD, session.ping(1)).await;
    assert!(pinging.expect("the ping ends").is_err());
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_not_welcomed_is_lost() {
    let (session, _silent) = session(4);
    let greeted = session.greet().await;
    assert!(greeted.is_err());
    assert!(session.lost.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn a_station_that_may_not_send_images_is_told_why() {
    let (session, _silent) = session(4);
    let denied = async {
        tokio::task::yield_now().await;
        let words = "cam-1 lacks the scope upload";
        let reject = Reject::new(None, RejectReason::Forbidden, words);
        session.take(ServerMessage::Reject(reject));
    };
    let (greeted, ()) = tokio::join!(session.greet(), denied);
    match greeted {
        Err(LinkError::Refused { problem, .. }) => {
            assert!(problem.starts_with("cam-1 lacks the scope upload; --name"));
        }
        other => panic!("{other:?}"),
    }
    let connection = SessionConnection(session);
    let attempt = Attempt {
        number: 1,
        started: UnixNanos::now(),
        turn: None,
        trace: None,
    };
    let delivered = connection.deliver(&image(1), attempt).await;
    assert!(matches!(delivered, Err(DeliveryError::Refused(_))));
}

#[tokio::test(start_paused = true)]
async fn images_on_their_way_when_the_token_expires_were_not_attempted() {
    for (words, refused) in [("Token expired", true), ("shutting down", false)] {
        let (session, _messages) = session(16);
        let connection = SessionConnection(Arc::clone(&session));
        let goodbye = async {
            tokio::task::yield_now().await;
            let reason = words.to_owned();
            session.take(ServerMessage::Goodbye { reason });
        };
        let image = image(1);
        let (delivered, ()) = tokio::join!(connection.deliver(&image, attempt()), goodbye);
        match delivered {
            Err(DeliveryError::Refused(why)) if refused => {
                assert!(why.contains("Token expired; show a token"), "{why}");
            }
            Err(DeliveryError::Lost(_)) if !refused => {}
            other => panic!("{words}: {other:?}"),
        }
        assert_eq!(connection.is_refused(), refused);
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_welcomed_is_not_lost() {
    let (session, _silent) = session(4);
    let welcomed = async {
        tokio::task::yield_now().await;
        session.take(welcome(Vec::new()));
    };
    let (greeted, ()) = tokio::join!(session.greet(), welcomed);
    greeted.expect("welcomed");
    assert!(!session.lost.is_cancelled());
}
