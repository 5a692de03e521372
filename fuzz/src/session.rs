//! What a client sends: gRPC frames or messages made of decisions, through the decoder into a
//! session, whose answers must be few and true.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pantelegraph_receiver::endpoint::session::{MAX_WAITING_REPLIES, Patience, Session};
use pantelegraph_receiver::intake::Origin;
use shared::chunk::Segments;
use shared::clock::UnixNanos;
use shared::digest::DigestAlgorithm;
use shared::image::{ImageId, ImageMeta, OutboxId, Transport};
use shared::receipt::Reject;
use shared::security::access::Caller;
use shared::wire::framing::{Deframer, Frame};
use shared::wire::{
    Begin, Chunk, ClientMessage, Encoded, Hello, Loss, LossReport, PROTOCOL_VERSION, ServerMessage,
    Standing, decode_account, decode_client, encode_client,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::input::Input;
use super::rig::{MAX_MESSAGE, Rig, run as run_to_end};

/// Messages of one input at most.
const MOST: usize = 200;

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let messages = match input.byte() % 2 {
        0 => framed(&mut input),
        _ => invented(&mut input),
    };
    for message in messages.iter().flatten() {
        check_round_trip(message);
    }
    run_to_end(converse(messages));
}

/// All bytes of an encoded message.
pub(crate) fn all_of(message: Encoded) -> Segments {
    let mut bytes = Segments::from(message.head);
    for piece in message.payload.pieces() {
        bytes.push(piece.clone());
    }
    bytes
}

/// The same without the sum at its end, with which no changed message would be looked at any further.
/// A chunk has none there.
pub(super) fn without_sum(message: Encoded) -> Segments {
    let is_chunk = !message.payload.is_empty();
    let mut bytes = all_of(message);
    match is_chunk {
        true => bytes,
        false => bytes.split_to(bytes.len() - 5),
    }
}

/// A message that was understood is the same after another journey.
fn check_round_trip(message: &ClientMessage) {
    let again = decode_client(all_of(encode_client(message.clone())));
    let again = again.expect("what was understood once is understood again");
    match (message, &again) {
        (ClientMessage::Chunk(one), ClientMessage::Chunk(two)) => {
            assert_eq!(one.image_id, two.image_id);
            assert_eq!((one.offset, one.crc32c), (two.offset, two.crc32c));
            assert_eq!(one.data.clone().into_bytes(), two.data.clone().into_bytes());
        }
        (one, two) => assert_eq!(format!("{one:?}"), format!("{two:?}")),
    }
}

type Messages = Vec<Result<ClientMessage, Reject>>;

/// The rest of the input as an HTTP body of gRPC frames, in pieces.
fn framed(input: &mut Input<'_>) -> Messages {
    let limit = usize::try_from(MAX_MESSAGE).expect("small");
    let mut deframer = Deframer::new(limit);
    let mut messages = Vec::new();
    let piece = usize::from(input.byte()) + 1;
    while !input.is_empty() && messages.len() < MOST {
        deframer.push(Bytes::copy_from_slice(input.bytes(piece)));
        while let Some(frame) = deframer.next_frame() {
            if let Frame::Message(message) = frame {
                assert!(message.len() <= limit, "{} bytes", message.len());
                messages.push(decode_client(message));
            }
        }
    }
    messages
}

/// Messages that are nearly right, so that what is behind the decoder is reached.
fn invented(input: &mut Input<'_>) -> Messages {
    let mut messages = Vec::new();
    while !input.is_empty() && messages.len() < MOST {
        let encoded = match invent(input) {
            Some(message) => all_of(encode_client(message)),
            None => Segments::from(input.counted().to_vec()),
        };
        messages.push(decode_client(encoded));
    }
    messages
}

fn id(input: &mut Input<'_>) -> ImageId {
    ImageId::from_u128(u128::from(input.byte() % 6) + 1).expect("not 0")
}

