//! Looks at JSON before it is read: a value takes many times the memory of its text, so a body of
//! nothing but zeros would take 150 MB of a server that allows 4.

use crate::refusal::Refusal;

/// Bytes that a value must have on average: a user with all of its fields has more.
const BYTES_A_VALUE: usize = 8;

/// Checks that there are no more values in it than there would be in the largest message if each
/// had 8 bytes.
///
/// # Errors
/// When there are more.
pub(super) fn check(json: &[u8], max_message_size: usize) -> Result<(), Refusal> {
    let most = max_message_size / BYTES_A_VALUE;
    if json.len() <= most || values(json) <= most {
        return Ok(());
    }
    Err(Refusal::Limit {
        what: format!("the request has more than {most} values of JSON"),
        setting: "max-message-size",
        instead: "send less at a time",
    })
}

/// Signs that begin a value or stand between two of them.
fn values(json: &[u8]) -> usize {
    let (mut count, mut in_string, mut is_escaped) = (0, false, false);
    for byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            b',' | b'[' | b'{' if !in_string => count += 1,
            _ => {}
        }
    }
    count
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_and_strings_are_not_looked_into() {
        assert_eq!(values(br#"{"a":[1,2,3],"b":{"c":"[,{\",["}}"#), 6);
        assert!(check(&b"0,".repeat(1_000), 8_000).is_ok());
        assert!(check(&b"0,".repeat(1_001), 8_000).is_err());
    }
}
