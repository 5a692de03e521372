//! `pantelegraph users call`: one call to a server that runs.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use shared::telemetry::say;
use tokio::io::{AsyncBufReadExt, stdin};
use users::client::{
    BatchAnswer, CallOptions, Chat, ChatAnswer, Client, Failure, StreamAnswer, StreamResult,
    UserAnswer, client,
};
use users::user::Draft;

use crate::cli::users::{Call, How, Output, Source};

/// Why there is no answer.
enum Problem {
    /// The call could not be made.
    Usage(String),
    /// The call failed.
    Failed(Failure),
    /// Nobody reads the answers any more (`| head`): no failure.
    Unread,
    /// The answers cannot be written.
    Output(std::io::Error),
    /// Ctrl-C before the answer.
    Interrupted,
}

/// What a shell expects of a program that SIGINT ended: 128 + 2.
const INTERRUPTED: u8 = 130;

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Makes the call and prints its answers.
pub(crate) fn run(call: Call, how: &How) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            say(format_args!(
                "pantelegraph users call: cannot start: {error}"
            ));
            return ExitCode::FAILURE;
        }
    };
    // Whoever follows or chats ends it so; what was answered has been printed.
    let has_no_end = matches!(
        call,
        Call::ListUsers { follow: true, .. } | Call::Chat { count: None, .. }
    );
    let done = runtime.block_on(async {
        tokio::select! {
            done = make(call, how) => done,
            _ = tokio::signal::ctrl_c() => match has_no_end {
                true => Ok(()),
                false => Err(Problem::Interrupted),
            },
        }
    });
    // A read of standard input cannot be given up.
    runtime.shutdown_background();
    match done {
        Ok(()) | Err(Problem::Unread) => ExitCode::SUCCESS,
        Err(Problem::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(Problem::Output(error)) => {
            say(format_args!(
                "pantelegraph users call: the answer cannot be written: {error}"
            ));
            ExitCode::FAILURE
        }
        Err(Problem::Usage(words)) => {
            say(format_args!("pantelegraph users call: {words}"));
            ExitCode::from(2)
        }
        Err(Problem::Failed(failure)) => {
            match how.output {
                Output::Text => say(describe(&failure)),
                Output::Json => say(json(&failure)),
            }
            ExitCode::FAILURE
        }
    }
}

async fn make(call: Call, how: &How) -> Result<(), Problem> {
    let options = CallOptions {
        deadline: how.deadline,
        security: super::security(&how.shown).map_err(Problem::Usage)?,
    };
    let server = how.server.as_deref();
    let server = server.unwrap_or_else(|| how.over.default_server());
    let client = client(how.over, server, options);
    let client = client.map_err(|failure| Problem::Usage(failure.message))?;
    let show = Show(how.output);
    match call {
        Call::GetUser { id } => show.one(&client.get_user(id).await?)?,
        Call::CreateUser {
            name,
            email,
            age,
            role: roles,
        } => {
            let draft = Draft {
                name,
                email,
                age,
                roles,
            };
            show.one(&client.create_user(draft).await?)?;
        }
        Call::ListUsers {
            limit,
            after,
            follow,
        } => {
            let limit = (limit > 0).then_some(limit);
            show.all(client.list_users(after, limit, follow).await?)
                .await?;
        }
        Call::BatchCreateUsers(source) => {
            let users = read(&source).map_err(Problem::Usage)?;
            show.one(&client.batch_create_users(users).await?)?;
        }
        Call::StreamUsers { source, after_all } => {
            let users = read(&source).map_err(Problem::Usage)?;
            let users = stream::iter(users).boxed();
            show.all(client.stream_users(users, after_all).await?)
                .await?;
        }
        Call::Chat { user, say, count } => {
            chat(client.as_ref(), user.as_deref(), say, count, show).await?;
        }
        Call::Echo {
            payload,
            delay,
            code,
        } => show.one(&Echoed {
            payload: client.echo(payload, delay, code).await?,
        })?,
    }
    Ok(())
}

async fn chat(
    client: &dyn Client,
    user: Option<&str>,
    say: Vec<String>,
    count: Option<u64>,
    show: Show,
) -> Result<(), Problem> {
    let Chat { voice, mut heard } = client.chat().await?;
    let user = user.unwrap_or_default();
    let said: BoxStream<'_, String> = match (user.is_empty(), say.is_empty()) {
        (true, _) => stream::pending().boxed(),
        (false, false) => stream::iter(say).chain(stream::pending()).boxed(),
        (false, true) => {
            let lines = tokio::io::BufReader::new(stdin()).lines();
            let lines = stream::unfold(lines, |mut lines| async {
                Some((lines.next_line().await.ok()??, lines))
            });
            lines.chain(stream::pending()).boxed()
        }
    };
    // Side by side: who waits to speak has to hear meanwhile.
    let speak = said
        .map(Ok)
        .try_for_each(async |text| voice.say(user, &text).await);
    let hear = async {
        let mut left = count;
        while left != Some(0)
            && let Some(message) = heard.next().await
        {
            show.one(&message?)?;
            left = left.map(|left| left - 1);
        }
        Ok::<_, Problem>(())
    };
    tokio::select! {
        spoken = speak => spoken?,
        heard = hear => heard?,
    }
    Ok(())
}

