//! What operators look at, by the real Prometheus: it takes the files in `deploy/prometheus`, reads both
//! daemons while images pass, and answers every question of the dashboard in `deploy/grafana`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::process::Process;
use super::stations::{self, STOP, Station};
use super::{Site, tools};
use crate::console;

/// Time for Prometheus to have read both stations twice, and to have looked at its rules.
const LIMIT: Duration = Duration::from_secs(60);

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(200);

/// Runs the suite.
pub(crate) fn run(site: &Site) -> Result<()> {
    for program in ["promtool", "prometheus"] {
        tools::need(site, program, &["prometheus"])?;
    }
    let deployed = site.root.join("deploy");
    let questions = questions(&deployed.join("grafana/pantelegraph.json"))?;
    files(site, &deployed, &questions).context("files")?;
    running(site, &deployed, &questions).context("a running Prometheus")
}

/// What promtool says of the files.
fn files(site: &Site, deployed: &Path, questions: &[String]) -> Result<()> {
    let rules = site.folder("dashboard")?.join("dashboard.yml");
    fs::write(&rules, as_rules(questions))?;
    let prometheus = deployed.join("prometheus");
    for (check, file) in [
        ("config", prometheus.join("prometheus.yml")),
        ("rules", prometheus.join("alerts.yml")),
        ("rules", rules),
    ] {
        promtool(site, &["check", check, tools::text(&file)?])?;
    }
    let tests = prometheus.join("alerts.test.yml");
    promtool(site, &["test", "rules", tools::text(&tests)?])?;
    let count = questions.len();
    console::passed(format_args!(
        "promtool takes the configuration, the alerts with their tests, and {count} questions of the dashboard"
    ));
    Ok(())
}

fn promtool(site: &Site, args: &[&str]) -> Result<()> {
    let told = tools::run(site, "promtool", Path::new("promtool"), args);
    told.map(|_| ())
        .with_context(|| format!("promtool {}", args.join(" ")))
}

/// The expressions of a dashboard, with something in place of its variables.
fn questions(dashboard: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(dashboard)
        .with_context(|| format!("reading {}", dashboard.display()))?;
    let dashboard: Value = serde_json::from_str(&text).context("the dashboard is no JSON")?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    let mut ids: Vec<_> = panels
        .iter()
        .filter_map(|panel| panel["id"].as_u64())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ensure!(
        ids.len() == panels.len(),
        "panels need an id each, of their own"
    );
    let mut questions = Vec::new();
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let title = panel["title"].as_str().context("a panel without a title")?;
        let targets = panel["targets"].as_array();
        let targets = targets.with_context(|| format!("{title} asks nothing"))?;
        for target in targets {
            let source = &target["datasource"]["uid"];
            ensure!(source == "${datasource}", "{title} asks {source}");
            let question = target["expr"].as_str();
            let question = question.with_context(|| format!("{title} has no expression"))?;
            let question = question
                .replace("$__rate_interval", "1m")
                .replace("$receiver", ".*")
                .replace("$transmitter", ".*");
            ensure!(
                !question.contains('$'),
                "{title} has a variable that is not known: {question}"
            );
            questions.push(question);
        }
    }
    Ok(questions)
}

/// The questions as what promtool can check: rules that write down the answers.
fn as_rules(questions: &[String]) -> String {
    let mut text = "groups:\n  - name: dashboard\n    rules:\n".to_owned();
    for (number, question) in questions.iter().enumerate() {
        let question = Value::from(question.as_str());
        text += &format!("      - record: dashboard:{number}\n        expr: {question}\n");
    }
    text
}

