//! The receiver daemon: read the settings, serve until a signal, stop in order.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use pantelegraph_receiver::cli::{self, CliError, Exit, Invocation};
use pantelegraph_receiver::config::Config;
use pantelegraph_receiver::fsck;
use pantelegraph_receiver::live::{Filtering, Live, Reading};
use pantelegraph_receiver::server::{Listeners, Receiver, StartError};
use shared::lifecycle::{Hangups, Heartbeat, Reloader, manager, reload_on_hangup};
use shared::settings::address::is_encrypted;
use shared::settings::{InForce, ProcessEnvironment};
use shared::telemetry::say;
use tokio::runtime::Handle;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// For threads that are still at work when everything else has ended.
const LAST_MOMENT: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    #[cfg(feature = "sabotage")]
    if let Err(problem) =
        shared::sabotage::choose(&std::env::var("PANTELEGRAPH_SABOTAGE").unwrap_or_default())
    {
        say(problem);
        return CliError::EXIT_CODE.into();
    }
    let dotenv = Path::new(".env");
    let args: Vec<_> = std::env::args_os().collect();
    if cli::fsck::is_asked(&args) {
        return match cli::fsck::parse(args, &ProcessEnvironment, Some(dotenv)) {
            Ok(cli::fsck::Invocation::Check(options, output)) => check(&options, output),
            Ok(cli::fsck::Invocation::Print(text)) => print(&text),
            Err(error) => {
                say(error);
                CliError::EXIT_CODE.into()
            }
        };
    }
    let runtime = match pantelegraph_receiver::server::runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(format_args!(
                "pantelegraph-receiver: cannot start threads: {error}"
            ));
            return Exit::Internal.code().into();
        }
    };
    // Before anything that takes its time: a hang-up ends nothing.
    let hangups = runtime.block_on(async { Hangups::catch() });
    let invocation = cli::parse(args.iter().cloned(), &ProcessEnvironment, Some(dotenv));
    let (config, read) = match invocation {
        Ok(Invocation::Run(config, read)) => (config, read),
        Ok(Invocation::Print(text)) => return print(&text),
        Err(error) => {
            say(error);
            return CliError::EXIT_CODE.into();
        }
    };
    let colour = std::io::stderr().is_terminal();
    let logged = shared::telemetry::log_to(std::io::stderr, &config.log, config.log_format, colour);
    let log = match logged {
        Ok(log) => log,
        Err(problem) => {
            say(problem);
            return CliError::EXIT_CODE.into();
        }
    };
    for warning in &read.warnings {
        tracing::warn!("{warning}");
    }
    let again = Again {
        hangups,
        in_force: read.in_force,
        read: Box::new(move || {
            cli::read_again(args.iter().cloned(), &ProcessEnvironment, Some(dotenv))
        }),
        log: Box::new(move |filter| log.set_filter(filter)),
    };
    let served = runtime.block_on(serve(*config, again));
    // What reads or writes still had its time; the next start looks for what it leaves.
    runtime.shutdown_timeout(LAST_MOMENT);
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let words = shared::telemetry::chain(&error);
            say(format_args!("pantelegraph-receiver: {words}"));
            let exit = match error {
                StartError::Listen(_) => Exit::ListenFailed,
                StartError::Signals(_) => Exit::Internal,
                StartError::Tls(_) => Exit::ConfigUnusable,
                StartError::Data { .. } | StartError::Store(_) | StartError::Catalog(_) => {
                    Exit::DataUnusable
                }
            };
            exit.code().into()
        }
    }
}

/// Checks a data folder.
fn check(options: &fsck::Options, output: cli::fsck::Output) -> ExitCode {
    let checked = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(cli::fsck::run(options, output)),
        Err(error) => {
            say(format_args!(
                "pantelegraph-receiver fsck: cannot start threads: {error}"
            ));
            return Exit::Internal.code().into();
        }
    };
    match checked {
        Ok(exit) => exit.code().into(),
        Err(error) => {
            let error = shared::telemetry::chain(&error);
            say(format_args!("pantelegraph-receiver fsck: {error}"));
            Exit::DataUnusable.code().into()
        }
    }
}

/// What it takes to read the settings again at SIGHUP.
struct Again {
    hangups: io::Result<Hangups>,
    in_force: InForce,
    read: Box<Reading>,
    log: Box<Filtering>,
}

async fn serve(config: Config, again: Again) -> Result<(), StartError> {
    let stop = shared::lifecycle::stop_on_signals().map_err(StartError::Signals)?;
    let hangups = again.hangups.map_err(StartError::Signals)?;
    let listeners = Listeners::open(&config).await?;
    let listeners_set = [
        ("grpc-listen", config.grpc_listen),
        ("http-listen", config.http_listen),
        ("listen-all", config.listen_all),
    ];
    for warning in config.security.warnings(&listeners_set) {
        tracing::warn!("{warning}");
    }
    for url in config.pull.iter().filter(|url| !is_encrypted(url)) {
        if config.security.asks() && !is_of_this_machine(url) {
            tracing::warn!(
                "{url}: whoever answers there is not asked who it is, and brings images under any name; \
                 dial wss:// instead"
            );
        }
    }
    let data = config.data.clone();
    let receiver = Receiver::start(config.clone(), listeners).await?;
    let live = Live::new(&config, receiver.controls().clone(), again.read, again.log);
    let reloader = Reloader::new(live, again.in_force);
    let address = |address: Option<std::net::SocketAddr>| {
        address.map_or_else(|| "off".to_owned(), |address| address.to_string())
    };
    // Scripts wait for this line; it goes to standard output whatever the log's filter.
    let all = receiver.all_address;
    let all = all.map_or_else(String::new, |address| format!(", all {address}"));
    print(&format!(
        "ready: gRPC {}, HTTP {}{all}, data {}\n",
        address(receiver.grpc_address),
        address(receiver.http_address),
        data.display()
    ));
    manager::ready();
    let _heartbeat = Heartbeat::begin(&Handle::current(), Arc::new(receiver.words()));
    tokio::spawn(reload_on_hangup(hangups, reloader, stop.clone()));
    stop.cancelled().await;
    receiver.stop().await;
    tracing::info!("stopped");
    Ok(())
}

fn is_of_this_machine(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// Prints to standard output. A reader that has gone (`| head`) is no failure.
fn print(text: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    ExitCode::SUCCESS
}
