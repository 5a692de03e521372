//! Users one after the other in one request, each with its answer: the twin of `StreamUsers`.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt as _, stream};
use http::HeaderMap;
use http::header::CONTENT_TYPE;

use super::body::{self, LINES, Lines};
use super::document::{Always, AnswerMode, BadAddress, OtherMediaType};
use super::problem::Problem;
use super::request::{self, Query};
use super::value;
use super::view::{self, Answer, UserView};
use crate::refusal::Refusal;
use crate::service::Service;
use crate::user::User;

/// Lines that are worked on at the same time. Their answers keep their order.
const AT_ONCE: usize = 64;

/// Creates users one by one; each line is answered
///
/// NDJSON in both directions, at the same time: a line is answered when it has come, while others
/// are still to be sent. One that is refused does not end the stream, unless it is too long.
#[utoipa::path(
    post,
    path = "/users:stream",
    operation_id = "streamUsers",
    tag = "users",
    params(("answer" = Option<AnswerMode>, Query, description = "`each` answers each line as it \
        arrives, `after-all` all of them after the last.")),
    request_body(
        content = String,
        content_type = "application/x-ndjson",
        description = "Users, one per line.",
        example = "{\"name\":\"Ada\",\"email\":\"ada@example.com\",\"age\":36}\n"
    ),
    responses(
        (
            status = 200,
            description = "Answers, one per line.",
            content((String = "application/x-ndjson"))
        ),
        BadAddress,
        OtherMediaType,
        Always
    ),
    security((), ("bearer" = []))
)]
pub(super) async fn create(
    State(service): State<Arc<Service>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let query = Query::new(query.as_deref());
    let after_all = match query.word("answer")? {
        None | Some("each") => false,
        Some("after-all") => true,
        Some(_) => {
            let detail = "answer must be each or after-all";
            return Err(Problem::parameter("answer", detail));
        }
    };
    body::media_type(&headers, &[LINES])?;
    if service.stop.is_cancelled() {
        return Err(Refusal::stopping().into());
    }
    // Answers for later are kept by the server, so there is a limit.
    let most = after_all.then_some(service.limits.max_batch);
    let answers = answers(service, headers, body, most);
    let body = if after_all {
        let kept = answers.collect::<Vec<_>>();
        let text = stream::once(kept).map(|kept| Ok::<_, Infallible>(Bytes::from(kept.concat())));
        Body::from_stream(text)
    } else {
        // What is ready at the same time goes out at once.
        let texts = answers.ready_chunks(AT_ONCE);
        Body::from_stream(texts.map(|texts| Ok::<_, Infallible>(Bytes::from(texts.concat()))))
    };
    Ok(([(CONTENT_TYPE, LINES)], body).into_response())
}

/// An answer to each line, as text. What is beyond `most` lines is refused, and not read.
fn answers(
    service: Arc<Service>,
    headers: HeaderMap,
    body: Body,
    most: Option<usize>,
) -> impl Stream<Item = Vec<u8>> + Send {
    let lines = Lines::new(body, service.limits.max_message_size);
    let stop = service.stop.clone().cancelled_owned();
    let lines = stream::unfold(lines, |mut lines| async {
        Some((lines.next().await?, lines))
    });
    let headers = Arc::new(headers);
    lines
        .take_until(stop)
        .take(most.map_or(usize::MAX, |most| most.saturating_add(1)))
        .enumerate()
        .map(move |(index, line)| {
            let line = match most {
                Some(most) if index >= most => Err(too_many(most).into()),
                _ => line,
            };
            let service = Arc::clone(&service);
            let headers = Arc::clone(&headers);
            async move {
                let created = match line {
                    Ok(line) => one(&service, &headers, &line).await,
                    Err(problem) => Err(problem),
                };
                text(index as u64 + 1, &created)
            }
        })
        .buffered(AT_ONCE)
}

fn too_many(most: usize) -> Refusal {
    Refusal::Limit {
        what: format!("a stream that is answered at its end has at most {most} users"),
        setting: "max-batch",
        instead: "have each line answered as it arrives",
    }
}

async fn one(service: &Service, headers: &HeaderMap, line: &[u8]) -> Result<Arc<User>, Problem> {
    let draft = value::draft(value::object(line, value::DRAFT)?)?;
    let user = service.create(request::credentials(headers), draft).await;
    Ok(user?)
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
