use super::*;
use crate::intake::inspect::kind::HEAD_BYTES;

#[test]
fn every_cut_of_every_format_is_refused() {
    for (name, bytes) in samples() {
        for cut in 0..bytes.len() {
            let found = reason(&bytes[..cut]);
            match cut {
                0 => assert_eq!(found, Some(RejectReason::Empty), "{name}"),
                _ if cut < HEAD_BYTES => assert!(
                    matches!(
                        found,
                        Some(RejectReason::NotAnImage | RejectReason::TruncatedImage)
                    ),
                    "{name} cut at {cut}: {found:?}"
                ),
                _ => assert_eq!(
                    found,
                    Some(RejectReason::TruncatedImage),
                    "{name} cut at {cut} of {}",
                    bytes.len()
                ),
            }
        }
    }
}

#[test]
fn the_beginning_of_a_signature_is_called_truncated() {
    for (name, bytes) in samples() {
        if !matches!(name, "pnm" | "bmp") {
            assert_eq!(
                reason(&bytes[..4]),
                Some(RejectReason::TruncatedImage),
                "{name}"
            );
        }
    }
}

#[test]
fn a_cut_image_padded_with_zeros_stays_refused() {
    for (name, bytes) in samples() {
        // Formats whose data are raw samples cannot tell zeros from black.
        if matches!(name, "bmp" | "pnm" | "tiff" | "webp") {
            continue;
        }
        let mut cut = bytes[..bytes.len() / 2].to_vec();
        cut.resize(bytes.len() + 10_000, 0);
        assert!(reason(&cut).is_some(), "{name}");
    }
}

#[test]
fn the_message_says_where_an_image_breaks_off() {
    let png = encode(&picture(33, 21), ImageFormat::Png);
    let finding = inspect(&png[..100]).expect_err("cut");
    assert!(
        finding
            .message
            .starts_with("the PNG image breaks off after 100 bytes, in chunk IDAT; at least "),
        "{}",
        finding.message
    );
}

#[test]
fn ten_bytes_of_a_gigabyte_are_truncated() {
    let mut bmp = encode(&picture(4, 4), ImageFormat::Bmp);
    bmp[2..6].copy_from_slice(&1_000_000_000_u32.to_le_bytes());
    assert_eq!(reason(&bmp), Some(RejectReason::TruncatedImage));
}

#[test]
fn a_bitmap_without_a_file_size_is_measured_by_its_pixels() {
    let mut bmp = encode(&picture(5, 3), ImageFormat::Bmp);
    bmp[2..6].fill(0);
    assert!(inspect(&bmp).is_ok());
    assert_eq!(
        reason(&bmp[..bmp.len() - 1]),
        Some(RejectReason::TruncatedImage)
    );
}

#[test]
fn text_samples_are_counted() {
    for whole in [
        "P2 2 2 255\n1 2 3 4",
        "P3\n# a comment\n1 1\n9\n1 2 3\n",
        "P1\n3 2\n101010",
    ] {
        assert!(inspect(whole.as_bytes()).is_ok(), "{whole}");
    }
    for cut in [
        "P2 2 2 255\n1 2 3 ",
        "P3 1 1 9 1 2 # 3",
        "P1\n3 2\n10 101",
        "P2 2",
    ] {
        assert_eq!(
            reason(cut.as_bytes()),
            Some(RejectReason::TruncatedImage),
            "{cut}"
        );
    }
    for wrong in [
        "P2 2 2 255\n1 x 3 4",
        "P5 2 2 70000\n1234",
        "P6 99999999999 1 1\n",
        "P5 x",
    ] {
        assert_eq!(
            reason(wrong.as_bytes()),
            Some(RejectReason::CorruptImage),
            "{wrong}"
        );
    }
    assert_eq!(reason(b"P5 0 7 255\n"), Some(RejectReason::CorruptImage));
}
