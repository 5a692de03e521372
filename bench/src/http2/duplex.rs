//! R2.5: whether answers come while the client still sends.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http::{Method, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde::Serialize;
use serde_json::json;
use shared::telemetry::chain;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use users::wire::proto::{ChatMessage, CreateUserRequest, StreamUsersRequest};

use super::chart::{Axis, Chart, Marks, Series};
use super::http1::Connection;
use super::part::{Grid, Part};
use super::rig::{Rig, draft};
use super::verdict::Check;
use super::{Options, Times, millis};

/// Pause between two messages of the one who sends.
const PAUSE: Duration = Duration::from_millis(10);

/// Messages and their answers, milliseconds after the beginning.
#[derive(Debug, Default, Serialize)]
struct Row {
    name: &'static str,
    sent_ms: Vec<f64>,
    answered_ms: Vec<f64>,
}

impl Row {
    /// Answers that were there before the last message was sent.
    fn early(&self) -> usize {
        let last = self.sent_ms.last().copied().unwrap_or(0.0);
        self.answered_ms.iter().filter(|at| **at < last).count()
    }

    fn times(&self) -> Times {
        let pairs = self.sent_ms.iter().zip(&self.answered_ms);
        Times::of(pairs.map(|(sent, answered)| answered - sent))
    }
}

/// Two talkers in a chat.
#[derive(Debug, Serialize)]
struct Chat {
    /// Heard by the one who says nothing.
    heard_by_the_silent: usize,
    /// Said by the other before it read anything.
    said_without_reading: usize,
}

#[derive(Debug, Serialize)]
struct Figures {
    rows: [Row; 2],
    chat: Chat,
}

/// Measures.
pub(super) async fn measure(rig: &Rig, options: &Options) -> Result<Part, String> {
    let figures = Figures {
        rows: [
            grpc(rig, options.messages).await?,
            rest(rig, options.messages).await?,
        ],
        chat: chat(rig, options.messages).await?,
    };
    Ok(part(&figures, options.messages))
}

/// Messages at their pace, whatever happens to their answers; and when each was sent.
fn paced<T: Send + 'static>(
    zero: Instant,
    messages: Vec<T>,
) -> (
    impl Stream<Item = T> + Send + Sync + 'static,
    oneshot::Receiver<Vec<f64>>,
) {
    let (send, sent) = mpsc::channel(1);
    let (tell, times) = oneshot::channel();
    tokio::spawn(async move {
        let mut times = Vec::with_capacity(messages.len());
        let mut pace = tokio::time::interval(PAUSE);
        for message in messages {
            pace.tick().await;
            times.push(millis(zero.elapsed()));
            if send.send(message).await.is_err() {
                break;
            }
        }
        let _ = tell.send(times);
    });
    (ReceiverStream::new(sent), times)
}

async fn grpc(rig: &Rig, count: usize) -> Result<Row, String> {
    let mut client = rig.direct_calls().await?;
    let zero = Instant::now();
    let messages = (0..count).map(|index| StreamUsersRequest {
        user: Some(request(index)),
        ..Default::default()
    });
    let (messages, sent) = paced(zero, messages.collect());
    let answers = client.stream_users(messages).await;
    let mut answers = answers.map_err(|status| chain(&status))?.into_inner();
    let mut answered_ms = Vec::new();
    while let Some(_answer) = answers.message().await.map_err(|status| chain(&status))? {
        answered_ms.push(millis(zero.elapsed()));
    }
    Ok(Row {
        name: "gRPC StreamUsers, HTTP/2",
        sent_ms: sent.await.map_err(|error| chain(&error))?,
        answered_ms,
    })
}

async fn rest(rig: &Rig, count: usize) -> Result<Row, String> {
    let connection = Connection::open(rig.http).await?;
    let zero = Instant::now();
    let line = |index| {
        let user = draft(index);
        let line = json!({"name": user.name, "email": user.email, "age": user.age});
        Bytes::from(format!("{line}\n"))
    };
    let (messages, sent) = paced(zero, (0..count).map(line).collect());
    let body = StreamBody::new(messages.map(|line| Ok(Frame::data(line))));
    let request = (connection.request(Method::POST, "/users:stream"))
        .header(header::CONTENT_TYPE, "application/x-ndjson")
        .body(BodyExt::boxed(body))
        .map_err(|error| chain(&error))?;
    let mut answers = connection.begin(request).await?;
    let mut answered_ms = Vec::new();
    while let Some(frame) = answers.frame().await {
        let frame = frame.map_err(|error| chain(&error))?;
        let data = frame.into_data().unwrap_or_default();
        let at = millis(zero.elapsed());
        let lines = data.iter().filter(|byte| **byte == b'\n').count();
        answered_ms.extend(std::iter::repeat_n(at, lines));
    }
    Ok(Row {
        name: "REST POST /users:stream, HTTP/1.1",
        sent_ms: sent.await.map_err(|error| chain(&error))?,
        answered_ms,
    })
}

