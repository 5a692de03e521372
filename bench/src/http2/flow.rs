//! R2.7, first half: what a reader that stops reading does to the server.

use std::time::{Duration, Instant};

use serde::Serialize;
use shared::telemetry::{Usage, chain};
use tonic::Streaming;
use users::wire::proto::{GetUserRequest, ListUsersRequest, UserResponse};

use super::chart::{Axis, Chart, Marks, Series};
use super::frames::Kind;
use super::part::{Grid, Part};
use super::rig::{Rig, Windows};
use super::tap::{Record, Tap, Way};
use super::verdict::{Check, number};
use super::{Options, millis};

/// Silence after which a server counts as stopped, and time that another call gets meanwhile.
const SILENCE: Duration = Duration::from_millis(300);
/// Memory that may come and go beside what is measured, bytes.
const MEMORY_NOISE: u64 = 4 << 20;
/// The larger window, as a multiple of the smaller one.
const WIDE: u32 = 8;

/// One stalled reader.
#[derive(Debug, Serialize)]
struct Stall {
    name: &'static str,
    stream_window: u64,
    connection_window: u64,
    /// DATA that had come to the client when all was still.
    sent_of_stream: u64,
    sent_of_connection: u64,
    /// What the client had granted until then.
    granted_to_stream: u64,
    granted_to_connection: u64,
    memory_growth: u64,
    /// Time of another call on the same connection meanwhile, if it was answered.
    other_call_ms: Option<f64>,
    /// The same call was answered at last.
    other_call_answered: bool,
    users_expected: usize,
    users_read: usize,
    is_exactly_once: bool,
    total_bytes: u64,
    /// (ms, bytes of DATA so far).
    timeline: Vec<(f64, f64)>,
}

impl Stall {
    fn is_bounded(&self) -> bool {
        self.sent_of_stream <= self.granted_to_stream
            && self.sent_of_connection <= self.granted_to_connection
            && self.sent_of_stream < self.total_bytes
    }

    /// The window that had no room left, or the least.
    fn held_by(&self) -> &'static str {
        let stream = self.granted_to_stream.saturating_sub(self.sent_of_stream);
        let connection = (self.granted_to_connection).saturating_sub(self.sent_of_connection);
        if stream <= connection {
            "the stream's"
        } else {
            "the connection's"
        }
    }
}

/// Measures.
pub(super) async fn measure(rig: &Rig, options: &Options) -> Result<Part, String> {
    let missing = options.listed.saturating_sub(rig.service.directory.len());
    rig.fill(missing).await?;
    // About a quarter of the list, so that it is seen in the picture. A connection's window cannot
    // be smaller than 65,535 bytes.
    let narrow = u32::try_from(options.listed * 20)
        .unwrap_or(u32::MAX / WIDE)
        .max(65_535);
    let wide = narrow.saturating_mul(WIDE);
    let stream = Windows {
        stream: narrow,
        connection: wide,
    };
    let connection = Windows {
        stream: wide,
        connection: narrow,
    };
    let stalls = [
        stall(rig, "small window of the stream", stream).await?,
        stall(rig, "small window of the connection", connection).await?,
    ];
    Ok(part(&stalls))
}

async fn stall(rig: &Rig, name: &'static str, windows: Windows) -> Result<Stall, String> {
    let tap = Tap::start(rig.grpc).await?;
    let client = rig.calls(&tap, Some(windows)).await?;
    let get = || async {
        let mut client = client.clone();
        let begin = Instant::now();
        let got = client.get_user(GetUserRequest { user_id: 1 }).await;
        got.map(|_| millis(begin.elapsed()))
            .map_err(|status| chain(&status))
    };
    get().await?;
    let users_expected = rig.service.directory.len();
    let before = Usage::now().memory;
    let zero = Instant::now();
    let answers = client.clone().list_users(ListUsersRequest::default()).await;
    let mut answers = answers.map_err(|status| chain(&status))?.into_inner();
    let mut ids = Ids::default();
    ids.read_one(&mut answers).await?;
    tap.quiet(SILENCE).await;
    let stalled = tap.record();
    let memory = Usage::now().memory;
    let stream = last_stream(&stalled);
    let other = get();
    tokio::pin!(other);
    let meanwhile = tokio::time::timeout(SILENCE, &mut other)
        .await
        .ok()
        .transpose()?;
    // On with it.
    while ids.read_one(&mut answers).await? {}
    let other_call_answered = match meanwhile {
        Some(_) => true,
        None => other.await.is_ok(),
    };
    let all = tap.record();
    Ok(Stall {
        name,
        stream_window: u64::from(windows.stream),
        connection_window: u64::from(windows.connection),
        sent_of_stream: stalled.data_to_client(Some(stream)),
        sent_of_connection: stalled.data_to_client(None),
        granted_to_stream: stalled.granted_to_server(stream),
        granted_to_connection: stalled.granted_to_server(0),
        memory_growth: memory.saturating_sub(before),
        other_call_ms: meanwhile,
        other_call_answered,
        users_expected,
        users_read: ids.count,
        is_exactly_once: ids.in_order && ids.count == users_expected,
        total_bytes: all.data_to_client(Some(stream)),
        timeline: timeline(&all, stream, zero),
    })
}

/// Users as they are read: by their ids, upwards from 1.
#[derive(Debug)]
struct Ids {
    count: usize,
    last: i32,
    in_order: bool,
}

impl Default for Ids {
    fn default() -> Self {
        Self {
            count: 0,
            last: 0,
            in_order: true,
        }
    }
}

