//! The calls that answer with a stream.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _, stream};
use prost::Message as _;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, Streaming};

use super::{Answers, explain, refused, told};
use crate::access::Requester;
use crate::chat::{Saying, Seat};
use crate::directory::Listing;
use crate::refusal::{Refusal, Violations};
use crate::service::Service;
use crate::wire::proto::stream_users_response::Result as Answer;
use crate::wire::{self, proto};

/// Users of a listing; with `stop` it ends when the server does.
pub(super) fn list(
    listing: Listing,
    stop: Option<CancellationToken>,
) -> Answers<proto::UserResponse> {
    let pages = stream::unfold(Some(listing), move |listing| {
        let stop = stop.clone();
        async move {
            let mut listing = listing?;
            let page = match stop {
                None => listing.next().await,
                Some(stop) => match stop.run_until_cancelled(listing.next()).await {
                    Some(page) => page,
                    None => return Some((Err(refused(&Refusal::stopping())), None)),
                },
            };
            Some((Ok(page?), Some(listing)))
        }
    });
    one_by_one(pages, |user| wire::user_to_proto(&user))
}

/// What is in the pages, each made an answer when it is its turn: a client that does not read costs
/// one answer then, and not a page of them.
fn one_by_one<P: Send + 'static, A: Send + 'static>(
    pages: impl Stream<Item = Result<Vec<P>, Status>> + Send + 'static,
    answer: fn(P) -> A,
) -> Answers<A> {
    Box::pin(pages.flat_map(move |page| {
        match page {
            Ok(page) => stream::iter(page)
                .map(move |one| Ok(answer(one)))
                .left_stream(),
            Err(status) => stream::iter([Err(status)]).right_stream(),
        }
    }))
}

/// What `create` knows of a call.
struct Creating {
    service: Arc<Service>,
    requester: Requester,
    requests: Streaming<proto::StreamUsersRequest>,
    /// Requests so far.
    sequence: u64,
    /// Answers that wait for the last request, if they do: encoded, as refusals are many small
    /// pieces of memory.
    held: Option<VecDeque<Vec<u8>>>,
    held_bytes: usize,
    is_over: bool,
}

/// Creates users one by one.
pub(super) fn create(
    service: Arc<Service>,
    requester: Requester,
    requests: Streaming<proto::StreamUsersRequest>,
) -> Answers<proto::StreamUsersResponse> {
    let creating = Creating {
        service,
        requester,
        requests,
        sequence: 0,
        held: None,
        held_bytes: 0,
        is_over: false,
    };
    Box::pin(stream::unfold(creating, |mut creating| async move {
        let answer = creating.next().await.transpose()?;
        creating.is_over |= answer.is_err();
        Some((answer, creating))
    }))
}

impl Creating {
    async fn next(&mut self) -> Result<Option<proto::StreamUsersResponse>, Status> {
        while !self.is_over {
            let limits = self.service.limits;
            let request = self.requests.message().await;
            let Some(request) = request.map_err(|status| explain(status, &limits))? else {
                self.is_over = true;
                break;
            };
            if self.sequence == 0 && request.answer_mode() == proto::AnswerMode::AfterAll {
                self.held = Some(VecDeque::new());
            }
            self.sequence += 1;
            let answer = self.answer(request).await;
            let Some(held) = &mut self.held else {
                return Ok(Some(answer));
            };
            let answer = answer.encode_to_vec();
            self.held_bytes += answer.len();
            if held.len() >= limits.max_batch || self.held_bytes > limits.max_held() {
                return Err(refused(&Refusal::Limit {
                    what: format!(
                        "at most {} answers or {} bytes of them are held back",
                        limits.max_batch,
                        limits.max_held()
                    ),
                    setting: "max-batch or --max-message-size",
                    instead: "take each answer as it comes; the users so far were created",
                }));
            }
            held.push_back(answer);
        }
        let answer = self.held.as_mut().and_then(VecDeque::pop_front);
        let decoded = answer.map(|answer| proto::StreamUsersResponse::decode(&*answer));
        decoded
            .transpose()
            .map_err(|error| refused(&Refusal::internal(&error)))
    }

    async fn answer(&self, request: proto::StreamUsersRequest) -> proto::StreamUsersResponse {
        let created = match request.user {
            Some(user) => {
                let draft = wire::draft_from_proto(user);
                self.service.create(&self.requester, draft).await
            }
            None => Err(Violations::one("user", "user must be there").into()),
        };
        let result = match created {
            Ok(user) => Answer::Created(wire::user_to_proto(&user)),
            Err(refusal) => Answer::Refused(wire::refusal_to_proto(&refusal)),
        };
        proto::StreamUsersResponse {
            sequence: self.sequence,
            result: Some(result),
        }
    }
}

/// What `chat` knows of a call.
struct Chatting {
    seat: Seat,
    stop: CancellationToken,
    /// Why what the client says was refused.
    failed: oneshot::Receiver<Status>,
    /// Passes on what the client says, as long as somebody listens to the answers.
    _listening: AbortOnDropHandle<()>,
}

/// What is said in the room, while `said` is said there.
pub(super) fn chat(
    service: Arc<Service>,
    requester: Requester,
    seat: Seat,
    said: Streaming<proto::ChatMessage>,
) -> Answers<proto::ChatMessage> {
    let stop = service.stop.clone();
    let (refuse, failed) = oneshot::channel();
    // A task of its own: a client that says something while the room is full must still be able to
    // read, or the room would stay full.
    let listening = AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(status) = listen(&service, &requester, said).await {
            // The client has gone.
            let _ = refuse.send(status);
        } else {
            // It has said all, and goes on reading.
            std::future::pending::<()>().await;
        }
    }));
    let chatting = Chatting {
        seat,
        stop,
        failed,
        _listening: listening,
    };
    let pages = stream::unfold(Some(chatting), |chatting| async move {
        let mut chatting = chatting?;
        let messages = tokio::select! {
            biased;
            status = &mut chatting.failed => {
                Err(status.unwrap_or_else(|_| refused(&Refusal::Internal)))
            }
            () = chatting.stop.cancelled() => Err(refused(&Refusal::stopping())),
            messages = chatting.seat.next() => messages.map_err(|refusal| refused(&refusal)),
        };
        match messages {
            Ok(messages) => Some((Ok(messages), Some(chatting))),
            Err(status) => Some((Err(status), None)),
        }
    });
    one_by_one(pages, |message| wire::message_to_proto(&message))
}

/// Says what the client says.
async fn listen(
    service: &Service,
    requester: &Requester,
    mut said: Streaming<proto::ChatMessage>,
) -> Result<(), Status> {
    loop {
        let message = said.message().await;
        let message = message.map_err(|status| explain(status, &service.limits))?;
        let Some(message) = message else {
            return Ok(());
        };
        let saying = Saying::check(message.user, message.text);
        let saying = saying.map_err(|violations| refused(&violations.into()))?;
        service.say(requester, saying).await.map_err(told)?;
    }
}
