//! A sum of what HTTP has none for: headers that tell of an image, and short answers.

use http::HeaderMap;

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

/// What the first line of a request says that counts: the method, and the last part of the path, as
/// proxies may change what is before it.
pub fn request_line(method: &str, path: &str) -> String {
    let last = path.rsplit('/').next().unwrap_or_default();
    format!("{method} {last}")
}

/// The sum (CRC-32C) of a request or an answer, as its header has it: of its first line
/// ([`request_line`], or the status), of the headers that count with lower-case names, in order of names,
/// and of `body`, which is that of an answer.
pub fn header_sum(first: &str, headers: &HeaderMap, body: &[u8]) -> String {
    let headers = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()));
    let counts = |name: &str| COUNTED.contains(&name) || name.starts_with(OWN);
    let mut counted: Vec<_> = headers
        .filter(|(name, _)| counts(name) && *name != HEADER_SUM)
        .collect();
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
    format!("{:08x}", sum.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_is_covered_whatever_its_order_and_nothing_else() {
        let first = request_line("PUT", "/below/a/proxy/v1/images/7");
        assert_eq!(first, "PUT 7");
        let map = |headers: &[(&'static str, &'static str)]| {
            let headers = headers.iter();
            let headers = headers.map(|(name, value)| {
                let name = http::HeaderName::from_static(name);
                (name, http::HeaderValue::from_static(value))
            });
            headers.collect::<HeaderMap>()
        };
        let headers = [("pantelegraph-run", "a"), ("upload-offset", "1")];
        let plain = header_sum(&first, &map(&headers), b"body");
        assert_eq!(plain.len(), 8);
        let mut others = vec![("via", "1.1 proxy"), (HEADER_SUM, "00000000")];
        others.extend(headers.iter().rev());
        assert_eq!(header_sum(&first, &map(&others), b"body"), plain);
        assert_ne!(header_sum(&first, &map(&headers), b"bode"), plain);
        assert_ne!(header_sum(&first, &map(&headers[1..]), b"body"), plain);
        assert_ne!(header_sum("PUT 6", &map(&headers), b"body"), plain);
    }
}
