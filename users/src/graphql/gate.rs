//! The way of every request to the schema and of every answer back.

use std::sync::Arc;

use async_graphql::parser::types::OperationType;
use async_graphql::{Request, Response, Schema, ServerError, Value, Variables};
use futures_util::stream::{self, BoxStream, StreamExt};
use serde::{Deserialize, Serialize};
use shared::security::access::Scope;
use tokio_util::sync::CancellationToken;

use crate::access::Requester;
use crate::observe::Outcome;
use crate::refusal::Refusal;
use crate::service::Service;

use super::schema::{Mutation, Query, Subscription};
use super::{document, error};

/// Most that a request may cost: a field costs 1, a list as much as all of its users. A page of 1,000
/// users with all of their fields is within it.
pub(super) const MAX_COST: usize = 10_000;

/// A request as clients send it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Call {
    #[serde(default)]
    pub(super) query: Option<String>,
    #[serde(default)]
    pub(super) operation_name: Option<String>,
    #[serde(default)]
    pub(super) variables: Option<Variables>,
}

/// An answer as clients get it.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    /// Not there when nothing was executed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) data: Option<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) errors: Vec<ServerError>,
    /// Why the caller may not do this, for the status of HTTP.
    #[serde(skip)]
    pub(super) denied: Option<Refusal>,
}

impl Answer {
    fn new(response: Response) -> Self {
        let mut errors = response.errors;
        // Errors of execution have a path. A request without any was refused before.
        let is_refused = response.data == Value::Null
            && !errors.is_empty()
            && errors.iter().all(|error| error.path.is_empty());
        error::complete(&mut errors);
        Self {
            data: (!is_refused).then_some(response.data),
            errors,
            denied: None,
        }
    }

    /// That the whole request was refused.
    pub(super) fn refused(mut error: ServerError) -> Self {
        error.source = None;
        let mut errors = vec![error];
        error::complete(&mut errors);
        Self {
            data: None,
            errors,
            denied: None,
        }
    }

    /// That the caller may not do this.
    pub(super) fn denied(refusal: Refusal) -> Self {
        let mut answer = Self::refused(error::whole(&refusal));
        answer.denied = Some(refusal);
        answer
    }

    /// How it went: the code of the first error.
    pub(super) fn outcome(&self) -> Outcome {
        error::outcome(&self.errors)
    }

    /// Whether nothing was executed.
    pub(super) fn is_refused(&self) -> bool {
        self.data.is_none()
    }
}

/// A request whose document is within bounds.
pub(super) struct Prepared {
    request: Request,
    kind: Option<OperationType>,
}

impl Prepared {
    /// What it is; `None` when the name of its operation is wrong, which is found when it is run.
    pub(super) fn kind(&self) -> Option<OperationType> {
        self.kind
    }

    /// What its caller must be allowed to do.
    pub(super) fn needs(&self) -> Scope {
        match self.kind {
            Some(OperationType::Mutation) => Scope::Upload,
            _ => Scope::Read,
        }
    }
}

/// A part of what an operation on a WebSocket answers.
pub(super) enum Event {
    Next(Answer),
    /// The last part: refused, or failed for good.
    Error(Vec<ServerError>),
    /// The last part: done.
    Complete,
}

/// The schema behind its bounds.
#[derive(Clone)]
pub(super) struct Gate {
    schema: Schema<Query, Mutation, Subscription>,
    stop: CancellationToken,
}

impl Gate {
    pub(super) fn new(service: Arc<Service>) -> Self {
        let stop = service.stop.clone();
        let schema = Schema::build(Query, Mutation, Subscription)
            .data(service)
            .limit_complexity(MAX_COST)
            .finish();
        Self { schema, stop }
    }

    /// The schema as text.
    pub(super) fn sdl(&self) -> String {
        self.schema.sdl()
    }

    /// Looks at a request.
    ///
    /// # Errors
    /// When its document is out of bounds or cannot be parsed.
    pub(super) fn prepare(
        &self,
        call: Call,
        requester: Requester,
    ) -> Result<Prepared, ServerError> {
        let Some(query) = call.query else {
            let words = "the request has no query";
            return Err(error::refused(crate::refusal::Code::InvalidArgument, words));
        };
        let document = document::read(&query)?;
        // Some clients send an empty name for none.
        let name = call.operation_name.filter(|name| !name.is_empty());
        let kind = document::kind(&document, name.as_deref());
        let mut request = Request::new(query)
            .variables(call.variables.unwrap_or_default())
            .data(requester);
        request.operation_name = name;
        request.set_parsed_query(document);
        Ok(Prepared { request, kind })
    }

    /// Runs a query or mutation.
    pub(super) async fn execute(&self, prepared: Prepared) -> Answer {
        Answer::new(self.schema.execute(prepared.request).await)
    }

    /// Runs an operation of any kind; subscriptions end when the server stops. The last event is one
    /// that says so.
    pub(super) fn stream(&self, prepared: Prepared) -> BoxStream<'static, Event> {
        let is_subscription = prepared.kind == Some(OperationType::Subscription);
        let answers = self.schema.execute_stream(prepared.request);
        let events = answers.map(move |response| {
            let is_null = response.data == Value::Null;
            let answer = Answer::new(response);
            // A subscription that fails has ended: its streams give an error only as the last.
            let is_failed = is_subscription && is_null && !answer.errors.is_empty();
            if answer.is_refused() || is_failed {
                return Event::Error(answer.errors);
            }
            Event::Next(answer)
        });
        let done = stream::once(async { Event::Complete });
        if is_subscription {
            let stop = self.stop.clone();
            let last = stream::once(async move {
                // Not as if it had come to its end by itself.
                match stop.is_cancelled() {
                    true => Event::Error(vec![error::whole(&Refusal::stopping())]),
                    false => Event::Complete,
                }
            });
            let stop = self.stop.clone().cancelled_owned();
            return events.take_until(stop).chain(last).boxed();
        }
        events.chain(done).boxed()
    }
}
