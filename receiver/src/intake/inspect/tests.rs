use image::codecs::pnm::{PnmEncoder, PnmSubtype, SampleEncoding};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use shared::receipt::RejectReason;

use super::{Facts, Finding, Inspector};

mod declared;
mod decoding;
mod pieces;
mod streams;
mod truncation;

/// A picture with some detail, so that its encodings have entropy-coded data worth the name.
fn picture(width: u32, height: u32) -> DynamicImage {
    let mut seed = 7_u32;
    let pixels = RgbImage::from_fn(width, height, |x, y| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let noise = (seed >> 27) as u8;
        Rgb([(x * 9) as u8 ^ noise, (y * 7) as u8, (x + y) as u8 ^ noise])
    });
    pixels.into()
}

fn encode(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    if format == ImageFormat::Pnm {
        // Left to itself the encoder writes PAM.
        let encoder =
            PnmEncoder::new(&mut file).with_subtype(PnmSubtype::Pixmap(SampleEncoding::Binary));
        picture
            .write_with_encoder(encoder)
            .expect("encodes into memory");
        return file.into_inner();
    }
    picture
        .write_to(&mut file, format)
        .expect("encodes into memory");
    file.into_inner()
}

/// One image of every format, 33 by 21 pixels.
fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let picture = picture(33, 21);
    [
        ("jpeg", ImageFormat::Jpeg),
        ("png", ImageFormat::Png),
        ("webp", ImageFormat::WebP),
        ("gif", ImageFormat::Gif),
        ("bmp", ImageFormat::Bmp),
        ("tiff", ImageFormat::Tiff),
        ("pnm", ImageFormat::Pnm),
    ]
    .map(|(name, format)| (name, encode(&picture, format)))
    .into()
}

fn inspect(bytes: &[u8]) -> Result<Facts, Finding> {
    inspect_as(bytes, None)
}

fn inspect_as(bytes: &[u8], declared: Option<&str>) -> Result<Facts, Finding> {
    let mut inspector = Inspector::default();
    inspector.update(bytes);
    inspector.finish(declared)
}

fn reason(bytes: &[u8]) -> Option<RejectReason> {
    inspect(bytes).err().map(|finding| finding.reason)
}

#[test]
fn whole_images_of_all_formats_pass_with_their_dimensions() {
    for (name, bytes) in samples() {
        let facts = inspect(&bytes).unwrap_or_else(|finding| panic!("{name}: {finding:?}"));
        assert_eq!((facts.format, facts.width, facts.height), (name, 33, 21));
        assert_eq!(
            shared::image::media_type_of(&format!("x.{}", facts.extension)),
            Some(facts.media_type)
        );
    }
}

#[test]
fn what_follows_the_end_of_an_image_is_let_pass() {
    for (name, mut bytes) in samples() {
        bytes.extend_from_slice(&[0xA5; 200_000]);
        assert!(inspect(&bytes).is_ok(), "{name}");
    }
}

#[test]
fn an_image_without_bytes_is_empty() {
    assert_eq!(reason(&[]), Some(RejectReason::Empty));
}

#[test]
fn a_clone_is_a_checkpoint() {
    for (name, bytes) in samples() {
        let half = bytes.len() / 2;
        let mut inspector = Inspector::default();
        inspector.update(&bytes[..half]);
        let checkpoint = inspector.clone();
        inspector.update(&[0xFF; 5_000]);
        let mut resumed = checkpoint;
        resumed.update(&bytes[half..]);
        assert_eq!(resumed.finish(None), inspect(&bytes), "{name}");
    }
}

#[test]
fn an_inspector_holds_no_more_than_a_few_hundred_bytes() {
    assert!(size_of::<Inspector>() < 512, "{}", size_of::<Inspector>());
}
