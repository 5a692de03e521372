//! R2.6: the ways to call.

use std::time::{Duration, Instant};

use futures_util::stream;
use serde::Serialize;
use shared::telemetry::chain;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use users::wire::proto::user_service_client::UserServiceClient;
use users::wire::proto::{AnswerMode, GetUserRequest, ListUsersRequest, StreamUsersRequest};

use super::Options;
use super::chart::{Axis, Chart, Marks, Series};
use super::duplex::request;
use super::millis;
use super::part::{Grid, Part};
use super::rig::{Rig, new_user};
use super::verdict::{Check, number};

/// What one way of calling did.
#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    short: &'static str,
    sent: usize,
    answered: usize,
    first_answer_ms: f64,
    total_ms: f64,
    /// Answers that came before the last message was sent.
    early: usize,
}

impl Row {
    /// Messages of the direction that has more of them.
    fn rate(&self) -> f64 {
        self.sent.max(self.answered) as f64 / (self.total_ms / 1e3)
    }
}

/// Counts answers and takes their times.
struct Clock {
    zero: Instant,
    first: Option<Duration>,
    answered: usize,
    early: usize,
}

impl Clock {
    fn start() -> Self {
        Self {
            zero: Instant::now(),
            first: None,
            answered: 0,
            early: 0,
        }
    }

    fn answered(&mut self, is_early: bool) {
        self.first.get_or_insert(self.zero.elapsed());
        self.answered += 1;
        self.early += usize::from(is_early);
    }

    fn stop(self, name: &'static str, short: &'static str, sent: usize) -> Row {
        Row {
            name,
            short,
            sent,
            answered: self.answered,
            first_answer_ms: millis(self.first.unwrap_or_default()),
            total_ms: millis(self.zero.elapsed()),
            early: self.early,
        }
    }
}

type Calls = UserServiceClient<Channel>;

/// Measures.
pub(super) async fn measure(rig: &Rig, options: &Options) -> Result<Part, String> {
    let count = options.calls;
    let calls = rig.direct_calls().await?;
    // The connection is warm.
    unary(calls.clone(), 10).await?;
    rig.fill(count).await?;
    let rows = vec![
        unary(calls.clone(), count).await?,
        on_demand(calls.clone(), count).await?,
        live(rig, calls.clone(), count).await?,
        batch(calls.clone(), count).await?,
        ping_pong(calls.clone(), count).await?,
        streamed(calls.clone(), count, AnswerMode::Each).await?,
        streamed(calls, count, AnswerMode::AfterAll).await?,
    ];
    Ok(part(&rows, count))
}

async fn unary(mut calls: Calls, count: usize) -> Result<Row, String> {
    let mut clock = Clock::start();
    for index in 0..count {
        let got = calls.get_user(GetUserRequest { user_id: 1 }).await;
        got.map_err(|status| chain(&status))?;
        clock.answered(index + 1 < count);
    }
    Ok(clock.stop("unary, one after the other", "unary", count))
}

async fn on_demand(mut calls: Calls, count: usize) -> Result<Row, String> {
    let mut clock = Clock::start();
    let request = ListUsersRequest {
        limit: i32::try_from(count).unwrap_or(i32::MAX),
        ..Default::default()
    };
    let answers = calls.list_users(request).await;
    let mut answers = answers.map_err(|status| chain(&status))?.into_inner();
    while let Some(_user) = answers.message().await.map_err(|status| chain(&status))? {
        clock.answered(false);
    }
    Ok(clock.stop("server streaming, on demand", "list", 1))
}

/// Users that are created one by one appear on a stream that is open already.
async fn live(rig: &Rig, mut calls: Calls, count: usize) -> Result<Row, String> {
    let request = ListUsersRequest {
        follow: true,
        after_user_id: rig.service.directory.newest(),
        ..Default::default()
    };
    let answers = calls.list_users(request).await;
    let mut answers = answers.map_err(|status| chain(&status))?.into_inner();
    let mut clock = Clock::start();
    for index in 0..count {
        let new = new_user(index)?;
        let created = rig.service.directory.create(new).await;
        let created = created.map_err(|error| chain(&error))?;
        let seen = answers.message().await.map_err(|status| chain(&status))?;
        if seen.is_none_or(|seen| seen.user_id != created.id) {
            return Err("a user that was created did not appear".to_owned());
        }
        clock.answered(index + 1 < count);
    }
    Ok(clock.stop("server streaming, live", "live", 1))
}

async fn batch(mut calls: Calls, count: usize) -> Result<Row, String> {
    let mut clock = Clock::start();
    let users = stream::iter((0..count).map(request));
    let answer = calls.batch_create_users(users).await;
    let answer = answer.map_err(|status| chain(&status))?.into_inner();
    if usize::try_from(answer.users_created) != Ok(count) {
        return Err(format!(
            "{} of {count} users were created",
            answer.users_created
        ));
    }
    clock.answered(false);
    Ok(clock.stop("client streaming, one reply", "batch", count))
}

