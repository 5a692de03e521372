//! Bytes to domain values. Nothing that comes from outside makes these functions panic or allocate
//! more than a small multiple of what was received.

use bytes::Buf;
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::convert::{
    InvalidMessage, account_from_proto, begin_from_proto, digest_from_proto, id_from_proto,
    loss_from_proto, loss_report_from_proto, receipt_from_proto, reject_from_proto,
    standing_from_proto,
};
use super::encode::{SUM, SUM_LEN};
use super::{
    Chunk, ClientMessage, Hello, Limits, LossReport, ServerMessage, Welcome, lists, proto,
};
use crate::chunk::Segments;
use crate::clock::UnixNanos;
use crate::receipt::{Durability, Reject, RejectReason};
use crate::report::RunAccount;

/// Decodes what a transmitter sent.
///
/// # Errors
/// A [`Reject`] to answer with: the message is no protobuf, is of an unknown kind, or a field of it
/// is missing or malformed.
pub fn decode_client(mut message: Segments) -> Result<ClientMessage, Reject> {
    let mut whole = message.clone();
    let mut found = None;
    let mut unknown = None;
    let mut sum = None;
    while message.has_remaining() {
        let before = message.len();
        let (field, wire_type) = decode_key(&mut message).map_err(malformed)?;
        if (field, wire_type) == (u32::from(SUM), WireType::ThirtyTwoBit) {
            let told = message.try_get_u32_le();
            let told = told.map_err(|_| {
                Reject::new(
                    None,
                    RejectReason::Invalid,
                    "the message's crc32c is cut off",
                )
            })?;
            sum = Some((whole.len() - before, told));
            continue;
        }
        if field > 9 || wire_type != WireType::LengthDelimited {
            unknown.get_or_insert(field);
            skip_field(wire_type, field, &mut message, DecodeContext::default())
                .map_err(malformed)?;
            continue;
        }
        // The last one wins, as protobuf prescribes for `oneof`.
        found = Some((field, length_delimited(&mut message)?));
    }
    // Before anything is made of it: what is wrong with a damaged message is nobody's fault.
    if let Some((covered, told)) = sum {
        let made = whole.split_to(covered).crc32c();
        if made != told {
            return Err(Reject::new(
                None,
                RejectReason::Protocol,
                format!(
                    "a message was damaged on its way: its crc32c is {made:08x} and was {told:08x}; \
                     connect again"
                ),
            ));
        }
    }
    match found {
        Some((3, body)) => chunk(body),
        Some((field, body)) => control(field, body),
        None => {
            let message = match unknown {
                Some(field) => format!(
                    "message kind {field} is not known to protocol version {}; \
                     known are 1 (hello) to 9 (losses)",
                    super::PROTOCOL_VERSION
                ),
                None => "message without a kind".to_owned(),
            };
            Err(Reject::new(None, RejectReason::UnknownMessage, message))
        }
    }
}

pub(super) fn malformed(error: prost::DecodeError) -> Reject {
    let message = format!("not a protobuf ClientMessage of pantelegraph.transfer.v1: {error}");
    Reject::new(None, RejectReason::Invalid, message)
}

fn length_delimited(message: &mut Segments) -> Result<Segments, Reject> {
    let length = decode_varint(message).map_err(malformed)?;
    match usize::try_from(length) {
        Ok(length) if length <= message.len() => Ok(message.split_to(length)),
        _ => Err(Reject::new(
            None,
            RejectReason::Invalid,
            format!(
                "a field of {length} bytes in a message with {} bytes left",
                message.len()
            ),
        )),
    }
}

/// Takes a chunk apart without copying its data. Fields may come in any order.
fn chunk(mut body: Segments) -> Result<ClientMessage, Reject> {
    let mut id = None;
    let mut offset = 0;
    let mut crc32c = None;
    let mut data = Segments::new();
    while body.has_remaining() {
        let (field, wire_type) = decode_key(&mut body).map_err(malformed)?;
        match (field, wire_type) {
            (1, WireType::LengthDelimited) => {
                let text = length_delimited(&mut body)?.into_bytes();
                let text = std::str::from_utf8(&text).map_err(|_| {
                    Reject::new(None, RejectReason::Invalid, "chunk.image_id is not text")
                })?;
                id = Some(id_from_proto("chunk.image_id", text)?);
            }
            (2, WireType::Varint) => offset = decode_varint(&mut body).map_err(malformed)?,
            (3, WireType::ThirtyTwoBit) => {
                crc32c = Some(body.try_get_u32_le().map_err(|_| {
                    Reject::new(None, RejectReason::Invalid, "chunk.crc32c is cut off")
                })?);
            }
            (4, WireType::LengthDelimited) => data = length_delimited(&mut body)?,
            _ => skip_field(wire_type, field, &mut body, DecodeContext::default())
                .map_err(malformed)?,
        }
    }
    let Some(image_id) = id else {
        return Err(Reject::new(
            None,
            RejectReason::Invalid,
            "chunk.image_id is missing",
        ));
    };
    Ok(ClientMessage::Chunk(Chunk {
        image_id,
        offset,
        crc32c,
        data,
    }))
}

