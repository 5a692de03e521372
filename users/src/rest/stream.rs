//! Users one after the other in one request, each with its answer: the twin of `StreamUsers`.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt as _, stream};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use shared::security::access::Scope;

use super::body::{self, JSON, LINES, Lines};
use super::document::{
    Always, AnswerMode, Attempts, BadFields, BadRequest, Full, Guarded, OtherMediaType, TooLarge,
};
use super::problem::Problem;
use super::request::Query;
use super::value;
use super::view::{self, Answer, UserView};
use crate::access::Requester;
use crate::refusal::Refusal;
use crate::service::Service;
use crate::user::{Draft, User};

/// Most users of an array that are wrong; one more refuses it as a whole.
const MOST_WRONG: usize = 1_000;
/// Lines that are worked on at the same time. Their answers keep their order.
const AT_ONCE: usize = 64;

/// Creates users one by one; each line is answered
///
/// NDJSON in both directions, at the same time: a line is answered when it has come, while others
/// are still to be sent. One that is refused does not end the stream, unless it is too long. Who
/// cannot send NDJSON sends a JSON array, whose size is limited; its items are answered as lines.
#[utoipa::path(
    post,
    path = "/users:stream",
    operation_id = "streamUsers",
    tag = "users",
    params(("answer" = inline(Option<AnswerMode>), Query, description = "`each` answers each line as it \
        arrives, `after-all` all of them after the last.")),
    request_body(
        content((String = "application/x-ndjson"), (Attempts = "application/json")),
        description = "Users, one per line; or an array of them.",
    ),
    responses(
        (
            status = 200,
            description = "Answers, one per line.",
            content((String = "application/x-ndjson"))
        ),
        BadRequest,
        Guarded,
        TooLarge,
        OtherMediaType,
        BadFields,
        Full,
        Always
    )
)]
pub(super) async fn create(
    State(service): State<Arc<Service>>,
    Extension(requester): Extension<Requester>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    requester.may(Scope::Upload)?;
    let query = Query::new(query.as_deref());
    let after_all = match query.word("answer")? {
        None | Some("each") => false,
        Some("after-all") => true,
        Some(_) => {
            let detail = "answer must be each or after-all";
            return Err(Problem::parameter("answer", detail));
        }
    };
    let kind = body::media_type(&headers, &[LINES, JSON])?;
    if service.stop.is_cancelled() {
        return Err(Refusal::stopping().into());
    }
    let drafts = if kind == JSON {
        let limits = service.limits;
        let body = body::whole(&headers, body, limits.max_message_size).await?;
        stream::iter(array(&body, limits.max_batch)?).left_stream()
    } else {
        lines(&service, body).right_stream()
    };
    // Answers for later are kept by the server, so there is a limit.
    let most = after_all.then_some(service.limits.max_batch);
    let answers = answers(Arc::clone(&service), requester, drafts, most);
    let body = if after_all {
        let most = service.limits.max_held();
        Body::from_stream(stream::once(kept(answers, most)).map(Ok::<_, Infallible>))
    } else {
        // What is ready at the same time goes out at once.
        let texts = answers.ready_chunks(AT_ONCE);
        Body::from_stream(texts.map(|texts| Ok::<_, Infallible>(Bytes::from(texts.concat()))))
    };
    Ok(([(CONTENT_TYPE, LINES)], body).into_response())
}

/// The users that come line by line, until the server stops.
fn lines(
    service: &Service,
    body: Body,
) -> impl Stream<Item = Result<Draft, Problem>> + Send + use<> {
    let lines = Lines::new(body, service.limits.max_message_size);
    let drafts = stream::unfold(lines, |mut lines| async {
        let line = lines.next().await?;
        let members = line.and_then(|line| value::object(&line, value::DRAFT));
        Some((
            members.and_then(|members| Ok(value::draft(members)?)),
            lines,
        ))
    });
    drafts.take_until(service.stop.clone().cancelled_owned())
}

/// The users of an array.
fn array(body: &[u8], most: usize) -> Result<Vec<Result<Draft, Problem>>, Problem> {
    let mut drafts = Vec::new();
    let mut wrong = 0;
    value::each(body, value::DRAFT, |members| {
        if drafts.len() >= most {
            return Err(too_many(most).into());
        }
        let draft = value::draft(members).map_err(Problem::from);
        // What is wrong with a user takes far more memory than the user.
        if draft.is_err() {
            wrong += 1;
        }
        if wrong > MOST_WRONG {
            return draft.map(drop);
        }
        drafts.push(draft);
        Ok(())
    })?;
    Ok(drafts)
}

/// All answers, up to `most` bytes of them.
async fn kept(answers: impl Stream<Item = Vec<u8>>, most: usize) -> Bytes {
    let mut answers = std::pin::pin!(answers);
    let mut text = Vec::new();
    let mut sequence = 0;
    while let Some(answer) = answers.next().await {
        sequence += 1;
        if text.len() + answer.len() > most {
            let refusal = Refusal::Limit {
                what: format!("at most {most} bytes of answers are held back"),
                setting: "max-message-size",
                instead: "have each user answered as it arrives",
            };
            text.extend(self::text(sequence, &Err(refusal.into())));
            break;
        }
        text.extend(answer);
    }
    text.into()
}

/// An answer to each user, as text. What is beyond `most` is refused, and no more is read.
fn answers(
    service: Arc<Service>,
    requester: Requester,
    drafts: impl Stream<Item = Result<Draft, Problem>> + Send,
    most: Option<usize>,
) -> impl Stream<Item = Vec<u8>> + Send {
    let requester = Arc::new(requester);
    drafts
        .take(most.map_or(usize::MAX, |most| most.saturating_add(1)))
        .enumerate()
        .map(move |(index, draft)| {
            let draft = match most {
                Some(most) if index >= most => Err(too_many(most).into()),
                _ => draft,
            };
            let service = Arc::clone(&service);
            let requester = Arc::clone(&requester);
            async move {
                let created = match draft {
                    Ok(draft) => {
                        let created = service.create(&requester, draft).await;
                        created.map_err(Problem::from)
                    }
                    Err(problem) => Err(problem),
                };
                text(index as u64 + 1, &created)
            }
        })
        .buffered(AT_ONCE)
}

fn too_many(most: usize) -> Refusal {
    Refusal::Limit {
        what: format!("a stream that is kept by the server has at most {most} users"),
        setting: "max-batch",
        instead: "send NDJSON and have each line answered as it arrives",
    }
}

fn text(sequence: u64, created: &Result<Arc<User>, Problem>) -> Vec<u8> {
    let answer = Answer {
        sequence,
        created: created.as_ref().ok().map(|user| UserView::from(&**user)),
        refused: created.as_ref().err().map(Into::into),
    };
    let mut text = Vec::new();
    view::line(&answer, &mut text);
    text
}
