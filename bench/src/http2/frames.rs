//! The frames of HTTP/2 (RFC 9113, section 4.1), as far as they are looked at in passing.
//!
//! ```text
//! length (24 bits) | type (8) | flags (8) | reserved (1), stream (31) | payload of that length
//! ```

/// What a client sends first.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes before the payload of a frame.
const HEAD: usize = 9;
/// Number of `SETTINGS_INITIAL_WINDOW_SIZE`.
const INITIAL_WINDOW: u16 = 4;

/// Type of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Headers,
    Reset,
    Settings,
    WindowUpdate,
    Continuation,
    /// Priorities, pings, farewells and what was invented later.
    Other(u8),
}

impl Kind {
    fn of(number: u8) -> Self {
        match number {
            0 => Self::Data,
            1 => Self::Headers,
            3 => Self::Reset,
            4 => Self::Settings,
            8 => Self::WindowUpdate,
            9 => Self::Continuation,
            other => Self::Other(other),
        }
    }
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    /// Stream 0 is the connection.
    pub(super) stream: u32,
    /// Bytes of the payload.
    pub(super) length: u32,
    /// The payload, except that of DATA.
    pub(super) payload: Vec<u8>,
}

impl Frame {
    /// Bytes that a WINDOW_UPDATE grants.
    pub(super) fn increment(&self) -> Option<u32> {
        let bytes = self.payload.get(..4)?.try_into().ok()?;
        (self.kind == Kind::WindowUpdate).then_some(u32::from_be_bytes(bytes) & 0x7fff_ffff)
    }

    /// Code of a RST_STREAM: 8 is CANCEL.
    pub(super) fn reset_code(&self) -> Option<u32> {
        let bytes = self.payload.get(..4)?.try_into().ok()?;
        (self.kind == Kind::Reset).then_some(u32::from_be_bytes(bytes))
    }

    /// The window that SETTINGS give to new streams.
    pub(super) fn initial_window(&self) -> Option<u32> {
        if self.kind != Kind::Settings {
            return None;
        }
        let mut settings = self.payload.chunks_exact(6);
        settings.find_map(|setting| {
            let (number, value) = setting.split_at(2);
            let is_window = u16::from_be_bytes(number.try_into().ok()?) == INITIAL_WINDOW;
            is_window.then_some(u32::from_be_bytes(value.try_into().ok()?))
        })
    }

    /// Whether it carries (a part of) compressed headers.
    pub(super) fn is_headers(&self) -> bool {
        matches!(self.kind, Kind::Headers | Kind::Continuation)
    }

    /// Bytes on the wire.
    pub(super) fn wire_bytes(&self) -> u64 {
        HEAD as u64 + u64::from(self.length)
    }

    /// Whether `text` is among its headers as a literal in the code of RFC 7541, appendix B. That is
    /// how it is sent for the first time; afterwards an index stands for it.
    pub(super) fn spells(&self, text: &str) -> bool {
        let Some(code) = huffman(text) else {
            return false;
        };
        self.is_headers() && self.payload.windows(code.len()).any(|bytes| bytes == code)
    }
}

/// `text` in the Huffman code of HPACK, for the characters whose codes have 5 or 6 bits.
fn huffman(text: &str) -> Option<Vec<u8>> {
    const FIVE: &str = "012aceiost";
    const SIX: &str = " %-./3456789=A_bdfghlmnpru";
    let mut bits: Vec<bool> = Vec::new();
    for letter in text.chars() {
        let (code, width) = match FIVE.find(letter) {
            Some(code) => (code, 5),
            None => (0x14 + SIX.find(letter)?, 6),
        };
        bits.extend((0..width).rev().map(|bit| code >> bit & 1 == 1));
    }
    // The rest of the last byte is the beginning of a code of ones.
    bits.resize(bits.len().next_multiple_of(8), true);
    let byte = |bits: &[bool]| bits.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
    Some(bits.chunks(8).map(byte).collect())
}

/// Takes a stream of bytes apart, in whatever pieces it comes.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes of the preface that are still to come.
    preface: usize,
    head: Vec<u8>,
    current: Option<(Frame, usize)>,
}

impl Frames {
    /// What a client sends.
    pub(super) fn of_client() -> Self {
        Self {
            preface: PREFACE.len(),
            ..Self::of_server()
        }
    }

