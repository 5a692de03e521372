//! Conditional and range requests (RFC 9110, sections 13 and 14).

use http::HeaderMap;
use http::header::{IF_NONE_MATCH, IF_RANGE, RANGE};

/// What of a representation is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// The client has it already.
    NotModified,
    /// All of it.
    Whole,
    /// The bytes from `start` up to and not including `end`.
    Part {
        /// First byte.
        start: u64,
        /// The byte after the last.
        end: u64,
    },
    /// Bytes that it does not have.
    Unsatisfiable,
}

impl Asked {
    /// What a request with these headers asks of a representation of `size` bytes. `etag` is
    /// strong and in quotes.
    pub(super) fn of(headers: &HeaderMap, etag: &str, size: u64) -> Self {
        let known = headers
            .get_all(IF_NONE_MATCH)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|list| matches_any(list, etag));
        if known {
            return Self::NotModified;
        }
        // Two fields of this name are as little to be trusted as a malformed one.
        let mut ranges = headers.get_all(RANGE).iter();
        let (Some(range), None) = (ranges.next(), ranges.next()) else {
            return Self::Whole;
        };
        let changed = headers.get(IF_RANGE).is_some_and(|value| value != etag);
        match range.to_str() {
            Ok(range) if !changed => Self::range(range, size),
            _ => Self::Whole,
        }
    }

    /// Malformed ranges, other units and several ranges are ignored, as a server may.
    fn range(range: &str, size: u64) -> Self {
        let Some((unit, set)) = range.split_once('=') else {
            return Self::Whole;
        };
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return Self::Whole;
        }
        let Some((first, last)) = set.trim().split_once('-') else {
            return Self::Whole;
        };
        match (position(first), position(last)) {
            (Position::At(start), Position::At(last)) if start > last => Self::Whole,
            (Position::At(start), Position::At(last)) => {
                Self::part(start, last.saturating_add(1).min(size), size)
            }
            (Position::At(start), Position::Absent) => Self::part(start, size, size),
            (Position::Absent, Position::At(suffix)) => {
                Self::part(size.saturating_sub(suffix), size, size)
            }
            _ => Self::Whole,
        }
    }

    fn part(start: u64, end: u64, size: u64) -> Self {
        if start < end && end <= size {
            Self::Part { start, end }
        } else {
            Self::Unsatisfiable
        }
    }
}

enum Position {
    At(u64),
    Absent,
    Malformed,
}

/// A number too large for 64 bits lies beyond the end of everything.
fn position(text: &str) -> Position {
    match text.trim() {
        "" => Position::Absent,
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Position::At(digits.parse().unwrap_or(u64::MAX))
        }
        _ => Position::Malformed,
    }
}

/// Whether a list of entity tags has this one, by the weak comparison that `If-None-Match` asks
/// for. Our tags have no commas.
fn matches_any(list: &str, etag: &str) -> bool {
    list.split(',')
        .map(str::trim)
        .any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    const ETAG: &str = "\"xxh3-128:00\"";

    fn asked(headers: &[(HeaderName, &str)], size: u64) -> Asked {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, value.parse().unwrap());
        }
        Asked::of(&map, ETAG, size)
    }

    #[test]
    fn ranges_are_cut_to_the_size() {
        let part = |start, end| Asked::Part { start, end };
        for (range, size, expected) in [
            ("bytes=0-0", 10, part(0, 1)),
            ("bytes=0-9", 10, part(0, 10)),
            ("bytes=3-", 10, part(3, 10)),
            ("bytes=9-99", 10, part(9, 10)),
            ("bytes=-3", 10, part(7, 10)),
            ("bytes=-99", 10, part(0, 10)),
            ("Bytes = 1-2", 10, part(1, 3)),
            ("bytes=0-18446744073709551615", 10, part(0, 10)),
            ("bytes=2-99999999999999999999999", 10, part(2, 10)),
            ("bytes=10-", 10, Asked::Unsatisfiable),
            ("bytes=10-12", 10, Asked::Unsatisfiable),
            ("bytes=99999999999999999999999-", 10, Asked::Unsatisfiable),
            ("bytes=-0", 10, Asked::Unsatisfiable),
            ("bytes=0-", 0, Asked::Unsatisfiable),
            ("bytes=-5", 0, Asked::Unsatisfiable),
            // Not understood, hence ignored.
            ("bytes=5-3", 10, Asked::Whole),
            ("bytes=0-1,4-5", 10, Asked::Whole),
            ("bytes=-", 10, Asked::Whole),
            ("bytes=", 10, Asked::Whole),
            ("bytes", 10, Asked::Whole),
            ("bytes=a-b", 10, Asked::Whole),
            ("bytes=+1-2", 10, Asked::Whole),
            ("bytes=--5", 10, Asked::Whole),
            ("items=0-1", 10, Asked::Whole),
        ] {
            assert_eq!(
                asked(&[(RANGE, range)], size),
                expected,
                "{range} of {size}"
            );
        }
        assert_eq!(asked(&[], 10), Asked::Whole);
        let twice = [(RANGE, "bytes=0-1"), (RANGE, "bytes=0-1")];
        assert_eq!(asked(&twice, 10), Asked::Whole);
    }

    #[test]
    fn a_known_tag_is_not_sent_again() {
        for known in [ETAG, "W/\"xxh3-128:00\"", "*", "\"a\", \"xxh3-128:00\""] {
            let headers = [(IF_NONE_MATCH, known), (RANGE, "bytes=0-1")];
            assert_eq!(asked(&headers, 10), Asked::NotModified, "{known}");
        }
        for other in ["\"xxh3-128:01\"", "xxh3-128:00", ""] {
            assert_eq!(
                asked(&[(IF_NONE_MATCH, other)], 10),
                Asked::Whole,
                "{other}"
            );
        }
    }

    #[test]
    fn a_range_of_another_version_becomes_the_whole() {
        let range = (RANGE, "bytes=0-1");
        let part = Asked::Part { start: 0, end: 2 };
        assert_eq!(asked(&[range.clone(), (IF_RANGE, ETAG)], 10), part);
        for other in [
            "\"x\"",
            "W/\"xxh3-128:00\"",
            "Wed, 21 Oct 2015 07:28:00 GMT",
        ] {
            assert_eq!(
                asked(&[range.clone(), (IF_RANGE, other)], 10),
                Asked::Whole,
                "{other}"
            );
        }
    }
}
