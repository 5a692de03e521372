//! Start, stop and grace period of a daemon; new settings while it runs, and what its service manager
//! is told.

mod heartbeat;
pub mod manager;
mod reload;

use std::io;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use heartbeat::{Heartbeat, Words};
pub use reload::{Applied, Hangups, Reloadable, Reloader, reload_on_hangup};

/// Signals that follow the first so closely are the same request: `timeout` and some shells signal
/// the process and then its group.
const ONE_REQUEST: Duration = Duration::from_millis(250);

/// A token that is cancelled by the first SIGTERM or SIGINT. A second signal, not of the same
/// request, ends the process at once, with the status a shell expects (128 + signal), for the
/// operator who will not wait.
///
/// # Errors
/// When signal handlers cannot be installed.
pub fn stop_on_signals() -> io::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = stop.clone();
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "stopping");
        manager::stopping();
        token.cancel();
        let same_request = tokio::time::sleep(ONE_REQUEST);
        tokio::pin!(same_request);
        loop {
            tokio::select! {
                () = &mut same_request => break,
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        tracing::info!("a second signal stops at once");
        let code = tokio::select! {
            _ = terminate.recv() => 143,
            _ = interrupt.recv() => 130,
        };
        #[allow(clippy::exit, reason = "the operator asked twice")]
        std::process::exit(code);
    });
    Ok(stop)
}
