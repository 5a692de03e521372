//! Lists in messages. Two bytes on the wire become a hundred and more in memory, so they are counted
//! before they are unpacked.

use std::mem::size_of;

use bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::decode::malformed;
use super::{Loss, proto};
use crate::chunk::Segments;
use crate::image::ImageId;
use crate::receipt::{Reject, RejectReason};
use crate::report::ImageAccount;

/// Losses of one message at most.
pub const MAX_LOSSES: usize = 10_000;

/// Unfinished images that one `Hello` asks about at most.
pub const MAX_UNFINISHED: usize = 1_024;

/// Images of one run account at most.
pub const MAX_ACCOUNTED: usize = 10_000;

/// Below this, what a message unpacks to is not worth counting.
const LITTLE: u64 = 16 << 10;

/// A field that may come many times.
pub(super) struct List {
    field: u32,
    most: usize,
    what: &'static str,
    advice: &'static str,
    /// Bytes of one in memory, beside its texts: while it is unpacked, and while it is kept.
    each: usize,
}

const fn losses(field: u32) -> List {
    List {
        field,
        most: MAX_LOSSES,
        what: "losses",
        advice: "tell",
        // Who keeps them has them twice.
        each: size_of::<proto::Loss>() + 2 * size_of::<Loss>(),
    }
}

pub(super) const HELLO: [List; 2] = [
    List {
        field: 3,
        most: MAX_UNFINISHED,
        what: "unfinished images",
        advice: "ask for",
        each: size_of::<String>() + 3 * size_of::<ImageId>(),
    },
    losses(4),
];

pub(super) const LOSSES: [List; 1] = [losses(3)];

pub(super) const ACCOUNT: [List; 1] = [List {
    field: 15,
    most: MAX_ACCOUNTED,
    what: "images",
    advice: "tell",
    each: size_of::<proto::ImageAccount>() + size_of::<ImageAccount>(),
}];

/// The lists of a kind of `ClientMessage`.
fn lists_of(kind: u32) -> &'static [List] {
    match kind {
        1 => &HELLO,
        7 => &ACCOUNT,
        9 => &LOSSES,
        _ => &[],
    }
}

/// How often each field of `lists` comes in `body`.
fn count(lists: &[List], mut body: impl Buf) -> Result<Vec<usize>, prost::DecodeError> {
    let mut counts = vec![0; lists.len()];
    while body.has_remaining() {
        let (field, wire_type) = decode_key(&mut body)?;
        if let Some(at) = lists.iter().position(|list| list.field == field) {
            counts[at] += 1;
        }
        skip_field(wire_type, field, &mut body, DecodeContext::default())?;
    }
    Ok(counts)
}

/// Refuses a message with a list that is too long.
pub(super) fn check(lists: &[List], body: &(impl Buf + Clone)) -> Result<(), Reject> {
    let counts = count(lists, body.clone()).map_err(malformed)?;
    for (list, count) in lists.iter().zip(counts) {
        if count > list.most {
            let List {
                what, advice, most, ..
            } = list;
            let message =
                format!("{count} {what} in one message; {advice} at most {most} at a time");
            return Err(Reject::new(None, RejectReason::Limit, message));
        }
    }
    Ok(())
}

/// What a list message unpacks to: its entries, and its texts twice.
fn weight(lists: &[List], body: &(impl Buf + Clone)) -> u64 {
    // What cannot be read is refused before it is unpacked, and so is what is too long.
    let Ok(counts) = count(lists, body.clone()) else {
        return 0;
    };
    let entries = lists.iter().zip(counts);
    let entries: usize = entries
        .map(|(list, count)| list.each * count.min(list.most))
        .sum();
    let weight = (entries + 2 * body.remaining()) as u64;
    if weight < LITTLE { 0 } else { weight }
}

/// Bytes that a `LossReport` by itself takes when it is decoded and kept, at most.
pub fn unpacked_losses(body: &(impl Buf + Clone)) -> u64 {
    weight(&LOSSES, body)
}

/// Bytes that a `RunAccount` by itself takes when it is decoded, at most.
pub fn unpacked_account(body: &(impl Buf + Clone)) -> u64 {
    weight(&ACCOUNT, body)
}

