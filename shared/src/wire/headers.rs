//! A sum of what HTTP has none for: headers that tell of an image, and short answers.

use http::{HeaderMap, HeaderValue};

use crate::chunk::Crc32c;

/// The header that has the sum, as eight hexadecimal digits.
pub const HEADER_SUM: &str = "pantelegraph-sum";

/// Headers that count, beside all that begin with [`OWN`].
const COUNTED: [&str; 5] = [
    "repr-digest",
    "upload-checksum",
    "upload-length",
    "upload-metadata",
    "upload-offset",
];
const OWN: &str = "pantelegraph-";

/// The sum of a request: of its method and the last part of its path, as proxies may change what is
/// before it, of the headers that count (`content-type` is one of them), and of `body` where that is
/// a message ([`is_message`]).
pub fn request_sum(method: &str, path: &str, headers: &HeaderMap, body: &[u8]) -> u32 {
    let last = last_part(path);
    sum(
        &format!("{method} {last}"),
        headers,
        &["content-type"],
        body,
    )
}

/// The sum of an answer: of its status, of the headers that count, and of `body`.
pub fn answer_sum(status: &str, headers: &HeaderMap, body: &[u8]) -> u32 {
    sum(status, headers, &[], body)
}

/// Whether the body of a request is one message of this protocol, and part of the sum: accounts and
/// losses. Those of the others are images, which have their own.
pub fn is_message(method: &str, path: &str) -> bool {
    method == "POST" && matches!(last_part(path), "account" | "losses")
}

/// How a header has a sum.
pub fn sum_header(sum: u32) -> HeaderValue {
    let text = format!("{sum:08x}");
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

/// Whether something else came than `made` is the sum of. What has no sum may be anything.
pub fn is_damaged(headers: &HeaderMap, made: impl FnOnce() -> u32) -> bool {
    let Some(told) = headers.get(HEADER_SUM) else {
        return false;
    };
    let told = told.to_str().ok();
    let told = told.and_then(|text| u32::from_str_radix(text.trim(), 16).ok());
    told != Some(made())
}

fn last_part(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// CRC-32C of the first line, of the lines of headers that count, with names in lower case and in their
/// order (those of one name in the order of their values), and of `body`.
fn sum(first: &str, headers: &HeaderMap, also: &[&str], body: &[u8]) -> u32 {
    let counts = |name: &str| {
        let own = name.starts_with(OWN) && name != HEADER_SUM;
        own || COUNTED.contains(&name) || also.contains(&name)
    };
    let headers = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()));
    let mut counted: Vec<_> = headers.filter(|(name, _)| counts(name)).collect();
    counted.sort_unstable();
    let mut sum = Crc32c::default();
    sum.update(first.as_bytes());
    sum.update(b"\n");
    for (name, value) in counted {
        sum.update(name.as_bytes());
        sum.update(b": ");
        sum.update(value);
        sum.update(b"\n");
    }
    sum.update(body);
    sum.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        let headers = headers.iter();
        let headers = headers.map(|(name, value)| {
            let name = http::HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        });
        headers.collect()
    }

    #[test]
    fn what_counts_is_covered_whatever_its_order_and_nothing_else() {
        let path = "/below/a/proxy/v1/images/7";
        let headers = [("pantelegraph-run", "a"), ("upload-offset", "1")];
        let sum = |headers: &[_], body: &[u8]| request_sum("PUT", path, &map(headers), body);
        let plain = sum(&headers, b"body");
        let mut others = vec![("via", "1.1 proxy"), (HEADER_SUM, "00000000")];
        others.extend(headers.iter().rev());
        assert_eq!(sum(&others, b"body"), plain);
        assert_ne!(sum(&headers, b"bode"), plain);
        assert_ne!(sum(&headers[1..], b"body"), plain);
        let other = request_sum("PUT", "/v1/images/6", &map(&headers), b"body");
        assert_ne!(other, plain);
        let typed = map(&[("content-type", "image/jpeg")]);
        let bare = map(&[]);
        assert_ne!(
            request_sum("PUT", path, &typed, b""),
            request_sum("PUT", path, &bare, b"")
        );
        assert_eq!(
            answer_sum("200", &typed, b""),
            answer_sum("200", &bare, b"")
        );
    }

    /// As docs/specs/wire.md has them. Made by another program: `crc32c` of Python, over
    /// "PUT 01932f3e-0000-7000-8000-000000000001\ncontent-type: image/jpeg\npantelegraph-run: a\n" and
    /// "201\nupload-offset: 5\nhello".
    #[test]
    fn the_sums_are_those_of_the_specification() {
        let headers = map(&[("pantelegraph-run", "a"), ("content-type", "image/jpeg")]);
        let path = "/v1/images/01932f3e-0000-7000-8000-000000000001";
        assert_eq!(
            sum_header(request_sum("PUT", path, &headers, b"")),
            "fb002f83"
        );
        let headers = map(&[("upload-offset", "5"), ("content-type", "text/plain")]);
        assert_eq!(
            sum_header(answer_sum("201", &headers, b"hello")),
            "b6bc2f21"
        );
    }

    #[test]
    fn a_sum_is_a_number_and_need_not_be_there() {
        let with = |told| is_damaged(&map(&[(HEADER_SUM, told)]), || 0x0bad_bad0);
        assert!(!with("0badbad0") && !with("0BADBAD0") && !is_damaged(&map(&[]), || 1));
        assert!(with("0badbad1") && with("") && with("no number"));
    }
}
