use std::io::Cursor;
use std::time::{Duration, Instant};

use super::*;
use crate::intake::inspect::decode_fully;

fn facts(format: &'static str) -> Facts {
    Facts {
        format,
        extension: "",
        media_type: "",
        width: 33,
        height: 21,
    }
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(3_600)
}

#[test]
fn decoders_get_no_bytes_when_their_time_is_over() {
    for (name, bytes) in samples() {
        let facts = inspect(&bytes).expect(name);
        let over = Instant::now();
        let finding = decode_fully(Cursor::new(&bytes), &facts, 1 << 20, over).expect_err(name);
        assert_eq!(finding.reason, RejectReason::Limit, "{name}: {finding:?}");
        assert!(
            finding.message.contains("RECEIVER_DECODE_TIMEOUT"),
            "{name}: {finding:?}"
        );
    }
}

#[test]
fn whole_images_of_all_formats_are_decoded() {
    for (name, bytes) in samples() {
        let facts = inspect(&bytes).expect(name);
        decode_fully(Cursor::new(&bytes), &facts, 33 * 21, far())
            .unwrap_or_else(|finding| panic!("{name}: {finding:?}"));
    }
}

#[test]
fn too_many_pixels_are_refused_before_decoding() {
    for (name, bytes) in samples() {
        let facts = inspect(&bytes).expect(name);
        let finding =
            decode_fully(Cursor::new(&bytes), &facts, 33 * 21 - 1, far()).expect_err(name);
        assert_eq!(finding.reason, RejectReason::Limit, "{name}");
    }
    let claimed = Facts {
        width: u32::MAX,
        height: u32::MAX,
        ..facts("png")
    };
    let finding = decode_fully(Cursor::new(&[]), &claimed, 1 << 40, far()).expect_err("too large");
    assert_eq!(finding.reason, RejectReason::Limit);
}

#[test]
fn damage_that_the_walk_cannot_see_is_found() {
    // The container stays whole, the compressed data do not.
    let mut png = encode(&picture(33, 21), ImageFormat::Png);
    let data = png
        .windows(4)
        .position(|name| name == b"IDAT")
        .expect("has data")
        + 4;
    let length =
        u32::from_be_bytes(png[data - 8..data - 4].try_into().expect("four bytes")) as usize;
    png[data + 2..data + length].fill(0xFF);
    let sum = crc_fast::checksum(
        crc_fast::CrcAlgorithm::Crc32IsoHdlc,
        &png[data - 4..data + length],
    );
    png[data + length..data + length + 4].copy_from_slice(&(sum as u32).to_be_bytes());
    let facts = inspect(&png).expect("the walk sees nothing");
    let finding = decode_fully(Cursor::new(&png), &facts, 1 << 20, far()).expect_err("damaged");
    assert_eq!(finding.reason, RejectReason::CorruptImage);
}

#[test]
fn too_little_data_is_refused_for_every_format() {
    for (name, bytes) in samples() {
        // JPEG decoders fill in what is missing; the walk is what finds such a cut.
        if name == "jpeg" {
            continue;
        }
        let cut = &bytes[..bytes.len() / 2];
        let finding = decode_fully(Cursor::new(cut), &facts(name), 1 << 20, far()).expect_err(name);
        assert!(
            matches!(
                finding.reason,
                RejectReason::TruncatedImage | RejectReason::CorruptImage
            ),
            "{name}: {finding:?}"
        );
    }
}

#[test]
fn other_dimensions_than_stated_are_refused() {
    let bytes = encode(&picture(33, 21), ImageFormat::Png);
    for (width, height) in [(32, 21), (34, 21), (33, 22)] {
        let stated = Facts {
            width,
            height,
            ..facts("png")
        };
        assert!(
            decode_fully(Cursor::new(&bytes), &stated, 1 << 20, far()).is_err(),
            "{width}x{height}"
        );
    }
}
