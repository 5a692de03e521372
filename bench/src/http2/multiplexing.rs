//! R2.3: whether a slow call holds others up.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::try_join_all;
use http::{Method, header};
use serde::Serialize;
use shared::telemetry::chain;
use tokio::sync::oneshot;
use users::wire::proto::{EchoRequest, GetUserRequest};

use super::chart::{Axis, Chart, Marks, Series};
use super::http1::{Connection, whole};
use super::part::{Grid, Part};
use super::rig::Rig;
use super::tap::Tap;
use super::verdict::{Check, counted};
use super::{Options, Times, millis};

/// A call from its begin to its end, milliseconds after the slow call was made.
#[derive(Debug, Clone, Copy, Serialize)]
struct Span {
    begin_ms: f64,
    end_ms: f64,
}

impl Span {
    fn since(zero: Instant, begin: Instant) -> Self {
        Self {
            begin_ms: millis(begin.duration_since(zero)),
            end_ms: millis(zero.elapsed()),
        }
    }
}

/// One way of sharing connections.
#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    tcp_connections: usize,
    slow: Span,
    fast: Vec<Span>,
}

impl Row {
    /// Fast calls that were answered before the slow one.
    fn overtook(&self) -> usize {
        let before = |fast: &&Span| fast.end_ms < self.slow.end_ms;
        self.fast.iter().filter(before).count()
    }

    fn times(&self) -> Times {
        Times::of(self.fast.iter().map(|fast| fast.end_ms - fast.begin_ms))
    }
}

/// Measures.
pub(super) async fn measure(rig: &Rig, options: &Options) -> Result<Part, String> {
    let rows = [
        http2(rig, options).await?,
        http1(rig, options, 1).await?,
        http1(rig, options, 2).await?,
    ];
    Ok(part(&rows, options))
}

async fn http2(rig: &Rig, options: &Options) -> Result<Row, String> {
    let tap = Tap::start(rig.grpc).await?;
    let client = rig.calls(&tap, None).await?;
    let fast = || async {
        let begin = Instant::now();
        let mut client = client.clone();
        let got = client.get_user(GetUserRequest { user_id: 1 }).await;
        got.map(|_| begin).map_err(|status| chain(&status))
    };
    fast().await?;
    let zero = Instant::now();
    let mut slow_client = client.clone();
    let request = EchoRequest {
        delay: prost_types::Duration::try_from(options.slow_call).ok(),
        ..Default::default()
    };
    let slow = tokio::spawn(async move {
        let echoed = slow_client.echo(request).await;
        echoed.map_err(|status| chain(&status))?;
        Ok::<Span, String>(Span::since(zero, zero))
    });
    // The slow call's stream is the second.
    tap.wait("the slow call", |seen| (seen.streams() > 1).then_some(()))
        .await?;
    let fast = try_join_all(
        (0..options.fast_calls)
            .map(|_| async { Ok::<Span, String>(Span::since(zero, fast().await?)) }),
    )
    .await?;
    Ok(Row {
        name: "HTTP/2, one connection",
        tcp_connections: tap.look(|seen| seen.connections),
        slow: slow.await.map_err(|error| chain(&error))??,
        fast,
    })
}