fn text(input: &mut Input<'_>) -> String {
    let length = usize::from(input.byte());
    String::from_utf8_lossy(input.bytes(length)).into_owned()
}

/// The picture that most chunks are of, so that some images come whole.
fn picture(length: usize) -> Vec<u8> {
    let mut bytes = b"P5\n100 10\n255\n".to_vec();
    bytes.resize(1_014, 7);
    bytes.truncate(length);
    bytes
}

fn invent(input: &mut Input<'_>) -> Option<ClientMessage> {
    Some(match input.byte() % 10 {
        0 => ClientMessage::Hello(Hello {
            protocol_version: PROTOCOL_VERSION + u32::from(input.byte() == 255),
            transmitter: text(input),
            unfinished: (0..input.byte() % 4).map(|_| id(input)).collect(),
            losses: losses(input),
            agent: String::new(),
            standing: standing(input),
            window: u64::from(input.short()),
        }),
        1 | 2 => {
            let size = match input.byte() {
                0..200 => 1_014,
                other => u64::from(other) << (input.byte() % 64),
            };
            let mut meta = ImageMeta::new(id(input), size);
            meta.sequence = u64::from(input.byte());
            match input.byte() % 8 {
                0..4 => {}
                4 => meta.digest = Some(DigestAlgorithm::Blake3.digest(&picture(1_014))),
                5 => meta.digest = Some(DigestAlgorithm::Xxh3.digest(b"other")),
                6 => meta.run = text(input),
                _ => meta.digest = Some(DigestAlgorithm::Xxh3.digest(&picture(1_014))),
            }
            let offset = match input.byte() {
                0..200 => 0,
                _ => u64::from(input.short()),
            };
            ClientMessage::Begin(Begin { meta, offset })
        }
        3 | 4 => {
            let image_id = id(input);
            let offset = usize::from(input.short() % 1_100);
            let length = usize::from(input.short() % 1_100);
            let mut data = picture(1_014).split_off(offset.min(1_014));
            data.truncate(length);
            let data = match input.byte() {
                0..230 => data,
                _ => input.counted().to_vec(),
            };
            let data = Segments::from(data);
            let crc32c = match input.byte() {
                0..100 => None,
                100..240 => Some(data.crc32c()),
                _ => Some(0),
            };
            ClientMessage::Chunk(Chunk {
                image_id,
                offset: offset as u64,
                crc32c,
                data,
            })
        }
        5 => {
            let digest = input
                .byte()
                .is_multiple_of(4)
                .then(|| DigestAlgorithm::Blake3.digest(&picture(1_014)));
            let image_id = id(input);
            ClientMessage::End { image_id, digest }
        }
        6 => ClientMessage::Abort {
            image_id: id(input),
            reason: text(input),
        },
        7 => ClientMessage::ClockPing {
            id: u64::from(input.byte()),
            t1: UnixNanos(i64::from(input.short()) << 48),
        },
        8 => match input.byte() % 4 {
            0 => ClientMessage::Goodbye {
                reason: text(input),
            },
            1 => ClientMessage::Account(decode_account(input.counted()).ok()?),
            _ => ClientMessage::Losses(LossReport {
                id: u64::from(input.byte()),
                standing: standing(input),
                losses: losses(input),
                transmitter: text(input),
            }),
        },
        _ => return None,
    })
}

fn standing(input: &mut Input<'_>) -> Option<Standing> {
    let outbox = OutboxId::from_u128(u128::from(input.byte() % 4))?;
    Some(Standing {
        outbox,
        first_owed: u64::from(input.short()),
        next_sequence: u64::from(input.short()),
    })
}

fn losses(input: &mut Input<'_>) -> Vec<Loss> {
    let count = input.byte() % 4;
    (0..count)
        .map(|_| Loss {
            sequence: u64::from(input.byte()),
            image_id: id(input),
            digest: None,
            reason: text(input),
            at: UnixNanos(i64::from(input.byte())),
            run: String::new(),
        })
        .collect()
}

