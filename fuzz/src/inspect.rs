//! Bytes that claim to be an image: the receiver's walk through them, and the transmitter's search
//! for images in the output of a camera. How they are cut into pieces must not matter.

use pantelegraph_receiver::intake::inspect::Inspector;
use pantelegraph_transmitter::capture::split::Splitter;

use super::input::Input;

/// Largest image in a stream, in bytes.
const LIMIT: usize = 2 << 10;

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let first = usize::from(input.byte());
    let others = usize::from(input.byte()) + 1;
    let bytes = input.rest();
    let (head, tail) = bytes.split_at(first.min(bytes.len()));

    let mut whole = Inspector::default();
    whole.update(bytes);
    let mut pieces = Inspector::default();
    pieces.update(head);
    for piece in tail.chunks(others) {
        pieces.update(piece);
    }
    for declared in [None, Some("image/png"), Some("text/plain")] {
        assert_eq!(whole.finish(declared), pieces.finish(declared));
    }

    let one = images([bytes].into_iter());
    let many = images([head].into_iter().chain(tail.chunks(others)));
    // Where the search gives up depends on what has been looked at by then; what was found before
    // does not.
    let both = one.len().min(many.len());
    assert_eq!(one[..both], many[..both]);
    let mut from = 0;
    for image in &one {
        assert!(image.len() <= LIMIT);
        let found = bytes[from..]
            .windows(image.len().max(1))
            .position(|window| window == image);
        from += found.expect("an image is a part of the stream") + image.len();
    }
}

fn images<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let mut splitter = Splitter::new(LIMIT);
    let mut images = Vec::new();
    for piece in pieces {
        splitter.push(piece);
        loop {
            match splitter.next_image() {
                Ok(Some(image)) => images.push(image.bytes.to_vec()),
                Ok(None) => break,
                Err(_) => return images,
            }
        }
    }
    splitter.finish();
    images
}

/// The smallest images of each format, and two in one stream.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let gif = b"GIF89a\x01\x00\x01\x00\x80\x00\x00\xff\xff\xff\x00\x00\x00\x2c\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02\x44\x01\x00\x3b";
    let png = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00\x3a\x7e\x9b\x55\x00\x00\x00\x0aIDAT\x78\x9c\x63\x60\x00\x00\x00\x02\x00\x01\x48\xaf\xa4\x71\x00\x00\x00\x00IEND\xae\x42\x60\x82";
    let jpeg = b"\xff\xd8\xff\xc0\x00\x0b\x08\x00\x01\x00\x01\x01\x01\x11\x00\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00\x7f\xff\xd9";
    let webp = b"RIFF\x1a\x00\x00\x00WEBPVP8L\x0d\x00\x00\x00\x2f\x00\x00\x00\x10\x07\x10\x11\x11\x88\x88\xfe\x07\x00";
    let bmp = b"BM\x3a\x00\x00\x00\x00\x00\x00\x00\x36\x00\x00\x00\x28\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x01\x00\x18\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x02\x03\x00";
    let tiff = b"II*\x00\x08\x00\x00\x00\x04\x00\x00\x01\x03\x00\x01\x00\x00\x00\x01\x00\x00\x00\x01\x01\x03\x00\x01\x00\x00\x00\x01\x00\x00\x00\x11\x01\x04\x00\x01\x00\x00\x00\x3e\x00\x00\x00\x17\x01\x04\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x07";
    let pnm = b"P5\n5 1\n255\nabcde";
    let plain = b"P3 # comment\n1 1 255\n1 2 3\n";
    let stream = [&b"\r\n--frame\r\n"[..], jpeg, b"\r\n", png, gif].concat();
    [
        ("seed-gif", &gif[..]),
        ("seed-png", png),
        ("seed-jpeg", jpeg),
        ("seed-webp", webp),
        ("seed-bmp", bmp),
        ("seed-tiff", tiff),
        ("seed-pnm", pnm),
        ("seed-plain-pnm", plain),
        ("seed-stream", &stream),
    ]
    .map(|(name, bytes)| (name, [&[3, 4], bytes].concat()))
    .into()
}
