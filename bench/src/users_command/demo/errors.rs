//! The error tour: every status provoked, and what a client does about it.

use std::time::Duration;

use shared::security::Secret;
use shared::security::access::Scope;
use shared::security::bearer::Bearer;
use tokio::net::TcpListener;
use users::client::{CallOptions, DEFAULT_DEADLINE, Failure, client};
use users::refusal::Code;
use users::user::{ADMIN, Draft};

use super::{Scene, Wrong, failed, line};

/// Longer than the call that is not answered in time.
const LONG: Duration = Duration::from_secs(2);
const SHORT: Duration = Duration::from_millis(50);
/// Bytes of a string, and strings in a message above 4 MiB.
const LARGE: (usize, usize) = (1 << 20, 5);
/// No user has it.
const NOBODY: i32 = i32::MAX;

/// A status, how it came about, and what was said.
struct Row {
    code: &'static str,
    provoked: &'static str,
    words: String,
    then: &'static str,
}

/// Provokes every status.
pub(super) async fn tour(scene: &Scene) -> Result<String, Wrong> {
    let rows = [
        ok(scene).await?,
        cancelled(scene).await?,
        invalid_argument(scene).await?,
        not_found(scene).await?,
        permission_denied(scene).await?,
        unauthenticated(scene).await?,
        unavailable(scene).await?,
        internal(scene).await?,
        deadline_exceeded(scene).await?,
        resource_exhausted(scene).await?,
    ];
    let mut text = String::new();
    for Row {
        code,
        provoked,
        words,
        then,
    } in rows
    {
        line(&mut text, format_args!("{code:<18} {provoked}"));
        line(&mut text, format_args!("{:18} \"{words}\": {then}", ""));
    }
    Ok(text)
}

/// What a client that branches on the code does.
fn then(code: Code) -> &'static str {
    match code {
        Code::Cancelled => "nothing: it did not want to wait",
        Code::InvalidArgument => "mends the request",
        Code::NotFound => "goes on without it",
        Code::PermissionDenied => "asks somebody who may",
        Code::Unauthenticated => "gets a token",
        Code::Unavailable => "tries again, elsewhere or later",
        Code::DeadlineExceeded => "gives it more time, if that is safe",
        Code::ResourceExhausted => "sends less",
        _ => "tells the operator",
    }
}

/// The row of a call that failed as it should.
fn row<T: std::fmt::Debug>(
    expected: Code,
    provoked: &'static str,
    answer: Result<T, Failure>,
) -> Result<Row, Wrong> {
    match answer {
        Err(failure) if failure.code == expected => Ok(Row {
            code: expected.name(),
            provoked,
            words: shorten(&failure.message),
            then: then(failure.code),
        }),
        answer => Err(format!(
            "{provoked}: {answer:?} instead of {}",
            expected.name()
        )),
    }
}

/// At most a line's worth.
fn shorten(words: &str) -> String {
    const MOST: usize = 72;
    let words = words.lines().next().unwrap_or_default();
    if words.chars().count() <= MOST {
        return words.to_owned();
    }
    words.chars().take(MOST).chain(['.'; 3]).collect()
}

async fn ok(scene: &Scene) -> Result<Row, Wrong> {
    let user = scene.client.get_user(1).await.map_err(failed)?;
    Ok(Row {
        code: "OK",
        provoked: "GetUser 1",
        words: user.name,
        then: "goes on",
    })
}

async fn cancelled(scene: &Scene) -> Result<Row, Wrong> {
    // First really: the call is dropped, which resets its stream, and the server stops working on it.
    let waits = scene.client.echo(Vec::new(), Some(LONG), 0);
    if let Ok(answer) = tokio::time::timeout(SHORT, waits).await {
        return Err(format!(
            "a call was answered before it could be dropped: {answer:?}"
        ));
    }
    // Whoever drops a call sees no status; the words for it are had by asking for them.
    let number = Code::Cancelled.number();
    let answer = scene.client.echo(Vec::new(), None, number).await;
    row(
        Code::Cancelled,
        "Echo dropped after 50 ms; asked for",
        answer,
    )
}

