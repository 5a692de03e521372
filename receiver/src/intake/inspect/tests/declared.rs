use super::*;

#[test]
fn the_declared_type_must_be_that_of_the_bytes() {
    let jpeg = encode(&picture(8, 8), ImageFormat::Jpeg);
    for right in [
        "image/jpeg",
        "image/jpg",
        "IMAGE/PJPEG",
        "image/jpeg; q=1",
        " image/jpeg ",
        "",
        "image/*",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        "text/plain",
        "image/",
    ] {
        assert!(inspect_as(&jpeg, Some(right)).is_ok(), "{right}");
    }
    for wrong in [
        "image/png",
        "image/avif",
        "image/svg+xml",
        "image/x",
        "image/\u{1b}[2J",
    ] {
        let finding = inspect_as(&jpeg, Some(wrong)).expect_err(wrong);
        assert_eq!(finding.reason, RejectReason::Mislabelled, "{wrong}");
        assert!(
            !finding.message.contains(char::is_control),
            "{}",
            finding.message
        );
    }
}

#[test]
fn other_names_of_a_type_are_known() {
    for (declared, format) in [
        ("image/x-png", ImageFormat::Png),
        ("image/x-ms-bmp", ImageFormat::Bmp),
        ("image/x-tiff", ImageFormat::Tiff),
        ("image/x-portable-pixmap", ImageFormat::Pnm),
    ] {
        let bytes = encode(&picture(8, 8), format);
        assert!(inspect_as(&bytes, Some(declared)).is_ok(), "{declared}");
    }
}

#[test]
fn a_cut_image_of_another_kind_is_called_truncated_first() {
    let jpeg = encode(&picture(8, 8), ImageFormat::Jpeg);
    let finding = inspect_as(&jpeg[..300], Some("image/png")).expect_err("cut");
    assert_eq!(finding.reason, RejectReason::TruncatedImage);
}

#[test]
fn what_is_no_image_is_named() {
    for (bytes, looks) in [
        (&b"hello, world"[..], "text (\"hello, world\")"),
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (
            b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>",
            "an SVG drawing",
        ),
        (b"{\"error\":\"no camera\"}", "JSON"),
        ("BMW is a car, Größe".as_bytes(), "text"),
        (&[0; 40], "nothing but zeros"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"\0\0\0\x20ftypheic\0\0\0\0", "a HEIF image"),
        (b"\0\0\0\x20ftypavif\0\0\0\0", "an AVIF image"),
        (
            b"\xFF\xFE\x01\x02\x03\x04\x05\x06\x07\x08",
            "ff fe 01 02 03 04 05 06 in hexadecimal",
        ),
        (b"RIFF\x24\0\0\0WAVEfmt ", "52 49 46 46"),
    ] {
        let finding = inspect(bytes).expect_err(looks);
        assert_eq!(finding.reason, RejectReason::NotAnImage, "{looks}");
        assert!(
            finding.message.contains(looks),
            "{} should say {looks}",
            finding.message
        );
    }
}

#[test]
fn types_that_are_not_supported_come_with_those_that_are() {
    for declared in ["image/svg+xml", "image/avif", "image/heic"] {
        let finding =
            inspect_as(b"\0\0\0\x20ftypheic\0\0\0\0", Some(declared)).expect_err(declared);
        assert_eq!(finding.reason, RejectReason::NotAnImage);
        assert!(finding.message.contains(declared), "{}", finding.message);
        assert!(
            finding.message.contains("send JPEG, PNG, WebP"),
            "{}",
            finding.message
        );
    }
}
