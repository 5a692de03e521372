//! `pantelegraph users demo`: every way to call, what each did, and every error.

mod errors;

use std::fmt::Write as _;
use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt, stream};
use shared::security::Secret;
use shared::security::bearer::Bearer;
use shared::security::settings::{ClientSettings, ServerSettings};
use shared::security::tokens::{TokenKey, Tokens};
use shared::telemetry::{LogFormat, say};
use users::access::Anonymous;
use users::client::{
    CallOptions, Chat, Client, Failure, Over, StreamAnswer, StreamResult, UserAnswer, client,
};
use users::config::Config;
use users::server::{Listeners, Server};
use users::user::Draft;

use super::call::{describe, invented};
use crate::cli::users::DemoOptions;

/// Most users that are shown of a list.
const SHOWN: usize = 5;
/// Users that the streams carry.
const STREAMED: u32 = 3;
/// Clients of the chat, and what each says.
const TALKERS: [&str; 3] = ["Ada", "Blaise", "Claude"];
const SAID: usize = 2;
/// Time for one part of the demo: far more than it takes, so that a server that hangs is told of.
const LIMIT: Duration = Duration::from_secs(30);

/// Why a part of the demo was not as it should be.
type Wrong = String;

/// Runs the demo.
pub(crate) fn run(options: &DemoOptions) -> ExitCode {
    // The log's filter is fixed, so it can be read.
    let colour = std::io::stderr().is_terminal();
    let _ = shared::telemetry::log_to(std::io::stderr, "warn", LogFormat::Text, colour);
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(format_args!(
                "pantelegraph users demo: cannot start threads: {error}"
            ));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(demo(options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(words) => {
            say(format_args!("pantelegraph users demo: {words}"));
            ExitCode::FAILURE
        }
    }
}

/// Whom the demo calls.
struct Scene {
    over: Over,
    server: String,
    client: Box<dyn Client>,
    /// Signs tokens that the server believes; its own server's only.
    key: Option<TokenKey>,
    /// What the caller shows.
    security: ClientSettings,
}

impl Scene {
    /// A client that waits for so long.
    fn client(&self, deadline: Duration) -> Result<Box<dyn Client>, Wrong> {
        self.client_with(self.security.token.clone(), deadline)
    }

    /// A client that shows this token and waits for so long.
    fn client_with(
        &self,
        token: Option<Bearer>,
        deadline: Duration,
    ) -> Result<Box<dyn Client>, Wrong> {
        let security = ClientSettings {
            token,
            ..self.security.clone()
        };
        let options = CallOptions { deadline, security };
        client(self.over, &self.server, options).map_err(|failure| failure.message)
    }
}

async fn demo(options: &DemoOptions) -> Result<(), Wrong> {
    let security = super::security(&options.shown)?;
    let (own, scene) = match &options.server {
        Some(server) => {
            let scene = scene(options.over, server.clone(), None, security)?;
            (None, scene)
        }
        None => {
            let (server, key) = start().await?;
            let served = server.grpc_address.zip(server.http_address);
            let (grpc, http) = served.ok_or_else(|| "the server has no addresses".to_owned())?;
            let address = match options.over {
                Over::Grpc => grpc,
                Over::Rest | Over::Graphql => http,
            };
            // Its own server asks nobody but whoever gives the role admin.
            let security = ClientSettings::default();
            let address = format!("http://{address}");
            let scene = scene(options.over, address, Some(key), security)?;
            print(&format!(
                "server ready: gRPC {grpc}, REST and GraphQL {http}\n"
            ));
            (Some(server), scene)
        }
    };
    print(&format!(
        "calling over {}, {}\n\n",
        scene.over, scene.server
    ));
    let done = tour(&scene).await;
    drop(scene);
    if let Some(server) = own {
        let begin = Instant::now();
        server.stop().await;
        print(&format!("server stopped in {:.0?}\n", begin.elapsed()));
    }
    done
}

fn scene(
    over: Over,
    server: String,
    key: Option<TokenKey>,
    security: ClientSettings,
) -> Result<Scene, Wrong> {
    let options = CallOptions {
        security: security.clone(),
        ..CallOptions::default()
    };
    let client = client(over, &server, options).map_err(|failure| failure.message)?;
    Ok(Scene {
        over,
        server,
        client,
        key,
        security,
    })
}

/// A server of its own, in this process, so that nothing is left behind however the demo ends.
async fn start() -> Result<(Server, TokenKey), Wrong> {
    let key = key().map_err(|error| format!("no key can be made: {error}"))?;
    let config = Config {
        security: ServerSettings {
            tokens: Some(Tokens::new(vec![key.clone()], None)),
            ..ServerSettings::default()
        },
        anonymous: Anonymous::Admitted,
        ..Config::default()
    };
    let listeners = Listeners::open(&config)
        .await
        .map_err(|error| error.to_string())?;
    let server = Server::start(config, listeners).await;
    Ok((server.map_err(|error| error.to_string())?, key))
}

fn key() -> Result<TokenKey, String> {
    let mut bytes = [0; 32];
    let mut source = std::fs::File::open("/dev/urandom").map_err(|error| error.to_string())?;
    source
        .read_exact(&mut bytes)
        .map_err(|error| error.to_string())?;
    TokenKey::from_secret(Secret::new(bytes.to_vec()))
}

async fn tour(scene: &Scene) -> Result<(), Wrong> {
    let client = scene.client.as_ref();
    part("1. GetUser (unary)", get_user(client)).await?;
    part("2. CreateUser (unary)", create_user(client)).await?;
    part("3. ListUsers (server streaming)", list_users(client)).await?;
    part("4. BatchCreateUsers (client streaming)", batch(client)).await?;
    part("5. StreamUsers (bidirectional)", stream_users(client)).await?;
    part("6. Chat (bidirectional, three clients)", chat(client)).await?;
    part("7. Errors", errors::tour(scene)).await
}

/// Runs a part and prints what it says.
async fn part(title: &str, part: impl Future<Output = Result<String, Wrong>>) -> Result<(), Wrong> {
    print(&format!("{title}\n"));
    let begin = Instant::now();
    let done = tokio::time::timeout(LIMIT, part).await;
    let done = done.unwrap_or_else(|_| Err(format!("not done after {LIMIT:?}")));
    let text = done.map_err(|wrong| format!("{title}: {wrong}"))?;
    let took = milliseconds(begin.elapsed());
    print(&format!(
        "{}   took {took}\n\n",
        text.replace("\n   \n", "\n")
    ));
    Ok(())
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1_000.0)
}

