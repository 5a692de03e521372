//! Bytes of stored images, and the names under which they are offered.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use shared::image::ImageId;

/// Bytes that are read at a time: what a download holds in memory.
const SLICE: u64 = 256 << 10;

/// What may stand in an extended parameter as it is: `attr-char` of RFC 8187.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// Characters of an offered name at most.
const MAX_NAME: usize = 150;

/// The bytes of `file` from `start` up to `end`, read as fast as they are taken.
pub(super) fn body(file: File, start: u64, end: u64) -> Body {
    Body::from_stream(stream::try_unfold(
        (file, start),
        move |(file, at)| async move {
            if at >= end {
                return Ok(None);
            }
            let next = end.min(at + SLICE);
            let read = tokio::task::spawn_blocking(move || {
                let mut bytes = vec![0; usize::try_from(next - at).map_err(io::Error::other)?];
                file.read_exact_at(&mut bytes, at)?;
                io::Result::Ok((Bytes::from(bytes), file))
            });
            let (bytes, file) = read.await.map_err(io::Error::other)??;
            io::Result::Ok(Some((bytes, (file, next))))
        },
    ))
}

/// `Content-Disposition` (RFC 6266) with a name that no client can take for a path.
pub(super) fn disposition(kind: &str, name: Option<&str>, id: ImageId, location: &str) -> String {
    let name = name.map(harmless).filter(|name| !name.is_empty());
    let name = name.unwrap_or_else(|| {
        let ending = location
            .rsplit_once('.')
            .map_or("bin", |(_, ending)| ending);
        format!("{id}.{ending}")
    });
    let plain: String = name
        .chars()
        .map(|c| {
            if matches!(c, ' '..='~') && !"\"\\%".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect();
    let extended = utf8_percent_encode(&name, ENCODED);
    format!("{kind}; filename=\"{plain}\"; filename*=UTF-8''{extended}")
}

/// The last part of a path of any system, without characters that hide what the name is.
fn harmless(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let visible = |c: &char| {
        !c.is_control()
            && !matches!(*c, '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}')
            && !matches!(*c, '\u{2060}'..='\u{2069}' | '\u{FEFF}')
    };
    let name: String = last.chars().filter(visible).take(MAX_NAME).collect();
    // A name of dots means a folder, one that begins with a dot a hidden file.
    name.trim().trim_start_matches('.').trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offered_names_are_never_paths_and_survive_unicode() {
        let id: ImageId = "01932f3e-7b5c-7c3a-9d4e-2f1a6b8c0d1e".parse().unwrap();
        let own = "01932f3e-7b5c-7c3a-9d4e-2f1a6b8c0d1e.jpg";
        for (name, plain, extended) in [
            ("a b.jpg", "a b.jpg", "a%20b.jpg"),
            ("../../etc/passwd", "passwd", "passwd"),
            ("C:\\secret\\x.png", "x.png", "x.png"),
            (
                "\u{1F4F7} pässwd.jpg",
                "_ p_sswd.jpg",
                "%F0%9F%93%B7%20p%C3%A4sswd.jpg",
            ),
            (
                "say \"x\"%41.jpg",
                "say _x__41.jpg",
                "say%20%22x%22%2541.jpg",
            ),
            ("a\r\nSet-Cookie: b", "aSet-Cookie: b", "aSet-Cookie%3A%20b"),
            ("photo\u{202E}gpj.exe", "photogpj.exe", "photogpj.exe"),
            ("..", own, own),
            (".profile", "profile", "profile"),
            ("folder/", own, own),
            ("", own, own),
        ] {
            let found = disposition("inline", Some(name), id, "images/2026-01-02/x.jpg");
            let expected = format!("inline; filename=\"{plain}\"; filename*=UTF-8''{extended}");
            assert_eq!(found, expected, "{name:?}");
            assert!(http::HeaderValue::try_from(found).is_ok());
        }
        let long = "ü".repeat(5_000);
        let found = disposition("attachment", Some(&long), id, "x.jpg");
        assert!(found.len() < MAX_NAME * 8, "{}", found.len());
        let none = disposition("attachment", None, id, "quarantine/2026-01-02/x.png");
        assert!(none.contains("0d1e.png\""), "{none}");
    }
}
