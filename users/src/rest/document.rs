//! The OpenAPI document: what the handlers do not say themselves.
//!
//! Tools call whatever a document lists. So what never ends, or fails because it was asked to, is not
//! under `paths`, but in the same form under `x-by-hand`: complete for people, harmless for programs.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use utoipa::openapi::schema::ArrayBuilder;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Array, Components, ContentBuilder, Header, InfoBuilder, Object, ObjectBuilder, OpenApi,
    OpenApiBuilder, Ref, RefOr, Response, ResponseBuilder, Schema, Type,
};
use utoipa::{IntoResponses, PartialSchema, ToSchema};

use super::problem::{self, FieldError, Problem};
use crate::chat::MAX_TEXT;
use crate::service::Limits;
use crate::user::{MAX_AGE, MAX_EMAIL, MAX_NAME, MAX_ROLE, MAX_ROLES};

const DESCRIPTION: &str = "\
Users, a chat and an echo: the same service as `user.v1.UserService` of gRPC.

Every error is a problem document (RFC 9457, `application/problem+json`). Members of bodies and \
parameters that are not known are ignored.

Two more operations never end, so they are not listed where programs would call them, but as \
`x-by-hand` in the document:

- `GET /users/events`: users when they are created, as server-sent events.
- `GET /chat/events`: what is said in the chat, as server-sent events.

Try them with `curl -N http://SERVER/users/events`, or `new EventSource(\"/users/events\")`.";

/// The document before the routes have added themselves.
pub(super) fn begin() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Pantelegraph users")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(DESCRIPTION))
        .build();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .description(Some(
            "With the scope `read` to read and listen, `upload` to create and say something, and \
             `admin` for everything. Servers that take tokens need one from every caller, unless \
             they run with `--allow-anonymous`; then only to give the role `admin`.",
        ))
        .build();
    let mut components = Components::new();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    for (name, schema) in [
        ("Problem", Problem::schema()),
        ("FieldError", FieldError::schema()),
    ] {
        components.schemas.insert(name.to_owned(), schema);
    }
    OpenApiBuilder::new()
        .info(info)
        .components(Some(components))
        .security(Some([
            SecurityRequirement::default(),
            SecurityRequirement::new("bearer", [] as [&str; 0]),
        ]))
        .build()
}

/// The document as it is served.
pub(super) fn finish(api: &OpenApi, limits: &Limits) -> Value {
    let mut document = serde_json::to_value(api).expect("its keys are text");
    let mut by_hand = serde_json::Map::new();
    if let Some(paths) = document["paths"].as_object_mut() {
        for (path, item) in &mut *paths {
            if item["get"].get("x-by-hand").is_some() {
                by_hand.insert(path.clone(), item.take());
            }
        }
        paths.retain(|path, _| !by_hand.contains_key(path));
    }
    document["x-by-hand"] = Value::Object(by_hand);
    for list in ["NewUsers", "Attempts"] {
        document["components"]["schemas"][list]["maxItems"] = json!(limits.max_batch);
    }
    bound(&mut document);
    document
}

/// Says of each number of 32 bits how large it may be: the word `int32` is only a hint.
fn bound(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(bound),
        Value::Object(members) => {
            members.values_mut().for_each(bound);
            if members
                .get("format")
                .is_some_and(|format| format == "int32")
            {
                let bounds = [("minimum", i32::MIN), ("maximum", i32::MAX)];
                for (name, bound) in bounds {
                    members.entry(name).or_insert(bound.into());
                }
            }
        }
        _ => {}
    }
}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

/// Control characters, as a class of regular expressions.
const CONTROL: &str = r"\u0000-\u001f\u007f-\u009f";
/// Those characters that are spaces of some kind and not control characters.
const SPACE: &str = r" \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000";

/// A name: at least one character is not a space.
fn name() -> ObjectBuilder {
    let pattern = format!("^[^{CONTROL}]*[^{CONTROL}{SPACE}][^{CONTROL}]*$");
    text()
        .min_length(Some(1))
        .max_length(Some(MAX_NAME))
        .pattern(Some(pattern))
}

/// The expression of WHATWG HTML, section 4.10.5.1.5.
const EMAIL: &str = "^[a-zA-Z0-9.!#$%&'*+/=?^_`{|}~-]+@[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\
(?:\\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*$";

/// Types that stand for what bodies hold; what is read is [`super::value::Value`].
macro_rules! bodies {
    ($($name:ident = $schema:expr;)*) => {$(
        #[doc = concat!("Schema of `", stringify!($name), "`.")]
        pub(super) enum $name {}

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                RefOr::T(Schema::from($schema))
            }
        }

        impl ToSchema for $name {}
    )*};
}

