use proptest::prelude::*;

use super::*;

/// The parts of a stream that comes in pieces of this size.
fn parts(boundary: &str, stream: &[u8], piece: usize) -> (Vec<Vec<u8>>, bool) {
    let mut parts = Parts::new(boundary, 1000);
    let mut found = Vec::new();
    for piece in stream.chunks(piece) {
        parts.push(piece);
        while let Some(part) = parts.next_part().unwrap() {
            found.push(part.bytes.to_vec());
        }
    }
    (found, parts.ended())
}

fn in_all_pieces(boundary: &str, stream: &[u8]) -> (Vec<Vec<u8>>, bool) {
    let whole = parts(boundary, stream, stream.len());
    for piece in 1..stream.len() {
        assert_eq!(
            parts(boundary, stream, piece),
            whole,
            "in pieces of {piece}"
        );
    }
    whole
}

#[test]
fn parts_end_at_their_length() {
    let stream = b"--b\r\nContent-Type: image/jpeg\r\nContent-Length: 6\r\n\r\none--b\r\n\
        --b\r\ncontent-length:3\r\n\r\ntwo\r\n--b--\r\n";
    let expected = vec![b"one--b".to_vec(), b"two".to_vec()];
    assert_eq!(in_all_pieces("b", stream), (expected, true));
}

#[test]
fn parts_without_a_length_end_at_the_next_boundary() {
    let stream = b"--frame\r\nContent-Type: image/jpeg\r\n\r\n--frame-\r\n--fram\r\n\
        --frame\r\n\r\ntwo\n\r\n--frame\r\n\r\nnot yet complete";
    // What looks like a boundary must stand at the beginning of a line and be whole.
    let stream = [&b"preamble\r\n"[..], &stream[..]].concat();
    let stream = String::from_utf8(stream)
        .unwrap()
        .replace("\r\n\r\n--frame-", "\r\n\r\nx--frame-");
    let expected = vec![b"x--frame-\r\n--fram".to_vec(), b"two\n".to_vec()];
    assert_eq!(in_all_pieces("frame", stream.as_bytes()), (expected, false));
}

#[test]
fn dashes_count_as_part_of_the_boundary_or_not() {
    for boundary in ["cam", "--cam", "----cam"] {
        for dashes in ["--", "----", "------"] {
            let stream = format!("{dashes}cam\n\none\n{dashes}cam\n\ntwo\n{dashes}cam--\n");
            let expected = vec![b"one".to_vec(), b"two".to_vec()];
            assert_eq!(in_all_pieces(boundary, stream.as_bytes()), (expected, true));
        }
    }
}

#[test]
fn a_length_that_is_too_short_costs_one_part_only() {
    let stream = b"--b\r\nContent-Length: 2\r\n\r\nlonger\r\n--b\r\n\r\nnext\r\n--b\r\n";
    assert_eq!(
        in_all_pieces("b", stream).0,
        [b"lo".to_vec(), b"next".to_vec()]
    );
}

#[test]
fn empty_parts_are_left_out() {
    let stream = b"--b\r\n\r\n--b\r\nContent-Length: 0\r\n\r\n\r\n--b\r\n\r\none\r\n--b--";
    assert_eq!(in_all_pieces("b", stream), (vec![b"one".to_vec()], true));
}

#[test]
fn the_type_of_a_part_is_read_without_parameters() {
    let mut parts = Parts::new("b", 100);
    parts.push(b"--b\r\nCONTENT-TYPE: Image/JPEG; x=1\r\nX: y\r\n\r\n1\r\n--b\r\n\r\n2\r\n--b--");
    let part = parts.next_part().unwrap().unwrap();
    assert_eq!(part.media_type.as_deref(), Some("image/jpeg"));
    assert_eq!(parts.next_part().unwrap().unwrap().media_type, None);
}

#[test]
fn everything_has_a_limit() {
    let error = |stream: &[u8]| {
        let mut parts = Parts::new("b", 1000);
        parts.push(stream);
        parts.next_part().unwrap_err()
    };
    let too_large = PartsError::TooLarge { limit: 1000 };
    assert_eq!(error(b"--b\r\nContent-Length: 1001\r\n\r\n"), too_large);
    assert_eq!(
        error(&[&b"--b\r\n\r\n"[..], &[b'x'; 1010]].concat()),
        too_large
    );
    assert!(matches!(error(&[b'x'; 1010]), PartsError::NoBoundary(_)));
    assert_eq!(
        error(&[&b"--b\r\n"[..], &[b'x'; MAX_HEADER]].concat()),
        PartsError::LongHeader
    );
}

#[test]
fn the_boundary_is_read_in_every_spelling() {
    let boundary = |value| boundary_of(value);
    assert_eq!(
        boundary("multipart/x-mixed-replace;boundary=b").as_deref(),
        Some("b")
    );
    assert_eq!(
        boundary("Multipart/X-Mixed-Replace; Boundary=\"--a b\"").as_deref(),
        Some("--a b")
    );
    assert_eq!(
        boundary("multipart/x-mixed-replace; a=1; boundary= b ").as_deref(),
        Some("b")
    );
    assert_eq!(boundary("multipart/x-mixed-replace; boundary=--"), None);
    assert_eq!(boundary("multipart/x-mixed-replace"), None);
    assert_eq!(boundary("multipart/form-data; boundary=b"), None);
    assert_eq!(boundary("image/jpeg"), None);
}

proptest! {
    #[test]
    fn any_parts_in_any_pieces_come_back(
        bodies in proptest::collection::vec(
            (proptest::collection::vec(any::<u8>(), 1..200), any::<bool>()), 0..5),
        piece in 1usize..300,
    ) {
        let boundary = "a-boundary-that-chance-does-not-make";
        let mut stream = Vec::new();
        for (body, has_length) in &bodies {
            stream.extend(format!("--{boundary}\r\n").bytes());
            if *has_length {
                stream.extend(format!("Content-Length: {}\r\n", body.len()).bytes());
            }
            stream.extend(b"\r\n");
            stream.extend(body);
            stream.extend(b"\r\n");
        }
        stream.extend(format!("--{boundary}--").bytes());
        let expected: Vec<_> = bodies.into_iter().map(|(body, _)| body).collect();
        prop_assert_eq!(parts(boundary, &stream, piece), (expected, true));
    }
}
