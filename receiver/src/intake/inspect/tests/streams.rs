//! Streams made by hand, for what the encoders at hand do not write.

use super::*;

/// A marker segment.
fn segment(marker: u8, contents: &[u8]) -> Vec<u8> {
    let length = u16::try_from(contents.len() + 2)
        .expect("segments are short")
        .to_be_bytes();
    [&[0xFF, marker], &length[..], contents].concat()
}

fn frame(marker: u8, width: u16, height: u16) -> Vec<u8> {
    let mut contents = vec![8];
    contents.extend(height.to_be_bytes());
    contents.extend(width.to_be_bytes());
    contents.extend([1, 1, 0x11, 0]);
    segment(marker, &contents)
}

fn scan(data: &[u8]) -> Vec<u8> {
    [segment(0xDA, &[1, 1, 0, 0, 63, 0]), data.to_vec()].concat()
}

/// Two scans with stuffing, restarts, fill bytes, and a table between them that holds FF D9.
fn progressive() -> Vec<u8> {
    let thumbnail = [0xFF, 0xD8, 0xFF, 0xDA, 0, 2, 1, 2, 3, 0xFF, 0xD9];
    [
        vec![0xFF, 0xD8],
        segment(0xE1, &[&b"Exif\0\0"[..], &thumbnail].concat()),
        vec![0xFF, 0xFF],
        frame(0xC2, 640, 480),
        segment(0xC4, &[0; 17]),
        scan(&[1, 2, 0xFF, 0x00, 3, 0xFF, 0xD0, 4, 0xFF, 0xD7]),
        segment(0xC4, &[0xFF, 0xD9, 0xFF, 0xD9]),
        scan(&[0xFF, 0x00, 0xFF, 0x00, 9]),
        vec![0xFF, 0xFF, 0xD9],
    ]
    .concat()
}

#[test]
fn a_jpeg_of_several_scans_passes_and_no_cut_of_it_does() {
    let bytes = progressive();
    let facts = inspect(&bytes).expect("whole");
    assert_eq!((facts.width, facts.height), (640, 480));
    for cut in 2..bytes.len() {
        assert_eq!(
            reason(&bytes[..cut]),
            Some(RejectReason::TruncatedImage),
            "cut at {cut}"
        );
    }
}

#[test]
fn the_end_of_a_preview_is_not_that_of_the_image() {
    // The preview lies in a segment in front, and nearly the whole file is that preview.
    let preview = encode(&picture(64, 64), ImageFormat::Jpeg);
    let image = encode(&picture(33, 21), ImageFormat::Jpeg);
    let bytes = [&image[..2], &segment(0xE1, &preview), &image[2..]].concat();
    assert!(inspect(&bytes).is_ok());
    for cut in 2..bytes.len() {
        assert_eq!(
            reason(&bytes[..cut]),
            Some(RejectReason::TruncatedImage),
            "cut at {cut}"
        );
    }
}

#[test]
fn half_a_jpeg_followed_by_a_whole_one_is_truncated() {
    let bytes = progressive();
    let glued = [&bytes[..bytes.len() - 4], &bytes].concat();
    assert_eq!(reason(&glued), Some(RejectReason::TruncatedImage));
}

#[test]
fn a_jpeg_may_have_padding_between_its_segments_but_not_without_end() {
    let head = [vec![0xFF, 0xD8], segment(0xE0, b"JFIF\0")].concat();
    let tail = [frame(0xC0, 8, 8), scan(&[1, 2, 3]), vec![0xFF, 0xD9]].concat();
    assert!(inspect(&[&head, &vec![0; 3][..], &tail].concat()).is_ok());
    assert_eq!(
        reason(&[&head, &vec![0; 5_000][..], &tail].concat()),
        Some(RejectReason::CorruptImage)
    );
}

#[test]
fn the_number_of_lines_may_follow_the_first_scan() {
    let open = [vec![0xFF, 0xD8], frame(0xC0, 8, 0), scan(&[1, 2, 3])].concat();
    let lines = segment(0xDC, &77_u16.to_be_bytes());
    let facts = inspect(
        &[&open, &lines, &vec![0xFF, 0xD9]]
            .map(Vec::as_slice)
            .concat(),
    );
    assert_eq!(facts.expect("whole").height, 77);
    let without = [&open[..], &[0xFF, 0xD9]].concat();
    assert_eq!(reason(&without), Some(RejectReason::CorruptImage));
}

