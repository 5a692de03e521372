//! The transmitter daemon: read the settings, run, report, leave with the code `--help` documents.

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use pantelegraph_transmitter::cli::{self, CliError, Exit, Invocation};
use pantelegraph_transmitter::config::Config;
use pantelegraph_transmitter::live::{Filtering, Live, Reading};
use pantelegraph_transmitter::progress::LogWriter;
use pantelegraph_transmitter::run::{self, Left, RunError, RunOutcome, Summary, Surroundings};
use shared::lifecycle::{Hangups, Heartbeat, Reloader, manager, reload_on_hangup};
use shared::settings::{InForce, ProcessEnvironment};
use shared::telemetry::say;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    #[cfg(feature = "sabotage")]
    if let Err(problem) =
        shared::sabotage::choose(&std::env::var("PANTELEGRAPH_SABOTAGE").unwrap_or_default())
    {
        say(problem);
        return CliError::EXIT_CODE.into();
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(format_args!(
                "pantelegraph-transmitter: cannot start threads: {error}"
            ));
            return Exit::Internal.code().into();
        }
    };
    // Before anything that takes its time: a hang-up ends nothing.
    let hangups = runtime.block_on(async { Hangups::catch() });
    let dotenv = Path::new(".env");
    let invocation = cli::parse(std::env::args_os(), &ProcessEnvironment, Some(dotenv));
    let (config, read) = match invocation {
        Ok(Invocation::Run(config, read)) => (config, read),
        Ok(Invocation::Outbox(request)) => return cli::use_outbox(&request).into(),
        Ok(Invocation::Print(text)) => return print(&text),
        Ok(Invocation::Refuse(text)) => {
            say(text.trim_end());
            return CliError::EXIT_CODE.into();
        }
        Err(error) => {
            say(error);
            return CliError::EXIT_CODE.into();
        }
    };
    let colour = std::io::stderr().is_terminal();
    let log = match shared::telemetry::log_to(|| LogWriter, &config.log, config.log_format, colour)
    {
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
            cli::read_again(std::env::args_os(), &ProcessEnvironment, Some(dotenv))
        }),
        log: Box::new(move |filter| log.set_filter(filter)),
    };
    let exit = match runtime.block_on(transmit(&config, again)) {
        Ok(summary) => {
            let text = summary.text();
            print(&text);
            if let Some(problem) = summary.outcome.problem() {
                say(format_args!("pantelegraph-transmitter: {problem}"));
            }
            if let Some(words) = summary.left.as_ref().map(words) {
                say(format_args!("pantelegraph-transmitter: {words}"));
            }
            match save(&config, &summary) {
                Ok(()) => summary.outcome.exit(),
                Err(problem) => {
                    say(format_args!("pantelegraph-transmitter: {problem}"));
                    Exit::Internal
                }
            }
        }
        Err(error) => {
            let words = shared::telemetry::chain(&error);
            say(format_args!("pantelegraph-transmitter: {words}"));
            match error {
                RunError::Source(_) => Exit::SourceFailed,
                RunError::Listen { .. } => Exit::Unreachable,
                RunError::Outbox { .. } | RunError::Receipts { .. } => Exit::Outbox,
                RunError::Certificates(_) => Exit::Configuration,
                RunError::Signals(_) => Exit::Internal,
            }
        }
    };
    // Threads that read from a source that will not answer must not keep the process.
    runtime.shutdown_background();
    exit.code().into()
}

/// What it takes to read the settings again at SIGHUP.
struct Again {
    hangups: io::Result<Hangups>,
    in_force: InForce,
    read: Box<Reading>,
    log: Box<Filtering>,
}

async fn transmit(config: &Config, again: Again) -> Result<Summary, RunError> {
    let stop = shared::lifecycle::stop_on_signals().map_err(RunError::Signals)?;
    let hangups = again.hangups.map_err(RunError::Signals)?;
    let listener = bind(config.listen, "--listen", "WebSocket").await?;
    let status = bind(config.status_listen, "--status-listen", "status").await?;
    let (started, starting) = oneshot::channel();
    let surroundings = Surroundings {
        listener,
        status,
        started: Some(started),
        shared_process: false,
    };
    let running = run::run(config, surroundings, stop.clone());
    let beside = async {
        // A run that cannot begin says why itself.
        let Ok(controls) = starting.await else { return };
        manager::ready();
        let status = Arc::clone(&controls.status);
        let words = move || status.words();
        let _heartbeat = Heartbeat::begin(&Handle::current(), Arc::new(words));
        let live = Live::new(config.clone(), controls, again.read, again.log);
        let reloader = Reloader::new(live, again.in_force);
        reload_on_hangup(hangups, reloader, stop.clone()).await;
        // Signs of life go on to the end.
        std::future::pending::<()>().await;
    };
    tokio::pin!(running);
    tokio::select! {
        summary = &mut running => summary,
        () = beside => running.await,
    }
}

/// Opens a listener, if one is asked for, and says where it is.
async fn bind(
    address: Option<SocketAddr>,
    flag: &'static str,
    name: &str,
) -> Result<Option<TcpListener>, RunError> {
    let Some(address) = address else {
        return Ok(None);
    };
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| RunError::Listen {
            address,
            flag,
            source,
        })?;
    if let Ok(address) = listener.local_addr() {
        // Scripts wait for this line.
        print(&format!("ready: {name} {address}\n"));
    }
    Ok(Some(listener))
}

fn save(config: &Config, summary: &Summary) -> Result<(), String> {
    let Some(path) = &config.report else {
        return Ok(());
    };
    std::fs::write(path, summary.json()).map_err(|error| {
        format!(
            "the report cannot be written to {}: {error}",
            path.display()
        )
    })
}

/// Prints to standard output. A reader that has gone (`| head`) is no failure.
fn print(text: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    ExitCode::SUCCESS
}

/// What is to be known of images that are owed at the end.
fn words(left: &Left) -> String {
    let images = left.images;
    match &left.folder {
        Some(folder) => format!(
            "{images} images stay in the outbox {} and go on at the next start",
            folder.display()
        ),
        None => format!("{images} images were still owed and are gone: they were in memory only"),
    }
}

/// Kept next to `main`, where its words go.
trait Ending {
    fn exit(&self) -> Exit;
    fn problem(&self) -> Option<String>;
}

impl Ending for RunOutcome {
    fn exit(&self) -> Exit {
        match self {
            Self::Delivered | Self::Kept => Exit::Delivered,
            Self::Quarantined => Exit::Quarantined,
            Self::Lost => Exit::Lost,
            Self::Owed => Exit::StillOwed,
            Self::SourceFailed(_) => Exit::SourceFailed,
            Self::Unreachable(_) => Exit::Unreachable,
        }
    }

    fn problem(&self) -> Option<String> {
        match self {
            Self::Delivered | Self::Kept => None,
            Self::Quarantined => Some("the receiver quarantined some images".to_owned()),
            Self::Lost => Some("some images were lost".to_owned()),
            Self::Owed => Some("stopped while images were still owed".to_owned()),
            Self::SourceFailed(problem) => Some(format!("the source failed: {problem}")),
            Self::Unreachable(problem) => Some(format!("no receiver was reached: {problem}")),
        }
    }
}
