//! HTTP as the clients of REST and GraphQL use it.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::request::Builder;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use shared::calls::{Connected, Connector};
use shared::security::tls::HTTP_1_1;
use url::Url;

use super::{CallOptions, Failure};
use crate::refusal::Code;

/// Time for making a connection.
const CONNECT: Duration = Duration::from_secs(2);

/// Requests to one server.
#[derive(Debug, Clone)]
pub(super) struct Http {
    client: legacy::Client<Connector, Body>,
    connector: Connector,
    base: Url,
    options: CallOptions,
}

impl Http {
    /// To the server at `server`, such as `http://127.0.0.1:8000`.
    ///
    /// # Errors
    /// When that is no address, or the certificates or the token cannot be used.
    pub(super) fn new(server: &str, options: CallOptions) -> Result<Self, Failure> {
        options.authorization()?;
        let base = base(server)?;
        let tls = options.tls(base.scheme() == "https")?;
        let connector = Connector::new(tls, HTTP_1_1, CONNECT);
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .build(connector.clone());
        Ok(Self {
            client,
            connector,
            base,
            options,
        })
    }

    /// Time for a call.
    pub(super) fn deadline(&self) -> Duration {
        self.options.deadline
    }

    /// The address of this path.
    pub(super) fn url(&self, path: &str) -> Url {
        // Not `join`: a colon in the path would make a scheme of what is before it.
        let mut url = self.base.clone();
        url.set_path(path);
        url
    }

    /// A request to this address, with the token.
    ///
    /// # Errors
    /// When the token cannot be read.
    pub(super) fn request(&self, method: Method, url: &Url) -> Result<Builder, Failure> {
        let request = Request::builder().method(method).uri(url.as_str());
        Ok(match self.options.authorization()? {
            Some(value) => request.header(header::AUTHORIZATION, value),
            None => request,
        })
    }

    /// Sends a request; of the answer, the head has to come in time.
    ///
    /// # Errors
    /// When it does not.
    pub(super) async fn send(
        &self,
        request: Builder,
        body: Body,
    ) -> Result<Response<Incoming>, Failure> {
        let request = request
            .body(body)
            .map_err(|error| Failure::usage(&format!("the request cannot be made: {error}")))?;
        let sent = self.within(self.client.request(request)).await?;
        // That of a broken connection too: the library's own words for it say little.
        sent.map_err(|error| Failure::new(Code::Unavailable, shared::telemetry::chain(&error)))
    }

    /// Sends a request and takes its whole answer, in time.
    ///
    /// # Errors
    /// When it does not come.
    pub(super) async fn call(
        &self,
        request: Builder,
        body: Body,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let answer = self.within(async {
            let response = self.send(request, body).await?;
            let status = response.status();
            Ok((status, whole(response).await?))
        });
        answer.await?
    }

    /// A connection that no request uses.
    ///
    /// # Errors
    /// When there is none to be had.
    pub(super) async fn dial(&self) -> Result<Connected, Failure> {
        let host = self.base.host_str().unwrap_or_default();
        let port = self.base.port_or_known_default().unwrap_or(80);
        let connected = self.connector.connect(host, port).await;
        connected.map_err(|error| Failure::new(Code::Unavailable, shared::telemetry::chain(&error)))
    }

    /// Gives it the time of a call.
    pub(super) async fn within<T>(&self, future: impl Future<Output = T>) -> Result<T, Failure> {
        let done = tokio::time::timeout(self.deadline(), future).await;
        done.map_err(|_| Failure::new(Code::DeadlineExceeded, "no answer came in time"))
    }
}

/// A body that is JSON.
pub(super) fn json(request: Builder, value: &serde_json::Value) -> (Builder, Body) {
    let request = request.header(header::CONTENT_TYPE, "application/json");
    (request, Body::from(value.to_string()))
}

/// All of an answer's body.
///
/// # Errors
/// When it broke off.
pub(super) async fn whole(response: Response<Incoming>) -> Result<Bytes, Failure> {
    let body = response.into_body().collect().await;
    Ok(body.map_err(|error| broken(&error))?.to_bytes())
}

/// What it means that an answer broke off.
pub(super) fn broken(error: &hyper::Error) -> Failure {
    Failure::new(Code::Unavailable, shared::telemetry::chain(error))
}

/// The address of a server of HTTP.
fn base(server: &str) -> Result<Url, Failure> {
    let wrong = |why: String| {
        Failure::usage(&format!(
            "{server:?} is no server: {why}; write http://host:port or https://host:port"
        ))
    };
    let url = Url::parse(server).map_err(|error| wrong(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(wrong("only http and https are spoken".to_owned()));
    }
    Ok(url)
}
