//! `curl -T`: with and without a length, with a digest, twice, and with a wrong digest.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{HOSTILE, Meeting, RUN, Told};
use crate::console;
use crate::e2e::tools;

/// Sends and checks; the receipts.
pub(super) fn run(meeting: &Meeting<'_>) -> Result<Vec<Told>> {
    let digest = |bytes: &[u8]| STANDARD.encode(Sha256::digest(bytes));
    let right = format!("Repr-Digest: sha-256=:{}:", digest(&meeting.bytes));
    let wrong = format!("Repr-Digest: sha-256=:{}:", digest(b"something else"));
    let chunked = "Transfer-Encoding: chunked";
    let mut told = Vec::new();
    for (how, headers) in [
        ("curl -T", vec![]),
        ("curl -T with Repr-Digest", vec![right.as_str()]),
        ("curl -T without Content-Length", vec![chunked]),
        (
            "curl -T without Content-Length, with Repr-Digest",
            vec![chunked, &right],
        ),
    ] {
        let id = Uuid::now_v7().to_string();
        let answer = put(meeting, &id, RUN, &meeting.image, &headers)?;
        ensure!(
            answer.status == 201,
            "{how} was answered by {}",
            answer.told()
        );
        ensure!(
            answer.body["image_id"] == *id,
            "{how}: the receipt is for another image"
        );
        let again = put(meeting, &id, RUN, &meeting.image, &headers)?;
        let status = &again.body["status"];
        ensure!(
            again.status == 200 && *status == "duplicate",
            "{how} again: {}",
            again.told()
        );
        console::passed(format_args!(
            "{how}: delivered, and a duplicate when it comes again"
        ));
        told.push(Told {
            how: how.to_owned(),
            receipt: answer.body,
        });
    }
    for headers in [vec![wrong.as_str()], vec![chunked, &wrong]] {
        refused(meeting, &meeting.image, &headers, "digest-mismatch", 404)?;
    }
    console::passed("curl -T with a wrong Repr-Digest: refused, nothing is stored");
    let truncated = meeting.site.folder("image")?.join("truncated.jpg");
    fs::write(&truncated, &meeting.bytes[..meeting.bytes.len() / 2])?;
    refused(meeting, &truncated, &[], "truncated-image", 404)?;
    console::passed("curl -T of a truncated JPEG: refused, and quarantined");
    Ok(told)
}

/// Sends what must be refused for `reason`; afterwards the image must be answered by `status`.
fn refused(
    meeting: &Meeting<'_>,
    file: &Path,
    headers: &[&str],
    reason: &str,
    status: u16,
) -> Result<()> {
    let id = Uuid::now_v7().to_string();
    let answer = put(meeting, &id, HOSTILE, file, headers)?;
    let is_problem = answer.body["detail"].is_string() && answer.body["status"] == answer.status;
    ensure!(
        (400..500).contains(&answer.status) && is_problem && answer.body["reason"] == reason,
        "it was to be refused as {reason}: {}",
        answer.told()
    );
    let found = meeting.station.get(&format!("/v1/images/{id}"))?.status;
    ensure!(
        found == status,
        "afterwards the image is answered by {found}"
    );
    Ok(())
}

struct Answer {
    status: u16,
    body: Value,
}

impl Answer {
    fn told(&self) -> String {
        format!("{} {}", self.status, self.body)
    }
}

fn put(
    meeting: &Meeting<'_>,
    id: &str,
    run: &str,
    file: &Path,
    headers: &[&str],
) -> Result<Answer> {
    let url = format!("http://{}/v1/images/{id}", meeting.station.http);
    let mut args: Vec<String> = ["--silent", "--show-error", "--max-time", "60"]
        .map(str::to_owned)
        .into();
    let own = [
        "Content-Type: image/jpeg".to_owned(),
        "Pantelegraph-Transmitter: curl".to_owned(),
        format!("Pantelegraph-Run: {run}"),
    ];
    for header in own
        .into_iter()
        .chain(headers.iter().map(|header| (*header).to_owned()))
    {
        args.extend(["--header".to_owned(), header]);
    }
    args.extend([
        "--write-out".to_owned(),
        "\n%{http_code}".to_owned(),
        "--upload-file".to_owned(),
    ]);
    args.extend([tools::text(file)?.to_owned(), url]);
    let output = tools::run(meeting.site, "curl", Path::new("curl"), args)?;
    let (status, body) = output.split_last().context("curl printed nothing")?;
    let body = body.join("\n");
    Ok(Answer {
        status: status
            .parse()
            .with_context(|| format!("curl printed {status:?}"))?,
        body: serde_json::from_str(&body).with_context(|| format!("the answer {body:?}"))?,
    })
}