#[test]
fn a_jpeg_without_a_picture_is_corrupt() {
    let start = vec![0xFF, 0xD8];
    for body in [
        vec![0xFF, 0xD9],
        [frame(0xC0, 8, 8), vec![0xFF, 0xD9]].concat(),
        [scan(&[1, 2, 3]), vec![0xFF, 0xD9]].concat(),
        [
            vec![0xFF, 0xE0, 0, 1],
            frame(0xC0, 8, 8),
            scan(&[1]),
            vec![0xFF, 0xD9],
        ]
        .concat(),
        [frame(0xC0, 0, 8), scan(&[1]), vec![0xFF, 0xD9]].concat(),
    ] {
        assert_eq!(
            reason(&[start.clone(), body].concat()),
            Some(RejectReason::CorruptImage)
        );
    }
}

#[test]
fn metadata_of_megabytes_are_skipped_without_being_kept() {
    let mut bytes = vec![0xFF, 0xD8];
    for _ in 0..100 {
        bytes.extend(segment(0xE2, &[0xFF; 65_000]));
    }
    bytes.extend_from_slice(&progressive()[2..]);
    assert!(inspect(&bytes).is_ok());
}

fn chunk(name: &[u8; 4], contents: &[u8]) -> Vec<u8> {
    let named = [&name[..], contents].concat();
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, &named) as u32;
    let length = u32::try_from(contents.len()).expect("chunks are short");
    [&length.to_be_bytes()[..], &named, &sum.to_be_bytes()].concat()
}

fn png(width: u32, height: u32, between: &[u8], end: &[u8]) -> Vec<u8> {
    let dimensions = [width.to_be_bytes(), height.to_be_bytes()].concat();
    let header = chunk(b"IHDR", &[&dimensions[..], &[8, 2, 0, 0, 0]].concat());
    [b"\x89PNG\r\n\x1A\n", &header[..], between, end].concat()
}

#[test]
fn png_chunks_are_checked() {
    let data = chunk(b"IDAT", &[1, 2, 3]);
    let end = chunk(b"IEND", &[]);
    assert!(inspect(&png(7, 9, &data, &end)).is_ok());
    for (what, bytes) in [
        ("no picture", png(7, 9, &[], &end)),
        ("zero width", png(0, 9, &data, &end)),
        ("more than 31 bits", png(7, 1 << 31, &data, &end)),
        ("two headers", png(7, 9, &png(7, 9, &[], &[])[8..], &end)),
        ("no name", png(7, 9, &chunk(b"\0\0\0\0", &[]), &end)),
        (
            "an end with contents",
            png(7, 9, &data, &chunk(b"IEND", &[1])),
        ),
        (
            "another first chunk",
            [b"\x89PNG\r\n\x1A\n", &data[..], &end, &[0; 9]].concat(),
        ),
    ] {
        assert_eq!(reason(&bytes), Some(RejectReason::CorruptImage), "{what}");
    }
}

#[test]
fn a_flipped_bit_in_a_png_is_found_where_the_picture_depends_on_it() {
    let bytes = png(7, 9, &chunk(b"IDAT", &[1, 2, 3]), &chunk(b"IEND", &[]));
    for at in 16..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x04;
        assert!(reason(&damaged).is_some(), "byte {at}");
    }
    let mut text = png(7, 9, &chunk(b"tEXt", b"a note"), &[]);
    let last = text.len() - 1;
    text[last] ^= 1;
    let rest = [chunk(b"IDAT", &[1]), chunk(b"IEND", &[])].concat();
    assert!(
        inspect(&[text, rest].concat()).is_ok(),
        "notes are not checked"
    );
}

fn riff(chunks: &[u8]) -> Vec<u8> {
    let size = u32::try_from(chunks.len() + 4)
        .expect("containers are short")
        .to_le_bytes();
    [b"RIFF", &size[..], b"WEBP", chunks].concat()
}

fn riff_chunk(name: &[u8; 4], contents: &[u8]) -> Vec<u8> {
    let size = u32::try_from(contents.len())
        .expect("chunks are short")
        .to_le_bytes();
    let padding = vec![0; contents.len() % 2];
    [&name[..], &size, contents, &padding].concat()
}

