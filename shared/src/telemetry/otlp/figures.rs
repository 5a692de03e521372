//! From Prometheus' text format to OTLP's metrics, as the compatibility specification has it
//! (<https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/>), but that names
//! keep their `_total`: what is called one thing in the one place is called the same in the other.
//!
//! The text is this project's own. What cannot be read of it is left out.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum,
};

use super::messages::{nanos, text};
use crate::clock::UnixNanos;

/// Labels and their values, in the order of the text.
type Labels = Vec<(String, String)>;

struct Sample<'a> {
    name: &'a str,
    labels: Labels,
    value: f64,
}

#[derive(Default)]
struct Family<'a> {
    help: &'a str,
    kind: &'a str,
    samples: Vec<Sample<'a>>,
}

/// The figures in `page`, which began to count at `since` and stand as they do at `now`.
pub(super) fn read(page: &str, since: UnixNanos, now: UnixNanos) -> Vec<Metric> {
    let mut families: BTreeMap<&str, Family<'_>> = BTreeMap::new();
    for line in page.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (kind, name, rest) = (words.next(), words.next(), words.next());
            if let (Some(kind), Some(name), Some(rest)) = (kind, name, rest) {
                match kind {
                    "HELP" => families.entry(name).or_default().help = rest,
                    "TYPE" => families.entry(name).or_default().kind = rest.trim(),
                    _ => {}
                }
            }
        } else if let Some(sample) = sample(line) {
            let family = ["", "_bucket", "_sum", "_count"].iter().find_map(|suffix| {
                let name = sample.name.strip_suffix(suffix)?;
                families.contains_key(name).then_some(name)
            });
            let family = families.entry(family.unwrap_or(sample.name)).or_default();
            family.samples.push(sample);
        }
    }
    let times = Times {
        since: nanos(since),
        now: nanos(now),
    };
    let metrics = families.into_iter().filter_map(|(name, family)| {
        if family.samples.is_empty() {
            return None;
        }
        let data = match family.kind {
            "counter" => Data::Sum(Sum {
                data_points: times.numbers(&family.samples, times.since),
                aggregation_temporality: AggregationTemporality::Cumulative.into(),
                is_monotonic: true,
            }),
            "histogram" => Data::Histogram(Histogram {
                data_points: times.histograms(&family.samples),
                aggregation_temporality: AggregationTemporality::Cumulative.into(),
            }),
            "gauge" => Data::Gauge(Gauge {
                data_points: times.numbers(&family.samples, 0),
            }),
            _ => return None,
        };
        Some(Metric {
            name: name.to_owned(),
            description: family.help.to_owned(),
            data: Some(data),
            ..Metric::default()
        })
    });
    metrics.collect()
}

struct Times {
    since: u64,
    now: u64,
}

impl Times {
    fn numbers(&self, samples: &[Sample<'_>], start: u64) -> Vec<NumberDataPoint> {
        let point = |sample: &Sample<'_>| NumberDataPoint {
            attributes: attributes(&sample.labels),
            start_time_unix_nano: start,
            time_unix_nano: self.now,
            value: Some(number(sample.value)),
            ..NumberDataPoint::default()
        };
        samples.iter().map(point).collect()
    }

