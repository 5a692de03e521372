//! Schemathesis: requests of all kinds, made from the server's own OpenAPI document.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::Meeting;
use crate::console;
use crate::e2e::process::Process;

/// Requests for each operation, in each phase.
const EXAMPLES: &str = "50";
/// Time for all of them.
const LIMIT: Duration = Duration::from_secs(300);

/// No answer may be an error of the server, or other than the document says.
pub(super) fn run(meeting: &Meeting<'_>) -> Result<()> {
    let seed = fastrand::u32(..).to_string();
    let url = format!("http://{}/openapi.json", meeting.server.http);
    console::begin(format_args!("schemathesis with seed {seed}"));
    let mut command = Command::new(meeting.scripts.program("schemathesis"));
    command
        .args(["run", &url, "--seed", &seed, "--max-examples", EXAMPLES])
        .args(["--request-timeout", "20"]);
    let folder = meeting.site.folder("schemathesis")?;
    let ended = Process::start("schemathesis", &mut command, &folder)?.succeed(LIMIT)?;
    let told = ended.output.iter().find(|line| line.contains(" generated"));
    console::passed(format_args!(
        "schemathesis: no error of the server, no answer but as the document says ({})",
        told.map_or("no requests are told of", |told| told.trim())
    ));
    Ok(())
}
