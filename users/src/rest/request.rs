//! What is in the head of a request: parameters, and what the client accepts.

use http::HeaderMap;
use http::header::ACCEPT;

use super::problem::Problem;

/// Parameters of a query. Those that nobody asks for are ignored.
#[derive(Debug)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Of `a=1&b=2`.
    pub(super) fn new(query: Option<&str>) -> Self {
        let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        Self(pairs.into_owned().collect())
    }

    /// A parameter.
    ///
    /// # Errors
    /// When it is there twice.
    pub(super) fn word(&self, name: &str) -> Result<Option<&str>, Problem> {
        let mut values = self.0.iter().filter(|(key, _)| key == name);
        let value = values.next().map(|(_, value)| value.as_str());
        if values.next().is_some() {
            return Err(Problem::parameter(name, format!("{name} is there twice")));
        }
        Ok(value)
    }

    /// A whole number.
    ///
    /// # Errors
    /// When it is not one.
    pub(super) fn integer(&self, name: &str) -> Result<Option<i32>, Problem> {
        self.word(name)?
            .map(|value| integer(name, value))
            .transpose()
    }

    /// `true` or `false`; `false` when it is not there.
    ///
    /// # Errors
    /// When it is something else.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.word(name)? {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => {
                let detail = format!("{name} must be true or false");
                Err(Problem::parameter(name, detail))
            }
        }
    }
}

/// A whole number in text.
///
/// # Errors
/// When it is not one, or beyond 32 bits.
pub(super) fn integer(name: &str, text: &str) -> Result<i32, Problem> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(number) if is_number => Ok(number),
        _ if is_number => {
            let detail = format!("{name} must be {} to {}", i32::MIN, i32::MAX);
            Err(Problem::parameter(name, detail))
        }
        _ => {
            let detail = format!("{name} must be a whole number");
            Err(Problem::parameter(name, detail))
        }
    }
}

/// Which of `offers` the client likes best, the first of them if it likes several the same (RFC 9110,
/// section 12.5.1).
///
/// # Errors
/// When it accepts none.
pub(super) fn accepted(
    headers: &HeaderMap,
    offers: &[&'static str],
) -> Result<&'static str, Problem> {
    let ranges: Vec<Range<'_>> = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(Range::parse)
        .collect();
    let mut best: Option<(&'static str, u16)> = None;
    for offer in offers {
        let weight = if ranges.is_empty() {
            Range::MOST
        } else {
            weight(&ranges, offer)
        };
        if weight > best.map_or(0, |(_, weight)| weight) {
            best = Some((offer, weight));
        }
    }
    best.map(|(offer, _)| offer)
        .ok_or_else(|| Problem::not_acceptable(offers))
}

/// A range of media types, and how much it is liked.
struct Range<'a> {
    kind: &'a str,
    subtype: &'a str,
    /// In thousandths.
    weight: u16,
}

impl<'a> Range<'a> {
    const MOST: u16 = 1_000;

    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let (kind, subtype) = parts.next()?.split_once('/')?;
        let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
        let weight = match weight {
            None => Self::MOST,
            Some(weight) => thousandths(weight)?,
        };
        Some(Self {
            kind,
            subtype,
            weight,
        })
    }

    /// How exactly it names `offer`, if it does.
    fn names(&self, offer: &str) -> Option<u8> {
        let (kind, subtype) = offer.split_once('/')?;
        let same = self.kind.eq_ignore_ascii_case(kind);
        match (self.kind, self.subtype) {
            ("*", "*") => Some(0),
            (_, "*") if same => Some(1),
            (_, text) if same && text.eq_ignore_ascii_case(subtype) => Some(2),
            _ => None,
        }
    }
}

/// `0.5` as 500; `None` when it is not a weight.
fn thousandths(text: &str) -> Option<u16> {
    let weight: f32 = text.parse().ok()?;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is 0 to 1000"
    )]
    (0.0..=1.0)
        .contains(&weight)
        .then(|| (weight * f32::from(Range::MOST)).round() as u16)
}

/// How much `offer` is liked: what names it most exactly counts.
fn weight(ranges: &[Range<'_>], offer: &str) -> u16 {
    ranges
        .iter()
        .filter_map(|range| range.names(offer).map(|exact| (exact, range.weight)))
        .max()
        .map_or(0, |(_, weight)| weight)
}
