//! One HTTP connection: a request at a time.

use std::time::Duration;

use async_trait::async_trait;
use http::{HeaderValue, Request, StatusCode, header};
use hyper::client::conn::http1::SendRequest;
use shared::clock::{ClockEstimate, ClockSample, UnixNanos};
use shared::image::ImageId;
use shared::receipt::{Receipt, RejectReason};
use shared::report::RunAccount;
use shared::telemetry::chain;
use shared::wire::{Loss, LossReport, Standing, encode_account, encode_losses};
use tokio_util::sync::CancellationToken;

use super::answer::{Answer, seal};
use super::body::{ImageBody, Part, Progress};
use super::pieces::Pieces;
use crate::link::dial::{Denial, words_of};
use crate::link::portions::portions;
use crate::link::stream::Refusal;
use crate::link::{AGENT, Attempt, Connection, DeliveryError, Identity, LinkError, unreadable};
use crate::outbox::Owed;

pub(super) struct RestConnection {
    pub(super) sender: tokio::sync::Mutex<SendRequest<ImageBody>>,
    /// What is shown with each request.
    pub(super) authorization: Option<HeaderValue>,
    /// Why this side is not let in.
    pub(super) refusal: Refusal,
    pub(super) base: String,
    pub(super) host: String,
    pub(super) address: String,
    pub(super) chunk_size: u32,
    pub(super) window: u64,
    pub(super) pieces: Pieces,
    pub(super) identity: Identity,
    pub(super) idle_timeout: Duration,
    pub(super) lost: CancellationToken,
}

/// Where losses are told.
const LOSSES: &str = "/v1/losses";

/// Images up to this size always go by `PUT`.
const SMALL: u64 = 256 << 10;

impl RestConnection {
    pub(super) fn request(&self, method: &str, path: &str) -> http::request::Builder {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(header::HOST, &self.host)
            .header(header::USER_AGENT, AGENT);
        match &self.authorization {
            Some(shown) => request.header(header::AUTHORIZATION, shown),
            None => request,
        }
    }

    /// Sends a request and reads its answer, which may take as long as the body moves, and then as
    /// long as a connection may be silent. After an error the connection is of no more use.
    pub(super) async fn exchange(
        &self,
        mut request: Request<ImageBody>,
        moved: &Progress,
    ) -> Result<Answer, String> {
        seal(&mut request);
        let mut sender = self.sender.lock().await;
        // Whoever gives a request up leaves a connection that nobody can use any more.
        let broken = self.lost.clone().drop_guard();
        let answering = async {
            sender.ready().await.map_err(|error| chain(&error))?;
            let response = sender
                .send_request(request)
                .await
                .map_err(|error| chain(&error))?;
            Answer::read(response).await
        };
        let answer = watched(answering, moved, self.idle_timeout).await;
        if answer.is_ok() {
            broken.disarm();
        }
        answer
    }

    /// The same for a request without bytes of an image.
    pub(super) async fn ask(&self, request: Request<ImageBody>) -> Result<Answer, String> {
        self.exchange(request, &Progress::default()).await
    }

    /// The same for one with a part of an image.
    ///
    /// # Errors
    /// When there is no answer, or the part cannot be read.
    pub(super) async fn bring(
        &self,
        request: http::request::Builder,
        part: Part,
    ) -> Result<Answer, DeliveryError> {
        let id = part.id;
        let (body, moved, problem) = ImageBody::of(part, &self.identity);
        let request = request
            .body(body)
            .map_err(|error| DeliveryError::Lost(error.to_string()))?;
        let exchanged = self.exchange(request, &moved).await;
        if let Some(problem) = problem.lock().take() {
            // The request is cut short, and with it the connection.
            self.lost.cancel();
            return Err(unreadable(problem));
        }
        self.sound_of(id, exchanged)
    }

