//! Envoy in front of two servers of users, with the configuration that is shipped.
//!
//! Calls go through it without a pause while one server is killed and comes back, and another is
//! stopped in order: no call may fail that is promised not to.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};

use super::process::Process;
use super::users::curl;
use super::users::scripts::{Running, Scripts};
use super::users::server::{Counter, Server};
use super::{Site, stations, tools};
use crate::console;

/// The configuration, below the repository.
const SHIPPED: &str = "deploy/envoy/users.yaml";
/// A log that did not grow for this time, while calls are made all the time, has been read.
const SETTLE: Duration = Duration::from_millis(300);
/// Time for Envoy to start, and to notice something.
const PATIENCE: Duration = Duration::from_secs(30);
/// Who call at the same time.
const CALLERS: usize = 8;
/// Calls between two looks.
const ROUNDS: usize = 500;
/// Calls that change nothing.
const SAFE: [&str; 3] = ["GetUser", "Echo", "ListUsers"];
const ALL: [&str; 4] = ["GetUser", "Echo", "ListUsers", "CreateUser"];
/// As the header of the configuration asks for.
const SERVING: [&str; 4] = ["--drain-delay", "3s", "--cors-origin", "http://localhost:*"];

/// Runs the suite.
pub(crate) fn run(site: &Site) -> Result<()> {
    tools::need(site, "curl", &["curl"])?;
    let scripts = Scripts::new(site)?;
    let shipped = site.root.join(SHIPPED);
    validate(site, &scripts, &shipped)?;
    let folder = site.folder("servers")?;
    let start = |name: &str| Server::start(site, &folder, name, &SERVING);
    let (one, two) = (start("server-1")?, start("server-2")?);
    let envoy = Envoy::start(site, &scripts, &shipped, [&one.grpc, &two.grpc])?;
    envoy.wait_for(2)?;
    let mut load = Load {
        site,
        scripts: &scripts,
        envoy: &envoy,
    };
    let told = load.start("through", &[])?.end()?;
    ensure!(!told.is_empty(), "nothing was listed through Envoy");
    from_a_page(&load)?;
    spread(&mut load, &one, &two)?;
    let one = kill(&mut load, one, &two, &folder)?;
    drain(&mut load, one, two)?;
    envoy.stop()
}

/// Checks the file as it is shipped.
fn validate(site: &Site, scripts: &Scripts<'_>, shipped: &Path) -> Result<()> {
    let args = ["--mode", "validate", "--config-path", tools::text(shipped)?];
    tools::run(site, "envoy-validate", &scripts.program("envoy"), args)?;
    console::passed(format_args!("{SHIPPED} is valid"));
    Ok(())
}

/// A page's call, which is gRPC-Web over HTTP/1.1.
fn from_a_page(load: &Load<'_>) -> Result<()> {
    let file = load.site.work.join("list-users");
    // A message that is not compressed and has no bytes, which is ListUsers of all.
    fs::write(&file, [0; 5])?;
    let data = format!("@{}", tools::text(&file)?);
    let answer = curl::ask(
        load.site,
        &load.envoy.address,
        "/user.v1.UserService/ListUsers",
        &[
            "--http1.1",
            "--include",
            "--header",
            "origin: http://localhost:8080",
            "--header",
            "content-type: application/grpc-web+proto",
            "--data-binary",
            &data,
        ],
    )?;
    let is_answered = [
        "HTTP/1.1 200",
        "Alice Johnson",
        "Eve Davis",
        "grpc-status:0",
    ]
    .iter()
    .chain(&["access-control-allow-origin: http://localhost:8080"])
    .all(|part| answer.text.contains(part));
    ensure!(is_answered, "gRPC-Web was answered by {:?}", answer.text);
    console::passed("curl through Envoy: gRPC-Web over HTTP/1.1");
    Ok(())
}

