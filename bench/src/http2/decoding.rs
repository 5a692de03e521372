//! R2.8 and R4.1: the same record as protobuf and as JSON.

use std::hint::black_box;
use std::time::Instant;

use prost::Message as _;
use serde::{Deserialize, Serialize};
use shared::telemetry::chain;
use users::wire::proto::UserResponse;

use super::chart::{Axis, Chart, Marks, Series};
use super::part::{Grid, Part};
use super::rig::draft;
use super::verdict::{Check, number};
use super::{Options, Times};

/// Records of the list.
const LIST: usize = 1_000;
/// What is claimed (R4.1).
const CLAIMED: f64 = 10.0;

/// The record for JSON. Its twin is [`UserResponse`] with no age and no time, which take no bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct User {
    id: i32,
    name: String,
    email: String,
    roles: Vec<String>,
}

impl User {
    fn made_up(index: usize) -> Self {
        let user = draft(index);
        Self {
            id: i32::try_from(index).unwrap_or(i32::MAX),
            name: user.name,
            email: user.email,
            roles: user.roles,
        }
    }

    fn message(&self) -> UserResponse {
        UserResponse {
            user_id: self.id,
            name: self.name.clone(),
            email: self.email.clone(),
            roles: self.roles.clone(),
            ..Default::default()
        }
    }
}

/// Nanoseconds of one record, in each round.
#[derive(Debug, Default, Serialize)]
struct Format {
    bytes: usize,
    encode_ns: Vec<f64>,
    decode_ns: Vec<f64>,
}

#[derive(Debug, Serialize)]
struct Size {
    name: &'static str,
    protobuf: Format,
    json: Format,
}

impl Size {
    fn smaller(&self) -> f64 {
        self.json.bytes as f64 / self.protobuf.bytes as f64
    }

    /// JSON's time in multiples of protobuf's, round by round.
    fn ratio(&self, figure: fn(&Format) -> &Vec<f64>) -> Times {
        let pairs = figure(&self.json).iter().zip(figure(&self.protobuf));
        Times::of(pairs.map(|(json, protobuf)| json / protobuf))
    }
}

/// Measures.
pub(super) fn measure(options: &Options) -> Result<Part, String> {
    let sizes = [
        size("one record", 1, options)?,
        size("a list of 1,000", LIST, options)?,
    ];
    Ok(part(&sizes, options.rounds))
}

/// One message after the other, each after its length, as a stream of gRPC has them.
fn encode_protobuf(messages: &[UserResponse], buffer: &mut Vec<u8>) -> Result<(), String> {
    buffer.clear();
    for message in messages {
        buffer.push(0);
        let length = u32::try_from(message.encoded_len()).map_err(|error| chain(&error))?;
        buffer.extend(length.to_be_bytes());
        message.encode(buffer).map_err(|error| chain(&error))?;
    }
    Ok(())
}

fn decode_protobuf(mut bytes: &[u8]) -> Result<Vec<UserResponse>, String> {
    let mut messages = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<5>() {
        let [_, length @ ..] = *head;
        let (message, rest) = rest
            .split_at_checked(u32::from_be_bytes(length) as usize)
            .ok_or("a message is cut off")?;
        messages.push(UserResponse::decode(message).map_err(|error| chain(&error))?);
        bytes = rest;
    }
    Ok(messages)
}

/// Time of `work`, nanoseconds for each record, over so many records at least.
fn time<T>(
    least: usize,
    records: usize,
    mut work: impl FnMut() -> Result<T, String>,
) -> Result<f64, String> {
    let times = least.div_ceil(records);
    let begin = Instant::now();
    for _ in 0..times {
        black_box(work()?);
    }
    Ok(begin.elapsed().as_nanos() as f64 / (times * records) as f64)
}

fn size(name: &'static str, records: usize, options: &Options) -> Result<Size, String> {
    let users: Vec<User> = (1..=records).map(User::made_up).collect();
    let messages: Vec<UserResponse> = users.iter().map(User::message).collect();
    let (mut protobuf, mut json) = (Format::default(), Format::default());
    let mut message_bytes = Vec::new();
    encode_protobuf(&messages, &mut message_bytes)?;
    let json_bytes = serde_json::to_vec(&users).map_err(|error| chain(&error))?;
    // A single record has no length before it and no brackets around it.
    let alone = records == 1;
    protobuf.bytes = message_bytes.len() - if alone { 5 } else { 0 };
    json.bytes = json_bytes.len() - if alone { 2 } else { 0 };
    let decoded: Vec<User> = serde_json::from_slice(&json_bytes).map_err(|error| chain(&error))?;
    if decoded != users || decode_protobuf(&message_bytes)? != messages {
        return Err("what was decoded is not what was encoded".to_owned());
    }
    let mut buffer = Vec::with_capacity(json_bytes.len());
    // The first round warms up and does not count.
    for round in 0..=options.rounds {
        for step in 0..4 {
            // Another order in each round, so that nobody always follows the same neighbour.
            let step = (step + round) % 4;
            let least = options.records;
            let took = match step {
                0 => time(least, records, || {
                    encode_protobuf(black_box(&messages), &mut buffer)
                }),
                1 => time(least, records, || {
                    buffer.clear();
                    let written = serde_json::to_writer(&mut buffer, black_box(&users));
                    written.map_err(|error| chain(&error))
                }),
                2 => time(least, records, || {
                    decode_protobuf(black_box(&message_bytes))
                }),
                _ => time(least, records, || {
                    let read = serde_json::from_slice::<Vec<User>>(black_box(&json_bytes));
                    read.map_err(|error| chain(&error))
                }),
            }?;
            if round > 0 {
                match step {
                    0 => protobuf.encode_ns.push(took),
                    1 => json.encode_ns.push(took),
                    2 => protobuf.decode_ns.push(took),
                    _ => json.decode_ns.push(took),
                }
            }
        }
    }
    Ok(Size {
        name,
        protobuf,
        json,
    })
}

