//! The schema. Its words are shown to clients, as descriptions.

use std::sync::Arc;
use std::time::Duration;

use async_graphql::{Context, InputObject, Object, Result, SimpleObject};
use futures_util::stream::{self, Stream, StreamExt};

use crate::access::Requester;
use crate::chat::{Message, Saying};
use crate::refusal::{Refusal, Violations};
use crate::service::Service;
use crate::user::{self, Draft, format_time};

/// Users of a page when the client does not say how many.
pub(super) const DEFAULT_LIMIT: i32 = 100;
/// Most users of a page.
pub(super) const MAX_LIMIT: i32 = 1_000;

/// A user.
pub(super) struct User(Arc<user::User>);

#[Object]
impl User {
    /// Counted from 1.
    async fn user_id(&self) -> i32 {
        self.0.id
    }

    /// 1 to 100 characters.
    async fn name(&self) -> &str {
        self.0.fields.name()
    }

    /// An address such as alice@example.com.
    async fn email(&self) -> &str {
        self.0.fields.email()
    }

    /// Years.
    async fn age(&self) -> i32 {
        self.0.fields.age().into()
    }

    /// As of RFC 3339, in milliseconds.
    async fn created_at(&self) -> String {
        format_time(self.0.created_at)
    }

    /// Each once.
    async fn roles(&self) -> Vec<&str> {
        self.0.fields.roles().iter().map(AsRef::as_ref).collect()
    }
}

/// Users by their ids, lowest first.
#[derive(SimpleObject)]
pub(super) struct UserPage {
    /// The users.
    users: Vec<User>,
    /// What to give as `after` for the next page; null on the last.
    next: Option<i32>,
}

/// Users that were created together.
#[derive(SimpleObject)]
pub(super) struct CreatedUsers {
    /// How many.
    users_created: usize,
    /// In the order in which the users came.
    user_ids: Vec<i32>,
}

/// What somebody said in the chat.
pub(super) struct ChatMessage(Arc<Message>);

#[Object]
impl ChatMessage {
    /// Who.
    async fn user(&self) -> &str {
        &self.0.user
    }

    /// What.
    async fn text(&self) -> &str {
        &self.0.text
    }

    /// Counted from 1, the same for every client.
    async fn sequence(&self) -> u64 {
        self.0.sequence
    }

    /// As of RFC 3339, in milliseconds.
    async fn sent_at(&self) -> String {
        format_time(self.0.sent_at)
    }
}

/// A user to be created.
#[derive(InputObject)]
pub(super) struct CreateUserInput {
    /// 1 to 100 characters.
    name: String,
    /// An address such as alice@example.com, at most 254 bytes.
    email: String,
    /// 0 to 150 years.
    age: i32,
    /// At most 16, each a word of 1 to 32 small letters, digits and hyphens. "admin" is given only by
    /// a caller with the scope "admin".
    #[graphql(default)]
    roles: Vec<String>,
}

impl From<CreateUserInput> for Draft {
    fn from(input: CreateUserInput) -> Self {
        Self {
            name: input.name,
            email: input.email,
            age: input.age,
            roles: input.roles,
        }
    }
}

fn service<'a>(context: &Context<'a>) -> &'a Arc<Service> {
    context.data_unchecked::<Arc<Service>>()
}

fn requester<'a>(context: &Context<'a>) -> &'a Requester {
    context.data_unchecked::<Requester>()
}

fn check_limit(limit: i32) -> Result<usize, Refusal> {
    let within = (1..=MAX_LIMIT).contains(&limit);
    let size = usize::try_from(limit).ok().filter(|_| within);
    size.ok_or_else(|| {
        let words = format!("limit must be 1 to {MAX_LIMIT}, not {limit}");
        Violations::one("limit", words).into()
    })
}

/// What a page costs whose users cost `each`.
fn page_cost(limit: Option<i32>, each: usize) -> usize {
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    let limit = usize::try_from(limit.clamp(0, MAX_LIMIT)).unwrap_or_default();
    limit.saturating_mul(each).saturating_add(1)
}

/// What texts cost that are answered: each KiB as much as a field, since a variable can be used many
/// times.
fn text_cost(texts: &[String]) -> usize {
    let bytes: usize = texts
        .iter()
        .map(|text| text.len() + size_of::<String>())
        .sum();
    1 + bytes / 1_024
}

/// Queries.
pub(super) struct Query;

#[Object]
impl Query {
    /// The user with this id. NOT_FOUND when there is none, INVALID_ARGUMENT for an id below 1.
    async fn user(&self, context: &Context<'_>, id: i32) -> Option<Result<User>> {
        // The result within, so that only this field is null when it is refused.
        let user = service(context).user(requester(context), id);
        Some(user.map(User).map_err(Into::into))
    }