/// Both servers get their share, of one connection.
fn spread(load: &mut Load<'_>, one: &Server, two: &Server) -> Result<()> {
    let servers = [one.counter(), two.counter()];
    let before = servers.each_ref().map(Counter::all);
    let mut running = load.start("spread", &ALL)?;
    for _ in 0..4 {
        running.ready()?;
    }
    load.stop(running, "spread")?;
    let [one, two] = [0, 1].map(|i| servers[i].all() - before[i]);
    ensure!(
        one.abs_diff(two) * 20 <= one + two,
        "{one} and {two} calls are no even share"
    );
    console::passed(format_args!(
        "calls of one connection are spread over both servers: {one} and {two}"
    ));
    Ok(())
}

/// A server dies, and comes back at the same address.
fn kill(load: &mut Load<'_>, one: Server, two: &Server, folder: &Path) -> Result<Server> {
    let mut running = load.start("a server is killed", &SAFE)?;
    running.ready()?;
    let address = one.grpc.clone();
    one.kill()?;
    // Many calls while it is away.
    more(&mut running, &two.counter(), 4 * ROUNDS)?;
    let again = Server::start_at(load.site, folder, "server-1-again", &address, &SERVING)?;
    let calls = again.counter();
    let start = Instant::now();
    while SAFE.iter().any(|method| calls.of(method) == 0) {
        running.ready()?;
        ensure!(
            start.elapsed() < PATIENCE,
            "the server that came back gets no calls after {PATIENCE:?}"
        );
    }
    load.stop(running, "a server is killed")?;
    console::passed("the server that was killed is back, and gets calls again");
    Ok(again)
}

/// A server is stopped in order: Envoy leaves it while it still serves.
fn drain(load: &mut Load<'_>, one: Server, two: Server) -> Result<()> {
    load.envoy.wait_for(2)?;
    let mut running = load.start("a server is drained", &ALL)?;
    running.ready()?;
    let calls = two.counter();
    let (left, end) = thread::scope(|scope| {
        let stopping = scope.spawn(|| two.stop());
        load.envoy.wait_for(1)?;
        ensure!(
            !stopping.is_finished(),
            "the server had stopped before Envoy left it"
        );
        // The log is read in passing, and lines of calls from before may still be on their way.
        let mut left = calls.all();
        loop {
            thread::sleep(SETTLE);
            let now = calls.all();
            if now == left {
                break;
            }
            ensure!(
                !stopping.is_finished(),
                "calls came to a server until it stopped, although Envoy had left it"
            );
            left = now;
        }
        let end = stopping.join();
        anyhow::Ok((left, end))
    })?;
    end.map_err(|_| anyhow!("stopping a server failed"))??;
    more(&mut running, &one.counter(), ROUNDS)?;
    load.stop(running, "a server is drained")?;
    let late = calls.all() - left;
    ensure!(
        late == 0,
        "{late} calls came to a server that Envoy had left"
    );
    console::passed("Envoy left the server that was drained while it still served");
    one.stop()?;
    Ok(())
}

/// Waits until a server has been called so many times more.
fn more(running: &mut Running, calls: &Counter, count: usize) -> Result<()> {
    let enough = calls.all() + count;
    while calls.all() < enough {
        running.ready()?;
    }
    Ok(())
}

/// Who calls through Envoy.
struct Load<'a> {
    site: &'a Site,
    scripts: &'a Scripts<'a>,
    envoy: &'a Envoy,
}

impl Load<'_> {
    /// Calls these methods until [`Self::stop`]; without any, checks other things.
    fn start(&mut self, what: &str, methods: &[&str]) -> Result<Running> {
        let task = json!({
            "grpc": self.envoy.address,
            "what": what,
            "methods": methods,
            "callers": CALLERS,
            "rounds": ROUNDS,
            "stop": tools::text(&self.sign(what))?,
        });
        self.scripts.start("envoy_python.py", &task)
    }

    fn stop(&self, running: Running, what: &str) -> Result<()> {
        fs::write(self.sign(what), "")?;
        running.end()?;
        Ok(())
    }

    /// The file that ends it.
    fn sign(&self, what: &str) -> PathBuf {
        self.site.work.join(format!("{what}.stop"))
    }
}

/// A running Envoy.
struct Envoy {
    process: Process,
    admin: String,
    /// Where it listens.
    address: String,
}

