//! The chunk assembler, and bytes in pieces, against models that keep everything.

use bytes::{Buf, Bytes};
use shared::chunk::{Assembler, AssemblyError, ChunkError, Segments, crc32c, slices};
use shared::digest::DigestAlgorithm;

use super::input::Input;

/// Operations of one input at most.
const MOST: usize = 200;

const MAX_CHUNKS: u64 = 12;

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    check_slices(&mut input);
    check_segments(&mut input);
    check_assembler(&mut input);
}

/// Slices cover the rest of an image, one after another, each as large as may be.
fn check_slices(input: &mut Input<'_>) {
    let (size, offset) = (u64::from(input.short()), u64::from(input.short()));
    let chunk = u32::from(input.byte());
    if chunk == 0 {
        return;
    }
    let mut next = offset;
    for (at, length) in slices(size, offset, chunk) {
        assert_eq!(at, next);
        assert!(length > 0 && length <= chunk);
        next += u64::from(length);
        assert!(length == chunk || next == size);
    }
    assert_eq!(next, size.max(offset));
}

/// The next bytes of the input, in pieces.
fn pieces(input: &mut Input<'_>) -> (Segments, Vec<u8>) {
    let mut whole = Vec::new();
    let mut segments = Segments::new();
    for _ in 0..input.byte() % 4 {
        let length = usize::from(input.byte() % 64);
        let piece = input.bytes(length);
        whole.extend_from_slice(piece);
        segments.push(Bytes::copy_from_slice(piece));
    }
    (segments, whole)
}

fn check_segments(input: &mut Input<'_>) {
    let (mut segments, mut model) = pieces(input);
    for _ in 0..input.byte() % 8 {
        let count = usize::from(input.byte()).min(model.len());
        match input.byte() % 3 {
            0 => {
                let taken = segments.split_to(count);
                let rest = model.split_off(count);
                assert_eq!(taken.into_bytes(), model);
                model = rest;
            }
            1 => {
                segments.advance(count);
                model.drain(..count);
            }
            _ => {
                let taken = segments.copy_to_bytes(count);
                let rest = model.split_off(count);
                assert_eq!(taken, model);
                model = rest;
            }
        }
        assert_eq!(segments.len(), model.len());
        assert_eq!(segments.remaining(), model.len());
        assert_eq!(segments.is_empty(), model.is_empty());
        assert_eq!(segments.crc32c(), crc32c(&model));
        assert!(segments.pieces().all(|piece| !piece.is_empty()));
    }
    assert_eq!(segments.into_bytes(), model);
}

#[derive(Clone, Default)]
struct Model {
    size: u64,
    bytes: Vec<u8>,
    chunks: u64,
}

fn check_assembler(input: &mut Input<'_>) {
    let algorithm = match input.byte() % 2 {
        0 => DigestAlgorithm::Xxh3,
        _ => DigestAlgorithm::Blake3,
    };
    let mut model = Model {
        size: u64::from(input.short()),
        ..Model::default()
    };
    let mut assembler = Assembler::new(model.size, MAX_CHUNKS, algorithm);
    let mut checkpoint = (assembler.clone(), model.clone());
    for _ in 0..MOST {
        if input.is_empty() {
            break;
        }
        match input.byte() % 8 {
            0 => checkpoint = (assembler.clone(), model.clone()),
            1 => (assembler, model) = checkpoint.clone(),
            2 => {
                assembler.end_here();
                model.size = model.bytes.len() as u64;
            }
            3 => finish(input, &assembler, &model, algorithm),
            _ => push(input, &mut assembler, &mut model),
        }
        assert_eq!(assembler.received(), model.bytes.len() as u64);
        assert_eq!(assembler.size(), model.size);
    }
    finish(input, &assembler, &model, algorithm);
}

fn push(input: &mut Input<'_>, assembler: &mut Assembler, model: &mut Model) {
    let received = model.bytes.len() as u64;
    let offset = match input.byte() {
        0..220 => received,
        220..240 => received + 1,
        240..250 => u64::from(input.short()),
        _ => u64::MAX,
    };
    let (data, bytes) = pieces(input);
    let declared = match input.byte() {
        0..100 => None,
        100..220 => Some(crc32c(&bytes)),
        other => Some(u32::from(other)),
    };
    let pushed = assembler.push(offset, declared, &data);
    let fits = received + bytes.len() as u64 <= model.size;
    match pushed {
        Ok(()) => {
            assert!(offset == received && fits && model.chunks < MAX_CHUNKS);
            assert!(declared.is_none_or(|declared| declared == crc32c(&bytes)));
            model.bytes.extend(bytes);
            model.chunks += 1;
        }
        Err(ChunkError::Offset { expected, .. }) => {
            assert!(offset != received && expected == received);
        }
        Err(ChunkError::Overflow { .. }) => assert!(!fits),
        Err(ChunkError::Count { .. }) => assert_eq!(model.chunks, MAX_CHUNKS),
        Err(ChunkError::Checksum { found, .. }) => {
            assert!(found == crc32c(&bytes) && declared != Some(found));
        }
    }
}

fn finish(input: &mut Input<'_>, assembler: &Assembler, model: &Model, algorithm: DigestAlgorithm) {
    let digest = algorithm.digest(&model.bytes);
    let declared = match input.byte() % 3 {
        0 => None,
        1 => Some(digest),
        _ => Some(algorithm.digest(b"other bytes than these")),
    };
    match assembler.finish(declared) {
        Ok(found) => {
            assert_eq!(found, digest);
            assert_eq!(model.size, model.bytes.len() as u64);
            assert!(declared.is_none_or(|declared| declared == found));
        }
        Err(AssemblyError::Truncated { received, .. }) => assert!(received != model.size),
        Err(AssemblyError::Digest { found, .. }) => {
            assert!(found == digest && declared != Some(digest));
        }
    }
}

/// An image in three chunks.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let slices = [100, 0, 20, 0, 30];
    let segments = [3, 5, 1, 2, 3, 4, 5, 2, 6, 7, 1, 8, 3, 2, 0, 2, 1, 1, 2];
    let assembler = [0, 9, 0];
    let push = [4, 0, 2, 1, 1, 2, 2, 3, 150];
    let three = [
        &slices[..],
        &segments,
        &assembler,
        &push,
        &[0],
        &push,
        &[1],
        &push,
        &push,
        &[3, 1],
    ]
    .concat();
    vec![("seed-three", three)]
}