#[derive(Debug, Serialize)]
struct Echoed {
    payload: Vec<String>,
}

/// A user of a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    name: String,
    email: String,
    #[serde(default)]
    age: i32,
    #[serde(default)]
    roles: Vec<String>,
}

/// The users to be created.
fn read(source: &Source) -> Result<Vec<Draft>, String> {
    match &source.file {
        None => Ok((1..=source.count).map(invented).collect()),
        Some(file) if file == Path::new("-") => read_lines(std::io::stdin(), "standard input"),
        Some(file) => {
            let name = format!("--file {}", file.display());
            let opened = std::fs::File::open(file).map_err(|error| format!("{name}: {error}"))?;
            read_lines(opened, &name)
        }
    }
}

fn read_lines(source: impl Read, name: &str) -> Result<Vec<Draft>, String> {
    let mut users = Vec::new();
    for (number, line) in (1..).zip(BufReader::new(source).lines()) {
        let line = line.map_err(|error| format!("{name}: {error}"))?;
        if line.trim().is_empty() {
            continue;
        }
        let user: Line = serde_json::from_str(&line)
            .map_err(|error| format!("{name}, line {number}: {error}"))?;
        users.push(Draft {
            name: user.name,
            email: user.email,
            age: user.age,
            roles: user.roles,
        });
    }
    Ok(users)
}

/// A user that nobody is.
pub(super) fn invented(number: u32) -> Draft {
    const NAMES: [&str; 8] = [
        "Ada", "Blaise", "Claude", "Dorothy", "Emmy", "Fritz", "Grace", "Hedy",
    ];
    let name = NAMES[number as usize % NAMES.len()];
    Draft {
        name: format!("{name} {number}"),
        email: format!("{}.{number}@example.com", name.to_lowercase()),
        age: 20 + i32::try_from(number % 50).unwrap_or_default(),
        roles: vec!["user".to_owned()],
    }
}

/// Prints answers.
#[derive(Debug, Clone, Copy)]
struct Show(Output);

impl Show {
    fn one<A: Answer>(self, answer: &A) -> Result<(), Problem> {
        let line = match self.0 {
            Output::Text => answer.text(),
            Output::Json => json(answer),
        };
        let mut out = std::io::stdout().lock();
        let written = writeln!(out, "{line}").and_then(|()| out.flush());
        written.map_err(|error| match error.kind() {
            std::io::ErrorKind::BrokenPipe => Problem::Unread,
            _ => Problem::Output(error),
        })
    }

    async fn all<A: Answer>(
        self,
        mut answers: impl Stream<Item = Result<A, Failure>> + Unpin,
    ) -> Result<(), Problem> {
        while let Some(answer) = answers.next().await {
            self.one(&answer?)?;
        }
        Ok(())
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("an answer consists of text and numbers")
}

/// A failure for people: its words, and each field that is wrong on a line of its own.
pub(super) fn describe(failure: &Failure) -> String {
    let mut text = failure.to_string();
    for violation in &failure.violations {
        text.push_str(&format!(
            "\n  {}: {}",
            violation.field, violation.description
        ));
    }
    text
}

/// What is printed.
trait Answer: Serialize {
    fn text(&self) -> String;
}

impl Answer for UserAnswer {
    fn text(&self) -> String {
        let Self {
            user_id,
            name,
            email,
            age,
            created_at,
            roles,
        } = self;
        let roles = roles.join(",");
        format!("{user_id:>6}  {name:<20} {email:<28} {age:>3}  {created_at:<24} {roles}")
            .trim_end()
            .to_owned()
    }
}

impl Answer for BatchAnswer {
    fn text(&self) -> String {
        const SHOWN: usize = 10;
        let shown: Vec<String> = self
            .user_ids
            .iter()
            .take(SHOWN)
            .map(i32::to_string)
            .collect();
        let rest = if self.user_ids.len() > SHOWN {
            ", ..."
        } else {
            ""
        };
        format!(
            "{} users created: {}{rest}",
            self.users_created,
            shown.join(", ")
        )
    }
}

impl Answer for StreamAnswer {
    fn text(&self) -> String {
        match &self.result {
            StreamResult::Created(user) => {
                format!("{:>6}: created {}", self.sequence, user.text().trim())
            }
            StreamResult::Refused(failure) => format!("{:>6}: refused {failure}", self.sequence),
        }
    }
}

impl Answer for ChatAnswer {
    fn text(&self) -> String {
        // Others said it, and terminals obey what is hidden in texts.
        let text: String = self.text.chars().flat_map(shown).collect();
        format!("{:>6}  {}: {text}", self.sequence, self.user)
    }
}

fn shown(letter: char) -> Box<dyn Iterator<Item = char>> {
    match letter.is_control() {
        true => Box::new(letter.escape_default()),
        false => Box::new(std::iter::once(letter)),
    }
}

impl Answer for Echoed {
    fn text(&self) -> String {
        self.payload.join("\n")
    }
}
