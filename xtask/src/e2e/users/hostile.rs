//! Requests that are made to cost much: refused at once, and without taking memory.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::curl::{self, Answer};
use super::scripts::Scripts;
use super::server::Server;
use crate::console;
use crate::e2e::{Site, tools};

/// A body above every limit, bytes.
const LARGE: u64 = 100_000_000;
/// Time for one refusal, that of the client included.
const QUICK: Duration = Duration::from_secs(3);
/// What all of this may take at its peak: a few messages of the largest size, 4 MiB, that are being
/// read at the same time.
const GROWTH: u64 = 48 << 20;

struct Attack<'a> {
    site: &'a Site,
    folder: PathBuf,
    server: Server,
}

/// Attacks a server of its own.
pub(super) fn run(site: &Site, scripts: &Scripts<'_>) -> Result<()> {
    let folder = site.folder("hostile")?;
    let server = Server::start(site, &folder, "server", &[])?;
    let mut attack = Attack {
        site,
        folder,
        server,
    };
    // What it takes to answer at all.
    attack.alive()?;
    let before = attack.server.peak_memory();
    attack.large()?;
    attack.graphql()?;
    let task = scripts.task(&attack.server)?;
    scripts.run("hostile_python.py", &task)?;
    attack.alive()?;
    let grown = attack.server.peak_memory().saturating_sub(before);
    ensure!(
        grown < GROWTH,
        "the server's memory grew by {} MiB, from {} MiB",
        grown >> 20,
        before >> 20
    );
    console::passed(format_args!(
        "the server's memory grew from {} by {} MiB at its peak, and it goes on",
        before >> 20,
        grown >> 20
    ));
    attack.server.stop()?;
    Ok(())
}

impl Attack<'_> {
    fn alive(&self) -> Result<()> {
        for (path, body) in [
            ("/users/1", None),
            ("/graphql", Some(r#"{"query": "{ user(id: 1) { name } }"}"#)),
        ] {
            let answer = match body {
                None => curl::ask::<&str>(self.site, &self.server.http, path, &[])?,
                Some(body) => self.post(path, "application/json", &["--data", body])?,
            };
            let is_good = answer.status == 200 && answer.text.contains("Alice Johnson");
            ensure!(is_good, "{path}: {} {}", answer.status, answer.text);
        }
        Ok(())
    }

    fn post(&self, path: &str, kind: &str, args: &[&str]) -> Result<Answer> {
        let kind = format!("content-type: {kind}");
        let args = [&["--request", "POST", "--header", &kind], args].concat();
        curl::ask(self.site, &self.server.http, path, &args)
    }

    /// Sends what must be refused with a status of `400` and above, and quickly.
    fn refused(&self, what: &str, path: &str, kind: &str, args: &[&str]) -> Result<Answer> {
        let start = Instant::now();
        let answer = self
            .post(path, kind, args)
            .with_context(|| format!("{what} to {path}"))?;
        let took = start.elapsed();
        ensure!(
            took < QUICK,
            "{what} to {path} took {took:.1?} to be refused"
        );
        Ok(answer)
    }

    /// Bodies of 100 MB, with their length and without it, as one document and as one line.
    fn large(&self) -> Result<()> {
        let file = self.folder.join("large");
        // A hole: it has a length, but needs no disk.
        File::create(&file)?.set_len(LARGE)?;
        let file = tools::text(&file)?;
        for (path, kind) in [
            ("/users", "application/json"),
            ("/users:batch", "application/json"),
            ("/users:batch", "application/x-ndjson"),
            ("/graphql", "application/json"),
        ] {
            for header in [
                "Expect: 100-continue",
                "Expect:",
                "Transfer-Encoding: chunked",
            ] {
                let what = format!("100 MB ({kind}, {header})");
                let args = ["--header", header, "--upload-file", file];
                let answer = self.refused(&what, path, kind, &args)?;
                ensure!(
                    answer.status == 413 && answer.text.contains("max-message-size"),
                    "{what} to {path}: {} {}",
                    answer.status,
                    answer.text
                );
            }
        }
        console::passed("curl: 100 MB are refused with 413, whatever their form");
        Ok(())
    }

    /// Documents that grow when they are looked at.
    fn graphql(&self) -> Result<()> {
        let deep = 20_000;
        let fragments: String = (0..40)
            .map(|i| format!("fragment f{i} on Query {{ ...f{0} ...f{0} }} ", i + 1))
            .collect();
        let aliases: String = (0..5_000).map(|i| format!("a{i}: userCount ")).collect();
        let costly: String = (0..40)
            .map(|i| format!("a{i}: users(limit: 1000) {{ users {{ name }} }} "))
            .collect();
        let introspection = "fields { type { ".repeat(200) + "name" + &" } }".repeat(200);
        let documents = [
            ("depth", "{ a ".repeat(deep) + &"}".repeat(deep)),
            ("brackets that never end", "{".repeat(deep)),
            (
                "lists in each other",
                format!(
                    "{{ echo(payload: {}{}) }}",
                    "[".repeat(deep),
                    "]".repeat(deep)
                ),
            ),
            (
                "fragments that double",
                format!("{{ ...f0 }} {fragments} fragment f40 on Query {{ userCount }}"),
            ),
            (
                "a fragment in itself",
                "{ ...f } fragment f on Query { ...f }".to_owned(),
            ),
            ("aliases", format!("{{ {aliases} }}")),
            ("40,000 users", format!("{{ {costly} }}")),
            (
                "deep introspection",
                format!("{{ __schema {{ types {{ {introspection} }} }} }}"),
            ),
            (
                "directives",
                format!("{{ userCount {} }}", "@include(if: true) ".repeat(3_000)),
            ),
        ];
        for (what, query) in &documents {
            self.bomb(what, &json!({ "query": query }).to_string())?;
        }
        let nested = "[".repeat(1_000_000) + &"]".repeat(1_000_000);
        let variables =
            format!(r#"{{"query": "{{ userCount }}", "variables": {{"a": {nested}}}}}"#);
        self.bomb("variables in each other", &variables)?;
        let one = json!({ "query": "{ userCount }" });
        self.bomb("a batch of 10,000", &json!(vec![one; 10_000]).to_string())?;
        console::passed(format_args!(
            "GraphQL: {} documents and requests that grow are refused",
            documents.len() + 2
        ));
        Ok(())
    }

    fn bomb(&self, what: &str, body: &str) -> Result<()> {
        let file = self.folder.join("bomb.json");
        fs::write(&file, body)?;
        let data = format!("@{}", tools::text(&file)?);
        let answer = self.refused(
            what,
            "/graphql",
            "application/json",
            &["--data-binary", &data],
        )?;
        let json: Value = serde_json::from_str(&answer.text)
            .with_context(|| format!("{what}: {} {}", answer.status, answer.text))?;
        let is_refused = json["errors"][0]["message"].is_string() && json["data"].is_null();
        ensure!(
            is_refused && answer.status < 500,
            "{what}: {} {json}",
            answer.status
        );
        Ok(())
    }
}