    fn histograms(&self, samples: &[Sample<'_>]) -> Vec<HistogramDataPoint> {
        let mut points: Vec<(Labels, HistogramDataPoint)> = Vec::new();
        for sample in samples {
            let mut labels = sample.labels.clone();
            labels.retain(|(key, _)| key != "le");
            let known = points.iter().position(|(known, _)| *known == labels);
            let at = known.unwrap_or_else(|| {
                let point = HistogramDataPoint {
                    attributes: attributes(&labels),
                    start_time_unix_nano: self.since,
                    time_unix_nano: self.now,
                    ..HistogramDataPoint::default()
                };
                points.push((labels, point));
                points.len() - 1
            });
            let point = &mut points[at].1;
            if sample.name.ends_with("_bucket") {
                let bound = sample.labels.iter().find(|(key, _)| key == "le");
                let bound = bound.and_then(|(_, bound)| bound.parse::<f64>().ok());
                // Prometheus counts all that are smaller, OTLP those between two bounds. Buckets come in
                // their order.
                let before: u64 = point.bucket_counts.iter().sum();
                point
                    .bucket_counts
                    .push(whole(sample.value).saturating_sub(before));
                point
                    .explicit_bounds
                    .extend(bound.filter(|bound| bound.is_finite()));
            } else if sample.name.ends_with("_sum") {
                point.sum = Some(sample.value);
            } else if sample.name.ends_with("_count") {
                point.count = whole(sample.value);
            }
        }
        points.into_iter().map(|(_, point)| point).collect()
    }
}

/// Counts are whole, and so exact up to 2^53.
fn whole(value: f64) -> u64 {
    value.max(0.0) as u64
}

/// Of one kind whether or not it is whole just now: some who take figures know a series by that.
fn number(value: f64) -> Value {
    Value::AsDouble(value)
}

fn attributes(labels: &Labels) -> Vec<KeyValue> {
    labels.iter().map(|(key, value)| text(key, value)).collect()
}

/// `name{key="value",...} number`.
fn sample(line: &str) -> Option<Sample<'_>> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Labels::new(), rest),
    };
    let value = match rest.split_whitespace().next()? {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        number => number.parse().ok()?,
    };
    Some(Sample {
        name,
        labels,
        value,
    })
}

/// The labels up to the closing brace, and what is behind it.
fn labels(text: &str) -> Option<(Labels, &str)> {
    let mut labels = Labels::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (key, after) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        labels.push((key.to_owned(), value));
        rest = &after[end + 1..];
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;

    const PAGE: &str = r#"# HELP a_total How many, in all.
# TYPE a_total counter
a_total{transport="grpc",reason="a \"b\"\\\n, {c}"} 3
a_total{transport="rest"} 4

# TYPE b gauge
b 0.5
# HELP c_seconds How long.
# TYPE c_seconds histogram
c_seconds_bucket{transport="grpc",le="0.1"} 1
c_seconds_bucket{transport="grpc",le="2"} 4
c_seconds_bucket{transport="grpc",le="+Inf"} 5
c_seconds_sum{transport="grpc"} 7.25
c_seconds_count{transport="grpc"} 5
# TYPE empty gauge
nonsense
"#;

    fn metric(name: &str) -> Metric {
        let all = read(PAGE, UnixNanos(1), UnixNanos(2));
        assert_eq!(all.len(), 3);
        all.into_iter().find(|metric| metric.name == name).unwrap()
    }

    #[test]
    fn a_counter_is_a_sum_that_grows() {
        let metric = metric("a_total");
        assert_eq!(metric.description, "How many, in all.");
        let Some(Data::Sum(sum)) = metric.data else {
            panic!("no sum")
        };
        assert!(sum.is_monotonic && sum.aggregation_temporality == 2);
        let [first, second] = &sum.data_points[..] else {
            panic!("{:?}", sum.data_points)
        };
        assert_eq!(first.attributes[1], text("reason", "a \"b\"\\\n, {c}"));
        assert_eq!(second.value, Some(Value::AsDouble(4.0)));
        assert_eq!((second.start_time_unix_nano, second.time_unix_nano), (1, 2));
    }

    #[test]
    fn a_gauge_is_what_it_is_now() {
        let Some(Data::Gauge(gauge)) = metric("b").data else {
            panic!("no gauge")
        };
        assert_eq!(gauge.data_points[0].value, Some(Value::AsDouble(0.5)));
        assert_eq!(gauge.data_points[0].start_time_unix_nano, 0);
    }

    #[test]
    fn a_histogram_counts_between_its_bounds() {
        let Some(Data::Histogram(histogram)) = metric("c_seconds").data else {
            panic!("no histogram")
        };
        let [point] = &histogram.data_points[..] else {
            panic!("{:?}", histogram.data_points)
        };
        assert_eq!(point.attributes, [text("transport", "grpc")]);
        assert_eq!(point.explicit_bounds, [0.1, 2.0]);
        assert_eq!(point.bucket_counts, [1, 3, 1]);
        assert_eq!((point.count, point.sum), (5, Some(7.25)));
    }
}
