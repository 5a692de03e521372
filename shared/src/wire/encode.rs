//! Domain values to bytes.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};

use super::convert::{
    account_to_proto, begin_to_proto, digest_to_proto, loss_report_to_proto, loss_to_proto,
    receipt_to_proto, reject_to_proto, standing_to_proto,
};
use super::{Chunk, ClientMessage, Hello, LossReport, ServerMessage, Welcome, proto};
use crate::chunk::{Segments, crc32c};
use crate::report::RunAccount;

/// An encoded message: `head`, then `payload`, which is only ever non-empty for a chunk.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// Everything but a chunk's data.
    pub head: Bytes,
    /// A chunk's data, as it was handed in.
    pub payload: Segments,
}

impl Encoded {
    /// Length of the whole message in bytes.
    pub fn len(&self) -> usize {
        self.head.len() + self.payload.len()
    }

    /// Whether the message has no bytes; never so for a message of this protocol.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Bytes> for Encoded {
    fn from(head: Bytes) -> Self {
        Self {
            head,
            payload: Segments::new(),
        }
    }
}

/// Encodes what a transmitter sends.
pub fn encode_client(message: ClientMessage) -> Encoded {
    use proto::client_message::Kind;
    let kind = match message {
        ClientMessage::Chunk(chunk) => return encode_chunk(chunk),
        ClientMessage::Hello(hello) => Kind::Hello(hello_to_proto(hello)),
        ClientMessage::Begin(begin) => Kind::Begin(begin_to_proto(&begin)),
        ClientMessage::End { image_id, digest } => Kind::End(proto::End {
            image_id: image_id.to_string(),
            digest: digest.as_ref().map(digest_to_proto),
        }),
        ClientMessage::Abort { image_id, reason } => Kind::Abort(proto::Abort {
            image_id: image_id.to_string(),
            reason,
        }),
        ClientMessage::ClockPing { id, t1 } => Kind::ClockPing(proto::ClockPing {
            id,
            t1_unix_ns: t1.0,
        }),
        ClientMessage::Account(account) => Kind::Account(account_to_proto(account)),
        ClientMessage::Losses(report) => Kind::Losses(loss_report_to_proto(report)),
        ClientMessage::Goodbye { reason } => Kind::Goodbye(proto::Goodbye { reason }),
    };
    let message = proto::ClientMessage {
        kind: Some(kind),
        crc32c: None,
    };
    with_sum(message.encode_to_vec()).into()
}

/// Encodes what a receiver sends.
pub fn encode_server(message: &ServerMessage) -> Bytes {
    use proto::server_message::Kind;
    let kind = match message {
        ServerMessage::Welcome(welcome) => Kind::Welcome(welcome_to_proto(welcome)),
        ServerMessage::Credit { total } => Kind::Credit(proto::Credit { total: *total }),
        ServerMessage::Receipt(receipt) => Kind::Receipt(receipt_to_proto(receipt)),
        ServerMessage::Reject(reject) => Kind::Reject(reject_to_proto(reject)),
        ServerMessage::ClockPong { id, t1, t2, t3 } => Kind::ClockPong(proto::ClockPong {
            id: *id,
            t1_unix_ns: t1.0,
            t2_unix_ns: t2.0,
            t3_unix_ns: t3.0,
        }),
        ServerMessage::LossesKept { id } => Kind::LossesKept(proto::LossesKept { id: *id }),
        ServerMessage::Goodbye { reason } => Kind::Goodbye(proto::Goodbye {
            reason: reason.clone(),
        }),
    };
    let message = proto::ServerMessage {
        kind: Some(kind),
        crc32c: None,
    };
    with_sum(message.encode_to_vec())
}

/// The message with the sum of what it is, as its last field.
fn with_sum(mut message: Vec<u8>) -> Bytes {
    let sum = crc32c(&message);
    message.push(TAG_SUM);
    message.extend_from_slice(&sum.to_le_bytes());
    message.into()
}

/// Encodes a run's account by itself, the body of REST's `POST /v1/runs/account`.
pub fn encode_account(account: RunAccount) -> Bytes {
    account_to_proto(account).encode_to_vec().into()
}

/// Encodes a report of losses by itself, the body of REST's `POST /v1/losses`.
pub fn encode_losses(report: LossReport) -> Bytes {
    loss_report_to_proto(report).encode_to_vec().into()
}

/// Number and tag of the field that has a message's sum.
pub(super) const SUM: u8 = 15;
const TAG_SUM: u8 = SUM << 3 | 5;
/// Bytes that tag and sum take.
pub(super) const SUM_LEN: usize = 5;

/// Tags of a chunk's fields: number times eight plus wire type (2: length, 0: varint, 5: 32 bits).
const TAG_CHUNK: u8 = 3 << 3 | 2;
const TAG_IMAGE_ID: u8 = 1 << 3 | 2;
const TAG_OFFSET: u8 = 2 << 3;
const TAG_CRC32C: u8 = 3 << 3 | 5;
const TAG_DATA: u8 = 4 << 3 | 2;

fn encode_chunk(chunk: Chunk) -> Encoded {
    let Chunk {
        image_id,
        offset,
        crc32c,
        data,
    } = chunk;
    let data_len = data.len() as u64;
    let fields = 2
        + 36
        + if offset > 0 {
            1 + encoded_len_varint(offset)
        } else {
            0
        }
        + if crc32c.is_some() { 5 } else { 0 }
        + 1
        + encoded_len_varint(data_len);
    let mut head = BytesMut::with_capacity(fields + 16);
    head.put_u8(TAG_CHUNK);
    encode_varint(fields as u64 + data_len, &mut head);
    head.put_u8(TAG_IMAGE_ID);
    head.put_u8(36);
    head.put_slice(image_id.encode(&mut [0; 36]).as_bytes());
    if offset > 0 {
        head.put_u8(TAG_OFFSET);
        encode_varint(offset, &mut head);
    }
    if let Some(crc32c) = crc32c {
        head.put_u8(TAG_CRC32C);
        head.put_u32_le(crc32c);
    }
    head.put_u8(TAG_DATA);
    encode_varint(data_len, &mut head);
    Encoded {
        head: head.freeze(),
        payload: data,
    }
}

fn hello_to_proto(hello: Hello) -> proto::Hello {
    proto::Hello {
        protocol_version: hello.protocol_version,
        transmitter: hello.transmitter,
        unfinished: hello.unfinished.iter().map(ToString::to_string).collect(),
        losses: hello.losses.into_iter().map(loss_to_proto).collect(),
        agent: hello.agent,
        standing: hello.standing.as_ref().map(standing_to_proto),
        window: hello.window,
    }
}

fn welcome_to_proto(welcome: &Welcome) -> proto::Welcome {
    proto::Welcome {
        protocol_version: welcome.protocol_version,
        receiver: welcome.receiver.clone(),
        limits: Some(proto::Limits {
            max_image_bytes: welcome.limits.max_image_bytes,
            max_message_bytes: welcome.limits.max_message_bytes,
            max_chunks: welcome.limits.max_chunks,
            max_metadata_bytes: welcome.limits.max_metadata_bytes,
        }),
        credit: welcome.credit,
        held: welcome
            .held
            .iter()
            .map(|(id, offset)| proto::Held {
                image_id: id.to_string(),
                offset: *offset,
            })
            .collect(),
        durability: proto::Durability::from(welcome.durability).into(),
    }
}
