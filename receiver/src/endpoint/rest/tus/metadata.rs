//! `Upload-Metadata`: what the client says of the image.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use shared::clock::UnixNanos;
use shared::image::{ImageId, ImageMeta, OutboxId};

use crate::endpoint::rest::put::parse_clock;

/// Keys of one upload at most, those that are not known here included.
const MAX_KEYS: usize = 64;

/// What was declared.
pub(super) struct Declared {
    /// Of the image; its size is that of the upload.
    pub(super) meta: ImageMeta,
    /// Whether the client gave the id.
    pub(super) named: bool,
    /// Identity of the transmitter, empty when it has none.
    pub(super) transmitter: String,
    /// The outbox that the sequence number counts in.
    pub(super) outbox: Option<OutboxId>,
}

/// Reads the value of the header: keys and base64 values, separated by commas.
///
/// Known are `filename` or `name`, `filetype`, `type` or `content_type`, `image_id`, `run`,
/// `sequence`, `transmitter`, `outbox`, `digest`, `captured_unix_ns`, `queued_unix_ns`,
/// `send_started_unix_ns`, `attempt` and `clock`. Other keys say nothing here.
///
/// # Errors
/// When a pair is malformed, a key comes twice, or the value of a known key cannot be read.
pub(super) fn parse(header: &str, size: u64) -> Result<Declared, String> {
    let mut pairs = pairs(header)?;
    let mut take = |keys: &[&str]| -> Result<Option<String>, String> {
        let mut first = None;
        for key in keys {
            let Some(value) = pairs.remove(*key) else {
                continue;
            };
            let text = String::from_utf8(value)
                .map_err(|_| format!("Upload-Metadata: {key} is not UTF-8"))?;
            first = first.or((!text.is_empty()).then_some(text));
        }
        Ok(first)
    };
    let id = take(&["image_id"])?;
    let named = id.is_some();
    let id: ImageId = match id {
        Some(id) => id
            .parse()
            .map_err(|error| format!("Upload-Metadata: {error}"))?,
        None => ImageId::new(),
    };
    let mut meta = ImageMeta::new(id, size);
    meta.name = take(&["filename", "name"])?;
    meta.content_type = take(&["filetype", "type", "content_type"])?;
    meta.run = take(&["run"])?.unwrap_or_default();
    meta.sequence = number("sequence", take(&["sequence"])?)?.unwrap_or(0);
    let captured = take(&["captured_unix_ns"])?;
    meta.captured = number("captured_unix_ns", captured)?.map(UnixNanos);
    let queued = take(&["queued_unix_ns"])?;
    meta.queued = number("queued_unix_ns", queued)?.map(UnixNanos);
    let started = take(&["send_started_unix_ns"])?;
    meta.send_started = number("send_started_unix_ns", started)?.map(UnixNanos);
    meta.attempt = number("attempt", take(&["attempt"])?)?.unwrap_or(meta.attempt);
    let clock = take(&["clock"])?
        .map(|clock| parse_clock(&clock))
        .transpose();
    meta.clock = clock.map_err(|problem| format!("Upload-Metadata: clock {problem}"))?;
    if let Some(digest) = take(&["digest"])? {
        let digest = digest.parse();
        meta.digest = Some(digest.map_err(|error| format!("Upload-Metadata: {error}"))?);
    }
    let transmitter = take(&["transmitter"])?.unwrap_or_default();
    let outbox = take(&["outbox"])?.map(|outbox| outbox.parse()).transpose();
    let outbox = outbox.map_err(|error| format!("Upload-Metadata: outbox: {error}"))?;
    Ok(Declared {
        meta,
        named,
        transmitter,
        outbox,
    })
}

fn pairs(header: &str) -> Result<HashMap<&str, Vec<u8>>, String> {
    let mut pairs = HashMap::new();
    if header.trim().is_empty() {
        return Ok(pairs);
    }
    for pair in header.split(',') {
        let pair = pair.trim_matches([' ', '\t']);
        let (key, base64) = pair.split_once(' ').unwrap_or((pair, ""));
        let shown = || key.chars().take(64).collect::<String>();
        if key.is_empty() {
            return Err("Upload-Metadata has a pair without a key".to_owned());
        }
        let value = STANDARD.decode(base64).map_err(|error| {
            format!(
                "Upload-Metadata: the value of {:?} is not base64: {error}",
                shown()
            )
        })?;
        if pairs.insert(key, value).is_some() {
            return Err(format!("Upload-Metadata has the key {:?} twice", shown()));
        }
        if pairs.len() > MAX_KEYS {
            return Err(format!("Upload-Metadata has more than {MAX_KEYS} keys"));
        }
    }
    Ok(pairs)
}