fn control(field: u32, body: Segments) -> Result<ClientMessage, Reject> {
    Ok(match field {
        1 => {
            lists::check(&lists::HELLO, &body)?;
            let hello = proto::Hello::decode(body).map_err(malformed)?;
            ClientMessage::Hello(hello_from_proto(hello)?)
        }
        2 => {
            let begin = proto::Begin::decode(body).map_err(malformed)?;
            ClientMessage::Begin(begin_from_proto(begin)?)
        }
        4 => {
            let end = proto::End::decode(body).map_err(malformed)?;
            let image_id = id_from_proto("end.image_id", &end.image_id)?;
            let digest = digest_from_proto("end.digest", end.digest)
                .map_err(|invalid| invalid.reject(image_id))?;
            ClientMessage::End { image_id, digest }
        }
        5 => {
            let abort = proto::Abort::decode(body).map_err(malformed)?;
            let image_id = id_from_proto("abort.image_id", &abort.image_id)?;
            ClientMessage::Abort {
                image_id,
                reason: abort.reason,
            }
        }
        6 => {
            let ping = proto::ClockPing::decode(body).map_err(malformed)?;
            ClientMessage::ClockPing {
                id: ping.id,
                t1: UnixNanos(ping.t1_unix_ns),
            }
        }
        7 => ClientMessage::Account(decode_account(body)?),
        8 => {
            let goodbye = proto::Goodbye::decode(body).map_err(malformed)?;
            ClientMessage::Goodbye {
                reason: goodbye.reason,
            }
        }
        9 => ClientMessage::Losses(decode_losses(body)?),
        // 3 is a chunk; 0 is not a legal field number and fails in `decode_key`.
        _ => {
            return Err(Reject::new(
                None,
                RejectReason::UnknownMessage,
                format!("message kind {field} is not known"),
            ));
        }
    })
}

fn hello_from_proto(hello: proto::Hello) -> Result<Hello, InvalidMessage> {
    Ok(Hello {
        protocol_version: hello.protocol_version,
        transmitter: hello.transmitter,
        unfinished: hello
            .unfinished
            .iter()
            .map(|id| id_from_proto("hello.unfinished", id))
            .collect::<Result<_, _>>()?,
        losses: hello
            .losses
            .into_iter()
            .map(loss_from_proto)
            .collect::<Result<_, _>>()?,
        agent: hello.agent,
        standing: hello.standing.map(standing_from_proto).transpose()?,
        window: hello.window,
    })
}

/// Decodes a run's account by itself.
///
/// # Errors
/// A [`Reject`] when it is no protobuf, lists too much or a field of it is malformed.
pub fn decode_account(body: impl Buf + Clone) -> Result<RunAccount, Reject> {
    lists::check(&lists::ACCOUNT, &body)?;
    let account = proto::RunAccount::decode(body).map_err(malformed)?;
    Ok(account_from_proto(account)?)
}

/// Decodes a report of losses by itself.
///
/// # Errors
/// A [`Reject`] when it is no protobuf, lists too much or a field of it is malformed.
pub fn decode_losses(body: impl Buf + Clone) -> Result<LossReport, Reject> {
    lists::check(&lists::LOSSES, &body)?;
    let report = proto::LossReport::decode(body).map_err(malformed)?;
    Ok(loss_report_from_proto(report)?)
}

/// Decodes what a receiver sent; `None` for a message kind of a later version, which is ignored.
///
/// # Errors
/// When it is no protobuf or a field of it is missing or malformed.
pub fn decode_server(
    message: impl Into<Segments>,
) -> Result<Option<ServerMessage>, InvalidMessage> {
    use proto::server_message::Kind;
    let mut whole = message.into();
    let message = proto::ServerMessage::decode(whole.clone())
        .map_err(|error| InvalidMessage::new("server message", error))?;
    let covered = whole.len().saturating_sub(SUM_LEN);
    let is_damaged = |told| whole.split_to(covered).crc32c() != told;
    if message.crc32c.is_some_and(is_damaged) {
        let problem = "it was damaged on its way, as its crc32c tells";
        return Err(InvalidMessage::new("server message", problem));
    }
    let Some(kind) = message.kind else {
        return Ok(None);
    };
    Ok(Some(match kind {
        Kind::Welcome(welcome) => ServerMessage::Welcome(welcome_from_proto(welcome)?),
        Kind::Credit(credit) => ServerMessage::Credit {
            total: credit.total,
        },
        Kind::Receipt(receipt) => ServerMessage::Receipt(receipt_from_proto(receipt)?),
        Kind::Reject(reject) => ServerMessage::Reject(reject_from_proto(reject)?),
        Kind::ClockPong(pong) => ServerMessage::ClockPong {
            id: pong.id,
            t1: UnixNanos(pong.t1_unix_ns),
            t2: UnixNanos(pong.t2_unix_ns),
            t3: UnixNanos(pong.t3_unix_ns),
        },
        Kind::LossesKept(kept) => ServerMessage::LossesKept { id: kept.id },
        Kind::Goodbye(goodbye) => ServerMessage::Goodbye {
            reason: goodbye.reason,
        },
    }))
}

fn welcome_from_proto(welcome: proto::Welcome) -> Result<Welcome, InvalidMessage> {
    let durability = Durability::try_from(welcome.durability())?;
    let limits = welcome.limits.unwrap_or_default();
    Ok(Welcome {
        protocol_version: welcome.protocol_version,
        receiver: welcome.receiver,
        limits: Limits {
            max_image_bytes: limits.max_image_bytes,
            max_message_bytes: limits.max_message_bytes,
            max_chunks: limits.max_chunks,
            max_metadata_bytes: limits.max_metadata_bytes,
        },
        credit: welcome.credit,
        held: welcome
            .held
            .into_iter()
            .map(|held| Ok((id_from_proto("welcome.held", &held.image_id)?, held.offset)))
            .collect::<Result<_, InvalidMessage>>()?,
        durability,
    })
}