bodies! {
    NewUser = new_user();
    NewUsers = new_users();
    Attempts = attempts();
    NewMessage = new_message();
    EchoRequest = echo_request();
    AnswerMode = text().enum_values(Some(["each", "after-all"])).default(Some(json!("each"))).build();
}

fn new_user() -> Object {
    let email = text()
        .min_length(Some(3))
        .max_length(Some(MAX_EMAIL))
        .pattern(Some(EMAIL))
        .description(Some("An address, as browsers check it."));
    let age = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(0))
        .maximum(Some(i64::from(MAX_AGE)))
        .description(Some("Years."));
    let role = text().pattern(Some(format!("^[a-z0-9-]{{1,{MAX_ROLE}}}$")));
    let roles = ArrayBuilder::new()
        .items(role)
        .max_items(Some(MAX_ROLES))
        .unique_items(true)
        .description(Some(
            "`admin` is given only by callers whose token has the scope `admin`.",
        ));
    ObjectBuilder::new()
        .property("name", name().description(Some("Not only spaces.")))
        .property("email", email)
        .property("age", age)
        .property("roles", roles)
        .required("name")
        .required("email")
        .required("age")
        .examples([json!({
            "name": "Ada Lovelace", "email": "ada@example.com", "age": 36, "roles": ["user"],
        })])
        .build()
}

fn new_users() -> Array {
    ArrayBuilder::new()
        .items(Ref::from_schema_name("NewUser"))
        .build()
}

/// What is wrong with one of these is said in its answer, so nothing is wrong with the request.
fn attempts() -> Array {
    let attempt = ObjectBuilder::new().description(Some("As `NewUser`, or it is refused."));
    ArrayBuilder::new().items(attempt).build()
}

fn new_message() -> Object {
    let said = text().min_length(Some(1)).max_length(Some(MAX_TEXT));
    ObjectBuilder::new()
        .property("user", name().description(Some("Who says it.")))
        .property("text", said)
        .required("user")
        .required("text")
        .examples([json!({"user": "Ada", "text": "Hello"})])
        .build()
}

fn echo_request() -> Object {
    let by_hand = json!({
        "delay_ms": {"type": "integer", "minimum": 0, "maximum": 60_000},
        "code": {"type": "integer", "minimum": 0, "maximum": 16},
    });
    ObjectBuilder::new()
        .property("payload", ArrayBuilder::new().items(text()))
        .required("payload")
        .examples([json!({"payload": ["one", "two"]})])
        .extensions(Some([("x-by-hand", by_hand)].into_iter().collect()))
        .build()
}

fn problem(description: &str) -> ResponseBuilder {
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("Problem")))
        .build();
    ResponseBuilder::new()
        .description(description)
        .content(problem::MEDIA_TYPE, content)
}

fn header(kind: Type, description: &str) -> Header {
    let mut header = Header::new(Object::with_type(kind));
    header.description = Some(description.to_owned());
    header
}

/// Problems that operations can answer with, as types that the handlers name.
macro_rules! problems {
    ($($name:ident = { $($status:literal: $response:expr),* };)*) => {$(
        #[doc = concat!("Answers called `", stringify!($name), "`.")]
        pub(super) enum $name {}

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                let responses = [$(($status, $response.build())),*];
                let named = |(status, response): (&str, _)| (status.to_owned(), RefOr::T(response));
                responses.into_iter().map(named).collect()
            }
        }
    )*};
}

problems! {
    BadAddress = { "400": problem("A parameter cannot be read.") };
    BadRequest = { "400": problem("A parameter or the body cannot be read.") };
    BadBody = { "400": problem("The body is not JSON, or broke off.") };
    Guarded = {
        "401": problem("There is no token, or it is no good.")
            .header("WWW-Authenticate", header(Type::String, "`Bearer`, and what is wrong.")),
        "403": problem("The caller lacks the scope for this.")
    };
    NotFound = { "404": problem("There is no such user.") };
    NotAcceptable = { "406": problem("The client accepts none of the types that there are.") };
    TooLarge = { "413": problem("The body, or a line of it, is above `--max-message-size`.") };
    OtherMediaType = { "415": problem("The body is of another type.") };
    BadFields = { "422": problem("Fields are wrong; `errors` names all of them.") };
    Full = { "429": problem("A setting does not allow more; `detail` says which.") };
    AskedFor = {
        "404": problem("Asked for with `code`."),
        "409": problem("Asked for with `code`."),
        "429": problem("Asked for with `code`."),
        "499": problem("Asked for with `code`."),
        "501": problem("Asked for with `code`."),
        "504": problem("Asked for with `code`.")
    };
    Always = {
        "500": problem("The server failed; its log says why."),
        "503": problem("The server is stopping.")
            .header("Retry-After", header(Type::Integer, "Seconds."))
    };
}
