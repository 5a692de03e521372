//! R2.4: bytes of headers of the first call and of later ones.

use http::{Method, header};
use serde::Serialize;
use shared::security::Secret;
use shared::security::tokens::TokenKey;
use shared::telemetry::chain;
use tonic::metadata::MetadataValue;
use users::wire::proto::GetUserRequest;

use super::chart::{Axis, Chart, Marks, Series};
use super::http1::{Connection, whole};
use super::part::{Grid, Part};
use super::rig::Rig;
use super::tap::{Tap, Way};
use super::verdict::{Check, number};
use super::{Options, Times};

/// What the client of gRPC calls itself; that of HTTP/1.1 does the same.
const USER_AGENT: &str = "tonic/0.14.9";

/// Bytes of the headers of one call, frame heads or line ends included.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Heads {
    request: u64,
    response: u64,
}

/// All calls of one way.
#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    calls: Vec<Heads>,
}

impl Row {
    /// The figures of a call, counted from 1.
    fn call(&self, number: usize) -> Heads {
        let call = self.calls.get(number.saturating_sub(1));
        call.copied().unwrap_or_default()
    }
}

/// What each call says of itself beside what the protocol needs: a token that is always the same,
/// and the place of the call in a trace, which is always another.
fn said(call: usize) -> Result<[(&'static str, String); 2], String> {
    let key = TokenKey::from_secret(Secret::new(b"a key of 32 bytes for this alone".to_vec()))?;
    let token = key.token("bench", "users", 4_000_000_000)?;
    // Spread over all digits, as the ids of real traces are.
    let id = (call as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    let trace = format!("00-{id:032x}-{:016x}-01", (id >> 17) as u64);
    Ok([
        ("authorization", format!("Bearer {token}")),
        ("traceparent", trace),
    ])
}

/// Measures.
pub(super) async fn measure(rig: &Rig, options: &Options) -> Result<Part, String> {
    let rows = [
        http2(rig, options, "HTTP/2", false).await?,
        http1(rig, options, "HTTP/1.1", false).await?,
        http2(rig, options, "HTTP/2, token and trace", true).await?,
        http1(rig, options, "HTTP/1.1, token and trace", true).await?,
    ];
    Ok(part(&rows, options.calls))
}

async fn http2(
    rig: &Rig,
    options: &Options,
    name: &'static str,
    says_more: bool,
) -> Result<Row, String> {
    let tap = Tap::start(rig.grpc).await?;
    let mut client = rig.calls(&tap, None).await?;
    for call in 0..options.calls {
        let mut request = tonic::Request::new(GetUserRequest { user_id: 1 });
        for (name, value) in said(call)?.into_iter().filter(|_| says_more) {
            let value = MetadataValue::try_from(value).map_err(|error| chain(&error))?;
            request.metadata_mut().insert(name, value);
        }
        let got = client.get_user(request).await;
        got.map_err(|status| chain(&status))?;
    }
    let mut calls = vec![Heads::default(); options.calls];
    tap.look(|seen| {
        for seen in seen.frames.iter().filter(|seen| seen.frame.is_headers()) {
            // Streams of a client are 1, 3, 5, ...
            if let Some(call) = calls.get_mut(seen.frame.stream as usize / 2) {
                match seen.way {
                    Way::ToServer => call.request += seen.frame.wire_bytes(),
                    Way::ToClient => call.response += seen.frame.wire_bytes(),
                }
            }
        }
    });
    Ok(Row { name, calls })
}

async fn http1(
    rig: &Rig,
    options: &Options,
    name: &'static str,
    says_more: bool,
) -> Result<Row, String> {
    let tap = Tap::start(rig.http).await?;
    let connection = Connection::open(tap.address).await?;
    let mut calls = Vec::with_capacity(options.calls);
    let passed = || tap.look(|seen| (seen.bytes_to_server, seen.bytes_to_client));
    for call in 0..options.calls {
        let (sent, received) = passed();
        let mut request = (connection.request(Method::GET, "/users/1"))
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, USER_AGENT);
        for (name, value) in said(call)?.into_iter().filter(|_| says_more) {
            request = request.header(name, value);
        }
        let request = request.body(whole("")).map_err(|error| chain(&error))?;
        let response = connection.exchange(request, || ()).await?;
        let (sent_then, received_then) = passed();
        calls.push(Heads {
            request: sent_then - sent,
            response: received_then - received - response.body().len() as u64,
        });
    }
    Ok(Row { name, calls })
}

fn part(rows: &[Row; 4], last: usize) -> Part {
    let [http2, http1, http2_more, http1_more] = rows;
    let requests = |row: &Row, call| row.call(call).request;
    let both = |one: u64, other: u64| format!("{} and {} bytes", number(one), number(other));
    let checks = vec![
        Check::claim(
            "HTTP/2: the headers of the second request are at most half of the first's",
            both(requests(http2, 1), requests(http2, 2)),
            requests(http2, 2) * 2 <= requests(http2, 1),
        ),
        Check::claim(
            format!("request {last}: HTTP/2's headers are at most half of HTTP/1.1's"),
            both(requests(http2, last), requests(http1, last)),
            requests(http2, last) * 2 <= requests(http1, last),
        ),
        Check::claim(
            format!("request {last}: the same with a token and a trace"),
            both(requests(http2_more, last), requests(http1_more, last)),
            requests(http2_more, last) * 2 <= requests(http1_more, last),
        ),
        Check::claim(
            "HTTP/1.1: the headers of the last request are as large as those of the first",
            both(requests(http1, 1), requests(http1, last)),
            requests(http1, 1) == requests(http1, last),
        ),
    ];
    let summary = format!(
        "the headers of request {last} took {} bytes with HTTP/2 (the first: {}) and {} bytes \
         with HTTP/1.1",
        number(requests(http2, last)),
        number(requests(http2, 1)),
        number(requests(http1, last)),
    );
    let cells = |row: &Row| {
        let figures = [1, 2, last].map(|call| number(row.call(call).request));
        let answers = row.calls.iter().map(|heads| heads.response as f64);
        let answers = [row.call(1).response, Times::of(answers).median as u64].map(number);
        let name = std::iter::once(row.name.to_owned());
        name.chain(figures).chain(answers).collect()
    };
    let line = |row: &Row| {
        let points = row.calls.iter().enumerate();
        Marks::Line(
            points
                .map(|(at, heads)| ((at + 1) as f64, heads.request as f64))
                .collect(),
        )
    };
    Part {
        key: "compression",
        title: "Headers are sent once",
        about:
            "The same call again and again on one connection: bytes of HEADERS frames with their \
                heads, and of the lines of HTTP/1.1. First with what the protocols need, then with \
                a token of HS256, which stays the same, and a traceparent, which changes. HPACK \
                (RFC 7541) keeps a table of headers at both ends of a connection: what was put \
                there has a number and is one byte or two from then on, and new text is in a \
                Huffman code. What goes into the table is for the sender to choose. The library \
                here (h2) leaves out paths and tokens, the latter so that nobody can guess them by \
                the sizes of messages: they are sent each time, and so is what changes. HTTP/1.1 \
                sends all headers as text each time. Answers have a call id of 32 random \
                digits; those of gRPC end with trailers. What changes fills the table, too, which \
                has 4,096 bytes, and pushes out the rest, which is then sent again: hence peaks."
                .to_owned(),
        table: Grid {
            header: vec![
                "bytes of headers",
                "request 1",
                "request 2",
                "last request",
                "answer 1",
                "answers, median",
            ],
            rows: rows.iter().map(cells).collect(),
        },
        checks,
        conclusion: String::new(),
        figures: serde_json::Value::Null,
        chart: Chart {
            title: "Bytes of headers of each request",
            x: Axis::log("request"),
            y: Axis::linear("bytes"),
            series: vec![
                Series::new(http2.name, line(http2)),
                Series::new(http1.name, line(http1)),
                Series::new(http2_more.name, line(http2_more)),
                Series::new(http1_more.name, line(http1_more)),
            ],
            levels: Vec::new(),
        },
    }
    .with_figures(rows)
    .concluded(&summary)
}
