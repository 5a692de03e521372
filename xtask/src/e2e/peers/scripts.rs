//! Peers in Python and Node.js, and the examples of the documentation.

use std::ffi::OsStr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{CONTRACT, MAX_MESSAGE, Meeting, RUN, Told};
use crate::console;
use crate::e2e::process::Process;
use crate::e2e::{check, tools};

/// Time for one script.
const LIMIT: Duration = Duration::from_secs(180);

/// The clients in Python.
pub(super) fn python(meeting: &Meeting<'_>) -> Result<Vec<Told>> {
    let python = tools::python(meeting.site, &meeting.scripts().join("requirements.txt"))?;
    let generated = tools::generate(meeting.site, &python, CONTRACT)?;
    let mut told = Vec::new();
    for script in ["tus_python.py", "grpc_python.py", "websocket_python.py"] {
        let mut command = Command::new(&python);
        command
            .env("PYTHONPATH", &generated)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        told.extend(run(meeting, script, command).with_context(|| script.to_owned())?);
    }
    Ok(told)
}

/// The clients in Node.js.
pub(super) fn node(meeting: &Meeting<'_>) -> Result<Vec<Told>> {
    let package = meeting.scripts().join("package.json");
    let modules = tools::node_modules(meeting.site, &package)?;
    let mut told = Vec::new();
    for script in ["tus_node.cjs", "websocket_node.cjs"] {
        let mut command = Command::new("node");
        command.env("NODE_PATH", &modules);
        told.extend(run(meeting, script, command).with_context(|| script.to_owned())?);
    }
    Ok(told)
}

/// The examples of the documentation; how many images they sent.
pub(super) fn examples(meeting: &Meeting<'_>) -> Result<u64> {
    let folder = meeting.site.root.join("docs/examples");
    let python = tools::python(meeting.site, &meeting.scripts().join("requirements.txt"))?;
    let generated = tools::generate(meeting.site, &python, CONTRACT)?;
    let mut sent = 0;
    for script in check::files_below(&folder)? {
        let name = script
            .file_name()
            .and_then(OsStr::to_str)
            .unwrap_or_default();
        let station = meeting.station;
        // The first word of the name tells what the example speaks, and so where it must call.
        let address = match name.split('_').next() {
            _ if !name.ends_with(".py") => continue,
            Some("grpc") => station.grpc.clone(),
            Some("websocket") => format!("ws://{}/v1/stream", station.http),
            _ => format!("http://{}", station.http),
        };
        let mut command = Command::new(&python);
        command
            .env("PYTHONPATH", &generated)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command
            .arg(&script)
            .arg(address)
            .args([&meeting.image, &meeting.image]);
        let output = start(meeting, name, &mut command)?;
        let answers = output.iter().filter(|line| line.starts_with('{'));
        let answers = answers
            .map(|line| {
                serde_json::from_str(line).with_context(|| format!("{name} printed {line}"))
            })
            .collect::<Result<Vec<Value>>>()?;
        ensure!(
            answers.len() == 2,
            "{name} told of {} images, not 2",
            answers.len()
        );
        for answer in answers {
            let id = answer["image_id"].as_str();
            let id = id.with_context(|| format!("{name} printed {answer}"))?;
            let stored = meeting.station.body(&format!("/v1/images/{id}"))?;
            ensure!(stored == meeting.bytes, "{name}: other bytes were stored");
            sent += 1;
        }
        console::passed(format_args!("docs/examples/{name}: its images are stored"));
    }
    Ok(sent)
}

/// Runs a script of the peers' folder; what it was told.
fn run(meeting: &Meeting<'_>, script: &str, mut command: Command) -> Result<Vec<Told>> {
    let task = json!({
        "grpc": meeting.station.grpc,
        "http": meeting.station.http,
        "image": tools::text(&meeting.image)?,
        "proto": tools::text(&meeting.proto().join(CONTRACT))?,
        "run": RUN,
        "max_message": MAX_MESSAGE,
    });
    command
        .env("PEER", task.to_string())
        .arg(meeting.scripts().join(script));
    let mut told = Vec::new();
    for line in start(meeting, script, &mut command)? {
        let mut said: Value =
            serde_json::from_str(&line).with_context(|| format!("it printed {line:?}"))?;
        match (said["checked"].as_str(), said["how"].as_str()) {
            (Some(checked), _) => console::passed(checked),
            (None, Some(how)) => {
                let how = how.to_owned();
                console::passed(format_args!("{how}: delivered"));
                told.push(Told {
                    how,
                    receipt: said["told"].take(),
                });
            }
            (None, None) => bail!("it printed {line}"),
        }
    }
    ensure!(!told.is_empty(), "it delivered nothing");
    Ok(told)
}

fn start(meeting: &Meeting<'_>, name: &str, command: &mut Command) -> Result<Vec<String>> {
    let process = Process::start(name, command, &meeting.site.work)?;
    Ok(process
        .succeed(LIMIT)
        .with_context(|| name.to_owned())?
        .output)
}
