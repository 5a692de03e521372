//! REST as one would use it from a shell.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Meeting, Told};
use crate::console;
use crate::e2e::{Site, tools};

/// Creates users with everything that clients could write differently; how many.
pub(super) fn create(meeting: &Meeting<'_>) -> Result<usize> {
    let users = [
        json!({"name": "Zoë \"Ω\" 🦀 <b>", "email": "o'neil+x@sub.example", "age": 0}),
        json!({"name": "a", "email": "a@b", "age": 150, "roles": ["user", "x-1"], "more": null}),
        json!({"name": "N".repeat(100), "email": "n@example.com", "age": 1, "roles": []}),
    ];
    for user in &users {
        let body = user.to_string();
        let kind = "content-type: application/json";
        let answer = curl(meeting, "/users", &["--header", kind, "--data", &body])?;
        let created: Value = serde_json::from_str(&answer.text)?;
        ensure!(
            answer.status == 201,
            "{body} was answered by {}",
            answer.text
        );
        for field in ["name", "email", "age"] {
            let (sent, got) = (&user[field], &created[field]);
            ensure!(sent == got, "{field} is {got}, not {sent}");
        }
        let again = curl(meeting, &format!("/users/{}", created["user_id"]), &[])?;
        ensure!(
            again.text == answer.text,
            "{} is not {}",
            again.text,
            answer.text
        );
    }
    Ok(users.len())
}

/// Lists users one by one, as a page and as lines.
pub(super) fn list(meeting: &Meeting<'_>) -> Result<Vec<Told>> {
    let count = meeting.count;
    let told = |how: &str, users| Told {
        how: how.to_owned(),
        users,
    };
    let one_by_one = (1..=count).map(|id| -> Result<Value> {
        let answer = curl(meeting, &format!("/users/{id}"), &[])?;
        ensure!(
            answer.status == 200,
            "user {id} was answered by {}",
            answer.text
        );
        Ok(serde_json::from_str(&answer.text)?)
    });
    let one_by_one = one_by_one.collect::<Result<Vec<_>>>()?;
    let path = format!("/users?limit={count}");
    let mut page: Value = serde_json::from_str(&curl(meeting, &path, &[])?.text)?;
    let lines = curl(
        meeting,
        &path,
        &["--header", "accept: application/x-ndjson"],
    )?;
    let lines = lines.text.lines().map(serde_json::from_str);
    let lines = lines.collect::<Result<Vec<Value>, _>>()?;
    for (id, status) in [("0", 400), ("99", 404), ("x", 400)] {
        let answer = curl(meeting, &format!("/users/{id}"), &[])?;
        let problem: Value = serde_json::from_str(&answer.text)?;
        ensure!(
            answer.status == status && problem["status"] == status && problem["detail"].is_string(),
            "user {id} was answered by {} {problem}",
            answer.status
        );
    }
    console::passed("curl: users are created and read, errors are problem documents");
    Ok(vec![
        told("curl, one by one", one_by_one.into()),
        told("curl, a page", page["users"].take()),
        told("curl, NDJSON", lines.into()),
    ])
}

/// What a server answered.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) text: String,
}

/// Asks a server at `address`.
pub(crate) fn ask<A: AsRef<str>>(
    site: &Site,
    address: &str,
    path: &str,
    args: &[A],
) -> Result<Answer> {
    let url = format!("http://{address}{path}");
    let common = [
        "--silent",
        "--show-error",
        "--max-time",
        "60",
        "--write-out",
        "\n%{http_code}",
    ];
    let args = common.into_iter().chain(args.iter().map(AsRef::as_ref));
    let output = tools::run(site, "curl", Path::new("curl"), args.chain([url.as_str()]))?;
    let (status, text) = output.split_last().context("curl printed nothing")?;
    Ok(Answer {
        status: status
            .parse()
            .with_context(|| format!("curl printed {status:?}"))?,
        text: text.join("\n"),
    })
}

fn curl(meeting: &Meeting<'_>, path: &str, args: &[&str]) -> Result<Answer> {
    ask(meeting.site, &meeting.server.http, path, args)
}
