//! A server that stops: callers are told before it does.

use anyhow::Result;

use super::scripts::Scripts;
use super::server::Server;
use crate::e2e::Site;

/// Stops a server that a client watches.
pub(super) fn run(site: &Site, scripts: &Scripts<'_>) -> Result<()> {
    let folder = site.folder("drain")?;
    let server = Server::start(site, &folder, "server", &["--drain-delay", "2s"])?;
    let mut client = scripts.start("drain_python.py", &scripts.task(&server)?)?;
    client.ready()?;
    server.stop()?;
    client.end()?;
    Ok(())
}