#[test]
fn webp_dimensions_come_from_canvas_or_frame() {
    let lossy = riff_chunk(
        b"VP8 ",
        &[0x10, 0, 0, 0x9D, 0x01, 0x2A, 0x40, 0x41, 0x20, 0x00, 1],
    );
    let lossless = riff_chunk(b"VP8L", &[0x2F, 0x3F, 0xC0, 0x07, 0x00, 5]);
    let canvas = riff_chunk(b"VP8X", &[0x02, 0, 0, 0, 99, 0, 1, 49, 0, 0]);
    let frame = riff_chunk(b"ANMF", &[0; 16]);
    for (bytes, dimensions) in [
        (riff(&lossy), (320, 32)),
        (riff(&lossless), (64, 32)),
        (
            riff(&[canvas.clone(), lossy.clone()].concat()),
            (65_636, 50),
        ),
        (riff(&[canvas.clone(), frame].concat()), (65_636, 50)),
    ] {
        let facts = inspect(&bytes).expect("whole");
        assert_eq!((facts.width, facts.height), dimensions);
        for cut in 12..bytes.len() {
            assert_eq!(
                reason(&bytes[..cut]),
                Some(RejectReason::TruncatedImage),
                "cut at {cut}"
            );
        }
    }
    for wrong in [
        riff(&canvas),
        riff(&riff_chunk(b"ICCP", &[1, 2])),
        riff(&riff_chunk(
            b"VP8 ",
            &[0x11, 0, 0, 0x9D, 0x01, 0x2A, 1, 0, 1, 0],
        )),
        riff(&riff_chunk(b"VP8L", &[0x2E, 0, 0, 0, 0])),
        riff(&riff_chunk(b"VP8 ", &[0x10])),
        riff(&[&lossy[..], b"EXIF", &[0xFF; 4]].concat()),
        riff(&[]),
    ] {
        let padded = [wrong, vec![0; 40]].concat();
        assert_eq!(
            reason(&padded),
            Some(RejectReason::CorruptImage),
            "{padded:?}"
        );
    }
}

#[test]
fn gif_blocks_are_walked() {
    let header = [b"GIF89a", &[3, 0, 2, 0, 0x80, 0, 0][..], &[9; 6]].concat();
    let frame = [
        b",",
        &[0, 0, 0, 0, 3, 0, 2, 0, 0x81][..],
        &[9; 12],
        &[2, 2, b';', 0x3B, 0],
    ]
    .concat();
    let note = [b"!", &[0xFE, 3][..], b";;;", &[0]].concat();
    let whole = [&header, &note, &frame, &frame, &vec![0], &vec![b';']]
        .map(Vec::as_slice)
        .concat();
    let facts = inspect(&whole).expect("whole");
    assert_eq!((facts.width, facts.height), (3, 2));
    for cut in 6..whole.len() {
        assert_eq!(
            reason(&whole[..cut]),
            Some(RejectReason::TruncatedImage),
            "cut at {cut}"
        );
    }
    let empty = [&header[..], b";", &[0; 20]].concat();
    let unknown = [&header[..], b"?", &[0; 20]].concat();
    let codes = [
        &header[..],
        b",",
        &[0, 0, 0, 0, 3, 0, 2, 0, 0, 77, 0, b';'],
        &[0; 9],
    ]
    .concat();
    for wrong in [empty, unknown, codes] {
        assert_eq!(reason(&wrong), Some(RejectReason::CorruptImage));
    }
}

#[test]
fn tiff_of_both_byte_orders_and_both_widths_is_read() {
    let little = [b"II*\0", &[12, 0, 0, 0][..], &[0; 4], &[2, 0]].concat();
    let little = [
        &little[..],
        &[0, 1, 3, 0, 1, 0, 0, 0, 0x40, 0x01, 0, 0],
        &[1, 1, 4, 0, 1, 0, 0, 0, 0xF0, 0, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    let big = [
        b"MM\0*",
        &[0, 0, 0, 8, 0, 2][..],
        &[1, 0, 0, 3, 0, 0, 0, 1, 0x01, 0x40, 0, 0],
        &[1, 1, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0xF0, 0, 0, 0, 0],
    ]
    .concat();
    let wide = [
        b"II+\0",
        &[8, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0][..],
        &[
            0, 1, 4, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0x40, 0x01, 0, 0, 0, 0, 0, 0,
        ],
        &[
            1, 1, 16, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xF0, 0, 0, 0, 0, 0, 0, 0,
        ],
    ]
    .concat();
    let wide = [wide, vec![0; 8]].concat();
    for bytes in [&little, &big, &wide] {
        let facts = inspect(bytes).expect("whole");
        assert_eq!(
            (facts.format, facts.width, facts.height),
            ("tiff", 320, 240)
        );
        for cut in 4..bytes.len() {
            assert_eq!(
                reason(&bytes[..cut]),
                Some(RejectReason::TruncatedImage),
                "cut at {cut}"
            );
        }
    }
    let mut within_header = big.clone();
    within_header[7] = 4;
    let mut without_width = big.clone();
    without_width[11] = 9;
    let mut no_entries = big;
    no_entries[9] = 0;
    for wrong in [within_header, without_width, no_entries] {
        assert_eq!(reason(&wrong), Some(RejectReason::CorruptImage));
    }
}
