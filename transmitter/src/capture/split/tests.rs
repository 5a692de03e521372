use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::codecs::webp::WebPEncoder;
use image::{ExtendedColorType, ImageEncoder};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const LIMIT: usize = 1 << 20;

/// Splits a stream that comes in one piece.
fn split(stream: &[u8]) -> (Vec<Piece>, u64, Option<Incomplete>) {
    split_in(stream, &[stream.len().max(1)])
}

/// Splits a stream that comes in pieces of these sizes, over and over.
fn split_in(mut stream: &[u8], sizes: &[usize]) -> (Vec<Piece>, u64, Option<Incomplete>) {
    let mut splitter = Splitter::new(LIMIT);
    let mut images = Vec::new();
    for size in sizes.iter().cycle() {
        let (piece, rest) = stream.split_at((*size).min(stream.len()));
        splitter.push(piece);
        while let Some(image) = splitter.next_image().unwrap() {
            images.push(image);
        }
        stream = rest;
        if stream.is_empty() {
            break;
        }
    }
    let (skipped, incomplete) = splitter.finish();
    (images, skipped, incomplete)
}

fn pixels(width: u32, height: u32, seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..width * height * 3).map(|_| rng.u8(..)).collect()
}

fn encoded(kind: usize, width: u32, height: u32, seed: u64) -> Vec<u8> {
    let (pixels, color) = (pixels(width, height, seed), ExtendedColorType::Rgb8);
    let mut out = Vec::new();
    match kind {
        0 => JpegEncoder::new(&mut out).write_image(&pixels, width, height, color),
        1 => PngEncoder::new(&mut out).write_image(&pixels, width, height, color),
        _ => WebPEncoder::new_lossless(&mut out).write_image(&pixels, width, height, color),
    }
    .unwrap();
    out
}

fn segment(marker: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len() + 2).unwrap().to_be_bytes();
    [&[0xFF, marker], &length[..], content].concat()
}

/// Entropy-coded data: stuffed, with restart markers in between.
fn scan(data: &[u8]) -> Vec<u8> {
    let mut out = segment(0xDA, &[1, 1, 0, 0, 63, 0]);
    for (index, byte) in data.iter().enumerate() {
        out.push(*byte);
        if *byte == 0xFF {
            out.push(0);
        }
        if index % 5 == 4 {
            out.extend([0xFF, 0xD0 + (index / 5 % 8) as u8]);
        }
    }
    out
}

/// A JPEG with a whole JPEG in its EXIF segment and several scans with tables between them.
fn structured_jpeg(thumbnail: &[u8], scans: &[Vec<u8>]) -> Vec<u8> {
    let mut out = vec![0xFF, 0xD8];
    out.extend(segment(0xE1, &[b"Exif\0\0", thumbnail].concat()));
    out.extend([0xFF, 0xFF]); // Fill bytes are allowed before every marker.
    out.extend(segment(0xC2, &[8, 0, 1, 0, 1, 1, 1, 17, 0]));
    for data in scans {
        out.extend(segment(0xC4, &[0xFF, 0xD9, 0xFF, 0xD8]));
        out.extend(scan(data));
    }
    out.extend([0xFF, 0xD9]);
    out
}

/// A GIF with a colour table, a comment that holds end bytes, and frames.
fn gif(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut out = b"GIF89a\x02\0\x02\0\x81\0\0".to_vec();
    out.extend([0x3B; 12]);
    out.extend(b"\x21\xFE\x03\x3B\x00\x3B\x00");
    for (index, frame) in frames.iter().enumerate() {
        let local = if index % 2 == 1 { 0x80 } else { 0 };
        out.extend([0x2C, 0, 0, 0, 0, 2, 0, 2, 0, local]);
        out.extend(vec![0x3B; if local == 0 { 0 } else { 6 }]);
        out.push(2);
        for block in frame.chunks(255) {
            out.push(block.len() as u8);
            out.extend(block);
        }
        out.push(0);
    }
    out.push(0x3B);
    out
}

fn any_image() -> impl Strategy<Value = (Vec<u8>, &'static str)> {
    let real = (0usize..3, 1u32..24, 1u32..24, any::<u64>()).prop_map(|(kind, w, h, seed)| {
        (
            encoded(kind, w, h, seed),
            ["image/jpeg", "image/png", "image/webp"][kind],
        )
    });
    let scans = vec(vec(prop_oneof![Just(0xFF), any::<u8>()], 0..60), 1..4);
    let jpeg = (any::<u64>(), scans).prop_map(|(seed, scans)| {
        (
            structured_jpeg(&encoded(0, 8, 8, seed), &scans),
            "image/jpeg",
        )
    });
    let gif = vec(vec(any::<u8>(), 0..600), 0..4).prop_map(|frames| (gif(&frames), "image/gif"));
    prop_oneof![real, jpeg, gif]
}

/// What may lie between images without being mistaken for one.
fn garbage() -> impl Strategy<Value = Vec<u8>> {
    vec(
        any::<u8>().prop_filter("begins an image", |b| !b"\xFF\x89RG".contains(b)),
        0..40,
    )
}

