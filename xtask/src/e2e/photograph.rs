//! Pictures that compress as photographs do: soft light, edges and sensor noise.

use std::fs::File;
use std::io::{BufWriter, Cursor, Seek, Write};
use std::path::Path;

use anyhow::{Context, Result};
use image::codecs::bmp::BmpEncoder;
use image::codecs::gif::GifEncoder;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::codecs::tiff::TiffEncoder;
use image::codecs::webp::WebPEncoder;
use image::{ExtendedColorType, ImageEncoder};

/// How a picture is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// With this quality, 1 to 100.
    Jpeg(u8),
    Png,
    WebP,
    Gif,
    Bmp,
    Tiff,
}

/// Draws and encodes a picture. The same seed gives the same picture.
pub(crate) fn write(
    path: &Path,
    encoding: Encoding,
    width: u32,
    height: u32,
    seed: u64,
) -> Result<()> {
    let file = File::create(path).with_context(|| format!("making {}", path.display()))?;
    let mut out = BufWriter::new(file);
    encode(&mut out, encoding, width, height, seed)
        .and_then(|()| Ok(out.flush()?))
        .with_context(|| format!("writing {}", path.display()))
}

/// A JPEG picture in memory.
pub(crate) fn jpeg(width: u32, height: u32, seed: u64) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    encode(&mut bytes, Encoding::Jpeg(85), width, height, seed)?;
    Ok(bytes.into_inner())
}

fn encode<W: Write + Seek>(
    out: &mut W,
    encoding: Encoding,
    width: u32,
    height: u32,
    seed: u64,
) -> Result<()> {
    let pixels = draw(width, height, seed);
    let color = ExtendedColorType::Rgb8;
    match encoding {
        Encoding::Jpeg(quality) => {
            JpegEncoder::new_with_quality(out, quality).write_image(&pixels, width, height, color)
        }
        Encoding::Png => PngEncoder::new_with_quality(out, CompressionType::Fast, FilterType::Sub)
            .write_image(&pixels, width, height, color),
        Encoding::WebP => WebPEncoder::new_lossless(out).write_image(&pixels, width, height, color),
        // 30 is the encoder's fastest choice of a palette.
        Encoding::Gif => GifEncoder::new_with_speed(out, 30).encode(&pixels, width, height, color),
        Encoding::Bmp => BmpEncoder::new(out).write_image(&pixels, width, height, color),
        Encoding::Tiff => TiffEncoder::new(out).write_image(&pixels, width, height, color),
    }
    .with_context(|| format!("encoding {width}x{height} pixels as {encoding:?}"))
}

/// Three bytes a pixel: a gradient, discs before it, and noise.
fn draw(width: u32, height: u32, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let (width, height) = (width as usize, height as usize);
    let mut pixels = vec![0_u8; width * height * 3];
    random.fill(&mut pixels);
    let discs: Vec<[usize; 4]> = (0..6)
        .map(|_| {
            let radius = random.usize(1..=width.min(height).div_ceil(4));
            [
                random.usize(0..width),
                random.usize(0..height),
                radius,
                random.usize(0..120),
            ]
        })
        .collect();
    for (y, row) in pixels.chunks_exact_mut(width * 3).enumerate() {
        // The part of each disc that lies in this row, so that pixels need only compare.
        let crossed: Vec<(usize, usize, usize)> = discs
            .iter()
            .filter_map(|[x, center, radius, shade]| {
                let above = radius.pow(2).checked_sub(y.abs_diff(*center).pow(2))?;
                let half = above.isqrt();
                Some((x.saturating_sub(half), x + half, *shade))
            })
            .collect();
        let sky = 40 + 100 * y / height;
        for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
            let disc = crossed
                .iter()
                .find(|(from, to, _)| (*from..*to).contains(&x));
            let light = disc.map_or(sky + 60 * x / width, |(.., shade)| *shade);
            for (channel, value) in pixel.iter_mut().enumerate() {
                // 200 of light, 16 of tint and 31 of noise: the sum stays below 256.
                *value = (light + channel * 8) as u8 + (*value >> 3);
            }
        }
    }
    pixels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_picture_and_another_seed_another() {
        let one = jpeg(64, 48, 1).unwrap();
        assert_eq!(one, jpeg(64, 48, 1).unwrap());
        assert_ne!(one, jpeg(64, 48, 2).unwrap());
    }

    #[test]
    fn every_encoding_can_be_decoded_to_its_size() {
        let encodings = [
            Encoding::Jpeg(90),
            Encoding::Png,
            Encoding::WebP,
            Encoding::Gif,
            Encoding::Bmp,
            Encoding::Tiff,
        ];
        for encoding in encodings {
            let mut bytes = Cursor::new(Vec::new());
            encode(&mut bytes, encoding, 33, 21, 7).unwrap();
            let decoded = image::load_from_memory(bytes.get_ref()).unwrap();
            assert_eq!(
                (decoded.width(), decoded.height()),
                (33, 21),
                "{encoding:?}"
            );
        }
    }
}
