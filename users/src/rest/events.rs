//! News as server-sent events: users, and what is said in the chat.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt as _, stream};
use http::HeaderMap;

use super::document::{Always, BadAddress, Full, Guarded};
use super::problem::Problem;
use super::request::{self, Query};
use super::view::{self, MessageView, UserView};
use crate::access::Requester;
use crate::chat::Seat;
use crate::refusal::Refusal;
use crate::service::Service;

/// What answers say that they are.
pub(super) const MEDIA_TYPE: &[u8] = b"text/event-stream";

/// An event that says why there are no more.
pub(super) fn error(problem: &Problem) -> bytes::Bytes {
    format!("event: error\ndata: {}\n\n", problem.to_json()).into()
}

/// Header in which a client of events says what it has seen last.
const LAST_EVENT_ID: &str = "last-event-id";

/// Users when they are created, as server-sent events
///
/// Each event is called `user`, has the user's id and the user as JSON. Begins after the newest
/// user, or where the client says. Ends when the client hangs up or the server stops; an
/// `EventSource` then connects again and goes on behind the last one that it has seen.
#[utoipa::path(
    get,
    path = "/users/events",
    operation_id = "userEvents",
    tag = "events",
    params(
        ("after" = Option<i32>, Query, description = "Begins after the user with this id."),
        ("Last-Event-ID" = Option<i32>, Header, description = "The same; counts more than `after`."),
    ),
    responses(
        (status = 200, description = "Events, without an end.", body = String,
            content_type = "text/event-stream"),
        BadAddress,
        Guarded,
        Always
    ),
    extensions(("x-by-hand" = json!(true)))
)]
pub(super) async fn users(
    State(service): State<Arc<Service>>,
    Extension(requester): Extension<Requester>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let asked = Query::new(query.as_deref()).integer("after")?;
    let seen = match headers.get(LAST_EVENT_ID) {
        None => None,
        Some(id) => Some(request::integer(
            "Last-Event-ID",
            id.to_str().unwrap_or_default(),
        )?),
    };
    let after = seen.or(asked).unwrap_or_else(|| service.directory.newest());
    let listing = service.list(&requester, after, None, true)?;
    let pages = stream::unfold(listing, |mut listing| async {
        let page = listing.next().await?;
        let event = |user: &Arc<_>| {
            let event = Event::default().event("user");
            let user: &crate::user::User = user;
            event
                .id(user.id.to_string())
                .data(view::json(&UserView::from(user)))
        };
        let events: Vec<Event> = page.iter().map(event).collect();
        Some((events, listing))
    });
    answer(&service, pages)
}

/// What is said in the chat from now on, as server-sent events
///
/// Each event is called `message`, has the message's sequence as its id and the message as JSON.
/// Who does not read what the others do is cut off: the last event is then called `error` and is
/// a problem document.
#[utoipa::path(
    get,
    path = "/chat/events",
    operation_id = "chatEvents",
    tag = "events",
    responses(
        (status = 200, description = "Events, without an end.", body = String,
            content_type = "text/event-stream"),
        Full,
        Guarded,
        Always
    ),
    extensions(("x-by-hand" = json!(true)))
)]
pub(super) async fn chat(
    State(service): State<Arc<Service>>,
    Extension(requester): Extension<Requester>,
) -> Result<Response, Problem> {
    let seat = service.join(&requester)?;
    let pages = stream::unfold(Some(seat), |seat: Option<Seat>| async {
        let mut seat = seat?;
        Some(match seat.next().await {
            Ok(messages) => {
                let event = |message: &Arc<_>| {
                    let message = MessageView::from(&**message);
                    let event = Event::default().event("message");
                    event.id(message.id()).data(view::json(&message))
                };
                (messages.iter().map(event).collect(), Some(seat))
            }
            Err(refusal) => {
                let problem = Problem::from(refusal).to_json();
                (vec![Event::default().event("error").data(problem)], None)
            }
        })
    });
    answer(&service, pages)
}

/// The events, until the server stops.
fn answer(
    service: &Service,
    pages: impl Stream<Item = Vec<Event>> + Send + 'static,
) -> Result<Response, Problem> {
    if service.stop.is_cancelled() {
        return Err(Refusal::stopping().into());
    }
    // The last thing that is heard when the server stops, and not when a stream ends by itself.
    let stop = service.stop.clone();
    let stopping = stream::once(async move {
        let problem = Problem::from(Refusal::stopping()).to_json();
        let event = Event::default().event("error").data(problem);
        Vec::from_iter(stop.is_cancelled().then_some(event))
    });
    let events = pages
        .take_until(service.stop.clone().cancelled_owned())
        .chain(stopping)
        .flat_map(|events| stream::iter(events.into_iter().map(Ok::<_, Infallible>)));
    Ok(Sse::new(events)
        .keep_alive(KeepAlive::default())
        .into_response())
}
