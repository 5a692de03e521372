//! R2.7, second half: calls that are given up, and calls that have a deadline.

use std::future::Future;
use std::time::{Duration, Instant};

use http::{Request, Uri};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::Serialize;
use shared::telemetry::chain;
use tokio::net::TcpStream;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use users::client::{CallOptions, Client, RestClient};
use users::wire::proto::user_service_client::UserServiceClient;
use users::wire::proto::{EchoRequest, EchoResponse, GetUserRequest};

use super::chart::{Axis, Chart, Marks, Series};
use super::part::{Grid, Part};
use super::rig::Rig;
use super::tap::{Record, Seen, Tap, Way};
use super::verdict::{Check, counted};
use super::{Options, Times, millis};

/// What a call asks for that is not to be answered: far longer than anybody waits.
const LONG: Duration = Duration::from_secs(30);
/// Time that a server may go on with what nobody waits for.
const PROMPT_MS: f64 = 1_000.0;
/// The code CANCEL.
const CANCEL: u32 = 8;

/// A call that was given up, milliseconds after that.
#[derive(Debug, Clone, Copy, Serialize)]
struct GivenUp {
    reset_seen_ms: f64,
    reset_code: u32,
    handler_ended_ms: f64,
}

/// A call with a deadline.
#[derive(Debug, Clone, Serialize)]
struct Expired {
    took_ms: f64,
    code: String,
    /// Who ended the stream: the server, unless the client has reset it.
    client_reset: bool,
}

#[derive(Debug, Serialize)]
struct Figures {
    http2: Vec<GivenUp>,
    http2_connections: usize,
    http1_handler_ended_ms: f64,
    http1_connections: usize,
    deadline_ms: f64,
    /// The header was read out of the first call's HEADERS frame, name and value.
    header_seen: bool,
    expired: Vec<Expired>,
}

/// Measures.
pub(super) async fn measure(rig: &Rig, options: &Options) -> Result<Part, String> {
    let (http2, http2_connections) = give_up(rig, options.trials).await?;
    let (http1_handler_ended_ms, http1_connections) = give_up_http1(rig).await?;
    let (header_seen, expired) = expire(rig, options).await?;
    let figures = Figures {
        http2,
        http2_connections,
        http1_handler_ended_ms,
        http1_connections,
        deadline_ms: millis(options.deadline),
        header_seen,
        expired,
    };
    Ok(part(&figures))
}

fn long_echo() -> EchoRequest {
    EchoRequest {
        delay: prost_types::Duration::try_from(LONG).ok(),
        ..Default::default()
    }
}

fn on_stream(stream: u32) -> impl Fn(&&Seen) -> bool {
    move |seen| seen.frame.stream == stream
}

/// The stream that was opened as number `count`.
fn opened(record: &Record, count: usize) -> Option<u32> {
    let begun = record.frames.iter().filter(|seen| seen.begins_call());
    begun
        .map(|seen| seen.frame.stream)
        .nth(count.checked_sub(1)?)
}

async fn give_up(rig: &Rig, trials: usize) -> Result<(Vec<GivenUp>, usize), String> {
    let tap = Tap::start(rig.grpc).await?;
    let client = rig.calls(&tap, None).await?;
    let mut given_up = Vec::new();
    for trial in 1..=trials {
        rig.witness.forget();
        let mut caller = client.clone();
        let call = tokio::spawn(async move { caller.echo(long_echo()).await });
        let stream = tap.wait("the call", |seen| opened(seen, trial)).await?;
        rig.witness.begun().await?;
        let dropped = Instant::now();
        call.abort();
        let (reset_at, reset_code) = tap
            .wait("RST_STREAM", |seen| {
                let mut of_stream = seen.frames.iter().filter(on_stream(stream));
                of_stream.find_map(|seen| Some((seen.at, seen.frame.reset_code()?)))
            })
            .await?;
        let ended = rig.witness.ended("/Echo").await?;
        given_up.push(GivenUp {
            reset_seen_ms: millis(reset_at.saturating_duration_since(dropped)),
            reset_code,
            handler_ended_ms: millis(ended.at.saturating_duration_since(dropped)),
        });
    }
    let got = client.clone().get_user(GetUserRequest { user_id: 1 }).await;
    got.map_err(|status| chain(&status))?;
    Ok((given_up, tap.look(|seen| seen.connections)))
}

