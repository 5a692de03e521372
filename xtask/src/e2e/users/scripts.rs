//! Clients in Python and Node.js.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::server::Server;
use super::{CONTRACT, Told};
use crate::console;
use crate::e2e::process::Process;
use crate::e2e::{Site, tools};

/// Time for one script.
const LIMIT: Duration = Duration::from_secs(180);

/// The scripts with all that they need.
pub(crate) struct Scripts<'a> {
    site: &'a Site,
    folder: PathBuf,
    python: PathBuf,
    /// Code that was made of the contract.
    generated: PathBuf,
    /// Packages of Node.js.
    modules: PathBuf,
}

/// A script that runs.
pub(crate) struct Running {
    name: String,
    process: Process,
}

impl<'a> Scripts<'a> {
    /// Installs what is missing.
    pub(crate) fn new(site: &'a Site) -> Result<Self> {
        let folder = site.root.join("tests/e2e/users");
        let python = tools::python(site, &folder.join("requirements.txt"))?;
        let generated = tools::generate(site, &python, CONTRACT)?;
        let modules = tools::node_modules(site, &folder.join("package.json"))?;
        Ok(Self {
            site,
            folder,
            python,
            generated,
            modules,
        })
    }

    /// A program of Python's virtual environment.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.python.with_file_name(name)
    }

    /// What every script is told; see `client.py`.
    pub(crate) fn task(&self, server: &Server) -> Result<Value> {
        Ok(json!({
            "grpc": server.grpc,
            "http": server.http,
            "key": tools::text(&server.key)?,
            "proto": tools::text(&self.site.root.join("proto"))?,
            "contract": tools::text(&self.generated.join(tools::DESCRIPTORS))?,
            "modules": tools::text(&self.modules)?,
            "page": tools::text(&self.folder.join("page"))?,
            "folder": tools::text(&self.site.work)?,
        }))
    }

    /// Runs a script to its end; the lists that it was told.
    pub(crate) fn run(&self, script: &str, task: &Value) -> Result<Vec<Told>> {
        self.start(script, task)?.end()
    }

    /// Starts a script.
    pub(crate) fn start(&self, script: &str, task: &Value) -> Result<Running> {
        let mut command = match Path::new(script).extension() {
            Some(kind) if kind == "py" => {
                let mut command = Command::new(&self.python);
                command
                    .env("PYTHONPATH", &self.generated)
                    .env("PYTHONDONTWRITEBYTECODE", "1");
                command
            }
            _ => {
                let mut command = Command::new("node");
                command.env("NODE_PATH", &self.modules);
                command
            }
        };
        command
            .env("TASK", task.to_string())
            .arg(self.folder.join(script));
        Ok(Running {
            name: script.to_owned(),
            process: Process::start(script, &mut command, &self.site.work)?,
        })
    }
}

impl Running {
    /// Waits until it says, once more, that it is ready.
    pub(crate) fn ready(&mut self) -> Result<()> {
        self.process.ready()?;
        Ok(())
    }

    /// Waits for its end; the lists that it was told.
    pub(crate) fn end(self) -> Result<Vec<Told>> {
        let ended = self.process.succeed(LIMIT)?;
        read(&ended.output).with_context(|| self.name)
    }
}

fn read(output: &[String]) -> Result<Vec<Told>> {
    let mut told = Vec::new();
    let mut count = 0;
    for line in output.iter().filter(|line| !line.starts_with("ready: ")) {
        let mut said: Value =
            serde_json::from_str(line).with_context(|| format!("it printed {line:?}"))?;
        match (said["checked"].as_str(), said["how"].as_str()) {
            (Some(checked), _) => console::passed(checked),
            (None, Some(how)) => {
                let how = how.to_owned();
                let users = said["users"].take();
                told.push(Told { how, users });
            }
            (None, None) => bail!("it printed {line}"),
        }
        count += 1;
    }
    ensure!(count > 0, "it checked nothing");
    Ok(told)
}
