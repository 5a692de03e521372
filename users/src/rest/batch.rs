//! Many users in one request: all of them or none.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::{HeaderMap, StatusCode};

use super::body::{self, JSON, LINES, Lines};
use super::document::{
    Always, BadBody, BadFields, Full, Guarded, NewUsers, OtherMediaType, TooLarge,
};
use super::problem::Problem;
use super::value::{self, Value};
use super::view::Created;
use crate::access::Requester;
use crate::refusal::Refusal;
use crate::service::{Batch, Service};

/// Creates users: all of them, or none
///
/// As a JSON array, or as NDJSON: one user per line. The size of a JSON array is limited, that of
/// NDJSON is not, but for that of a line and for the number of users. What is wrong is named as
/// `users[N].email`, counted from 0.
#[utoipa::path(
    post,
    path = "/users:batch",
    operation_id = "batchCreateUsers",
    tag = "users",
    request_body(content(
        (NewUsers = "application/json"),
        (String = "application/x-ndjson"),
    )),
    responses(
        (status = 201, description = "The users have been created.", body = Created),
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
    let limit = service.limits.max_message_size;
    let mut batch = service.batch(&requester)?;
    let mut index = 0;
    if body::media_type(&headers, &[JSON, LINES])? == JSON {
        let body = body::whole(&headers, body, limit).await?;
        value::each(&body, value::DRAFT, |members| {
            add(&mut batch, index, members)?;
            index += 1;
            Ok(())
        })?;
    } else {
        let mut lines = Lines::new(body, limit);
        loop {
            let line = tokio::select! {
                line = lines.next() => line,
                // Nothing has been created yet.
                () = service.stop.cancelled() => return Err(Refusal::stopping().into()),
            };
            let Some(line) = line else { break };
            let within = |problem: Problem| problem.within(&name(index));
            let members = line.and_then(|line| value::object(&line, value::DRAFT));
            add(&mut batch, index, members.map_err(within)?)?;
            index += 1;
        }
    }
    let users = batch.create().await?;
    let created = Created {
        users_created: users.len(),
        user_ids: users.iter().map(|user| user.id).collect(),
    };
    Ok((StatusCode::CREATED, Json(created)).into_response())
}

fn name(index: usize) -> String {
    format!("users[{index}]")
}

fn add(batch: &mut Batch<'_>, index: usize, members: [Value; 4]) -> Result<(), Problem> {
    let draft = value::draft(members).map_err(|violations| violations.within(&name(index)))?;
    Ok(batch.add(draft)?)
}
