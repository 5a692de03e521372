//! Generated images that compress as photographs do.

use async_trait::async_trait;
use bytes::Bytes;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::codecs::webp::WebPEncoder;
use image::{ExtendedColorType, ImageEncoder};
use tokio::task::JoinHandle;

use super::{Capture, CaptureError, Captured};
use crate::config::{PatternFormat, PatternOptions};

mod scene;

/// Largest width and height: the limit of the WebP format.
const MAX_SIDE: u32 = 16_384;
/// Most pixels. Three bytes each are held while an image is drawn and encoded.
const MAX_PIXELS: u64 = 100_000_000;
/// What cameras use.
const JPEG_QUALITY: u8 = 85;

/// Draws image after image; each is determined by the seed and its number.
#[derive(Debug)]
pub(super) struct PatternSource {
    options: PatternOptions,
    index: u64,
    /// The image that is being drawn. It is kept here so that a caller who gives up waiting and
    /// asks again does not start it anew.
    drawing: Option<JoinHandle<Result<Bytes, CaptureError>>>,
}

impl PatternSource {
    pub(super) fn open(options: &PatternOptions) -> Result<Self, CaptureError> {
        let (width, height) = (options.width, options.height);
        let sides = 1..=MAX_SIDE;
        if !sides.contains(&width) || !sides.contains(&height) {
            return Err(CaptureError::Pattern(format!(
                "{width}x{height} pixels cannot be drawn; use a width and a height from 1 to {MAX_SIDE}"
            )));
        }
        if u64::from(width) * u64::from(height) > MAX_PIXELS {
            return Err(CaptureError::Pattern(format!(
                "{width}x{height} is more than {} megapixels; use a smaller width or height",
                MAX_PIXELS / 1_000_000
            )));
        }
        Ok(Self {
            options: options.clone(),
            index: 0,
            drawing: None,
        })
    }
}

#[async_trait]
impl Capture for PatternSource {
    async fn next(&mut self) -> Result<Option<Captured>, CaptureError> {
        let drawing = self.drawing.get_or_insert_with(|| {
            let (options, index) = (self.options.clone(), self.index);
            tokio::task::spawn_blocking(move || draw(&options, index))
        });
        let drawn = drawing.await;
        self.drawing = None;
        self.index += 1;
        let bytes = drawn.map_err(|error| CaptureError::Pattern(error.to_string()))??;
        let (ending, media_type) = match self.options.format {
            PatternFormat::Jpeg => ("jpg", "image/jpeg"),
            PatternFormat::Png => ("png", "image/png"),
            PatternFormat::WebP => ("webp", "image/webp"),
        };
        let name = format!("pattern-{:06}.{ending}", self.index);
        Ok(Some(Captured::from_memory(bytes, name, media_type)))
    }

    fn is_finite(&self) -> bool {
        false
    }
}

fn draw(options: &PatternOptions, index: u64) -> Result<Bytes, CaptureError> {
    let (width, height) = (options.width, options.height);
    let pixels = scene::render(width, height, options.seed, index);
    let color = ExtendedColorType::Rgb8;
    let mut encoded = Vec::new();
    match options.format {
        PatternFormat::Jpeg => JpegEncoder::new_with_quality(&mut encoded, JPEG_QUALITY)
            .write_image(&pixels, width, height, color),
        PatternFormat::Png => {
            PngEncoder::new(&mut encoded).write_image(&pixels, width, height, color)
        }
        PatternFormat::WebP => {
            WebPEncoder::new_lossless(&mut encoded).write_image(&pixels, width, height, color)
        }
    }
    .map_err(|error| {
        CaptureError::Pattern(format!("{width}x{height} could not be encoded: {error}"))
    })?;
    // The buffer grew by doubling; what waits to be sent should not occupy more than it is.
    encoded.shrink_to_fit();
    Ok(encoded.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(width: u32, height: u32, format: PatternFormat, seed: u64) -> PatternOptions {
        PatternOptions {
            width,
            height,
            format,
            seed,
        }
    }

    async fn first(options: PatternOptions, n: usize) -> Vec<Bytes> {
        let mut source = PatternSource::open(&options).unwrap();
        let mut images = Vec::new();
        for _ in 0..n {
            let image = source.next().await.unwrap().unwrap();
            match image.payload {
                crate::payload::Payload::Memory(bytes) => images.push(bytes),
                crate::payload::Payload::File { .. } => panic!("a pattern is in memory"),
            }
        }
        images
    }

    #[tokio::test]
    async fn images_differ_and_are_determined_by_seed_and_number() {
        let set = options(64, 48, PatternFormat::Png, 9);
        let images = first(set.clone(), 3).await;
        assert_eq!(images, first(set.clone(), 3).await);
        assert_ne!(images[0], images[1]);
        assert_ne!(images[1], images[2]);
        assert_ne!(images, first(PatternOptions { seed: 10, ..set }, 3).await);
    }

    #[tokio::test]
    async fn every_format_decodes_to_the_size_asked_for() {
        for (format, expected) in [
            (PatternFormat::Jpeg, image::ImageFormat::Jpeg),
            (PatternFormat::Png, image::ImageFormat::Png),
            (PatternFormat::WebP, image::ImageFormat::WebP),
        ] {
            for (width, height) in [(1, 1), (7, 3), (80, 61)] {
                let encoded = &first(options(width, height, format, 1), 1).await[0];
                assert_eq!(image::guess_format(encoded).unwrap(), expected);
                let decoded = image::load_from_memory(encoded).unwrap();
                assert_eq!((decoded.width(), decoded.height()), (width, height));
            }
        }
    }

    #[tokio::test]
    async fn the_name_counts_and_the_type_is_that_of_the_format() {
        let mut source = PatternSource::open(&options(8, 8, PatternFormat::WebP, 1)).unwrap();
        source.next().await.unwrap();
        let image = source.next().await.unwrap().unwrap();
        assert_eq!(image.name.as_deref(), Some("pattern-000002.webp"));
        assert_eq!(image.content_type.as_deref(), Some("image/webp"));
        assert!(!source.is_finite());
    }

    #[tokio::test]
    async fn giving_up_waiting_skips_no_image() {
        let set = options(160, 120, PatternFormat::Jpeg, 4);
        let expected = first(set.clone(), 1).await;
        let mut source = PatternSource::open(&set).unwrap();
        // Polled once, then dropped.
        assert!(futures_util::FutureExt::now_or_never(source.next()).is_none());
        let image = source.next().await.unwrap().unwrap();
        assert_eq!(image.payload.size(), expected[0].len() as u64);
        assert_eq!(image.name.as_deref(), Some("pattern-000001.jpg"));
    }

    #[test]
    fn a_jpeg_weighs_what_a_photograph_weighs() {
        // 1920x1080 at 300 to 900 KB is 1.2 to 3.5 bits a pixel; a quarter of its area is drawn.
        let encoded = draw(&options(960, 540, PatternFormat::Jpeg, 2), 0).unwrap();
        let bits = encoded.len() as f64 * 8.0 / (960.0 * 540.0);
        assert!((1.2..3.6).contains(&bits), "{bits} bits a pixel");
    }

    #[test]
    fn sizes_that_cannot_be_drawn_are_refused() {
        let refused = |width, height| {
            PatternSource::open(&options(width, height, PatternFormat::Jpeg, 1))
                .unwrap_err()
                .to_string()
        };
        assert!(refused(0, 10).contains("from 1 to 16384"));
        assert!(refused(10, 16_385).contains("from 1 to 16384"));
        assert!(refused(16_384, 16_384).contains("100 megapixels"));
    }
}