    /// The answer about an image, if it is what the receiver sent and lets this side in.
    pub(super) fn sound_of(
        &self,
        id: ImageId,
        answer: Result<Answer, String>,
    ) -> Result<Answer, DeliveryError> {
        let answer = answer.map_err(|problem| self.broken(problem))?;
        let answer = answer.sound_of(id)?;
        match Denial::of(answer.status) {
            Some(Denial::Forbidden) if answer.forbids_this_image() => Ok(answer),
            Some(denial) => Err(self.deny(denial, &answer)),
            None => Ok(answer),
        }
    }

    /// No image gets in over this connection.
    fn deny(&self, denial: Denial, answer: &Answer) -> DeliveryError {
        self.refusal.set(self.advise(denial, answer));
        self.lost.cancel();
        self.broken(String::new())
    }

    fn broken(&self, problem: String) -> DeliveryError {
        match self.refused() {
            Some(refused) => DeliveryError::Refused(refused.to_string()),
            None => DeliveryError::Lost(self.refusal.explain(problem)),
        }
    }

    fn refused(&self) -> Option<LinkError> {
        let problem = self.refusal.get()?.to_owned();
        Some(LinkError::Refused {
            address: self.address.clone(),
            problem,
        })
    }

    /// The answer to what is no image, if this side is known.
    fn known(&self, answer: Result<Answer, String>) -> Result<Answer, LinkError> {
        let lost = |problem| {
            let refused = self.refused();
            refused.unwrap_or_else(|| LinkError::Lost(self.refusal.explain(problem)))
        };
        let answer = answer.and_then(Answer::sound).map_err(lost)?;
        match Denial::of(answer.status) {
            None => Ok(answer),
            Some(Denial::Unknown) => {
                self.deny(Denial::Unknown, &answer);
                Err(lost(String::new()))
            }
            // Of this request: images may get in all the same.
            Some(Denial::Forbidden) => Err(LinkError::Refused {
                address: self.address.clone(),
                problem: self.advise(Denial::Forbidden, &answer),
            }),
        }
    }

    fn advise(&self, denial: Denial, answer: &Answer) -> String {
        let words = words_of(answer.status, &answer.headers, &answer.body);
        self.identity.dialler.advise(denial, &words)
    }

    pub(super) async fn look_at_clock(&self) -> Result<(), LinkError> {
        let request = self
            .request("GET", "/v1/clock")
            .body(ImageBody::empty())
            .map_err(|error| self.protocol(error.to_string()))?;
        let t1 = UnixNanos::now();
        let answer = self.ask(request).await;
        let Answer { status, body, .. } = self.known(answer)?;
        let t4 = UnixNanos::now();
        let times: Option<(i64, i64)> = serde_json::from_slice::<serde_json::Value>(&body)
            .ok()
            .and_then(|body| Some((body["t2_unix_ns"].as_i64()?, body["t3_unix_ns"].as_i64()?)));
        match times {
            Some((t2, t3)) if status == StatusCode::OK => {
                let (t2, t3) = (UnixNanos(t2), UnixNanos(t3));
                self.identity.clock.add(ClockSample { t1, t2, t3, t4 });
                Ok(())
            }
            // It is there, and knows this side: the next look tells more.
            _ if status == StatusCode::TOO_MANY_REQUESTS => Ok(()),
            _ => Err(self.protocol(format!(
                "GET /v1/clock was answered by HTTP status {status}"
            ))),
        }
    }

    /// Whether images of this station get in, which a session learns from its welcome: nobody needs to send
    /// one in vain. Where the receiver cannot tell, or something between answers, images show it.
    ///
    /// # Errors
    /// When they do not. The connection is of no more use then.
    pub(super) async fn be_let_in(&self) -> Result<(), LinkError> {
        let report = self.report(Vec::new(), None);
        let answer = self.ask(self.message(LOSSES, report)?).await;
        match answer {
            Ok(answer) if Denial::of(answer.status) == Some(Denial::Forbidden) => {
                if answer.is_of_receiver() {
                    self.deny(Denial::Forbidden, &answer);
                }
                self.refused().map_or(Ok(()), Err)
            }
            answer => self.known(answer).map(drop),
        }
    }

    fn report(&self, losses: Vec<Loss>, standing: Option<Standing>) -> bytes::Bytes {
        encode_losses(LossReport {
            id: 0,
            standing,
            losses,
            transmitter: self.identity.transmitter.clone(),
        })
    }

