//! Clients that nobody here wrote: each lists the same users, whatever it speaks.

pub(super) mod curl;
mod drain;
mod hostile;
mod schema;
pub(super) mod scripts;
pub(super) mod server;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Site, tools};
use crate::console;
use scripts::Scripts;
use server::Server;

/// The contract, below `proto/`.
pub(super) const CONTRACT: &str = "user/v1/user.proto";
/// Users of a new server.
const FIRST: usize = 5;

/// A list of users as a client got it.
#[derive(Debug)]
pub(super) struct Told {
    how: String,
    users: Value,
}

/// What all clients work with.
struct Meeting<'a> {
    site: &'a Site,
    scripts: Scripts<'a>,
    server: Server,
    /// How many users each lists.
    count: usize,
}

/// Runs the suite.
pub(crate) fn run(site: &Site) -> Result<()> {
    tools::need(site, "curl", &["curl"])?;
    tools::need(site, "chromium", &["chromium"])?;
    let scripts = Scripts::new(site)?;
    // Pages of this machine's other servers call it, as in browser.cjs.
    let pages = ["--cors-origin", "http://localhost:*,http://127.0.0.1:*"];
    let server = Server::start(site, &site.folder("server")?, "server", &pages)?;
    let mut meeting = Meeting {
        site,
        scripts,
        server,
        count: FIRST,
    };
    // Before all others, so that there are users who show how each client writes them.
    meeting.count += curl::create(&meeting).context("curl")?;
    let mut told = curl::list(&meeting).context("curl")?;
    let mut task = meeting.scripts.task(&meeting.server)?;
    task["count"] = meeting.count.into();
    for script in [
        "grpc_python.py",
        "reflection_python.py",
        "grpc_node.cjs",
        "graphql_python.py",
        "graphql_node.cjs",
        "browser.cjs",
    ] {
        told.extend(meeting.scripts.run(script, &task)?);
    }
    compare(&told, meeting.count)?;
    schema::run(&meeting).context("schemathesis")?;
    meeting.server.stop()?;
    hostile::run(site, &meeting.scripts).context("hostile")?;
    drain::run(site, &meeting.scripts).context("drain")
}

/// Checks that all were told the same.
fn compare(told: &[Told], count: usize) -> Result<()> {
    let first = told.first().context("nobody listed anything")?;
    let users = first.users.as_array().context("a list is no list")?;
    ensure!(
        users.len() == count,
        "{} listed {} users, not {count}",
        first.how,
        users.len()
    );
    for one in told {
        ensure!(
            one.users == first.users,
            "{} listed other users than {}:\n{:#}\n{:#}",
            one.how,
            first.how,
            one.users,
            first.users
        );
    }
    let how: Vec<&str> = told.iter().map(|one| one.how.as_str()).collect();
    console::passed(format_args!(
        "{} lists, one list of {count} users: {}",
        told.len(),
        how.join("; ")
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_user_who_differs_is_found() {
        let told = |how: &str, name: &str| Told {
            how: how.to_owned(),
            users: json!([{"user_id": 1, "name": name}]),
        };
        assert!(compare(&[told("a", "Alice"), told("b", "Alice")], 1).is_ok());
        let error = compare(&[told("a", "Alice"), told("b", "alice")], 1).unwrap_err();
        assert!(error.to_string().starts_with("b listed other users than a"));
        assert!(compare(&[told("a", "Alice")], 2).is_err());
        assert!(compare(&[], 0).is_err());
    }
}