/// Bytes that the lists of a transmitter's message take when it is decoded and handled, at most; 0
/// when it has none, or short ones.
pub fn unpacked(message: &Segments) -> u64 {
    if is_plain(message) {
        return 0;
    }
    let mut message = message.clone();
    let mut most = 0_u64;
    let mut last = 0;
    // The last kind wins, but each is unpacked, while the one before it is still there.
    while message.has_remaining() {
        let Ok((field, wire_type)) = decode_key(&mut message) else {
            break;
        };
        if wire_type != WireType::LengthDelimited {
            let skipped = skip_field(wire_type, field, &mut message, DecodeContext::default());
            if skipped.is_err() {
                break;
            }
            continue;
        }
        let length = decode_varint(&mut message).ok();
        let length = length.and_then(|length| usize::try_from(length).ok());
        let Some(length) = length.filter(|length| *length <= message.len()) else {
            break;
        };
        let weight = weight(lists_of(field), &message.split_to(length));
        most = most.max(last + weight);
        last = weight;
    }
    most
}

/// Whether it is one message of a kind without lists, as nearly all are; costs next to nothing.
fn is_plain(message: &Segments) -> bool {
    let mut head = message.chunk();
    let Ok((field, WireType::LengthDelimited)) = decode_key(&mut head) else {
        return false;
    };
    let Ok(length) = decode_varint(&mut head) else {
        return false;
    };
    let read = (message.chunk().len() - head.len()) as u64;
    lists_of(field).is_empty() && read.checked_add(length) == Some(message.len() as u64)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message;

    use super::*;
    use crate::wire::{decode_account, decode_client, decode_losses};

    /// `kind` around `count` entries of two bytes, which have nothing in them.
    fn hollow(kind: u32, field: u32, count: usize) -> Bytes {
        let mut body = Vec::new();
        for _ in 0..count {
            prost::encoding::encode_key(field, WireType::LengthDelimited, &mut body);
            body.push(0);
        }
        if kind == 0 {
            return body.into();
        }
        let mut message = Vec::new();
        prost::encoding::encode_key(kind, WireType::LengthDelimited, &mut message);
        prost::encoding::encode_varint(body.len() as u64, &mut message);
        message.extend_from_slice(&body);
        message.into()
    }

    #[test]
    fn a_list_that_is_too_long_is_refused_by_number() {
        let whole = |kind, field, count| decode_client(hollow(kind, field, count).into()).err();
        let refused = [
            whole(1, 3, MAX_UNFINISHED + 1),
            whole(1, 4, MAX_LOSSES + 1),
            whole(7, 15, MAX_ACCOUNTED + 1),
            whole(9, 3, MAX_LOSSES + 1),
            decode_losses(hollow(0, 3, MAX_LOSSES + 1)).err(),
            decode_account(hollow(0, 15, MAX_ACCOUNTED + 1)).err(),
        ];
        for reject in refused {
            let reject = reject.expect("too many");
            assert_eq!(reject.reason, RejectReason::Limit, "{reject}");
            assert!(reject.message.contains("at most"), "{reject}");
        }
        // As many as may be come to where their fields are looked at.
        let reject = whole(1, 3, MAX_UNFINISHED).expect("they are no ids");
        assert_eq!(reject.reason, RejectReason::Invalid);
    }

    #[test]
    fn what_a_message_unpacks_to_is_known_before() {
        assert_eq!(unpacked(&hollow(1, 4, 10).into()), 0, "it is little");
        let losses = hollow(9, 3, 1_000);
        let weight = unpacked(&losses.clone().into());
        assert!(weight > 100 * losses.len() as u64 / 2, "{weight}");
        let bound = unpacked(&hollow(9, 3, 2_000_000).into());
        assert!(bound < 20_000_000, "it will be refused: {bound}");
        // Behind a chunk, and twice.
        let mut message = proto::ClientMessage {
            kind: Some(proto::client_message::Kind::Chunk(proto::Chunk::default())),
            crc32c: None,
        }
        .encode_to_vec();
        assert_eq!(unpacked(&message.clone().into()), 0);
        message.extend_from_slice(&losses);
        assert_eq!(unpacked(&message.clone().into()), weight);
        message.extend_from_slice(&losses);
        assert_eq!(unpacked(&message.into()), 2 * weight);
    }
}