    fn protocol(&self, problem: String) -> LinkError {
        LinkError::Protocol {
            address: self.address.clone(),
            problem,
        }
    }

    /// A request with a protobuf message.
    fn message(&self, path: &str, message: bytes::Bytes) -> Result<Request<ImageBody>, LinkError> {
        self.request("POST", path)
            .header(header::CONTENT_TYPE, "application/protobuf")
            .body(ImageBody::whole(message))
            .map_err(|error| LinkError::Lost(error.to_string()))
    }

    /// Posts a protobuf message that is answered by nothing but a status.
    async fn post(&self, path: &str, message: bytes::Bytes) -> Result<(), LinkError> {
        let answer = self.ask(self.message(path, message)?).await;
        let answer = self.known(answer)?;
        let status = answer.status;
        if status.is_success() {
            return Ok(());
        }
        let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let detail = problem["detail"].as_str().unwrap_or("no details given");
        Err(self.protocol(format!(
            "POST {path} was answered by HTTP status {status}: {detail}"
        )))
    }
}

/// Waits for an answer as long as bytes keep moving.
async fn watched<T>(
    answering: impl Future<Output = Result<T, String>>,
    moved: &Progress,
    idle: Duration,
) -> Result<T, String> {
    tokio::pin!(answering);
    let mut before = moved.count();
    loop {
        if let Ok(answer) = tokio::time::timeout(idle, answering.as_mut()).await {
            return answer;
        }
        let now = moved.count();
        if now == before {
            return Err(format!("nothing moved for {idle:?}"));
        }
        before = now;
    }
}

#[async_trait]
impl Connection for RestConnection {
    async fn deliver(&self, image: &Owed, attempt: Attempt<'_>) -> Result<Receipt, DeliveryError> {
        let id = image.meta.id;
        let (size, unfinished) = (image.payload.size(), &self.identity.unfinished);
        // A broken `PUT` begins anew, with which no more than a window is sent again. But a line that
        // broke once may never carry that much in one go.
        let broken = size > SMALL && unfinished.mark(id).is_some();
        // One image at a time goes over a connection.
        attempt.come().await;
        attempt.pass();
        let answer = if size > self.window || broken {
            self.deliver_by_tus(image, attempt).await
        } else {
            let answer = self.put(image, attempt).await;
            if matches!(answer, Err(DeliveryError::Lost(_))) {
                // When it is gone on with, it is in smaller pieces.
                self.pieces.broke(size);
            }
            answer
        };
        let answer = match answer {
            // It may be this image alone, which is another's, or whatever this station sends.
            Err(DeliveryError::Rejected(reject)) if reject.reason == RejectReason::Forbidden => {
                let _ = self.be_let_in().await;
                Err(match self.refused() {
                    Some(refused) => DeliveryError::Refused(refused.to_string()),
                    None => reject.into(),
                })
            }
            answer => answer,
        };
        let open = match &answer {
            Ok(_) => false,
            Err(DeliveryError::Rejected(reject)) => reject.retryable,
            Err(_) => true,
        };
        if !open {
            self.identity.unfinished.end(id);
        }
        answer
    }

    fn parallel(&self) -> usize {
        1
    }

    fn clock(&self) -> Option<ClockEstimate> {
        self.identity.clock.estimate()
    }

    async fn account(&self, account: RunAccount) -> Result<(), LinkError> {
        self.post("/v1/runs/account", encode_account(account)).await
    }

    async fn losses(&self, losses: Vec<Loss>, standing: Standing) -> Result<(), LinkError> {
        for (losses, standing) in portions(losses, standing, 0) {
            self.post(LOSSES, self.report(losses, Some(standing)))
                .await?;
        }
        Ok(())
    }

    async fn closed(&self) -> String {
        self.lost.cancelled().await;
        match self.refused() {
            Some(refused) => refused.to_string(),
            None => "the connection was closed".to_owned(),
        }
    }

    fn is_refused(&self) -> bool {
        self.refusal.get().is_some()
    }

    async fn close(&self) {}
}
