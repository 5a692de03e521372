//! Images of any size, each different, made fast.

use anyhow::Result;
use fastrand::Rng;

use crate::e2e::photograph;

/// What bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A JPEG photograph with as many comments as its size needs.
    Jpeg,
    /// Pixels without compression.
    Bmp,
    /// No image: the receiver keeps it apart.
    Noise,
    /// An image that breaks off: the receiver keeps it apart.
    Torn,
}

impl Shape {
    /// Whether it is an image from its first byte to its last.
    pub(crate) fn is_proper(self) -> bool {
        matches!(self, Self::Jpeg | Self::Bmp)
    }

    /// Ending of the file's name.
    pub(crate) fn ending(self) -> &'static str {
        match self {
            // A folder is asked for files with names of images only.
            Self::Jpeg | Self::Noise => "jpg",
            Self::Bmp | Self::Torn => "bmp",
        }
    }
}

/// Makes images.
pub(crate) struct Maker {
    photographs: Vec<Vec<u8>>,
}

impl Maker {
    pub(crate) fn new() -> Result<Self> {
        let photographs = (0..4)
            .map(|seed| photograph::jpeg(48 + 16 * seed, 40, u64::from(seed)))
            .collect::<Result<_>>()?;
        Ok(Self { photographs })
    }

    /// An image of about `size` bytes. Another one each time.
    pub(crate) fn make(&self, shape: Shape, size: usize, random: &mut Rng) -> Vec<u8> {
        match shape {
            Shape::Jpeg => self.jpeg(size, random),
            Shape::Bmp => bmp(size, random),
            Shape::Noise => noise(size.max(16), random),
            Shape::Torn => {
                let mut bytes = bmp(size.max(200), random);
                bytes.truncate(bytes.len() * 2 / 3);
                bytes
            }
        }
    }

    /// Start of image, comments (marker FFFE, ITU T.81 section B.2.4.5), and the rest.
    fn jpeg(&self, size: usize, random: &mut Rng) -> Vec<u8> {
        let photograph = &self.photographs[random.usize(0..self.photographs.len())];
        let mut bytes = photograph[..2].to_vec();
        let mut missing = size.saturating_sub(photograph.len()).max(20);
        while missing > 0 {
            let length = missing.min(60_000);
            bytes.extend([0xFF, 0xFE]);
            bytes.extend((length as u16 + 2).to_be_bytes());
            bytes.extend(noise(length, random));
            missing -= length;
        }
        bytes.extend(&photograph[2..]);
        bytes
    }
}

fn noise(size: usize, random: &mut Rng) -> Vec<u8> {
    let mut bytes = vec![0; size];
    random.fill(&mut bytes);
    // No signature of any format begins so.
    if let Some(first) = bytes.first_mut() {
        *first = 0xA5;
    }
    bytes
}

/// A bitmap of 24 bits a pixel: BITMAPFILEHEADER, BITMAPINFOHEADER, rows of a multiple of four bytes.
fn bmp(size: usize, random: &mut Rng) -> Vec<u8> {
    const HEAD: usize = 14 + 40;
    let width = if size > 20_000 { 256 } else { 8 };
    let row = width * 3;
    let height = (size.saturating_sub(HEAD) / row).max(1);
    let pixels = height * row;
    let mut bytes = b"BM".to_vec();
    let mut numbers = |values: &[u32]| {
        for value in values {
            bytes.extend(value.to_le_bytes());
        }
    };
    numbers(&[(HEAD + pixels) as u32, 0, HEAD as u32, 40]);
    // One plane and 24 bits in one number, no compression.
    numbers(&[width as u32, height as u32, 1 | 24 << 16, 0]);
    numbers(&[pixels as u32, 2_835, 2_835, 0, 0]);
    let mut noise = vec![0; pixels];
    random.fill(&mut noise);
    bytes.extend(noise);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_can_be_decoded_and_has_about_its_size() {
        let (maker, mut random) = (Maker::new().unwrap(), Rng::with_seed(1));
        for shape in [Shape::Jpeg, Shape::Bmp] {
            for size in [100, 5_000, 70_000, 300_000] {
                let bytes = maker.make(shape, size, &mut random);
                image::load_from_memory(&bytes).unwrap();
                assert!(bytes.len() < size + 10_000, "{shape:?} {size}");
                assert!(bytes.len() + 1_000 > size, "{shape:?} {size}");
                assert_ne!(bytes, maker.make(shape, size, &mut random));
            }
        }
    }

    #[test]
    fn what_is_no_image_cannot_be_decoded() {
        let (maker, mut random) = (Maker::new().unwrap(), Rng::with_seed(1));
        for shape in [Shape::Noise, Shape::Torn] {
            let bytes = maker.make(shape, 3_000, &mut random);
            assert!(image::load_from_memory(&bytes).is_err(), "{shape:?}");
        }
    }
}