    /// What a server sends.
    pub(super) fn of_server() -> Self {
        Self {
            preface: 0,
            head: Vec::with_capacity(HEAD),
            current: None,
        }
    }

    /// Takes the next bytes, and tells of each frame that they end.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut tell: impl FnMut(Frame)) {
        let skipped = self.preface.min(bytes.len());
        self.preface -= skipped;
        bytes = &bytes[skipped..];
        loop {
            if let Some((mut frame, missing)) = self.current.take() {
                let taken = missing.min(bytes.len());
                if frame.kind != Kind::Data {
                    frame.payload.extend_from_slice(&bytes[..taken]);
                }
                bytes = &bytes[taken..];
                if taken < missing {
                    self.current = Some((frame, missing - taken));
                    return;
                }
                tell(frame);
            }
            let taken = (HEAD - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            let [a, b, c, kind, _flags, s, t, r, m] = self.head[..] else {
                return;
            };
            self.head.clear();
            let length = u32::from_be_bytes([0, a, b, c]);
            let frame = Frame {
                kind: Kind::of(kind),
                stream: u32::from_be_bytes([s, t, r, m]) & 0x7fff_ffff,
                length,
                payload: Vec::new(),
            };
            self.current = Some((frame, length as usize));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, 0];
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn frames(mut parser: Frames, bytes: &[u8], piece: usize) -> Vec<Frame> {
        let mut found = Vec::new();
        for piece in bytes.chunks(piece) {
            parser.feed(piece, |frame| found.push(frame));
        }
        found
    }

    #[test]
    fn frames_are_the_same_in_whatever_pieces_they_come() {
        let mut sent = PREFACE.to_vec();
        sent.extend(bytes(4, 0, &[0, 4, 0, 1, 0, 0]));
        sent.extend(bytes(4, 0, &[]));
        sent.extend(bytes(1, 1, b"headers"));
        sent.extend(bytes(0, 1, &[7; 300]));
        sent.extend(bytes(8, 0, &[0, 0, 2, 0]));
        sent.extend(bytes(3, 1, &[0, 0, 0, 8]));
        let whole = frames(Frames::of_client(), &sent, sent.len());
        let kinds: Vec<Kind> = whole.iter().map(|frame| frame.kind).collect();
        assert_eq!(
            kinds,
            [
                Kind::Settings,
                Kind::Settings,
                Kind::Headers,
                Kind::Data,
                Kind::WindowUpdate,
                Kind::Reset
            ]
        );
        assert_eq!(whole[0].initial_window(), Some(65_536));
        assert_eq!(whole[1].initial_window(), None);
        assert_eq!((whole[2].stream, &*whole[2].payload), (1, &b"headers"[..]));
        assert_eq!((whole[3].length, whole[3].wire_bytes()), (300, 309));
        assert_eq!(whole[4].increment(), Some(512));
        assert_eq!(whole[5].reset_code(), Some(8));
        for piece in [1, 2, 3, 8, 9, 10, 100] {
            assert_eq!(frames(Frames::of_client(), &sent, piece), whole, "{piece}");
        }
    }

    #[test]
    fn the_reserved_bit_and_unfinished_frames_do_not_count() {
        let sent = bytes(0x21, 0x8000_0003, &[]);
        let found = frames(Frames::of_server(), &sent, 4);
        assert_eq!((found[0].kind, found[0].stream), (Kind::Other(0x21), 3));
        let cut = bytes(1, 1, b"headers");
        assert_eq!(frames(Frames::of_server(), &cut[..12], 5), []);
    }

    #[test]
    fn a_header_is_found_in_the_code_of_hpack() {
        // RFC 7541, C.4.2 and C.6.1.
        assert_eq!(
            huffman("no-cache"),
            Some(vec![0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf])
        );
        assert_eq!(huffman("302"), Some(vec![0x64, 0x02]));
        assert_eq!(huffman("Z"), None);
        let mut payload = vec![0x40, 0x86];
        payload.extend([0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]);
        let found = frames(Frames::of_server(), &bytes(1, 1, &payload), 99);
        assert!(found[0].spells("no-cache") && !found[0].spells("grpc-timeout"));
    }
}