impl Envoy {
    /// Starts it with the shipped configuration, but for addresses.
    fn start(
        site: &Site,
        scripts: &Scripts<'_>,
        shipped: &Path,
        servers: [&String; 2],
    ) -> Result<Self> {
        let mut text = fs::read_to_string(shipped)?;
        let any = "127.0.0.1:0".to_owned();
        for (shipped, used) in [
            ("users-1:50051", servers[0]),
            ("users-2:50051", servers[1]),
            ("0.0.0.0:9211", &any),
            ("127.0.0.1:9901", &any),
        ] {
            let [shipped, used] = [socket_address(shipped)?, socket_address(used)?];
            let found = text.matches(&shipped).count();
            ensure!(found == 1, "{shipped} is there {found} times");
            text = text.replace(&shipped, &used);
        }
        let folder = site.folder("envoy")?;
        let (config, admin) = (folder.join("users.yaml"), folder.join("admin.txt"));
        fs::write(&config, text)?;
        let mut command = Command::new(scripts.program("envoy"));
        command
            .args(["--disable-hot-restart", "--log-level", "warn"])
            .args(["--concurrency", "2", "--config-path"])
            .arg(&config)
            .arg("--admin-address-path")
            .arg(&admin);
        let mut envoy = Self {
            process: Process::start("envoy", &mut command, &folder)?,
            admin: String::new(),
            address: String::new(),
        };
        envoy.admin = envoy.eventually("it starts", || {
            let address = fs::read_to_string(&admin).unwrap_or_default();
            Ok((!address.is_empty()).then_some(address))
        })?;
        let listeners = envoy.ask("/listeners?format=json")?;
        let address = &listeners["listener_statuses"][0]["local_address"]["socket_address"];
        let port = &address["port_value"];
        let port = port
            .as_u64()
            .with_context(|| format!("Envoy listens at {address}"))?;
        envoy.address = format!("127.0.0.1:{port}");
        Ok(envoy)
    }

    fn ask(&self, path: &str) -> Result<Value> {
        let answer = stations::get(&self.admin, path)?;
        serde_json::from_slice(&answer.body).with_context(|| format!("Envoy's answer to {path}"))
    }

    /// Waits until so many servers are healthy.
    fn wait_for(&self, count: usize) -> Result<()> {
        self.eventually("all servers are healthy", || {
            let clusters = self.ask("/clusters?format=json")?;
            let hosts = clusters["cluster_statuses"][0]["host_statuses"].as_array();
            let hosts = hosts.context("Envoy knows no servers")?;
            let is_healthy = |host: &&Value| {
                let status = &host["health_status"];
                let failed = ["failed_active_health_check", "failed_outlier_check"];
                status["eds_health_status"] == "HEALTHY"
                    && failed.iter().all(|failed| status[failed] != true)
            };
            let healthy = hosts.iter().filter(is_healthy).count();
            Ok((healthy == count).then_some(()))
        })
    }

    /// Looks again and again: Envoy tells of nothing by itself.
    fn eventually<T>(&self, what: &str, look: impl Fn() -> Result<Option<T>>) -> Result<T> {
        let start = Instant::now();
        loop {
            if let Some(found) = look()? {
                return Ok(found);
            }
            ensure!(
                start.elapsed() < PATIENCE,
                "{PATIENCE:?} are over before {what}; its log is {}",
                self.process.log_file().display()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn stop(self) -> Result<()> {
        self.process.terminate(PATIENCE)?;
        Ok(())
    }
}

/// An address as the configuration writes it.
fn socket_address(address: &str) -> Result<String> {
    let (host, port) = address.rsplit_once(':').context("an address has a port")?;
    Ok(format!("{{ address: {host}, port_value: {port} }}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_has_each_address_once() {
        let text = include_str!("../../../deploy/envoy/users.yaml");
        for address in [
            "users-1:50051",
            "users-2:50051",
            "0.0.0.0:9211",
            "127.0.0.1:9901",
        ] {
            let address = socket_address(address).unwrap();
            assert_eq!(text.matches(&address).count(), 1, "{address}");
        }
    }
}
