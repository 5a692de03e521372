//! R2.1 and R2.2: how many connections calls need, and how many streams.

use futures_util::future::try_join_all;
use serde::Serialize;
use shared::telemetry::chain;
use users::client::{CallOptions, Client, RestClient};
use users::wire::proto::GetUserRequest;

use super::Options;
use super::chart::{Axis, Chart, Marks, Series};
use super::part::{Grid, Part};
use super::rig::Rig;
use super::tap::Tap;
use super::verdict::{Check, counted, number};

/// Callers side by side.
const CALLERS: usize = 8;

/// What calls of one kind needed.
#[derive(Debug, Clone, Serialize)]
struct Row {
    name: String,
    calls: usize,
    tcp_connections: usize,
    /// None of HTTP/1.1, which has none.
    http2_streams: Option<usize>,
}

/// Measures.
pub(super) async fn measure(rig: &Rig, options: &Options) -> Result<Part, String> {
    let calls = options.calls;
    let mut rows = Vec::new();
    for callers in [1, CALLERS] {
        let tap = Tap::start(rig.grpc).await?;
        let client = rig.calls(&tap, None).await?;
        let caller = || async {
            for _ in 0..calls / callers {
                let mut client = client.clone();
                let got = client.get_user(GetUserRequest { user_id: 1 }).await;
                got.map_err(|status| chain(&status))?;
            }
            Ok::<(), String>(())
        };
        try_join_all((0..callers).map(|_| caller())).await?;
        let (tcp_connections, streams) = tap.look(|seen| (seen.connections, seen.streams()));
        rows.push(Row {
            name: format!("gRPC, {}", counted(callers as u64, "caller")),
            calls: calls / callers * callers,
            tcp_connections,
            http2_streams: Some(streams),
        });
    }
    for callers in [1, CALLERS] {
        let tap = Tap::start(rig.http).await?;
        let client = rest(&tap)?;
        let caller = || async {
            for _ in 0..calls / callers {
                client.get_user(1).await.map_err(|error| chain(&error))?;
            }
            Ok::<(), String>(())
        };
        try_join_all((0..callers).map(|_| caller())).await?;
        rows.push(Row {
            name: format!("HTTP/1.1 kept alive, {}", counted(callers as u64, "caller")),
            calls: calls / callers * callers,
            tcp_connections: tap.look(|seen| seen.connections),
            http2_streams: None,
        });
    }
    let tap = Tap::start(rig.http).await?;
    for _ in 0..calls {
        rest(&tap)?
            .get_user(1)
            .await
            .map_err(|error| chain(&error))?;
    }
    rows.push(Row {
        name: "HTTP/1.1, a connection a call".to_owned(),
        calls,
        tcp_connections: tap.look(|seen| seen.connections),
        http2_streams: None,
    });
    Ok(part(&rows))
}

/// A client with connections of its own.
fn rest(tap: &Tap) -> Result<RestClient, String> {
    RestClient::new(&format!("http://{}", tap.address), CallOptions::default())
        .map_err(|error| chain(&error))
}

fn part(rows: &[Row]) -> Part {
    let grpc = || rows.iter().filter(|row| row.http2_streams.is_some());
    let connections = |rows: &mut dyn Iterator<Item = &Row>| {
        let all: Vec<String> = rows.map(|row| number(row.tcp_connections as u64)).collect();
        all.join(", and ")
    };
    let concurrent = rows.iter().filter(|row| row.http2_streams.is_none()).nth(1);
    let rest = connections(&mut concurrent.into_iter());
    let checks = vec![
        Check::promise(
            "one connection carries all gRPC calls, also of callers side by side",
            format!("{} with {CALLERS} callers", connections(&mut grpc())),
            grpc().all(|row| row.tcp_connections == 1),
        ),
        Check::promise(
            "each gRPC call has an HTTP/2 stream of its own, and there are no others",
            grpc()
                .map(|row| {
                    let streams = row.http2_streams.unwrap_or_default() as u64;
                    format!(
                        "{} for {}",
                        counted(streams, "stream"),
                        counted(row.calls as u64, "call")
                    )
                })
                .collect::<Vec<_>>()
                .join(", "),
            grpc().all(|row| row.http2_streams == Some(row.calls)),
        ),
        Check::claim(
            "HTTP/1.1 needs a connection for each caller side by side",
            format!("{rest} for {CALLERS}"),
            concurrent.is_some_and(|row| row.tcp_connections > 1),
        ),
    ];
    let calls = rows.first().map_or(0, |row| row.calls) as u64;
    let summary = format!(
        "{} over gRPC took 1 connection and as many streams, whoever called at the same time; \
         HTTP/1.1 took {rest} connections for {CALLERS} callers",
        counted(calls, "call")
    );
    let cells = |row: &Row| {
        vec![
            row.name.clone(),
            number(row.calls as u64),
            number(row.tcp_connections as u64),
            row.http2_streams
                .map_or("-".to_owned(), |streams| number(streams as u64)),
        ]
    };
    let bars = |is_grpc: bool| {
        let bar = |(at, row): (usize, &Row)| {
            (row.http2_streams.is_some() == is_grpc)
                .then_some((at as f64, row.tcp_connections as f64))
        };
        Marks::Bars(rows.iter().enumerate().filter_map(bar).collect())
    };
    let names = [
        "gRPC, 1",
        "gRPC, 8",
        "kept alive, 1",
        "kept alive, 8",
        "one a call",
    ];
    Part {
        key: "connections",
        title: "One connection, one stream per call",
        about: format!(
            "GetUser and GET /users/1, the same number of times, through a proxy that counts \
             connections as they are accepted and reads the stream ids out of HTTP/2's frames. An \
             HTTP/2 connection carries many calls at a time, each as a stream with an odd number \
             that is never used again. An HTTP/1.1 connection carries one request at a time, so \
             that callers side by side ({CALLERS} here) need a connection each."
        ),
        table: Grid {
            header: vec!["", "calls", "TCP connections", "HTTP/2 streams"],
            rows: rows.iter().map(cells).collect(),
        },
        checks,
        conclusion: String::new(),
        figures: serde_json::Value::Null,
        chart: Chart {
            title: "TCP connections for the same calls",
            x: Axis::log("TCP connections opened"),
            y: Axis::names(names),
            series: vec![
                Series::new("HTTP/2 (gRPC)", bars(true)),
                Series::new("HTTP/1.1 (REST)", bars(false)),
            ],
            levels: Vec::new(),
        },
    }
    .with_figures(&rows)
    .concluded(&summary)
}
