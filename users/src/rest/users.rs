//! Users one by one, and the list of them.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures_util::{StreamExt as _, stream};
use http::header::{CONTENT_TYPE, LINK, LOCATION, VARY};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::body::{self, JSON, LINES};
use super::document::{
    Always, BadAddress, BadBody, BadFields, Full, Guarded, NewUser, NotAcceptable, NotFound,
    OtherMediaType, TooLarge,
};
use super::problem::Problem;
use super::request::{self, Query};
use super::value;
use super::view::{self, Page, UserView};
use crate::access::Requester;
use crate::directory::Listing;
use crate::refusal::Refusal;
use crate::service::Service;

/// Users of a page when the client does not say how many.
const PAGE: usize = 100;
/// Most users of a page.
const MAX_PAGE: usize = 1_000;

/// The user with this id
#[utoipa::path(
    get,
    path = "/users/{id}",
    operation_id = "getUser",
    tag = "users",
    params(("id" = i32, Path, minimum = 1, description = "The user's id.", example = 1)),
    responses(
        (status = 200, description = "The user.", body = UserView<'static>),
        BadAddress,
        Guarded,
        NotFound,
        Always
    )
)]
pub(super) async fn read(
    State(service): State<Arc<Service>>,
    Extension(requester): Extension<Requester>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let id = id.map_err(|_| Problem::parameter("id", "id must be a whole number"))?;
    if is_negative(&id) {
        return Err(Problem::parameter("id", "ID must be positive"));
    }
    let id = request::integer("id", &id)?;
    let user = service
        .user(&requester, id)
        .map_err(|refusal| match refusal {
            Refusal::Invalid(violations) => Problem::parameter("id", violations.to_string()),
            refusal => refusal.into(),
        })?;
    Ok(Json(UserView::from(&*user)).into_response())
}

/// Whether it is a number below zero, however far.
fn is_negative(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or_default();
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Creates a user
///
/// Members that are not known are ignored, so that an old server works with a new client. All
/// fields that are wrong are named at once. The role `admin` needs a caller with the scope `admin`.
#[utoipa::path(
    post,
    path = "/users",
    operation_id = "createUser",
    tag = "users",
    request_body(content = NewUser, content_type = "application/json"),
    responses(
        (
            status = 201,
            description = "The user.",
            body = UserView<'static>,
            headers(("Location" = String, description = "Path of the user.")),
            links(
                ("getUser" = (
                    operation_id = "getUser",
                    parameters(("id" = "$response.body#/user_id")),
                    description = "The user that was created.",
                ))
            )
        ),
        BadBody,
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
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let body = body::json(&headers, body, service.limits.max_message_size).await?;
    let draft = value::draft(value::object(&body, value::DRAFT)?)?;
    let user = service.create(&requester, draft).await?;
    let location = format!("/users/{}", user.id);
    let answer = Json(UserView::from(&*user));
    Ok((StatusCode::CREATED, [(LOCATION, location)], answer).into_response())
}

/// Users by their ids, lowest first
///
/// As a page of JSON, or as NDJSON: one user per line, as many as there are. Which of the two, the
/// header `Accept` says: `application/json` or `application/x-ndjson`.
#[utoipa::path(
    get,
    path = "/users",
    operation_id = "listUsers",
    tag = "users",
    params(
        ("limit" = Option<i32>, Query, description = "At most this many users. 0 or less is the \
            same as none: 100 for a page, which has 1,000 at most; all of them for NDJSON."),
        ("after" = Option<i32>, Query, description = "Begins after the user with this id."),
        ("follow" = Option<bool>, Query, description = "For NDJSON: goes on after the last one. \
            Users appear when they are created, until the client hangs up, the limit is reached \
            or the server stops."),
    ),
    responses(
        (
            status = 200,
            description = "Users.",
            content(
                (Page<'static> = "application/json"),
                (String = "application/x-ndjson"),
            ),
            headers(("Link" = String, description = "Path of the next page, if there is one, as \
                `rel=\"next\"`."))
        ),
        BadAddress,
        Guarded,
        NotAcceptable,
        Always
    )
)]
pub(super) async fn list(
    State(service): State<Arc<Service>>,
    Extension(requester): Extension<Requester>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let query = Query::new(query.as_deref());
    let limit = query.integer("limit")?.unwrap_or(0);
    let limit = usize::try_from(limit).ok().filter(|limit| *limit > 0);
    let after = query.integer("after")?.unwrap_or(0);
    let follow = query.flag("follow")?;
    if request::accepted(&headers, &[JSON, LINES])? == JSON {
        let limit = limit.unwrap_or(PAGE).min(MAX_PAGE);
        return page(&service, &requester, after, limit);
    }
    if follow && service.stop.is_cancelled() {
        return Err(Refusal::stopping().into());
    }
    let listing = service.list(&requester, after, limit, follow)?;
    let body = lines(&service, listing, follow);
    Ok(([(CONTENT_TYPE, LINES), (VARY, "accept")], body).into_response())
}

fn page(
    service: &Service,
    requester: &Requester,
    after: i32,
    limit: usize,
) -> Result<Response, Problem> {
    // One more tells whether there is another page.
    let mut users = service.page(requester, after, limit + 1)?;
    let more = users.len() > limit;
    users.truncate(limit);
    let next = users
        .last()
        .filter(|_| more)
        .map(|last| format!("/users?limit={limit}&after={}", last.id));
    let mut response = Json(Page {
        users: users.iter().map(|user| UserView::from(&**user)).collect(),
        next: next.clone(),
    })
    .into_response();
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("accept"));
    if let Some(next) = next {
        let link = format!("<{next}>; rel=\"next\"")
            .parse()
            .expect("it consists of digits and signs");
        headers.insert(LINK, link);
    }
    Ok(response)
}

/// A page of users at a time, so that the list may be longer than memory would hold as text.
fn lines(service: &Service, listing: Listing, follow: bool) -> Body {
    let pages = stream::unfold(listing, |mut listing| async {
        let page = listing.next().await?;
        let mut text = Vec::new();
        for user in &page {
            view::line(&UserView::from(&**user), &mut text);
        }
        Some((Ok(text), listing))
    });
    if !follow {
        return Body::from_stream(pages);
    }
    // Broken off, so that the client can tell it from the end of what it asked for.
    let stop = service.stop.clone();
    let broken = stream::once(async move { stop.is_cancelled().then(Refusal::stopping) })
        .filter_map(|refusal| std::future::ready(refusal.map(Err)));
    let stop = service.stop.clone().cancelled_owned();
    Body::from_stream(pages.take_until(stop).chain(broken))
}