    /// Users by their ids, lowest first: at most `limit` (1 to 1,000) after the one with the id
    /// `after`.
    #[graphql(complexity = "page_cost(limit, child_complexity)")]
    async fn users(
        &self,
        context: &Context<'_>,
        #[graphql(default_with = "Some(DEFAULT_LIMIT)")] limit: Option<i32>,
        after: Option<i32>,
    ) -> Result<UserPage> {
        let limit = check_limit(limit.unwrap_or(DEFAULT_LIMIT))?;
        let after = after.unwrap_or_default();
        // One more, to know whether there is a next page.
        let mut users = service(context).page(requester(context), after, limit + 1)?;
        let has_next = users.len() > limit;
        users.truncate(limit);
        let next = users.last().filter(|_| has_next).map(|user| user.id);
        Ok(UserPage {
            users: users.into_iter().map(User).collect(),
            next,
        })
    }

    /// Number of users.
    async fn user_count(&self, context: &Context<'_>) -> Result<usize> {
        Ok(service(context).count(requester(context))?)
    }

    /// Answers what it was sent, after `delayMs` milliseconds (one minute at most), or with the
    /// error that has the number `code` in google.rpc.Code: for measuring, and to see how a client
    /// behaves.
    #[graphql(complexity = "text_cost(&payload)")]
    async fn echo(
        &self,
        context: &Context<'_>,
        payload: Vec<String>,
        delay_ms: Option<i32>,
        code: Option<i32>,
    ) -> Result<Vec<String>> {
        let delay_ms = delay_ms.unwrap_or_default();
        let delay = u64::try_from(delay_ms).map_err(|_| {
            let words = format!("delay must not be negative, as {delay_ms} ms is");
            Refusal::from(Violations::one("delay", words))
        })?;
        let delay = Duration::from_millis(delay);
        let code = code.unwrap_or_default();
        let echoed = service(context).echo(requester(context), payload, Some(delay), code);
        Ok(echoed.await?)
    }
}

/// Mutations. Those of one request are run one after the other.
pub(super) struct Mutation;

#[Object]
impl Mutation {
    /// Creates a user. INVALID_ARGUMENT names every field that is wrong in `extensions.violations`.
    async fn create_user(&self, context: &Context<'_>, input: CreateUserInput) -> Result<User> {
        let created = service(context).create(requester(context), input.into());
        Ok(User(created.await?))
    }

    /// Creates users: all of them, or none.
    #[graphql(complexity = "1 + inputs.len() / 100 + child_complexity")]
    async fn create_users(
        &self,
        context: &Context<'_>,
        inputs: Vec<CreateUserInput>,
    ) -> Result<CreatedUsers> {
        let mut batch = service(context).batch(requester(context))?;
        for input in inputs {
            batch.add(input.into())?;
        }
        let created = batch.create().await?;
        Ok(CreatedUsers {
            users_created: created.len(),
            user_ids: created.iter().map(|user| user.id).collect(),
        })
    }

    /// Says something in the chat: `text` has 1 to 4,096 characters. The number of the message,
    /// counted from 1.
    async fn say(&self, context: &Context<'_>, user: String, text: String) -> Result<u64> {
        let saying = Saying::check(user, text).map_err(Refusal::from)?;
        Ok(service(context).say(requester(context), saying).await?)
    }
}

/// Subscriptions.
pub(super) struct Subscription;

#[async_graphql::Subscription]
impl Subscription {
    /// Users as they are created: first those after the one with the id `after` that are there
    /// already, if it is given. Ends after `limit` users, or when the server stops.
    async fn users(
        &self,
        context: &Context<'_>,
        after: Option<i32>,
        limit: Option<i32>,
    ) -> Result<impl Stream<Item = User> + use<>> {
        let limit = match limit {
            None => None,
            Some(limit) => {
                let size = usize::try_from(limit).ok().filter(|size| *size > 0);
                Some(size.ok_or_else(|| {
                    let words = format!("limit must be 1 or more, not {limit}");
                    Refusal::from(Violations::one("limit", words))
                })?)
            }
        };
        let service = service(context);
        let after = after.unwrap_or_else(|| service.directory.newest());
        let listing = service.list(requester(context), after, limit, true)?;
        let pages = stream::unfold(listing, async |mut listing| {
            let page = listing.next().await?;
            Some((stream::iter(page).map(User), listing))
        });
        Ok(pages.flatten())
    }

    /// What everybody says from now on, each message once, in the same order for all. Whoever does
    /// not read while the others do is cut off with RESOURCE_EXHAUSTED.
    async fn chat(
        &self,
        context: &Context<'_>,
    ) -> Result<impl Stream<Item = Result<ChatMessage>> + use<>> {
        let seat = service(context).join(requester(context))?;
        let messages = stream::unfold(Some(seat), async |seat| {
            let mut seat = seat?;
            match seat.next().await {
                Ok(messages) => {
                    let messages = messages.into_iter().map(|message| Ok(ChatMessage(message)));
                    Some((stream::iter(messages.collect::<Vec<_>>()), Some(seat)))
                }
                // The last thing that this client hears.
                Err(refusal) => Some((stream::iter(vec![Err(refusal.into())]), None)),
            }
        });
        Ok(messages.flatten())
    }
}
