use bytes::{Buf, Bytes};
use prost::Message;

use super::*;
use crate::receipt::RejectReason;

fn in_pieces(bytes: Bytes, piece: usize) -> Segments {
    let mut segments = Segments::new();
    for part in bytes.chunks(piece) {
        segments.push(Bytes::copy_from_slice(part));
    }
    segments
}

fn whole(encoded: &Encoded) -> Bytes {
    let mut bytes = encoded.head.to_vec();
    let mut payload = encoded.payload.clone();
    bytes.extend_from_slice(&payload.copy_to_bytes(payload.len()));
    bytes.into()
}

#[test]
fn a_chunk_is_the_same_bytes_as_the_generated_code_writes() {
    for offset in [0, 5, 1 << 40] {
        for crc32c in [None, Some(0xdead_beef)] {
            let image_id = ImageId::new();
            let data = Bytes::from(vec![7; 1_000]);
            let ours = encode_client(ClientMessage::Chunk(Chunk {
                image_id,
                offset,
                crc32c,
                data: data.clone().into(),
            }));
            assert!(ours.head.len() <= CHUNK_OVERHEAD);
            let theirs = proto::ClientMessage {
                kind: Some(proto::client_message::Kind::Chunk(proto::Chunk {
                    image_id: image_id.to_string(),
                    offset,
                    crc32c,
                    data,
                })),
                crc32c: None,
            };
            assert_eq!(whole(&ours), theirs.encode_to_vec());
        }
    }
}

#[test]
fn a_chunk_in_any_number_of_pieces_reads_back() {
    let image_id = ImageId::new();
    let data: Bytes = (0..=255).cycle().take(3_000).collect::<Vec<u8>>().into();
    let encoded = encode_client(ClientMessage::Chunk(Chunk {
        image_id,
        offset: 77,
        crc32c: Some(crate::chunk::crc32c(&data)),
        data: data.clone().into(),
    }));
    for piece in [1, 2, 3, 40, 64, 1_000, 10_000] {
        let ClientMessage::Chunk(chunk) =
            decode_client(in_pieces(whole(&encoded), piece)).expect("a valid chunk")
        else {
            panic!("not a chunk");
        };
        assert_eq!((chunk.image_id, chunk.offset), (image_id, 77));
        assert_eq!(chunk.crc32c, Some(chunk.data.crc32c()));
        assert_eq!(chunk.data.into_bytes(), data);
    }
}

#[test]
fn unknown_fields_are_ignored_and_unknown_kinds_refused_by_number() {
    // Field 99 (varint 1) before a ClockPing.
    let mut bytes = vec![0x98, 0x06, 0x01];
    let ping = whole(&encode_client(ClientMessage::ClockPing {
        id: 4,
        t1: UnixNanos(9),
    }));
    // Without its sum, which is of other bytes.
    bytes.extend_from_slice(&ping[..ping.len() - 5]);
    assert!(matches!(
        decode_client(Bytes::from(bytes).into()),
        Ok(ClientMessage::ClockPing {
            id: 4,
            t1: UnixNanos(9)
        })
    ));
    // Field 42, two bytes.
    let reject = decode_client(Bytes::from_static(&[0xd2, 0x02, 2, 1, 1]).into())
        .expect_err("kind 42 does not exist");
    assert_eq!(reject.reason, RejectReason::UnknownMessage);
    assert!(reject.message.contains("kind 42"), "{reject}");
    let reject = decode_client(Segments::new()).expect_err("no kind");
    assert_eq!(reject.reason, RejectReason::UnknownMessage);
}

#[test]
fn a_length_beyond_the_message_is_refused() {
    let reject = decode_client(Bytes::from_static(&[0x1a, 0xff, 0xff, 0xff, 0x7f]).into())
        .expect_err("2 GiB promised, none there");
    assert_eq!(reject.reason, RejectReason::Invalid);
}

#[test]
fn a_malformed_digest_is_refused_with_the_image_it_belongs_to() {
    let id = ImageId::new();
    let message = proto::ClientMessage {
        kind: Some(proto::client_message::Kind::Begin(proto::Begin {
            image_id: id.to_string(),
            digest: Some(proto::Digest {
                algorithm: 1,
                value: Bytes::from_static(b"short"),
            }),
            ..Default::default()
        })),
        crc32c: None,
    };
    let reject = decode_client(Bytes::from(message.encode_to_vec()).into()).expect_err("5 bytes");
    assert_eq!(
        (reject.image_id, reject.reason),
        (Some(id), RejectReason::Invalid)
    );
}

/// Made by another program, from the descriptions alone: an `End` without a digest, and Python's CRC.
#[test]
fn a_message_and_its_sum_are_those_of_the_specification() {
    let image_id = "01932f3e-0000-7000-8000-000000000001";
    let image_id = image_id.parse().expect("an id");
    let end = encode_client(ClientMessage::End {
        image_id,
        digest: None,
    });
    let mut expected = vec![0x22, 0x26, 0x0a, 0x24];
    expected.extend_from_slice(b"01932f3e-0000-7000-8000-000000000001");
    expected.extend_from_slice(&[0x7d, 0x97, 0xae, 0x4b, 0x0a]);
    assert_eq!(whole(&end), expected);
    assert!(decode_client(Bytes::from(expected).into()).is_ok());
}

#[test]
fn what_was_damaged_on_its_way_is_found_wherever_a_bit_changed() {
    let client = whole(&encode_client(ClientMessage::Begin(Begin {
        meta: ImageMeta::new(ImageId::new(), 1_234),
        offset: 0,
    })));
    let server = encode_server(&ServerMessage::LossesKept { id: 77 });
    assert!(decode_client(client.clone().into()).is_ok());
    assert!(decode_server(server.clone()).is_ok());
    // A changed tag makes another, unknown field of the sum; the rest is what was sent.
    let is_tag = |message: &Bytes, at: usize| at == message.len() - 5;
    for bit in 0..client.len() * 8 {
        let mut damaged = client.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let understood = decode_client(in_pieces(damaged.into(), 7));
        assert!(understood.is_err() || is_tag(&client, bit / 8), "bit {bit}");
    }
    for bit in 0..server.len() * 8 {
        let mut damaged = server.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let understood = decode_server(Bytes::from(damaged));
        assert!(understood.is_err() || is_tag(&server, bit / 8), "bit {bit}");
    }
    let mut damaged = client.to_vec();
    damaged[8] ^= 1;
    let reject = decode_client(Bytes::from(damaged).into()).expect_err("damaged");
    assert_eq!(
        (reject.image_id, reject.reason),
        (None, RejectReason::Protocol)
    );
}