/// Prints to standard output. A reader that has gone (`| head`) is no failure.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// A line of a part's text.
fn line(text: &mut String, words: impl std::fmt::Display) {
    // Text cannot fail.
    let _ = writeln!(text, "   {words}");
}

fn user(user: &UserAnswer) -> String {
    format!(
        "user {}: {}, {}, {}",
        user.user_id, user.name, user.age, user.email
    )
}

fn failed(failure: Failure) -> Wrong {
    describe(&failure)
}

async fn get_user(client: &dyn Client) -> Result<String, Wrong> {
    let mut text = String::new();
    let alice = client.get_user(1).await.map_err(failed)?;
    line(&mut text, user(&alice));
    Ok(text)
}

async fn create_user(client: &dyn Client) -> Result<String, Wrong> {
    let mut text = String::new();
    let draft = Draft {
        name: "Frank Castle".to_owned(),
        email: "frank@example.com".to_owned(),
        age: 33,
        roles: vec!["user".to_owned()],
    };
    let created = client.create_user(draft).await.map_err(failed)?;
    line(&mut text, format_args!("created {}", user(&created)));
    let read = client.get_user(created.user_id).await.map_err(failed)?;
    if read != created {
        return Err(format!("{read:?} was read back"));
    }
    line(&mut text, "read back: the same");
    Ok(text)
}

async fn list_users(client: &dyn Client) -> Result<String, Wrong> {
    let mut text = String::new();
    let limit = i32::try_from(SHOWN).unwrap_or(i32::MAX);
    let users = client
        .list_users(0, Some(limit), false)
        .await
        .map_err(failed)?;
    for one in take(users, SHOWN).await? {
        line(&mut text, user(&one));
    }
    let all = client.list_users(0, None, false).await.map_err(failed)?;
    let count = take(all, usize::MAX).await?.len();
    line(&mut text, format_args!("on demand: {count} users in all"));
    // Following: a user that is created now comes down the stream that is open already.
    let mut live = client.list_users(0, None, true).await.map_err(failed)?;
    let mut last = 0;
    for _ in 0..count {
        let one = live
            .next()
            .await
            .ok_or("the live stream ended")?
            .map_err(failed)?;
        last = one.user_id;
    }
    let created = client.create_user(invented(1)).await.map_err(failed)?;
    let begin = Instant::now();
    let came = live
        .next()
        .await
        .ok_or("the live stream ended")?
        .map_err(failed)?;
    if came.user_id <= last || came != created {
        return Err(format!("{came:?} came live, not {created:?}"));
    }
    let took = milliseconds(begin.elapsed());
    line(
        &mut text,
        format_args!("live: {} came {took} after it was created", user(&came)),
    );
    Ok(text)
}

