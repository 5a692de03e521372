//! gRPC's length-prefixed messages (PROTOCOL-HTTP2.md: one byte of flags, four of length,
//! big-endian), put in front of a message and taken off again without copying it.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::Encoded;
use crate::chunk::{Gathering, Segments};

/// Length of the prefix in bytes.
pub const PREFIX_LEN: usize = 5;

/// Prefix and head of a message in one piece; the payload follows as it is.
pub fn prefixed_head(message: &Encoded) -> Bytes {
    let mut head = BytesMut::with_capacity(PREFIX_LEN + message.head.len());
    head.put_u8(0);
    head.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    head.put_slice(&message.head);
    head.freeze()
}

/// What a [`Deframer`] found.
#[derive(Debug)]
pub enum Frame {
    /// A whole message.
    Message(Segments),
    /// A message above the limit; its bytes are skipped and the next message will be found.
    TooLarge {
        /// Its length in bytes.
        len: u64,
    },
    /// A compressed message, which no station of this protocol sends; it is skipped.
    Compressed,
}

/// Finds messages in the pieces of an HTTP body. Holds at most one message of `limit` bytes.
#[derive(Debug)]
pub struct Deframer {
    pieces: Gathering,
    limit: usize,
    skip: u64,
    awaited: Option<usize>,
}

impl Deframer {
    /// For messages of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            pieces: Gathering::default(),
            limit,
            skip: 0,
            awaited: None,
        }
    }

    /// Takes the next piece of the body.
    pub fn push(&mut self, piece: Bytes) {
        self.pieces.push(piece);
    }

    /// Length of the message that is not whole yet, once that is known.
    pub fn awaited(&self) -> Option<usize> {
        self.awaited
    }

    /// Bytes of a message that has not come to its end.
    pub fn is_mid_message(&self) -> bool {
        self.awaited.is_some() || self.skip > 0 || !self.pieces.is_empty()
    }

    /// The next message, `None` until more bytes come.
    pub fn next_frame(&mut self) -> Option<Frame> {
        if self.skip > 0 {
            let pieces = self.pieces.settled();
            let count = self.skip.min(pieces.len() as u64);
            self.skip -= count;
            pieces.advance(usize::try_from(count).unwrap_or(pieces.len()));
            if self.skip > 0 {
                return None;
            }
        }
        let len = match self.awaited {
            Some(len) => len,
            None => {
                if self.pieces.len() < PREFIX_LEN {
                    return None;
                }
                let pieces = self.pieces.settled();
                let flags = pieces.get_u8();
                let len = pieces.get_u32();
                if flags != 0 || len as usize > self.limit {
                    self.skip = u64::from(len);
                    return Some(match flags {
                        0 => Frame::TooLarge {
                            len: u64::from(len),
                        },
                        _ => Frame::Compressed,
                    });
                }
                self.awaited = Some(len as usize);
                len as usize
            }
        };
        if self.pieces.len() < len {
            return None;
        }
        self.awaited = None;
        Some(Frame::Message(self.pieces.settled().split_to(len)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(messages: &[&[u8]]) -> Vec<u8> {
        let mut body = Vec::new();
        for message in messages {
            let encoded = Encoded::from(Bytes::copy_from_slice(message));
            body.extend_from_slice(&prefixed_head(&encoded));
        }
        body
    }

    #[test]
    fn finds_messages_whatever_the_pieces() {
        let body = stream(&[b"one", b"", b"three"]);
        for piece in 1..=body.len() {
            let mut deframer = Deframer::new(10);
            let mut found = Vec::new();
            for part in body.chunks(piece) {
                deframer.push(Bytes::copy_from_slice(part));
                while let Some(frame) = deframer.next_frame() {
                    let Frame::Message(message) = frame else {
                        panic!("{frame:?}")
                    };
                    found.push(message.into_bytes());
                }
            }
            assert_eq!(found, [&b"one"[..], b"", b"three"]);
            assert!(!deframer.is_mid_message());
        }
    }

    #[test]
    fn skips_a_message_above_the_limit_and_finds_the_next() {
        let body = stream(&[b"far too long", b"good"]);
        for piece in [1, 4, 7, 100] {
            let mut deframer = Deframer::new(5);
            let mut found = Vec::new();
            for part in body.chunks(piece) {
                deframer.push(Bytes::copy_from_slice(part));
                while let Some(frame) = deframer.next_frame() {
                    found.push(frame);
                }
            }
            assert!(
                matches!(&found[..], [Frame::TooLarge { len: 12 }, Frame::Message(m)] if m.len() == 4),
                "{found:?}"
            );
        }
    }

    #[test]
    fn tiny_pieces_are_joined_and_large_ones_are_not_copied() {
        let message = vec![7; 200_000];
        let body = Bytes::from(stream(&[&message]));
        let mut deframer = Deframer::new(1 << 20);
        for at in 0..60_000 {
            deframer.push(body.slice(at..=at));
            assert!(deframer.next_frame().is_none());
        }
        let large = body.slice(60_000..);
        let address = large[..].as_ptr();
        deframer.push(large);
        let Some(Frame::Message(found)) = deframer.next_frame() else {
            panic!("the message is whole")
        };
        assert!(found.pieces().len() < 10, "{} pieces", found.pieces().len());
        let last = found.pieces().last().expect("several");
        assert_eq!(last[..].as_ptr(), address);
        assert_eq!(found.into_bytes(), message);
    }

    #[test]
    fn a_cut_off_message_is_noticed() {
        let mut deframer = Deframer::new(10);
        deframer.push(Bytes::from_static(&[0, 0, 0, 0, 4, 1]));
        assert!(deframer.next_frame().is_none());
        assert!(deframer.is_mid_message());
    }
}
