//! What the service manager is told (`sd_notify`): ready, reloading, stopping, how it goes. Without
//! `NOTIFY_SOCKET` nobody is told anything.

use std::time::Duration;

use sd_notify::NotifyState;

/// Variables of the service manager, which are not for the programs that a daemon starts.
pub const VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// Whether there is a service manager to talk to.
pub(super) fn is_there() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|path| !path.is_empty())
}

/// How long it waits for a sign of life, if it does.
pub(super) fn patience() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|patience| !patience.is_zero())
}

/// All listeners answer.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// No new work is taken.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Settings are being read again; to be followed by [`reloaded`].
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "the service manager is not told of the reload"),
    }
}

/// They have been read.
pub(super) fn reloaded() {
    ready();
}

/// A sign of life, if `alive`, and how it goes, if that is new.
pub(super) fn beat(alive: bool, words: Option<&str>) {
    let words = words.map(NotifyState::Status);
    let watchdog = alive.then_some(NotifyState::Watchdog);
    let said: Vec<_> = watchdog.into_iter().chain(words).collect();
    // It was said at the start if the manager does not hear.
    if !said.is_empty()
        && let Err(error) = sd_notify::notify(&said)
    {
        tracing::debug!(%error, "the service manager cannot be told of {said:?}");
    }
}

/// A service manager that does not hear costs nothing but its own view of things.
fn tell(state: &[NotifyState<'_>]) {
    if !is_there() {
        return;
    }
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager cannot be told of {state:?}");
    }
}