/// One says everything before it reads anything; the other reads and never says anything.
async fn chat(rig: &Rig, count: usize) -> Result<Chat, String> {
    let client = rig.direct_calls().await?;
    // Open as long as it is held.
    let (_silence, silent) = mpsc::channel(1);
    let heard = client.clone().chat(ReceiverStream::new(silent)).await;
    let mut heard = heard.map_err(|status| chain(&status))?.into_inner();
    let (say, said) = mpsc::channel(1);
    let unread = client.clone().chat(ReceiverStream::new(said)).await;
    let unread = unread.map_err(|status| chain(&status))?;
    let mut said_without_reading = 0;
    for index in 0..count {
        let message = ChatMessage {
            user: "talker".to_owned(),
            text: format!("message {index}"),
            ..Default::default()
        };
        say.send(message).await.map_err(|error| chain(&error))?;
        said_without_reading += 1;
    }
    let mut heard_by_the_silent = 0;
    while heard_by_the_silent < count {
        match heard.message().await.map_err(|status| chain(&status))? {
            Some(_) => heard_by_the_silent += 1,
            None => break,
        }
    }
    drop(unread);
    Ok(Chat {
        heard_by_the_silent,
        said_without_reading,
    })
}

/// A request for the made-up user of this number.
pub(super) fn request(index: usize) -> CreateUserRequest {
    let user = draft(index);
    CreateUserRequest {
        name: user.name,
        email: user.email,
        age: user.age,
        roles: user.roles,
    }
}

fn part(figures: &Figures, count: usize) -> Part {
    let [grpc, rest] = &figures.rows;
    let early = |row: &Row| format!("{} of {count}", row.early());
    // The answer to the last message cannot come before that; the one before may be on its way.
    let is_duplex =
        |row: &Row| row.answered_ms.len() == count && row.early() * 2 >= count.saturating_sub(1);
    let chat = &figures.chat;
    let checks = vec![
        Check::promise(
            "gRPC: at least half of the answers are there before the last message is sent",
            early(grpc),
            is_duplex(grpc),
        ),
        Check::promise(
            "Chat: who says nothing hears all that another says before that one reads anything",
            format!(
                "{} of {} heard",
                chat.heard_by_the_silent, chat.said_without_reading
            ),
            chat.heard_by_the_silent == count && chat.said_without_reading == count,
        ),
        Check::claim(
            "HTTP/1.1 can do the same within one request, with a client that allows it",
            early(rest),
            is_duplex(rest),
        ),
    ];
    let summary = format!(
        "{} answers of gRPC were there before the last message was sent, {:.1} ms after their \
         message in the median; so were {} over HTTP/1.1, whose connection can do nothing else \
         meanwhile",
        early(grpc),
        grpc.times().median,
        early(rest)
    );
    let cells = |row: &Row| {
        let times = row.times();
        vec![
            row.name.to_owned(),
            row.sent_ms.len().to_string(),
            row.answered_ms.len().to_string(),
            early(row),
            format!("{:.2}", times.median),
            format!("{:.2}", times.max),
        ]
    };
    let dots = |lane: usize, times: &[f64]| {
        Marks::Dots(times.iter().map(|time| (*time, lane as f64)).collect())
    };
    Part {
        key: "duplex",
        title: "Both sides speak when they like",
        about: format!(
            "{count} users, one every {} ms, each answered. The sender keeps its pace and knows \
             nothing of the answers. In HTTP/2 the two directions of a stream have nothing to do \
             with each other, so that a server may answer before, while or after a client sends. \
             The twin over HTTP/1.1 is not forbidden, and measured beside it; but no browser and \
             few proxies let answers through while a body is being sent, and the connection is \
             taken for that one request.",
            PAUSE.as_millis()
        ),
        table: Grid {
            header: vec![
                "",
                "sent",
                "answered",
                "before the last was sent",
                "message to answer, median ms",
                "max, ms",
            ],
            rows: figures.rows.iter().map(cells).collect(),
        },
        checks,
        conclusion: String::new(),
        figures: serde_json::Value::Null,
        chart: Chart {
            title: "When messages were sent and answered, each a dot",
            x: Axis::linear("time, ms"),
            y: Axis::names([
                "gRPC sent",
                "gRPC answered",
                "HTTP/1.1 sent",
                "HTTP/1.1 answered",
            ]),
            series: vec![
                Series::new("HTTP/2: sent", dots(0, &grpc.sent_ms)),
                Series::new("HTTP/1.1: sent", dots(2, &rest.sent_ms)),
                Series::new("HTTP/2: answered", dots(1, &grpc.answered_ms)),
                Series::new("HTTP/1.1: answered", dots(3, &rest.answered_ms)),
            ],
            levels: Vec::new(),
        },
    }
    .with_figures(figures)
    .concluded(&summary)
}
