//! Addresses: of listeners, and of stations that are dialled.

use std::net::SocketAddr;

use url::Url;

/// The URL of a station, without user and fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StationUrl {
    /// The URL.
    pub url: Url,
    /// Whether a port is written in it. A [`Url`] forgets a port that is its scheme's default.
    pub has_port: bool,
}

impl StationUrl {
    /// Whether the connection is to be encrypted.
    pub fn is_encrypted(&self) -> bool {
        is_encrypted(&self.url)
    }
}

/// Whether a URL of this scheme is to be encrypted.
pub fn is_encrypted(url: &Url) -> bool {
    matches!(url.scheme(), "https" | "wss")
}

/// Reads the URL of a station: `http://HOST:PORT` or `ws://HOST:PORT/PATH`, encrypted with `https` or
/// `wss`.
///
/// # Errors
/// When it is something else.
pub fn parse_station_url(text: &str) -> Result<StationUrl, String> {
    let url = parse_plain_url(text, &["http", "ws", "https", "wss"])?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("user and password in this address are not supported; remove them".to_owned());
    }
    if url.fragment().is_some() {
        return Err("a # part means nothing here; remove it".to_owned());
    }
    let has_port = has_port(text);
    if url.port() == Some(0) {
        return Err("port 0 cannot be dialled; write the port of the listener".to_owned());
    }
    Ok(StationUrl { url, has_port })
}

/// Reads a URL with one of these schemes and a host.
///
/// # Errors
/// When it is something else.
pub fn parse_plain_url(text: &str, schemes: &[&str]) -> Result<Url, String> {
    let text = text.trim();
    let first = schemes.first().copied().unwrap_or("http");
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(format!("no scheme; begin with {first}://"));
    };
    let scheme = scheme.to_ascii_lowercase();
    if ["https", "wss", "grpcs"].contains(&scheme.as_str()) && !schemes.contains(&"https") {
        return Err(format!(
            "TLS is not supported for this address; use {first}:// within a trusted network"
        ));
    }
    if !schemes.contains(&scheme.as_str()) {
        let known: Vec<String> = schemes
            .iter()
            .map(|scheme| format!("{scheme}://"))
            .collect();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        return Err(format!(
            "unknown scheme {scheme:?}; use {}",
            super::units::or_list(&known)
        ));
    }
    if rest.starts_with(['/', '?', '#', '\\']) {
        return Err(format!("no host; write {scheme}://HOST:PORT"));
    }
    // The text itself is not repeated: it may hold a password at a place where none is expected.
    Url::parse(text).map_err(|error| format!("{error}; write {scheme}://HOST:PORT"))
}

fn has_port(text: &str) -> bool {
    let after = text.split_once("://").map_or(text, |(_, after)| after);
    let authority = after
        .split(['/', '?', '#', '\\'])
        .next()
        .unwrap_or_default();
    let after_host = authority.rsplit([']', '@']).next().unwrap_or_default();
    after_host
        .rsplit_once(':')
        .is_some_and(|(_, port)| !port.trim().is_empty())
}

/// Reads the address of a listener: `127.0.0.1:8080`, `0.0.0.0:8080`, `[::]:8080`,
/// `localhost:8080`. Port 0 takes any free port.
///
/// # Errors
/// When it is something else.
pub fn parse_listener(text: &str) -> Result<SocketAddr, String> {
    let trimmed = text.trim();
    let address = match trimmed.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => trimmed.to_owned(),
    };
    address.parse().map_err(|_| {
        let port = trimmed.strip_prefix(':').unwrap_or(trimmed);
        match port.parse::<u16>() {
            Ok(port) => format!(
                "{text:?} has no address; write 127.0.0.1:{port} for this machine only or \
                 0.0.0.0:{port} for all networks"
            ),
            Err(_) => format!("{text:?} is not an address such as 127.0.0.1:8080 or [::]:8080"),
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;

    #[test]
    fn station_urls_know_whether_a_port_is_written() {
        for (text, has_port) in [
            ("http://host", false),
            ("http://host:80", true),
            ("http://host/a:1", false),
            ("ws://[::1]", false),
            ("ws://[::1]:80/x", true),
            ("http://host:", false),
        ] {
            assert_eq!(
                parse_station_url(text).map(|url| url.has_port),
                Ok(has_port),
                "{text}"
            );
        }
        for text in [
            "host:50051",
            "grpcs://host",
            "ftp://host",
            "http://",
            "http:///x",
            "http://u:p@host",
            "http://u@host",
            "http://host#x",
            "http://host:0",
            "http://host:99999",
            "http://a b",
        ] {
            assert!(parse_station_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn listener_addresses_need_an_address_and_a_port() {
        for text in ["127.0.0.1:0", "[::]:8080", "localhost:80"] {
            assert!(parse_listener(text).is_ok(), "{text}");
        }
        for (text, advice) in [
            ("8080", "0.0.0.0:8080"),
            (":8080", "127.0.0.1:8080"),
            ("host:1", "such as"),
            ("::", "such as"),
        ] {
            assert!(parse_listener(text).unwrap_err().contains(advice), "{text}");
        }
    }
}