async fn give_up_http1(rig: &Rig) -> Result<(f64, usize), String> {
    let tap = Tap::start(rig.http).await?;
    let server = format!("http://{}", tap.address);
    let options = CallOptions {
        deadline: LONG,
        ..CallOptions::default()
    };
    let client = RestClient::new(&server, options).map_err(|error| chain(&error))?;
    client.get_user(1).await.map_err(|error| chain(&error))?;
    rig.witness.forget();
    let caller = client.clone();
    let call = tokio::spawn(async move { caller.echo(Vec::new(), Some(LONG), 0).await });
    rig.witness.begun().await?;
    let dropped = Instant::now();
    call.abort();
    let ended = rig.witness.ended("/echo").await?;
    client.get_user(1).await.map_err(|error| chain(&error))?;
    let ended_ms = millis(ended.at.saturating_duration_since(dropped));
    Ok((ended_ms, tap.look(|seen| seen.connections)))
}

async fn expire(rig: &Rig, options: &Options) -> Result<(bool, Vec<Expired>), String> {
    let tap = Tap::start(rig.grpc).await?;
    // Not tonic's channel, which would give up by itself: here the server alone keeps the time.
    let stream = TcpStream::connect(tap.address)
        .await
        .map_err(|e| chain(&e))?;
    stream.set_nodelay(true).map_err(|e| chain(&e))?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|e| chain(&e))?;
    tokio::spawn(connection);
    let service = tower::service_fn(move |request: Request<tonic::body::Body>| {
        let mut sender = sender.clone();
        async move {
            sender.ready().await?;
            sender.send_request(request).await
        }
    });
    let origin = Uri::try_from(format!("http://{}", tap.address)).map_err(|e| chain(&e))?;
    let mut client = UserServiceClient::with_origin(service, origin);
    let timeout = format!("{}m", options.deadline.as_millis());
    let value = MetadataValue::try_from(&*timeout).map_err(|error| chain(&error))?;
    let mut expired = Vec::new();
    for trial in 1..=options.trials.min(5) {
        let mut request = tonic::Request::new(long_echo());
        request.metadata_mut().insert("grpc-timeout", value.clone());
        let begin = Instant::now();
        let code = code(client.echo(request)).await;
        let took_ms = millis(begin.elapsed());
        let client_reset = tap.look(|seen| {
            let stream = opened(seen, trial).unwrap_or(0);
            let mut of_stream = seen.frames.iter().filter(on_stream(stream));
            of_stream.any(|seen| seen.way == Way::ToServer && seen.frame.reset_code().is_some())
        });
        expired.push(Expired {
            took_ms,
            code: format!("{code:?}"),
            client_reset,
        });
    }
    let header_seen = tap.look(|seen| {
        let mut calls = seen.frames.iter().filter(|seen| seen.begins_call());
        calls
            .next()
            .is_some_and(|seen| seen.frame.spells("grpc-timeout") && seen.frame.spells(&timeout))
    });
    Ok((header_seen, expired))
}

async fn code(call: impl Future<Output = Result<tonic::Response<EchoResponse>, Status>>) -> Code {
    call.await.err().map_or(Code::Ok, |status| status.code())
}

