//! Real images, made on the spot: small enough to be quick, each different.

use std::fs::File;
use std::io::{Cursor, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use image::{ImageFormat, RgbImage};

/// An encoded image and what is true of it.
#[derive(Debug, Clone)]
pub struct Picture {
    /// Its bytes.
    pub bytes: Bytes,
    /// Its media type.
    pub media_type: &'static str,
    /// The receiver's word for its format.
    pub format: &'static str,
    /// Ending of a file name.
    pub ending: &'static str,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
}

fn encode(pixels: &RgbImage, format: ImageFormat) -> Bytes {
    let mut bytes = Cursor::new(Vec::new());
    pixels
        .write_to(&mut bytes, format)
        .expect("images can be encoded into memory");
    bytes.into_inner().into()
}

/// Writes a file that looks an hour old, so that nobody waits to see whether it still grows. It is
/// whole when it appears.
///
/// # Panics
/// When the folder cannot be written.
pub fn write_file(path: &Path, bytes: &[u8]) {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .expect("a plain name");
    let hidden = path.with_file_name(format!(".{name}"));
    let old = SystemTime::now() - Duration::from_secs(3_600);
    File::create(&hidden)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.set_modified(old)))
        .and_then(|()| std::fs::rename(hidden, path))
        .expect("temporary folders can be written");
}

/// A smooth picture with a little structure, different for each seed.
fn scene(width: u32, height: u32, seed: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let mix = x.wrapping_mul(7) ^ y.wrapping_mul(3).wrapping_add(seed.wrapping_mul(31));
        image::Rgb([mix, x.wrapping_add(seed), y].map(|value| (value % 256) as u8))
    })
}

/// A JPEG image.
pub fn jpeg(seed: u32) -> Picture {
    picture(
        48,
        32,
        seed,
        ImageFormat::Jpeg,
        ("image/jpeg", "jpeg", "jpg"),
    )
}

/// A PNG image.
pub fn png(seed: u32) -> Picture {
    picture(20, 30, seed, ImageFormat::Png, ("image/png", "png", "png"))
}

/// A WebP image.
pub fn webp(seed: u32) -> Picture {
    picture(
        33,
        17,
        seed,
        ImageFormat::WebP,
        ("image/webp", "webp", "webp"),
    )
}

/// A PNG image, square and of one colour: many pixels, and few bytes.
pub fn blank(side: u32) -> Picture {
    let mut bytes = Cursor::new(Vec::new());
    image::GrayImage::new(side, side)
        .write_to(&mut bytes, ImageFormat::Png)
        .expect("images can be encoded into memory");
    Picture {
        bytes: bytes.into_inner().into(),
        width: side,
        height: side,
        ..png(1)
    }
}

fn picture(
    width: u32,
    height: u32,
    seed: u32,
    format: ImageFormat,
    (media_type, word, ending): (&'static str, &'static str, &'static str),
) -> Picture {
    let bytes = encode(&scene(width, height, seed), format);
    Picture {
        bytes,
        media_type,
        format: word,
        ending,
        width,
        height,
    }
}

/// A PNG image of about `bytes` bytes: noise, which does not compress.
pub fn large(bytes: usize, seed: u64) -> Picture {
    const WIDTH: u32 = 512;
    let height = u32::try_from(bytes / (WIDTH as usize * 3)).expect("no larger than memory") + 1;
    // A multiplicative congruential generator (Steele and Vigna, 2021) is noise enough.
    let mut state = u128::from(seed) << 1 | 1;
    let pixels = RgbImage::from_fn(WIDTH, height, |_, _| {
        state = state.wrapping_mul(0xda94_2042_e4dd_58b5);
        let noise = (state >> 96).to_le_bytes();
        image::Rgb([noise[0], noise[1], noise[2]])
    });
    let bytes = encode(&pixels, ImageFormat::Png);
    Picture {
        bytes,
        media_type: "image/png",
        format: "png",
        ending: "png",
        width: WIDTH,
        height,
    }
}