async fn batch(client: &dyn Client) -> Result<String, Wrong> {
    let mut text = String::new();
    let users = (1..=STREAMED).map(invented).collect();
    let answer = client.batch_create_users(users).await.map_err(failed)?;
    line(
        &mut text,
        format_args!(
            "sent {STREAMED} users; users_created: {}, user_ids: {:?}",
            answer.users_created, answer.user_ids
        ),
    );
    if answer.user_ids.len() != STREAMED as usize {
        return Err(format!("{answer:?} for {STREAMED} users"));
    }
    Ok(text)
}

async fn stream_users(client: &dyn Client) -> Result<String, Wrong> {
    let mut text = String::new();
    // Ping-pong: the next user is sent when the last one has been answered.
    let (send, receive) = tokio::sync::mpsc::channel::<Draft>(1);
    let drafts = stream::unfold(receive, |mut receive| async {
        Some((receive.recv().await?, receive))
    });
    let mut answers = client
        .stream_users(drafts.boxed(), false)
        .await
        .map_err(failed)?;
    for number in 1..=STREAMED {
        let begin = Instant::now();
        send.send(invented(number))
            .await
            .map_err(|_| "the stream ended")?;
        let answer = answers
            .next()
            .await
            .ok_or("the stream ended")?
            .map_err(failed)?;
        let took = milliseconds(begin.elapsed());
        line(
            &mut text,
            format_args!(
                "message {number} acknowledged after {took}: {}",
                said(&answer)
            ),
        );
    }
    drop(send);
    if answers.next().await.is_some() {
        return Err("more answers than messages".to_owned());
    }
    let mut drafts: Vec<Draft> = (1..=STREAMED).map(invented).collect();
    drafts[1].email = "no address".to_owned();
    let drafts = stream::iter(drafts).boxed();
    let answers = client.stream_users(drafts, true).await.map_err(failed)?;
    let answers = take(answers, usize::MAX).await?;
    line(
        &mut text,
        format_args!(
            "wait-for-all: {} answers after the last message",
            answers.len()
        ),
    );
    for answer in &answers {
        line(
            &mut text,
            format_args!("message {}: {}", answer.sequence, said(answer)),
        );
    }
    if answers.len() != STREAMED as usize {
        return Err(format!("{} answers to {STREAMED} messages", answers.len()));
    }
    Ok(text)
}

fn said(answer: &StreamAnswer) -> String {
    match &answer.result {
        StreamResult::Created(created) => format!("created {}", user(created)),
        StreamResult::Refused(failure) => format!("refused, {failure}"),
    }
}

async fn chat(client: &dyn Client) -> Result<String, Wrong> {
    let mut text = String::new();
    let mut seats: Vec<Chat> = Vec::new();
    for _ in TALKERS {
        seats.push(client.chat().await.map_err(failed)?);
    }
    for round in 1..=SAID {
        for (seat, name) in seats.iter().zip(TALKERS) {
            let words = format!("hello {round} from {name}");
            seat.voice.say(name, &words).await.map_err(failed)?;
        }
    }
    let expected = TALKERS.len() * SAID;
    let mut first = Vec::new();
    for (seat, name) in seats.iter_mut().zip(TALKERS) {
        let mut heard = Vec::new();
        while heard.len() < expected {
            let message = seat
                .heard
                .next()
                .await
                .ok_or("the chat ended")?
                .map_err(failed)?;
            // Others may talk on a server that runs already.
            if TALKERS.contains(&message.user.as_str()) {
                heard.push(message);
            }
        }
        let mut sequences: Vec<u64> = heard.iter().map(|message| message.sequence).collect();
        sequences.dedup();
        if sequences.len() != expected {
            return Err(format!("{name} heard {sequences:?}"));
        }
        line(
            &mut text,
            format_args!("{name} heard {expected} of {expected} messages, each once"),
        );
        if first.is_empty() {
            first = heard;
        } else if first != heard {
            return Err(format!("{name} heard other messages than {}", TALKERS[0]));
        }
    }
    for message in &first {
        line(
            &mut text,
            format_args!("{}: {}: {}", message.sequence, message.user, message.text),
        );
    }
    Ok(text)
}

/// At most `most` answers of a stream.
async fn take<T>(
    mut answers: impl Stream<Item = Result<T, Failure>> + Unpin,
    most: usize,
) -> Result<Vec<T>, Wrong> {
    let mut taken = Vec::new();
    while taken.len() < most
        && let Some(answer) = answers.next().await
    {
        taken.push(answer.map_err(failed)?);
    }
    Ok(taken)
}
