//! `GET /metrics`, read line by line as Prometheus reads it (text exposition format 0.0.4).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};

use super::Told;
use crate::e2e::stations::Station;

/// Checks the form of all figures, and that the images were counted: those that were told of, and
/// the `others` under other runs.
pub(super) fn check(station: &Station, told: &[Told], others: u64) -> Result<()> {
    let text = String::from_utf8(station.body("/metrics")?).context("it is not UTF-8")?;
    let samples = parse(&text)?;
    let received: f64 = samples
        .iter()
        .filter(|sample| sample.name == "pantelegraph_images_received_total")
        .map(|sample| sample.value)
        .sum();
    let at_least = told.len() as u64 + others;
    ensure!(
        received >= at_least as f64,
        "{received} images were counted, {at_least} told of"
    );
    let stored = super::check::files_below(&station.data.join("images"))?.len();
    ensure!(
        received == stored as f64,
        "{received} images were counted, {stored} are stored"
    );
    for transport in ["grpc", "websocket", "rest"] {
        let counted = samples.iter().any(|sample| {
            sample.name == "pantelegraph_images_received_total"
                && sample
                    .labels
                    .get("transport")
                    .is_some_and(|label| label == transport)
                && sample.value > 0.0
        });
        ensure!(counted, "no image over {transport} was counted");
    }
    Ok(())
}

#[derive(Debug, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Reads all lines, and checks what Prometheus and its linter ask for.
fn parse(text: &str) -> Result<Vec<Sample>> {
    ensure!(text.ends_with('\n'), "the last line has no end");
    let mut kinds = BTreeMap::new();
    let mut helped = BTreeSet::new();
    let mut samples: Vec<Sample> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let context = || format!("line {number}: {line}");
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            match (words.next(), words.next(), words.next()) {
                (Some("HELP"), Some(name), Some(help)) if !help.is_empty() => {
                    helped.insert(name);
                }
                (Some("TYPE"), Some(name), Some(kind)) => {
                    ensure!(
                        kinds.insert(name, kind).is_none(),
                        "{}: a second type",
                        context()
                    );
                    let begun = samples
                        .iter()
                        .any(|sample| family(&sample.name, kind) == name);
                    ensure!(!begun, "{}: the type comes after its samples", context());
                }
                _ => bail!("{}: neither HELP nor TYPE", context()),
            }
        } else if !line.is_empty() {
            let sample = sample(line).with_context(context)?;
            let twice = samples
                .iter()
                .any(|other| other.name == sample.name && other.labels == sample.labels);
            ensure!(!twice, "{}: the series comes twice", context());
            samples.push(sample);
        }
    }
    for sample in &samples {
        let known = kinds
            .iter()
            .find(|(name, kind)| family(&sample.name, kind) == **name);
        let (name, kind) = known.with_context(|| format!("{} has no type", sample.name))?;
        ensure!(helped.contains(name), "{name} has no help");
        ensure!(
            (*kind == "counter") == sample.name.ends_with("_total"),
            "{name} is a {kind}: names of counters, and no others, end with _total"
        );
        ensure!(
            *kind != "counter" || sample.value >= 0.0,
            "{name} is {}",
            sample.value
        );
    }
    for (name, _) in kinds.iter().filter(|(_, kind)| **kind == "histogram") {
        histogram(name, &samples).with_context(|| format!("histogram {name}"))?;
    }
    Ok(samples)
}

/// The name that the type of a sample is given for.
fn family<'a>(name: &'a str, kind: &str) -> &'a str {
    let endings: &[&str] = match kind {
        "histogram" => &["_bucket", "_sum", "_count"],
        "summary" => &["_sum", "_count"],
        _ => &[],
    };
    endings
        .iter()
        .find_map(|ending| name.strip_suffix(ending))
        .unwrap_or(name)
}

/// `name{label="value",...} 1.5`
fn sample(line: &str) -> Result<Sample> {
    let end = line.find(['{', ' ']).context("no value")?;
    let (name, mut rest) = line.split_at(end);
    ensure!(is_name(name), "{name:?} is no name");
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"").context("a label without a value")?;
            ensure!(
                is_name(label) && !label.contains(':'),
                "{label:?} is no label"
            );
            let (value, after) = quoted(after)?;
            ensure!(
                labels.insert(label.to_owned(), value).is_none(),
                "{label} comes twice"
            );
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &rest[1..];
    }
    let value = rest
        .strip_prefix(' ')
        .context("no space before the value")?;
    let value = match value {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        number => number
            .parse()
            .with_context(|| format!("{number:?} is no number"))?,
    };
    Ok(Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

fn is_name(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    text.chars().all(is_part) && !text.starts_with(|c: char| c.is_ascii_digit()) && !text.is_empty()
}

/// The text up to the closing quotation mark, and what follows that.
fn quoted(text: &str) -> Result<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, escaped @ ('\\' | '"'))) => value.push(escaped),
                _ => bail!("an unknown escape"),
            },
            c => value.push(c),
        }
    }
    bail!("a value without an end")
}

/// Buckets must grow, the last be `+Inf` and equal to the count.
fn histogram(name: &str, samples: &[Sample]) -> Result<()> {
    let mut series: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
    for sample in samples
        .iter()
        .filter(|sample| sample.name == format!("{name}_bucket"))
    {
        let mut labels = sample.labels.clone();
        let bound = labels.remove("le").context("a bucket without le")?;
        let bound = if bound == "+Inf" {
            f64::INFINITY
        } else {
            bound.parse()?
        };
        series
            .entry(labels)
            .or_default()
            .push((bound, sample.value));
    }
    for (labels, buckets) in &series {
        let grows = |pair: &[(f64, f64)]| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1;
        ensure!(
            buckets.windows(2).all(grows),
            "buckets do not grow: {buckets:?}"
        );
        let of = |ending: &str| {
            let name = format!("{name}{ending}");
            samples
                .iter()
                .find(|sample| sample.name == name && sample.labels == *labels)
        };
        let count = of("_count").context("there is no count")?.value;
        ensure!(
            buckets.last() == Some(&(f64::INFINITY, count)),
            "the last bucket is not the count"
        );
        ensure!(of("_sum").is_some(), "there is no sum");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