/// The same requests over `connections` connections of HTTP/1.1: the slow one on the first, the fast
/// ones on the last.
async fn http1(rig: &Rig, options: &Options, connections: usize) -> Result<Row, String> {
    let tap = Tap::start(rig.http).await?;
    let open = (0..connections).map(|_| Connection::open(tap.address));
    let open: Vec<Arc<Connection>> = try_join_all(open)
        .await?
        .into_iter()
        .map(Arc::new)
        .collect();
    let (Some(slow), Some(fast)) = (open.first().cloned(), open.last()) else {
        return Err("no connections".to_owned());
    };
    let get = || async {
        let request = fast.request(Method::GET, "/users/1").body(whole(""));
        fast.exchange(request.map_err(|e| chain(&e))?, || ()).await
    };
    get().await?;
    let zero = Instant::now();
    let body = format!(
        r#"{{"payload":[],"delay_ms":{}}}"#,
        options.slow_call.as_millis()
    );
    let request = (slow.request(Method::POST, "/echo"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(whole(body));
    let request = request.map_err(|error| chain(&error))?;
    let (begun, has_begun) = oneshot::channel();
    let slow = tokio::spawn(async move {
        // Who listens no more has given up, and fails by itself.
        let tell = || begun.send(()).unwrap_or_default();
        slow.exchange(request, tell).await?;
        Ok::<Span, String>(Span::since(zero, zero))
    });
    has_begun.await.map_err(|error| chain(&error))?;
    let fast = try_join_all((0..options.fast_calls).map(|_| async {
        let begin = Instant::now();
        get().await?;
        Ok::<Span, String>(Span::since(zero, begin))
    }))
    .await?;
    Ok(Row {
        name: match connections {
            1 => "HTTP/1.1, one connection",
            _ => "HTTP/1.1, two connections",
        },
        tcp_connections: tap.look(|seen| seen.connections),
        slow: slow.await.map_err(|error| chain(&error))??,
        fast,
    })
}

fn part(rows: &[Row; 3], options: &Options) -> Part {
    let [http2, http1, two] = rows;
    let count = options.fast_calls as u64;
    let overtook = |row: &Row| format!("{} of {count}", row.overtook());
    let checks = vec![
        Check::promise(
            "HTTP/2, one connection: fast calls are answered before the slow one that was made \
             first",
            overtook(http2),
            http2.tcp_connections == 1 && http2.overtook() == options.fast_calls,
        ),
        Check::claim(
            "HTTP/1.1, one connection: no fast call is",
            overtook(http1),
            http1.overtook() == 0,
        ),
    ];
    let (free, held) = (http2.times(), http1.times());
    let summary = format!(
        "beside a call of {} ms, the median of {} on the same connection was {:.1} ms with HTTP/2 \
         and {:.1} ms with HTTP/1.1",
        options.slow_call.as_millis(),
        counted(count, "fast call"),
        free.median,
        held.median,
    );
    let cells = |row: &Row| {
        let times = row.times();
        let figure = |figure: f64| format!("{figure:.1}");
        vec![
            row.name.to_owned(),
            row.tcp_connections.to_string(),
            overtook(row),
            figure(times.median),
            figure(times.p99),
            figure(times.max),
        ]
    };
    let spans = |row: &Row| {
        let all = std::iter::once(&row.slow).chain(&row.fast).enumerate();
        Marks::Spans(
            all.map(|(at, span)| (span.begin_ms, span.end_ms, at as f64))
                .collect(),
        )
    };
    Part {
        key: "multiplexing",
        title: "A slow call does not hold the others up",
        about: format!(
            "Echo with a delay of {} ms, and then, while it waits, {count} GetUser calls at once on \
             the same connection. HTTP/2 cuts all calls into frames that say to which stream they \
             belong, so that answers come in the order in which they are ready. HTTP/1.1 answers \
             in the order of the requests: what stands behind a slow one waits, unless another \
             connection is opened for it, as the last line shows. (A lost packet still stops all \
             streams of an HTTP/2 connection, as TCP delivers in order; loopback loses none.)",
            options.slow_call.as_millis()
        ),
        table: Grid {
            header: vec![
                "",
                "connections",
                "before the slow one",
                "median, ms",
                "p99, ms",
                "max, ms",
            ],
            rows: [http2, http1, two].map(cells).to_vec(),
        },
        checks,
        conclusion: String::new(),
        figures: serde_json::Value::Null,
        chart: Chart {
            title: "Each call from its begin to its end (dot); call 0 is the slow one",
            x: Axis::linear("time since the slow call was made, ms"),
            y: Axis::linear("call"),
            series: vec![
                Series::new("HTTP/2, one connection", spans(http2)),
                Series::new("HTTP/1.1, one connection", spans(http1)),
            ],
            levels: Vec::new(),
        },
    }
    .with_figures(rows)
    .concluded(&summary)
}
