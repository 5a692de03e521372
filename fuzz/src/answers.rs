//! What a receiver sends, through the decoder into the transmitter's session, in which an image is
//! on its way.

use std::time::Duration;

use bytes::Bytes;
use pantelegraph_transmitter::config::{GrpcCall, LinkOptions};
use pantelegraph_transmitter::link::session::Pipe;
use pantelegraph_transmitter::link::{Attempt, Identity};
use pantelegraph_transmitter::outbox::Owed;
use pantelegraph_transmitter::payload::Payload;
use shared::clock::UnixNanos;
use shared::digest::DigestAlgorithm;
use shared::image::{ImageId, ImageMeta, OutboxId};
use shared::receipt::{Durability, Receipt, ReceiptStatus, ReceiverTimeline, Reject, RejectReason};
use shared::settings::units::ByteSize;
use shared::wire::{
    ClientMessage, Limits, PROTOCOL_VERSION, ServerMessage, Welcome, decode_client, decode_server,
    encode_server,
};

use super::input::Input;
use super::rig::run as run_to_end;
use super::session::all_of;

const CHUNK: u64 = 64;

/// Messages of one input at most.
const MOST: usize = 100;

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let welcome = welcome(&mut input);
    let mut messages = Vec::new();
    while !input.is_empty() && messages.len() < MOST {
        let message = match invent(&mut input) {
            Some(message) => encode_server(&message),
            None => Bytes::copy_from_slice(input.counted()),
        };
        let Ok(Some(message)) = decode_server(message) else {
            continue;
        };
        // The same after another journey.
        let again = decode_server(encode_server(&message)).expect("it was understood once");
        assert_eq!(again.as_ref(), Some(&message));
        messages.push(message);
    }
    run_to_end(converse(welcome, messages));
}

fn image_id() -> ImageId {
    ImageId::from_u128(1).expect("not 0")
}

fn bytes() -> Bytes {
    Bytes::from(vec![7; 300])
}

fn welcome(input: &mut Input<'_>) -> Welcome {
    Welcome {
        protocol_version: PROTOCOL_VERSION,
        receiver: "receiver".to_owned(),
        limits: Limits {
            max_image_bytes: 1 << 20,
            max_message_bytes: u64::from(input.byte()) << 4,
            max_chunks: 100,
            max_metadata_bytes: 100,
        },
        credit: u64::from(input.short()),
        held: (0..input.byte() % 3)
            .filter_map(|_| {
                let id = ImageId::from_u128(u128::from(input.byte() % 3))?;
                Some((id, u64::from(input.short())))
            })
            .collect(),
        durability: Durability::Synced,
    }
}

fn invent(input: &mut Input<'_>) -> Option<ServerMessage> {
    let id = ImageId::from_u128(u128::from(input.byte() % 3));
    Some(match input.byte() % 8 {
        0 => ServerMessage::Welcome(welcome(input)),
        1 => ServerMessage::Credit {
            total: match input.byte() {
                255 => u64::MAX,
                small => u64::from(small) << 3,
            },
        },
        2 => ServerMessage::Receipt(Receipt {
            image_id: id?,
            status: ReceiptStatus::Stored,
            size: u64::from(input.short()),
            digest: DigestAlgorithm::Xxh3.digest(&bytes()),
            durability: Durability::Synced,
            format: String::new(),
            width: 1,
            height: 1,
            timeline: ReceiverTimeline {
                first_byte: UnixNanos(1),
                last_byte: UnixNanos(2),
                verified: UnixNanos(3),
                durable: UnixNanos(4),
            },
            receiver: String::new(),
        }),
        3 => {
            let reasons = RejectReason::ALL;
            let reason = reasons[usize::from(input.byte()) % reasons.len()];
            let mut reject = Reject::new(id, reason, "no");
            reject.retryable = input.byte().is_multiple_of(2);
            ServerMessage::Reject(reject)
        }
        4 => ServerMessage::ClockPong {
            id: u64::from(input.byte()),
            t1: UnixNanos(i64::from(input.short()) << 47),
            t2: UnixNanos(-(i64::from(input.short()) << 47)),
            t3: UnixNanos(i64::from(input.short()) << 47),
        },
        5 => ServerMessage::LossesKept {
            id: u64::from(input.byte()),
        },
        6 => ServerMessage::Goodbye {
            reason: String::from_utf8_lossy(input.counted()).into_owned(),
        },
        _ => return None,
    })
}