fn message(index: usize, mode: AnswerMode) -> StreamUsersRequest {
    StreamUsersRequest {
        user: Some(request(index)),
        answer_mode: mode.into(),
    }
}

async fn ping_pong(mut calls: Calls, count: usize) -> Result<Row, String> {
    let (send, sent) = mpsc::channel(1);
    let answers = calls.stream_users(ReceiverStream::new(sent)).await;
    let mut answers = answers.map_err(|status| chain(&status))?.into_inner();
    let mut clock = Clock::start();
    for index in 0..count {
        let message = message(index, AnswerMode::Each);
        send.send(message).await.map_err(|error| chain(&error))?;
        let answer = answers.message().await.map_err(|status| chain(&status))?;
        if answer.is_some() {
            clock.answered(index + 1 < count);
        }
    }
    Ok(clock.stop("bidirectional, ping-pong", "ping-pong", count))
}

/// Sends without waiting for answers.
async fn streamed(mut calls: Calls, count: usize, mode: AnswerMode) -> Result<Row, String> {
    let (send, sent) = mpsc::channel(16);
    let mut clock = Clock::start();
    let sending = tokio::spawn(async move {
        for index in 0..count {
            if send.send(message(index, mode)).await.is_err() {
                break;
            }
        }
    });
    let answers = calls.stream_users(ReceiverStream::new(sent)).await;
    let mut answers = answers.map_err(|status| chain(&status))?.into_inner();
    while let Some(_answer) = answers.message().await.map_err(|status| chain(&status))? {
        clock.answered(!sending.is_finished());
    }
    Ok(match mode {
        AnswerMode::AfterAll => clock.stop("bidirectional, wait for all", "wait for all", count),
        _ => clock.stop("bidirectional, as they come", "as they come", count),
    })
}

fn part(rows: &[Row], count: usize) -> Part {
    let row = |short: &str| rows.iter().find(|row| row.short == short);
    let answered = |short: &str| row(short).map_or(0, |row| row.answered);
    let early = |short: &str| row(short).map_or(0, |row| row.early);
    let all = ["list", "live", "ping-pong", "as they come", "wait for all"];
    let missing: Vec<&str> = all
        .into_iter()
        .filter(|one| answered(one) != count)
        .collect();
    let checks = vec![
        Check::promise(
            "every message that is to be answered is, once",
            match missing.is_empty() {
                true => format!("{} each", number(count as u64)),
                false => format!("not in: {}", missing.join(", ")),
            },
            missing.is_empty(),
        ),
        Check::promise(
            "client streaming is answered by one message, after the last",
            format!("{} for {}", answered("batch"), number(count as u64)),
            answered("batch") == 1,
        ),
        Check::promise(
            "wait for all: no answer comes before the last message is sent",
            format!("{} before", early("wait for all")),
            early("wait for all") == 0,
        ),
        Check::promise(
            "ping-pong: each answer but the last comes before the next message is sent",
            format!("{} of {}", early("ping-pong"), count.saturating_sub(1)),
            early("ping-pong") + 1 == count,
        ),
    ];
    let rate = |short: &str| number(row(short).map_or(0.0, Row::rate) as u64);
    let summary = format!(
        "every mode did what it is named for; {} messages/s on one open stream against {} calls/s \
         one after the other",
        rate("as they come"),
        rate("unary")
    );
    let cells = |row: &Row| {
        vec![
            row.name.to_owned(),
            number(row.sent as u64),
            number(row.answered as u64),
            format!("{:.2}", row.first_answer_ms),
            number(row.rate() as u64),
        ]
    };
    let bars = rows
        .iter()
        .enumerate()
        .map(|(at, row)| (at as f64, row.rate()));
    Part {
        key: "modes",
        title: "Four ways to call, and two ways to answer",
        about: "One connection, one call at a time, without a proxy between. A stream is opened \
                once and then carries messages without headers, so that a message costs its bytes \
                and five more; ping-pong pays a round trip for each, as unary calls do. Live: a \
                user is created, and appears on a stream that is open already, before the next one \
                is created."
            .to_owned(),
        table: Grid {
            header: vec!["", "sent", "answered", "first answer, ms", "messages/s"],
            rows: rows.iter().map(cells).collect(),
        },
        checks,
        conclusion: String::new(),
        figures: serde_json::Value::Null,
        chart: Chart {
            title: "Messages per second in each mode",
            x: Axis::linear("messages/s"),
            y: Axis::names(rows.iter().map(|row| row.short)),
            series: vec![Series::new(
                "gRPC, one connection",
                Marks::Bars(bars.collect()),
            )],
            levels: Vec::new(),
        },
    }
    .with_figures(&rows)
    .concluded(&summary)
}