fn running(site: &Site, deployed: &Path, questions: &[String]) -> Result<()> {
    let folder = site.folder("running")?;
    let station = Station::start(site, &folder, &[])?;
    let args = [
        "--pattern",
        "640x480",
        "--delay",
        "50ms",
        "--status-listen",
        "127.0.0.1:0",
    ];
    let mut transmitter = stations::transmitter(site, &folder, Some(&station), args)?;
    let ready = transmitter.ready()?;
    let status = ready
        .strip_prefix("status ")
        .context("no status address")?
        .to_owned();
    // The file as it is deployed, but for where the daemons are, and how often they are asked.
    let config = fs::read_to_string(deployed.join("prometheus/prometheus.yml"))?;
    let config = config
        .replace("localhost:8080", &station.http)
        .replace("localhost:9100", &status)
        .replace(
            "scrape_interval: 15s",
            "scrape_interval: 1s\n  evaluation_interval: 1s",
        );
    fs::write(folder.join("prometheus.yml"), config)?;
    fs::copy(
        deployed.join("prometheus/alerts.yml"),
        folder.join("alerts.yml"),
    )?;
    let mut command = Command::new("prometheus");
    command.args([
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=series",
        "--web.listen-address=127.0.0.1:0",
    ]);
    let prometheus = Process::start("prometheus", &mut command, &folder)?;
    let asked = Asked::of(&prometheus)?;
    asked.until("both daemons are read", |asked| {
        let up = asked.query("sum(up)")?;
        let counted = asked.query("sum(rate(pantelegraph_images_received_total[1m])) > 0")?;
        Ok(up.first() == Some(&2.0) && !counted.is_empty())
    })?;
    for question in questions {
        asked.query(question)?;
    }
    let version = r#"count(pantelegraph_build_info{version!=""} or pantelegraph_transmitter_build_info{version!=""})"#;
    ensure!(
        asked.query(version)? == [2.0],
        "not both tell their version"
    );
    let used = asked.query("pantelegraph_transmitter_window_bytes > 0")?;
    ensure!(used.len() == 1, "the transmitter tells of no window");
    asked.until("the alerts were looked at", |asked| {
        let rules = asked.get("/api/v1/rules?type=alert", &[])?;
        let rules = rules["data"]["groups"][0]["rules"]
            .as_array()
            .context("no rules")?;
        Ok(rules.iter().all(|rule| rule["health"] == "ok"))
    })?;
    prometheus.terminate(STOP)?;
    transmitter.terminate(STOP)?;
    station.stop()?;
    console::passed(format_args!(
        "Prometheus reads both daemons, and answers what the dashboard asks"
    ));
    Ok(())
}

/// A Prometheus that is asked.
struct Asked {
    agent: ureq::Agent,
    address: String,
}

impl Asked {
    /// Its address is known from its log only.
    fn of(prometheus: &Process) -> Result<Self> {
        let end = Instant::now() + LIMIT;
        loop {
            let log = fs::read_to_string(prometheus.log_file()).unwrap_or_default();
            let line = log
                .lines()
                .find(|line| line.contains("msg=\"Listening on\""));
            if let Some((_, address)) = line.and_then(|line| line.split_once("address=")) {
                let address = address.split_whitespace().next().unwrap_or_default();
                return Ok(Self {
                    agent: ureq::Agent::new_with_defaults(),
                    address: address.to_owned(),
                });
            }
            ensure!(
                Instant::now() < end,
                "it does not say where it listens:\n{log}"
            );
            thread::sleep(LOOK);
        }
    }

    fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value> {
        let url = format!("http://{}{path}", self.address);
        let mut request = self.agent.get(&url);
        for (key, value) in parameters {
            request = request.query(key, value);
        }
        let text = request.call()?.body_mut().read_to_string()?;
        let answer: Value = serde_json::from_str(&text)?;
        ensure!(answer["status"] == "success", "{answer}");
        Ok(answer)
    }

    /// The values that a question is answered with now.
    fn query(&self, question: &str) -> Result<Vec<f64>> {
        let answer = self.get("/api/v1/query", &[("query", question)]);
        let answer = answer.with_context(|| format!("asking {question}"))?;
        let found = answer["data"]["result"].as_array().context("no result")?;
        let value = |found: &Value| found["value"][1].as_str()?.parse().ok();
        Ok(found.iter().filter_map(value).collect())
    }

    fn until(&self, what: &str, is_so: impl Fn(&Self) -> Result<bool>) -> Result<()> {
        let end = Instant::now() + LIMIT;
        loop {
            // While it starts it does not answer yet.
            match is_so(self) {
                Ok(true) => return Ok(()),
                Err(error) if Instant::now() >= end => return Err(error.context(what.to_owned())),
                _ => {}
            }
            ensure!(Instant::now() < end, "not within {LIMIT:?}: {what}");
            thread::sleep(LOOK);
        }
    }
}