async fn converse(welcome: Welcome, messages: Vec<ServerMessage>) {
    let options = LinkOptions {
        bandwidth: Default::default(),
        chunk_size: ByteSize(CHUNK),
        grpc_call: GrpcCall::Exchange,
        message_size: ByteSize(1 << 20),
        window: ByteSize(1 << 20),
        connections: 1,
        http2_frame_size: ByteSize(16 << 10),
        connect_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(60),
        clock_interval: Duration::from_secs(5),
    };
    let identity = Identity {
        transmitter: "camera".to_owned(),
        outbox: OutboxId::from_u128(1).expect("not 0"),
        unfinished: Default::default(),
        limiter: Default::default(),
        wire: Default::default(),
        clock: Default::default(),
        dialler: Default::default(),
    };
    let (pipe, mut outgoing) = Pipe::new("receiver".to_owned(), &options, &identity);
    let sent = tokio::spawn(async move {
        let mut sent = 0;
        while let Some(message) = outgoing.recv().await {
            let message = decode_client(all_of(message));
            let message = message.expect("the transmitter speaks the protocol");
            if let ClientMessage::Chunk(chunk) = message {
                sent += chunk.data.len() as u64;
            }
        }
        sent
    });
    let mut credit = welcome.credit;
    pipe.take(ServerMessage::ClockPong {
        id: 0,
        t1: UnixNanos(1),
        t2: UnixNanos(1),
        t3: UnixNanos(1),
    });
    let greeting = pipe.greet();
    let welcoming = async {
        tokio::task::yield_now().await;
        pipe.take(ServerMessage::Welcome(welcome));
    };
    let (connection, ()) = tokio::join!(greeting, welcoming);
    if let Ok(connection) = connection {
        let bytes = bytes();
        let mut meta = ImageMeta::new(image_id(), bytes.len() as u64);
        meta.digest = Some(DigestAlgorithm::Xxh3.digest(&bytes));
        let image = Owed {
            meta,
            payload: Payload::Memory(bytes),
            source_file: None,
            source_mark: None,
            carried: false,
        };
        let attempt = Attempt {
            number: 1,
            started: UnixNanos(1),
            turn: None,
            trace: None,
        };
        let answering = async {
            for message in messages {
                match &message {
                    ServerMessage::Credit { total } => credit = credit.max(*total),
                    ServerMessage::Welcome(welcome) => credit = credit.max(welcome.credit),
                    _ => {}
                }
                pipe.take(message);
                tokio::task::yield_now().await;
            }
            pipe.lose("over".to_owned());
        };
        let (delivered, ()) = tokio::join!(connection.deliver(&image, attempt), answering);
        if let Ok(receipt) = delivered {
            assert_eq!(receipt.image_id, image_id());
        }
    }
    pipe.lose("over".to_owned());
    drop(pipe);
    let sent = sent.await.expect("it does not panic");
    assert!(
        sent <= credit.saturating_add(CHUNK),
        "{sent} chunk bytes for a credit of {credit}"
    );
}

/// Answers that are right.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let welcome = [255, 64, 0, 0];
    let receipt = [1, 2, 44, 1];
    let credit = [0, 1, 40];
    let stored = [&welcome[..], &credit, &credit, &receipt].concat();
    let refused = [&welcome[..], &[1, 3, 2, 0]].concat();
    let parted = [&[255, 0, 8, 1, 1, 100, 0][..], &[0, 6, 2, 0, b'n', b'o']].concat();
    vec![
        ("seed-stored", stored),
        ("seed-refused", refused),
        ("seed-parted", parted),
    ]
}