impl Ids {
    /// Reads one; none at the end.
    async fn read_one(&mut self, answers: &mut Streaming<UserResponse>) -> Result<bool, String> {
        let user = answers.message().await.map_err(|status| chain(&status))?;
        if let Some(user) = &user {
            self.in_order &= user.user_id == self.last + 1;
            self.last = user.user_id;
            self.count += 1;
        }
        Ok(user.is_some())
    }
}

fn last_stream(record: &Record) -> u32 {
    let begun = record.frames.iter().rev().find(|seen| seen.begins_call());
    begun.map_or(0, |seen| seen.frame.stream)
}

/// Bytes of DATA of a stream so far, at most a few hundred points of them.
fn timeline(record: &Record, stream: u32, zero: Instant) -> Vec<(f64, f64)> {
    let mut sum = 0;
    let mut points = vec![(0.0, 0.0)];
    let data = (record.frames.iter())
        .filter(|seen| seen.way == Way::ToClient && seen.frame.stream == stream)
        .filter(|seen| seen.frame.kind == Kind::Data);
    for seen in data {
        let at = millis(seen.at.duration_since(zero));
        // A step: until then it was what it was.
        points.push((at, sum as f64));
        sum += u64::from(seen.frame.length);
        points.push((at, sum as f64));
    }
    let every = points.len().div_ceil(600).max(1);
    let last = points.last().copied();
    let mut kept: Vec<_> = points.into_iter().step_by(every).collect();
    kept.extend(last);
    kept
}

fn part(stalls: &[Stall; 2]) -> Part {
    let [stream, connection] = stalls;
    let bound = |stall: &Stall| {
        format!(
            "{} bytes of {}, granted {}, held by {} window",
            number(stall.sent_of_stream),
            number(stall.total_bytes),
            number(stall.granted_to_stream.min(stall.granted_to_connection)),
            stall.held_by()
        )
    };
    let other = |stall: &Stall| match stall.other_call_ms {
        Some(time) => format!("answered in {time:.1} ms"),
        None => format!("no answer in {} ms", SILENCE.as_millis()),
    };
    let growth = stalls
        .iter()
        .map(|stall| stall.memory_growth)
        .max()
        .unwrap_or(0);
    let allowed = stream.stream_window + MEMORY_NOISE;
    let checks = vec![
        Check::promise(
            "a server sends no more than its client has granted, and waits",
            format!("{}; {}", bound(stream), bound(connection)),
            stalls.iter().all(Stall::is_bounded),
        ),
        Check::promise(
            "while the stream's window holds, other calls on the connection go on",
            other(stream),
            stream.other_call_ms.is_some(),
        ),
        Check::promise(
            "when reading goes on, all users come, once each and in order",
            format!(
                "{} of {}, {} of {}",
                number(stream.users_read as u64),
                number(stream.users_expected as u64),
                number(connection.users_read as u64),
                number(connection.users_expected as u64)
            ),
            stalls
                .iter()
                .all(|stall| stall.is_exactly_once && stall.other_call_answered),
        ),
        Check::claim(
            "when the connection's window is used up, other calls wait, too",
            other(connection),
            connection.other_call_ms.is_none(),
        ),
        Check::claim(
            format!(
                "memory grows by no more than the window and {} MiB (server, proxy and client \
                 together)",
                MEMORY_NOISE >> 20
            ),
            format!("{} KiB", number(growth >> 10)),
            growth <= allowed,
        ),
    ];
    let summary = format!(
        "a reader that stopped held the server at {} of {} bytes while another call took {:.1} ms; \
         then all {} users came once",
        number(stream.sent_of_stream),
        number(stream.total_bytes),
        stream.other_call_ms.unwrap_or(f64::NAN),
        number(stream.users_read as u64)
    );
    let cells = |stall: &Stall| {
        vec![
            stall.name.to_owned(),
            number(stall.stream_window),
            number(stall.connection_window),
            number(stall.sent_of_stream),
            stall.held_by().trim_start_matches("the ").replace("'s", ""),
            other(stall),
            number(stall.memory_growth >> 10),
        ]
    };
    let line = |stall: &Stall| {
        let points = stall.timeline.iter();
        Marks::Line(points.map(|(at, bytes)| (*at, bytes / 1024.0)).collect())
    };
    Part {
        key: "flow",
        title: "A reader that stops holds its own stream only",
        about: format!(
            "ListUsers of {} users; the client reads one message and stops until nothing has \
             passed for {} ms, makes another call, and reads on. HTTP/2 has a window for each \
             stream and one for the connection: a sender counts the bytes of its DATA frames \
             against both, and stops at the first that is used up until a WINDOW_UPDATE grants \
             more. So a server makes the next users when there is room for them, and its memory \
             does not depend on its slowest reader. A client should give the connection a larger \
             window than a stream: with the reverse, one stream that is not read stops all others.",
            number(stream.users_expected as u64),
            SILENCE.as_millis()
        ),
        table: Grid {
            header: vec![
                "",
                "stream window",
                "connection window",
                "bytes at the stop",
                "held by",
                "another call",
                "memory, KiB more",
            ],
            rows: stalls.iter().map(cells).collect(),
        },
        checks,
        conclusion: String::new(),
        figures: serde_json::Value::Null,
        chart: Chart {
            title: "Bytes of the list that had passed",
            x: Axis::linear("time since the call, ms"),
            y: Axis::linear("KiB of DATA"),
            series: stalls
                .iter()
                .map(|stall| Series::new(stall.name, line(stall)))
                .collect(),
            levels: vec![(
                "the small window".to_owned(),
                stream.stream_window as f64 / 1024.0,
            )],
        },
    }
    .with_figures(stalls)
    .concluded(&summary)
}