fn part(figures: &Figures) -> Part {
    let resets = Times::of(figures.http2.iter().map(|trial| trial.reset_seen_ms));
    let ends = Times::of(figures.http2.iter().map(|trial| trial.handler_ended_ms));
    let expired = Times::of(figures.expired.iter().map(|trial| trial.took_ms));
    let trials = figures.http2.len();
    let cancelled = figures
        .http2
        .iter()
        .filter(|trial| trial.reset_code == CANCEL)
        .count();
    let at_deadline = (figures.expired.iter())
        .filter(|trial| trial.code == "DeadlineExceeded" && !trial.client_reset)
        .filter(|trial| trial.took_ms >= figures.deadline_ms)
        .count();
    let latest = expired.max - figures.deadline_ms;
    let checks = vec![
        Check::promise(
            "a call that is dropped sends RST_STREAM with the code CANCEL",
            format!(
                "{cancelled} of {trials}, {:.2} ms later in the median",
                resets.median
            ),
            cancelled == trials,
        ),
        Check::promise(
            format!("the server's handler stops then, within {PROMPT_MS:.0} ms"),
            format!(
                "{:.2} ms in the median, {:.2} ms at most",
                ends.median, ends.max
            ),
            ends.max < PROMPT_MS,
        ),
        Check::promise(
            "the connection goes on with other calls",
            counted(figures.http2_connections as u64, "connection"),
            figures.http2_connections == 1,
        ),
        Check::promise(
            "grpc-timeout travels in the call's headers",
            if figures.header_seen {
                "name and value read in the HEADERS frame"
            } else {
                "not in the HEADERS frame"
            },
            figures.header_seen,
        ),
        Check::promise(
            format!(
                "the server ends a call at its deadline, without a word of the client, at most \
                 {PROMPT_MS:.0} ms late"
            ),
            format!(
                "{at_deadline} of {}, {latest:.1} ms late at most",
                figures.expired.len()
            ),
            at_deadline == figures.expired.len() && latest < PROMPT_MS,
        ),
        Check::claim(
            "HTTP/1.1 can cancel only by closing the connection",
            format!(
                "{} for 2 more requests",
                counted(figures.http1_connections as u64, "connection")
            ),
            figures.http1_connections == 2,
        ),
    ];
    let summary = format!(
        "a dropped call was reset after {:.2} ms and had stopped at the server after {:.2} ms \
         (medians), its connection went on; a deadline of {:.0} ms ended calls after {:.1} ms",
        resets.median, ends.median, figures.deadline_ms, expired.median
    );
    let row = |name: &str, times: Times| {
        let figures = [times.median, times.max].map(|time| format!("{time:.2}"));
        [name.to_owned()].into_iter().chain(figures).collect()
    };
    let rest = Times::of([figures.http1_handler_ended_ms].into_iter());
    let dots = |time: fn(&GivenUp) -> f64| {
        let dots = figures.http2.iter().enumerate();
        Marks::Dots(
            dots.map(|(at, trial)| (time(trial), (at + 1) as f64))
                .collect(),
        )
    };
    Part {
        key: "stopping",
        title: "Calls that nobody waits for stop",
        about: format!(
            "Echo with a delay of {} s, dropped as soon as the server works on it. gRPC resets the \
             stream, and the server drops the handler: the second is seen in the line that it logs \
             for each call. Then calls with grpc-timeout: {:.0}m from a client that keeps no time \
             itself. A deadline travels with the call, so that every server on its way can stop \
             when it has passed, also when the client's reset never arrives.",
            LONG.as_secs(),
            figures.deadline_ms
        ),
        table: Grid {
            header: vec!["", "median, ms", "max, ms"],
            rows: vec![
                row("HTTP/2: dropped to RST_STREAM seen", resets),
                row("HTTP/2: dropped to handler stopped", ends),
                row("HTTP/1.1: dropped to handler stopped", rest),
                row(
                    &format!("deadline of {:.0} ms: call to its end", figures.deadline_ms),
                    expired,
                ),
            ],
        },
        checks,
        conclusion: String::new(),
        figures: serde_json::Value::Null,
        chart: Chart {
            title: "From dropping a call to its end at the server",
            x: Axis::linear("time since the call was dropped, ms"),
            y: Axis::linear("call"),
            series: vec![
                Series::new(
                    "RST_STREAM seen on the wire",
                    dots(|trial| trial.reset_seen_ms),
                ),
                Series::new("handler stopped", dots(|trial| trial.handler_ended_ms)),
            ],
            levels: Vec::new(),
        },
    }
    .with_figures(figures)
    .concluded(&summary)
}