fn part(sizes: &[Size; 2], rounds: usize) -> Part {
    let [one, list] = sizes;
    let decode = list.ratio(|format| &format.decode_ns);
    let encode = list.ratio(|format| &format.encode_ns);
    let faster = [
        decode,
        encode,
        one.ratio(|f| &f.decode_ns),
        one.ratio(|f| &f.encode_ns),
    ];
    let least = faster
        .iter()
        .map(|ratio| ratio.median)
        .fold(f64::INFINITY, f64::min);
    let checks = vec![
        Check::claim(
            "protobuf is decoded faster than JSON, in every round",
            format!(
                "{:.1} times in the median, {:.1} at least",
                decode.median, decode.min
            ),
            decode.min > 1.0,
        ),
        Check::times(
            "protobuf is smaller,",
            CLAIMED,
            one.smaller().min(list.smaller()),
        ),
        Check::times("protobuf is faster in both directions,", CLAIMED, least),
    ];
    let summary = format!(
        "protobuf is {:.1} times smaller, {:.1} times faster to decode and {:.1} times faster to \
         encode",
        list.smaller(),
        decode.median,
        encode.median
    );
    let mut rows = Vec::new();
    for size in sizes {
        for (name, format) in [("protobuf", &size.protobuf), ("JSON", &size.json)] {
            let spread = |figures: &[f64]| {
                let times = Times::of(figures.iter().copied());
                format!("{:.0} ({:.0} to {:.0})", times.median, times.min, times.max)
            };
            rows.push(vec![
                format!("{}, {name}", size.name),
                number(format.bytes as u64),
                spread(&format.encode_ns),
                spread(&format.decode_ns),
            ]);
        }
        let ratio =
            |ratio: Times| format!("{:.2} ({:.2} to {:.2})", ratio.median, ratio.min, ratio.max);
        rows.push(vec![
            format!("{}, JSON / protobuf", size.name),
            format!("{:.2}", size.smaller()),
            ratio(size.ratio(|format| &format.encode_ns)),
            ratio(size.ratio(|format| &format.decode_ns)),
        ]);
    }
    let median = |figures: &[f64]| Times::of(figures.iter().copied()).median;
    let bars = |format: fn(&Size) -> &Format, shift: usize| {
        let figures = sizes.iter().flat_map(|size| {
            let format = format(size);
            [median(&format.encode_ns), median(&format.decode_ns)]
        });
        let bars = figures.enumerate();
        Marks::Bars(
            bars.map(|(at, time)| ((at * 2 + shift) as f64, time))
                .collect(),
        )
    };
    let names = [
        "encode one",
        "",
        "decode one",
        "",
        "encode list",
        "",
        "decode list",
        "",
    ];
    let unoptimised = match cfg!(debug_assertions) {
        true => " THIS BUILD IS NOT OPTIMISED: its times mean little (cargo build --release).",
        false => "",
    };
    Part {
        key: "decoding",
        title: "Binary against text",
        about: format!(
            "User {{ id, name, email, roles[] }} with an id of up to 4 digits, a name of 20 letters, \
             an address of 23 and two roles, as protobuf (prost) and as JSON (serde_json, into a \
             type and not into a tree), {rounds} rounds in rotating order; nanoseconds for each \
             record, median (minimum to maximum), ratios round by round. Protobuf saves the names \
             of fields and the quotes; the texts themselves are as long in both, so that what is \
             saved depends on how much of a record is text.{unoptimised}"
        ),
        table: Grid {
            header: vec!["", "bytes", "encode, ns per record", "decode, ns per record"],
            rows,
        },
        checks,
        conclusion: String::new(),
        figures: serde_json::Value::Null,
        chart: Chart {
            title: "Time for a record",
            x: Axis::linear("ns per record, median"),
            y: Axis::names(names),
            series: vec![
                Series::new("protobuf", bars(|size| &size.protobuf, 0)),
                Series::new("JSON", bars(|size| &size.json, 1)),
            ],
            levels: Vec::new(),
        },
    }
    .with_figures(sizes)
    .concluded(&summary)
}
