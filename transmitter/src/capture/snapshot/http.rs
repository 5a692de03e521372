//! The little of an HTTP client that a camera needs: one GET over HTTP/1.1.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, LOCATION, USER_AGENT, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;
use url::{Host, Url};

use crate::capture::{CaptureError, MAX_IMAGE};

/// Where the camera is and how it is asked. Only `shown` may be logged.
#[derive(Clone)]
pub(super) struct Target {
    host: String,
    port: u16,
    path: Uri,
    headers: HeaderMap,
    shown: String,
}

/// A connection to the camera, kept from one image to the next.
pub(super) struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    /// Moves its bytes; ends with this.
    _driver: AbortOnDropHandle<()>,
}

/// Why there is no image this time. Another time there may be.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("cannot connect to {host}:{port}: {error}")]
    Connect {
        host: String,
        port: u16,
        error: std::io::Error,
    },
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("the camera answered {0}")]
    Status(String),
    #[error("the camera gave {0}, which is no image; check the address")]
    NoImage(String),
    #[error(
        "the camera's image is larger than the limit of {MAX_IMAGE} bytes; lower its resolution or quality"
    )]
    TooLarge,
    #[error("the camera's stream cannot be read: {0}")]
    Stream(String),
}

impl From<hyper::Error> for FetchError {
    fn from(error: hyper::Error) -> Self {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        Self::Broken(text)
    }
}

impl Target {
    pub(super) fn new(url: &Url) -> Result<Self, CaptureError> {
        let shown = shown(url);
        let failed = |problem: &str| CaptureError::Url {
            url: shown.clone(),
            problem: problem.into(),
        };
        match url.scheme() {
            "http" => {}
            "https" => return Err(failed("https is not supported yet; use http")),
            _ => {
                return Err(failed(
                    "a camera is asked over http; use an http:// address",
                ));
            }
        }
        let host = match url.host() {
            Some(Host::Domain(name)) => name.to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            None => return Err(failed("has no host; use http://HOST/PATH")),
        };
        let mut headers = HeaderMap::new();
        let mut authority = url.host_str().unwrap_or_default().to_owned();
        if let Some(port) = url.port() {
            authority.push_str(&format!(":{port}"));
        }
        let authority = HeaderValue::from_str(&authority)
            .map_err(|_| failed("has a host that HTTP cannot carry; use its address"))?;
        headers.insert(HOST, authority);
        headers.insert(
            ACCEPT,
            HeaderValue::from_static("image/*, multipart/x-mixed-replace"),
        );
        let agent = concat!("pantelegraph/", env!("CARGO_PKG_VERSION"));
        headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        if let Some(credentials) = basic_credentials(url) {
            headers.insert(AUTHORIZATION, credentials);
        }
        let path = url[url::Position::BeforePath..url::Position::AfterQuery]
            .parse()
            .map_err(|_| failed("has a path that HTTP cannot carry; percent-encode it"))?;
        let port = url.port_or_known_default().unwrap_or(80);
        Ok(Self {
            host,
            port,
            path,
            headers,
            shown,
        })
    }

    /// The address as it may be logged.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// What images are named after.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    async fn connect(&self) -> Result<Connection, FetchError> {
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|error| FetchError::Connect {
                host: self.host.clone(),
                port: self.port,
                error,
            })?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(async move {
            // What breaks it is told to the request.
            let _ = driver.await;
        });
        Ok(Connection {
            sender,
            _driver: AbortOnDropHandle::new(driver),
        })
    }

    /// Asks for the camera's image or stream. A connection kept from the last time is used if it
    /// still stands.
    pub(super) async fn get(
        &self,
        kept: Option<Connection>,
    ) -> Result<(Connection, Response<Incoming>), FetchError> {
        if let Some(mut connection) = kept
            && connection.sender.ready().await.is_ok()
            // A camera may close a kept connection at the moment it is used.
            && let Ok(response) = connection.sender.send_request(self.request()).await
        {
            return Ok((connection, response));
        }
        let mut connection = self.connect().await?;
        connection.sender.ready().await?;
        let response = connection.sender.send_request(self.request()).await?;
        Ok((connection, response))
    }

    fn request(&self) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.path.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

/// The URL without what may be secret: user, password, and the query, in which many cameras want
/// the password.
fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    // Both fail only for URLs that cannot have them.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.set_query(None);
    shown.set_fragment(None);
    shown.into()
}

fn basic_credentials(url: &Url) -> Option<HeaderValue> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let mut pair: Vec<u8> = percent_decode_str(url.username()).collect();
    pair.push(b':');
    pair.extend(percent_decode_str(url.password().unwrap_or_default()));
    let text = format!("Basic {}", STANDARD.encode(pair));
    let mut value = HeaderValue::from_str(&text).expect("base64 is plain text");
    value.set_sensitive(true);
    Some(value)
}

/// Refuses what is not a success, and says what may help.
pub(super) fn check_status(response: &Response<Incoming>) -> Result<(), FetchError> {
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let header = |name| {
        let value = response
            .headers()
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok());
        value.unwrap_or_default()
    };
    let help = match status {
        StatusCode::UNAUTHORIZED
            if header(WWW_AUTHENTICATE)
                .to_ascii_lowercase()
                .starts_with("digest") =>
        {
            "; it wants digest authentication, which is not supported: set it to basic".to_owned()
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            "; put user and password into the address: http://USER:PASSWORD@HOST/PATH".to_owned()
        }
        StatusCode::NOT_FOUND => "; check the path of the address".to_owned(),
        _ if status.is_redirection() => match Url::parse(header(LOCATION)) {
            Ok(elsewhere) => format!("; use the address {}", shown(&elsewhere)),
            Err(_) => "; use the address that it leads to".to_owned(),
        },
        _ => String::new(),
    };
    Err(FetchError::Status(format!("{status}{help}")))
}

/// The `Content-Type` of the answer; empty when there is none.
pub(super) fn content_type(response: &Response<Incoming>) -> &str {
    response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

/// The whole body, if it is not above the limit.
pub(super) async fn read_body(mut body: Incoming) -> Result<Bytes, FetchError> {
    let declared = body.size_hint().lower();
    if declared > MAX_IMAGE as u64 {
        return Err(FetchError::TooLarge);
    }
    let mut whole = BytesMut::with_capacity(declared as usize);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        if whole.len() + data.len() > MAX_IMAGE {
            return Err(FetchError::TooLarge);
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

/// The media type of an image from a camera: what its header says, or what its first bytes show
/// when the header says nothing. `None` if it is no image.
pub(super) fn image_type(declared: &str, bytes: &[u8]) -> Option<String> {
    let declared = declared
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    match declared.as_str() {
        _ if bytes.is_empty() => None,
        // Written by some cameras; the registered name is jpeg.
        "image/jpg" | "image/pjpeg" => Some("image/jpeg".into()),
        kind if kind.starts_with("image/") => Some(declared),
        "" | "application/octet-stream" | "binary/octet-stream" => image::guess_format(bytes)
            .ok()
            .map(|format| format.to_mime_type().to_owned()),
        _ => None,
    }
}
