//! What a client writes to a WebSocket after the handshake, through the endpoint's own reader.

use std::sync::Arc;
use std::time::Duration;

use pantelegraph_receiver::endpoint::websocket::{Endpoint, serve_upgraded};
use shared::clock::UnixNanos;
use shared::security::access::Caller;
use shared::security::rate::Pace;
use shared::wire::{ClientMessage, Hello, PROTOCOL_VERSION, encode_client};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::input::Input;
use super::rig::{Rig, run as run_to_end};
use super::session::without_sum;

/// Runs one input.
pub fn run(data: &[u8]) {
    run_to_end(converse(data));
}

async fn converse(data: &[u8]) {
    let mut input = Input::new(data);
    let rig = Rig::new();
    let endpoint = Endpoint {
        intake: Arc::clone(&rig.intake),
        credit: 8 << 10,
        idle_timeout: Duration::from_secs(60),
        stop: CancellationToken::new(),
        tasks: TaskTracker::new(),
    };
    let way = input.byte();
    let piece = usize::from(input.byte()) + 1;
    let (near, far) = tokio::io::duplex(1 << 10);
    let serving = serve_upgraded(endpoint, near, (&Caller::Anyone, Pace::default()), None);
    let sent = input.rest();
    let client = async {
        let (mut read, mut write) = tokio::io::split(far);
        let writing = async {
            for piece in sent.chunks(piece) {
                if write.write_all(piece).await.is_err() {
                    return;
                }
            }
            if way.is_multiple_of(2) {
                // Whoever does not matter any more.
                let _ = write.shutdown().await;
            }
        };
        let mut answered = Vec::new();
        let reading = async {
            // Some never read.
            if way % 4 < 2 {
                let _ = read.read_to_end(&mut answered).await;
            }
        };
        tokio::join!(writing, reading);
        answered.len()
    };
    let ((), answered) = tokio::join!(serving, client);
    // A frame of six bytes may ask for an answer that explains itself at length, and no more.
    assert!(
        answered <= 2_048 + sent.len() * 64,
        "{answered} bytes answer {}",
        sent.len()
    );
    rig.intake.close().await;
}

/// A frame as a client writes it, with a mask.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        short @ 0..126 => frame.push(0x80 | u8::try_from(short).expect("below 126")),
        long => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(long).expect("seeds are small").to_be_bytes());
        }
    }
    frame.extend(mask);
    let masked = payload.iter().zip(mask.iter().cycle());
    frame.extend(masked.map(|(byte, mask)| byte ^ mask));
    frame
}

/// Conversations that are right, and the usual mistakes.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let hello = ClientMessage::Hello(Hello {
        protocol_version: PROTOCOL_VERSION,
        ..Hello::default()
    });
    let ping = ClientMessage::ClockPing {
        id: 1,
        t1: UnixNanos(1),
    };
    let goodbye = ClientMessage::Goodbye {
        reason: "done".to_owned(),
    };
    let mut session = vec![0, 255];
    for message in [hello, ping, goodbye] {
        let message = without_sum(encode_client(message)).into_bytes();
        session.extend(frame(2, &message));
    }
    let mut control = vec![1, 3];
    control.extend(frame(9, b"ping"));
    control.extend(frame(10, b""));
    control.extend(frame(8, &[3, 232, b'b', b'y', b'e']));
    let mut text = vec![0, 1];
    text.extend(frame(1, "größe".as_bytes()));
    let mut fragments = vec![0, 7];
    let mut first = frame(2, b"\x0a\x02\x08");
    first[0] &= 0x7f;
    fragments.extend(first);
    fragments.extend(frame(9, b""));
    fragments.extend(frame(0, b"\x01"));
    let mut large = vec![0, 255];
    large.extend([0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4, 5]);
    let mut skipped = vec![0, 255];
    skipped.extend(frame(2, &vec![0; 4_200]));
    vec![
        ("seed-session", session),
        ("seed-control", control),
        ("seed-text", text),
        ("seed-fragments", fragments),
        ("seed-large", large),
        ("seed-skipped", skipped),
    ]
}
