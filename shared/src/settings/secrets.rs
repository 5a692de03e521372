//! What must not be shown.

/// What stands for something hidden.
pub(super) const HIDDEN: &str = "***";

/// Hides the passwords of all URLs in `text`: `http://user:***@host/`. Works on texts that are no
/// proper URLs too, because those are what error messages quote.
pub fn mask_passwords(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        masked.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || "\"'<>".contains(c));
        let (url, others) = after.split_at(end.unwrap_or(after.len()));
        match password(url) {
            Some((start, end)) => {
                masked.push_str(&url[..start]);
                masked.push_str(HIDDEN);
                masked.push_str(&url[end..]);
            }
            None => masked.push_str(url),
        }
        rest = others;
    }
    masked.push_str(rest);
    masked
}

/// Hides the password of a URL that may lack its scheme.
pub(super) fn mask_url(text: &str) -> String {
    match password(text) {
        Some((start, end)) if !text.contains("://") => {
            format!("{}{HIDDEN}{}", &text[..start], &text[end..])
        }
        _ => mask_passwords(text),
    }
}

/// Whether `text` is something that [`mask_passwords`] has made.
pub(super) fn is_masked(text: &str) -> bool {
    text == HIDDEN || (text.contains("://") && text.contains(":***@"))
}

/// Where the password stands in what follows `://`.
fn password(url: &str) -> Option<(usize, usize)> {
    let authority = url.find(['/', '?', '#', '\\']).unwrap_or(url.len());
    let colon = url[..authority].find(':')?;
    if let Some(at) = url[..authority].rfind('@') {
        return (colon < at).then_some((colon + 1, at));
    }
    // A password with an unescaped slash ends the authority too early. What looks like a port
    // there is one; anything else is better hidden than shown.
    let port = &url[colon + 1..authority];
    let is_host = url.starts_with('[') || port.bytes().all(|byte| byte.is_ascii_digit());
    let at = url.rfind('@')?;
    (!is_host && colon < at).then_some((colon + 1, at))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_hidden_wherever_they_stand() {
        for (text, masked) in [
            ("http://u:p@h/x", "http://u:***@h/x"),
            (
                "run -i rtsp://u:p@h:1/x -o 'http://v:q@g'",
                "run -i rtsp://u:***@h:1/x -o 'http://v:***@g'",
            ),
            ("http://u:p@ss@h/", "http://u:***@h/"),
            ("http://u:pa/ss@h/", "http://u:***@h/"),
            ("http://u@h/", "http://u@h/"),
            ("http://h:8080/a@2x.png", "http://h:8080/a@2x.png"),
            ("http://[::1]:8080/a@b", "http://[::1]:8080/a@b"),
            ("http://h/a:b@c", "http://h/a:b@c"),
            ("no url: a:b@c", "no url: a:b@c"),
        ] {
            assert_eq!(mask_passwords(text), masked);
        }
    }
}