/// How images begin.
const HEADS: &[&[u8]] = &[b"\xFF\xD8\xFF", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"RIFF"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_concatenation_in_any_pieces_gives_the_images_back(
        images in vec((any_image(), garbage()), 0..6),
        sizes in vec(1usize..700, 1..5),
    ) {
        let stream: Vec<u8> =
            images.iter().flat_map(|((image, _), garbage)| [&image[..], garbage].concat()).collect();
        let (found, skipped, incomplete) = split_in(&stream, &sizes);
        let expected: Vec<_> = images
            .iter()
            .map(|((image, media_type), _)| Piece { bytes: image.clone().into(), media_type })
            .collect();
        prop_assert_eq!(found, expected);
        prop_assert_eq!(skipped, images.iter().map(|(_, garbage)| garbage.len() as u64).sum::<u64>());
        prop_assert_eq!(incomplete, None);
    }

    #[test]
    fn every_byte_of_any_stream_is_accounted_for(
        stream in vec(prop_oneof![Just(0xFF), Just(0xD8), Just(0xDA), Just(0x2C), any::<u8>()], 0..3000),
        head in proptest::sample::select(HEADS),
        sizes in vec(1usize..300, 1..4),
    ) {
        let stream = [head, &stream].concat();
        let (found, skipped, incomplete) = split_in(&stream, &sizes);
        let total = found.iter().map(|image| image.bytes.len()).sum::<usize>()
            + skipped as usize
            + incomplete.map_or(0, |rest| rest.bytes);
        prop_assert_eq!(total, stream.len());
        prop_assert_eq!((found, skipped, incomplete), split(&stream), "pieces make no difference");
    }
}

#[test]
fn a_thumbnail_within_exif_is_not_an_image_of_its_own() {
    let image = structured_jpeg(&encoded(0, 16, 16, 1), &[vec![1, 2, 3]]);
    let (found, skipped, _) = split(&image);
    assert_eq!((found.len(), skipped), (1, 0));
    assert_eq!(found[0].bytes, image);
}

#[test]
fn a_truncated_jpeg_is_skipped_and_the_next_image_found() {
    let (first, second) = (encoded(0, 30, 30, 1), encoded(0, 30, 30, 2));
    let cut = &first[..first.len() - 40];
    let (found, skipped, incomplete) = split(&[cut, &second].concat());
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].bytes, second);
    assert_eq!((skipped, incomplete), (cut.len() as u64, None));
}

#[test]
fn a_damaged_png_is_skipped_and_the_next_image_found() {
    let (mut first, second) = (encoded(1, 9, 9, 1), encoded(2, 9, 9, 2));
    first[8 + 25 + 4] = 0; // The type of the chunk after the header.
    let (found, skipped, _) = split(&[&first[..], &second].concat());
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].media_type, "image/webp");
    assert_eq!(skipped, first.len() as u64);
}

#[test]
fn what_only_begins_like_a_jpeg_hides_no_image_after_it() {
    let image = encoded(0, 9, 9, 1);
    let (found, skipped, _) = split(&[b"\xFF\xD8\xFF\xE0\x00\x20 ", &image[..]].concat());
    assert_eq!(
        found.len(),
        1,
        "the segment of 32 bytes would hide its beginning"
    );
    assert_eq!(skipped, 7);
}

#[test]
fn a_rest_at_the_end_is_reported() {
    for kind in 0..3 {
        let image = encoded(kind, 20, 20, 3);
        let cut = &image[..image.len() - 1];
        let (found, skipped, incomplete) = split(&[&image[..], cut].concat());
        assert_eq!((found.len(), skipped), (1, 0));
        assert_eq!(incomplete.unwrap().bytes, cut.len());
    }
    let (_, skipped, incomplete) = split(b"hello RIFF");
    assert_eq!(
        (skipped, incomplete),
        (10, None),
        "too little to be called an image"
    );
}

#[test]
fn an_image_above_the_limit_is_an_error() {
    let image = encoded(1, 20, 20, 3);
    let mut splitter = Splitter::new(image.len() - 1);
    splitter.push(&image);
    assert_eq!(
        splitter.next_image(),
        Err(SplitError::TooLarge {
            media_type: "image/png",
            limit: image.len() - 1
        })
    );
    let mut declared = Splitter::new(LIMIT);
    declared.push(b"RIFF\xFF\xFF\xFF\xFFWEBPVP8L");
    let error = declared.next_image().unwrap_err();
    assert!(
        matches!(error, SplitError::TooLarge { .. }),
        "before its bytes have come"
    );
}

#[test]
fn a_stream_without_images_is_an_error_before_it_fills_the_memory() {
    let mut splitter = Splitter::new(1000);
    splitter.push(&[b'x'; 1000]);
    assert_eq!(splitter.next_image(), Ok(None));
    splitter.push(b"x");
    assert_eq!(
        splitter.next_image(),
        Err(SplitError::NoImage { bytes: 1001 })
    );
}

#[test]
fn padding_between_many_images_is_no_error() {
    let image = encoded(0, 8, 8, 1);
    let padded = [&image[..], &[0; 600]].concat();
    let mut splitter = Splitter::new(1000);
    for _ in 0..5 {
        splitter.push(&padded);
        assert!(splitter.next_image().unwrap().is_some());
        assert!(splitter.next_image().unwrap().is_none());
    }
    assert_eq!(splitter.skipped(), 3000);
}

#[test]
fn a_webp_too_small_to_be_one_does_not_end_in_itself() {
    let (found, skipped, _) = split(b"RIFF\x04\0\0\0WEBPVP8L");
    assert_eq!((found.len(), skipped), (0, 16));
}
