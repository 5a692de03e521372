//! `pantelegraph users`.

mod call;
mod demo;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use shared::lifecycle::{Hangups, Heartbeat, Reloader, manager, reload_on_hangup};
use shared::security::Secret;
use shared::security::bearer::Bearer;
use shared::security::settings::ClientSettings;
use shared::security::tls::ClientFiles;
use shared::settings::{InForce, ProcessEnvironment};
use shared::telemetry::{chain, say};
use tokio::runtime::Handle;
use users::cli::{CliError, Exit, Invocation};
use users::config::Config;
use users::live::{Filtering, Live, Reading};
use users::server::{Listeners, Server, StartError};

use crate::cli::users::{Shown, Users};

/// Does what was asked for.
pub(crate) fn run(users: Users) -> ExitCode {
    match users {
        Users::Demo(options) => demo::run(&options),
        Users::Serve { settings } => serve(settings),
        Users::Call { call, how } => call::run(call, &how),
    }
}

/// Serves until a signal.
fn serve(settings: Vec<OsString>) -> ExitCode {
    let args = std::iter::once(OsString::from(users::cli::PROGRAM.name)).chain(settings);
    let args: Vec<OsString> = args.collect();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(format_args!(
                "pantelegraph users serve: cannot start threads: {error}"
            ));
            return Exit::Internal.code().into();
        }
    };
    // Before anything that takes its time: a hang-up ends nothing.
    let hangups = runtime.block_on(async { Hangups::catch() });
    let dotenv = Path::new(".env");
    let invocation = users::cli::parse(args.iter().cloned(), &ProcessEnvironment, Some(dotenv));
    let (config, read) = match invocation {
        Ok(Invocation::Serve(config, read)) => (config, read),
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
            users::cli::read_again(args.iter().cloned(), &ProcessEnvironment, Some(dotenv))
        }),
        log: Box::new(move |filter| log.set_filter(filter)),
    };
    match runtime.block_on(until_stopped(*config, again)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("pantelegraph users serve: {}", chain(&error)));
            let exit = match error {
                StartError::Listen(_) => Exit::ListenFailed,
                StartError::Data(_) => Exit::DataUnusable,
                StartError::Tls(_) => Exit::TlsUnusable,
                StartError::Address(_) | StartError::Signals(_) => Exit::Internal,
            };
            exit.code().into()
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

async fn until_stopped(config: Config, again: Again) -> Result<(), StartError> {
    let stop = shared::lifecycle::stop_on_signals().map_err(StartError::Signals)?;
    let hangups = again.hangups.map_err(StartError::Signals)?;
    let listeners = Listeners::open(&config).await?;
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let server = Server::start(config.clone(), listeners).await?;
    let live = Live::new(config, server.controls(), again.read, again.log);
    let reloader = Reloader::new(live, again.in_force);
    // Scripts wait for this line; it goes to standard output whatever the log's filter.
    let address = |address: Option<std::net::SocketAddr>| {
        address.map_or_else(|| "off".to_owned(), |address| address.to_string())
    };
    let all = server.all_address;
    let all = all.map_or_else(String::new, |address| format!(", all {address}"));
    print(&format!(
        "ready: gRPC {}, HTTP {}{all}\n",
        address(server.grpc_address),
        address(server.http_address)
    ));
    manager::ready();
    let _heartbeat = Heartbeat::begin(&Handle::current(), Arc::new(server.words()));
    tokio::spawn(reload_on_hangup(hangups, reloader, stop.clone()));
    stop.cancelled().await;
    server.stop().await;
    tracing::info!("stopped");
    Ok(())
}

/// Prints to standard output. A reader that has gone (`| head`) is no failure.
fn print(text: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    ExitCode::SUCCESS
}

/// The variable with a token, for those who have no file for it: command lines are seen by everybody on
/// the machine.
const TOKEN: &str = "PANTELEGRAPH_TOKEN";

/// What a client shows, and whom it trusts.
fn security(shown: &Shown) -> Result<ClientSettings, String> {
    let token = match (&shown.token_file, std::env::var_os(TOKEN)) {
        (Some(file), _) => {
            let token = Bearer::file(file.clone());
            Some(token.map_err(|problem| format!("--token-file: {problem}"))?)
        }
        (None, Some(token)) if !token.is_empty() => {
            let token = Secret::new(token.into_encoded_bytes().trim_ascii().to_vec());
            Some(Bearer::value(token).map_err(|problem| format!("{TOKEN}: {problem}"))?)
        }
        (None, _) => None,
    };
    let own = shown.tls_cert.clone().zip(shown.tls_key.clone());
    Ok(ClientSettings {
        tls: ClientFiles {
            ca: shown.tls_ca.clone(),
            own,
            revoked: shown.tls_crl.clone(),
        },
        token,
    })
}