fn number<T: std::str::FromStr>(key: &str, text: Option<String>) -> Result<Option<T>, String> {
    let Some(text) = text else { return Ok(None) };
    let number = text.trim().parse();
    number
        .map(Some)
        .map_err(|_| format!("Upload-Metadata: {key} is not a whole number in range"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use shared::clock::ClockEstimate;
    use shared::digest::DigestAlgorithm;

    use super::*;

    fn encode(pairs: &[(&str, &str)]) -> String {
        let pairs = pairs.iter();
        let pairs = pairs.map(|(key, value)| format!("{key} {}", STANDARD.encode(value)));
        pairs.collect::<Vec<_>>().join(",")
    }

    fn refusal(header: &str) -> String {
        match parse(header, 1) {
            Ok(declared) => panic!("{header} was taken: {:?}", declared.meta),
            Err(error) => error,
        }
    }

    #[test]
    fn every_known_key_is_read() {
        let id = ImageId::new();
        let digest = DigestAlgorithm::Blake3.digest(b"image");
        let header = encode(&[
            ("filename", "Grüße/../a b.jpg"),
            ("filetype", "image/jpeg"),
            ("image_id", &id.to_string()),
            ("run", "night"),
            ("sequence", "7"),
            ("transmitter", "camera"),
            ("digest", &digest.to_string()),
            ("captured_unix_ns", "-5"),
            ("queued_unix_ns", "6"),
            ("send_started_unix_ns", "7"),
            ("attempt", "3"),
            ("clock", "offset=-120;error=55;samples=8"),
            ("relativePath", "null"),
        ]);
        let declared = parse(&header, 9).unwrap();
        let expected = ImageMeta {
            name: Some("Grüße/../a b.jpg".to_owned()),
            content_type: Some("image/jpeg".to_owned()),
            run: "night".to_owned(),
            sequence: 7,
            digest: Some(digest),
            captured: Some(UnixNanos(-5)),
            queued: Some(UnixNanos(6)),
            send_started: Some(UnixNanos(7)),
            attempt: 3,
            clock: Some(ClockEstimate {
                offset_ns: -120,
                error_ns: 55,
                samples: 8,
            }),
            ..ImageMeta::new(id, 9)
        };
        assert_eq!(declared.meta, expected);
        assert!(declared.named);
        assert_eq!(declared.transmitter, "camera");
    }

    #[test]
    fn other_spellings_of_name_and_type_are_read() {
        let declared = parse(&encode(&[("name", "a"), ("type", "image/png")]), 1).unwrap();
        assert_eq!(declared.meta.name.as_deref(), Some("a"));
        assert_eq!(declared.meta.content_type.as_deref(), Some("image/png"));
        assert!(!declared.named);
        let both = parse(&encode(&[("name", "b"), ("filename", "a")]), 1).unwrap();
        assert_eq!(both.meta.name.as_deref(), Some("a"));
    }

    #[test]
    fn empty_values_are_as_good_as_none() {
        for header in ["", " ", "filename", "filename ,filetype", "unknown"] {
            let declared = parse(header, 1).unwrap();
            assert_eq!(declared.meta.name, None, "{header:?}");
            assert_eq!(declared.meta.content_type, None, "{header:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_by_name() {
        assert!(refusal("filename YQ").contains("filename"));
        assert!(refusal("filename YQ==,").contains("without a key"));
        assert!(refusal("filename YQ== YQ==").contains("base64"));
        assert!(refusal("filename YQ==,filename YQ==").contains("twice"));
        assert!(refusal("other !").contains("other"));
        assert!(refusal("filename /w==").contains("UTF-8"));
        assert!(refusal(&encode(&[("image_id", "../../etc/passwd")])).contains("UUID"));
        assert!(refusal(&encode(&[("sequence", "-1")])).contains("sequence"));
        assert!(refusal(&encode(&[("captured_unix_ns", "9223372036854775808")])).contains("range"));
        assert!(refusal(&encode(&[("clock", "offset=soon")])).contains("clock"));
        assert!(refusal(&encode(&[("digest", "sha1:00")])).contains("sha1"));
        let many: Vec<String> = (0..65).map(|key| format!("k{key}")).collect();
        assert!(refusal(&many.join(",")).contains("more than 64"));
    }
}