async fn converse(messages: Messages) {
    let rig = Rig::new();
    let (replies, mut waiting) = mpsc::channel(MAX_WAITING_REPLIES);
    let patience = Patience {
        idle_timeout: Duration::from_secs(60),
        stop: CancellationToken::new(),
    };
    let intake = Arc::clone(&rig.intake);
    let memory = intake.budget().holder();
    let mut session = Session::new(
        intake,
        Origin::new(Transport::Grpc, "", &Caller::Anyone),
        8 << 10,
        replies,
        patience,
        memory,
        true,
    );
    // Each message has an answer at most, and may make room for credit.
    let bound = 2 * messages.len();
    let mut answers = Vec::new();
    for message in messages {
        let handled = session.handle(message).await;
        while let Ok(answer) = waiting.try_recv() {
            answers.push(answer);
        }
        if let ControlFlow::Break(_) = handled {
            break;
        }
    }
    session.close().await;
    while let Some(answer) = waiting.recv().await {
        answers.push(answer);
    }
    assert!(answers.len() <= bound, "{} answers", answers.len());
    for answer in &answers {
        if let ServerMessage::Receipt(receipt) = answer {
            rig.check(receipt).await;
        }
    }
    // Those that are parked keep the intake alive.
    rig.intake.close().await;
}

/// Conversations that are right.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let hello = [0, 0, 3, b'c', b'a', b'm', 0, 0, 0, 0, 0];
    let begin = [1, 0, 2, 1, 0, 0];
    let chunk = |from: u16, length: u16| {
        let mut chunk = vec![3, 2];
        chunk.extend(from.to_le_bytes());
        chunk.extend(length.to_le_bytes());
        chunk.extend([0, 100]);
        chunk
    };
    let end = [5, 1, 2];
    let whole = [&[1][..], &hello, &begin, &chunk(0, 1_014), &end].concat();
    let parts = [&chunk(0, 500)[..], &chunk(500, 514)].concat();
    let twice = [
        &[1][..],
        &hello,
        &begin,
        &parts,
        &end,
        &begin,
        &chunk(0, 1_014),
        &end,
        &[8, 0, 0],
    ]
    .concat();
    let resumed = [
        &[1][..],
        &hello,
        &begin,
        &chunk(0, 500),
        &[6, 2, 0],
        &[1, 0, 2, 1, 0, 255, 0xf4, 1],
        &chunk(500, 514),
        &end,
    ]
    .concat();
    let told = [
        &[1][..],
        &hello,
        &[8, 2, 9, 1, 1, 0, 4, 0, 1, 3, 2, 2, b'n', b'o', 5, 0],
    ]
    .concat();
    let mut frames = vec![0, 40];
    for message in [
        ClientMessage::Hello(Hello {
            protocol_version: PROTOCOL_VERSION,
            transmitter: "cam".to_owned(),
            ..Hello::default()
        }),
        ClientMessage::ClockPing {
            id: 1,
            t1: UnixNanos(1),
        },
        ClientMessage::Begin(Begin {
            meta: ImageMeta::new(ImageId::from_u128(7).expect("not 0"), 1_014),
            offset: 0,
        }),
        ClientMessage::Chunk(Chunk {
            image_id: ImageId::from_u128(7).expect("not 0"),
            offset: 0,
            crc32c: None,
            data: Segments::from(picture(1_014)),
        }),
        ClientMessage::End {
            image_id: ImageId::from_u128(7).expect("not 0"),
            digest: None,
        },
    ] {
        let message = without_sum(encode_client(message)).into_bytes();
        frames.push(0);
        frames.extend(u32::try_from(message.len()).expect("small").to_be_bytes());
        frames.extend(message);
    }
    vec![
        ("seed-frames", frames),
        ("seed-whole", whole),
        ("seed-twice", twice),
        ("seed-resumed", resumed),
        ("seed-losses", told),
    ]
}
