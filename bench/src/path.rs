//! `pantelegraph bench path`: what each transport makes of the same path, as a ratio to raw TCP.
//!
//! Both ends run in this process over loopback, each on its own thread: the receiver is the real
//! one with `--durability memory`, the sender the transmitter's real link. Digests, chunk sums and
//! the look at each image's structure are on. Raw TCP (a blocking writer, a blocking reader,
//! buffers of 128 KiB, no checks) is measured in the same rounds, in turn with the others, because
//! the speed of a machine drifts.

mod raw;
mod rig;

use std::time::Duration;

use serde::Serialize;
use shared::image::Transport;
use shared::settings::units::ByteSize;

use rig::Rig;

/// What is measured.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Transports, beside raw TCP.
    pub(crate) transports: Vec<Transport>,
    /// Size of the images of the throughput part.
    pub(crate) image_size: ByteSize,
    /// Bytes moved by each transport in each round.
    pub(crate) volume: ByteSize,
    /// Rounds; each transport is measured once in each.
    pub(crate) rounds: usize,
    /// Bytes of an image in one message.
    pub(crate) chunk_size: ByteSize,
    /// Bytes in flight that have no receipt yet.
    pub(crate) window: ByteSize,
    /// Connections side by side.
    pub(crate) connections: usize,
    /// HTTP/2 frame size.
    pub(crate) http2_frame_size: ByteSize,
    /// HTTP/2 window.
    pub(crate) http2_window: ByteSize,
    /// Size of the images of the latency part (R3.8).
    pub(crate) latency_size: ByteSize,
    /// Images sent one at a time in each round.
    pub(crate) latency_images: usize,
    /// Each transport over TLS too.
    pub(crate) tls: bool,
}

/// One way of moving bytes, measured once.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Sample {
    /// Bytes of images per second.
    pub(crate) bytes_per_second: f64,
    /// CPU-seconds of both ends per 10^9 bytes.
    pub(crate) cpu_seconds_per_gb: f64,
    /// Median of send start to receipt, one image at a time, nanoseconds.
    pub(crate) delivery_p50_ns: u64,
}

/// All samples of one way.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Way {
    /// `raw TCP`, `gRPC`, `gRPC over TLS`, ...
    pub(crate) name: String,
    /// Of a way over TLS, the one without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) plain: Option<String>,
    /// One a round.
    pub(crate) samples: Vec<Sample>,
}

/// Everything measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct PathReport {
    /// Names this form.
    pub(crate) schema: &'static str,
    /// Bytes of an image in the throughput part, and in the latency part.
    pub(crate) image_bytes: u64,
    /// See `image_bytes`.
    pub(crate) latency_image_bytes: u64,
    /// Raw TCP first.
    pub(crate) ways: Vec<Way>,
}

/// Minimum, median and maximum.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Ratio of a figure between two ways, round by round.
    pub(crate) fn between(way: &Way, base: &Way, figure: impl Fn(&Sample) -> f64) -> Self {
        let pairs = way.samples.iter().zip(&base.samples);
        Self::of(pairs.map(|(ours, base)| figure(ours) / figure(base)))
    }

    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) && middle > 0 {
            f64::midpoint(at(middle - 1), at(middle))
        } else {
            at(middle)
        };
        Self {
            min: at(0),
            median,
            max: at(values.len().saturating_sub(1)),
        }
    }
}

impl PathReport {
    /// Ratio of `way` to raw TCP, round by round.
    pub(crate) fn ratio(&self, way: &Way, figure: impl Fn(&Sample) -> f64) -> Spread {
        match self.ways.first() {
            Some(raw) => Spread::between(way, raw, figure),
            None => Spread::of(std::iter::empty()),
        }
    }

    /// The way without TLS beside one with it.
    pub(crate) fn plain_of(&self, way: &Way) -> Option<&Way> {
        let name = way.plain.as_ref()?;
        self.ways.iter().find(|way| way.name == *name)
    }

    /// Spread of a figure over the rounds.
    pub(crate) fn spread(way: &Way, figure: impl Fn(&Sample) -> f64) -> Spread {
        Spread::of(way.samples.iter().map(figure))
    }
}

/// Measures; `progress` is told after each measurement how many of how many are done.
pub(crate) fn measure(
    options: &Options,
    mut progress: impl FnMut(usize, usize),
) -> Result<PathReport, String> {
    let way = |name: String, plain: Option<String>| Way {
        name,
        plain,
        samples: Vec::new(),
    };
    let mut raw = way("raw TCP".to_owned(), None);
    let mut measured = Vec::new();
    let mut ways = Vec::new();
    for transport in &options.transports {
        let name = transport.to_string();
        measured.push((*transport, false));
        ways.push(way(name.clone(), None));
        if options.tls {
            measured.push((*transport, true));
            ways.push(way(format!("{name} over TLS"), Some(name)));
        }
    }
    let steps = options.rounds * (ways.len() + 1);
    let mut done = 0;
    let plain = Rig::start(options, false)?;
    let encrypted = match options.tls {
        true => Some(Rig::start(options, true)?),
        false => None,
    };
    for round in 0..=options.rounds {
        // The first round warms up and does not count.
        let counts = round > 0;
        let mut order: Vec<usize> = (0..=ways.len()).collect();
        // Another order in each round, so that nobody always follows the same neighbour.
        let turn = round % order.len();
        order.rotate_left(turn);
        for index in order {
            let sample = match index {
                0 => raw::measure(options).map_err(|error| error.to_string())?,
                way => {
                    let (transport, over_tls) = measured[way - 1];
                    let rig = encrypted.as_ref().filter(|_| over_tls);
                    rig.unwrap_or(&plain).measure(transport, options)?
                }
            };
            if counts {
                match index {
                    0 => raw.samples.push(sample),
                    way => ways[way - 1].samples.push(sample),
                }
                done += 1;
                progress(done, steps);
            }
        }
    }
    plain.stop();
    if let Some(encrypted) = encrypted {
        encrypted.stop();
    }
    ways.insert(0, raw);
    Ok(PathReport {
        schema: "pantelegraph.path.v1",
        image_bytes: options.image_size.0,
        latency_image_bytes: options.latency_size.0,
        ways,
    })
}

fn sample(bytes: u64, took: Duration, cpu: Duration, delivery_p50: Duration) -> Sample {
    Sample {
        bytes_per_second: bytes as f64 / took.as_secs_f64(),
        cpu_seconds_per_gb: cpu.as_secs_f64() / (bytes as f64 / 1e9),
        delivery_p50_ns: u64::try_from(delivery_p50.as_nanos()).unwrap_or(u64::MAX),
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