async fn invalid_argument(scene: &Scene) -> Result<Row, Wrong> {
    let answer = scene.client.get_user(0).await;
    row(Code::InvalidArgument, "GetUser 0", answer)
}

async fn not_found(scene: &Scene) -> Result<Row, Wrong> {
    let answer = scene.client.get_user(NOBODY).await;
    row(Code::NotFound, "GetUser 2147483647", answer)
}

fn admin() -> Draft {
    Draft {
        name: "Root".to_owned(),
        email: "root@example.com".to_owned(),
        age: 50,
        roles: vec![ADMIN.to_owned()],
    }
}

fn bearer(token: String) -> Result<Bearer, Wrong> {
    Bearer::value(Secret::new(token.into_bytes()))
}

async fn permission_denied(scene: &Scene) -> Result<Row, Wrong> {
    const FAR: u64 = 4_000_000_000;
    let provoked = "CreateUser with the role admin, token without its scope";
    let token = match (&scene.key, &scene.security.token) {
        (Some(key), _) => bearer(key.token("demo", "read upload", FAR)?)?,
        (None, Some(token)) => token.clone(),
        // A server without a key refuses it so, too; one with a key does not know it.
        (None, None) => bearer("none".to_owned())?,
    };
    let client = scene.client_with(Some(token), DEFAULT_DEADLINE)?;
    let answer = client.create_user(admin()).await;
    match answer {
        Err(failure) if scene.key.is_none() && failure.code == Code::Unauthenticated => Ok(Row {
            code: Code::PermissionDenied.name(),
            provoked,
            words: "not provoked: --token-file with a token of this server is needed".to_owned(),
            then: then(Code::PermissionDenied),
        }),
        answer => row(Code::PermissionDenied, provoked, answer),
    }
}

async fn unauthenticated(scene: &Scene) -> Result<Row, Wrong> {
    let nobody = scene.client_with(None, DEFAULT_DEADLINE)?;
    let missing = nobody.create_user(admin()).await;
    let row = row(
        Code::Unauthenticated,
        "CreateUser with the role admin, no token",
        missing,
    )?;
    if let Some(key) = &scene.key {
        let expired = key.token("demo", Scope::Admin.key(), 1)?;
        let client = scene.client_with(Some(bearer(expired)?), DEFAULT_DEADLINE)?;
        let answer = client.create_user(admin()).await;
        match answer {
            Err(failure) if failure.message == "Token expired" => {
                let words = format!("{}; with an old one: {}", row.words, failure.message);
                return Ok(Row { words, ..row });
            }
            answer => return Err(format!("an expired token: {answer:?}")),
        }
    }
    Ok(row)
}

async fn unavailable(scene: &Scene) -> Result<Row, Wrong> {
    // A port that nobody listens on: it was free a moment ago.
    let listener = TcpListener::bind("127.0.0.1:0").await;
    let address = listener.and_then(|listener| listener.local_addr());
    let address = address.map_err(|error| format!("no port is free: {error}"))?;
    let nobody = client(
        scene.over,
        &format!("http://{address}"),
        CallOptions::default(),
    );
    let nobody = nobody.map_err(failed)?;
    let answer = nobody.get_user(1).await;
    row(Code::Unavailable, "GetUser where no server is", answer)
}

async fn internal(scene: &Scene) -> Result<Row, Wrong> {
    let number = Code::Internal.number();
    let answer = scene.client.echo(Vec::new(), None, number).await;
    row(Code::Internal, "Echo; asked for", answer)
}

async fn deadline_exceeded(scene: &Scene) -> Result<Row, Wrong> {
    let hasty = scene.client(SHORT)?;
    let answer = hasty.echo(Vec::new(), Some(LONG), 0).await;
    row(
        Code::DeadlineExceeded,
        "Echo after 2 s, deadline 50 ms",
        answer,
    )
}

async fn resource_exhausted(scene: &Scene) -> Result<Row, Wrong> {
    let (bytes, strings) = LARGE;
    let payload = vec!["x".repeat(bytes); strings];
    let answer = scene.client.echo(payload, None, 0).await;
    let answer = answer.map(|payload| payload.len());
    row(Code::ResourceExhausted, "Echo of 5 MiB", answer)
}
