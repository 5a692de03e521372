//! SIGHUP: settings are read again, and what can be changed while a daemon runs is changed.

use std::io::{self, IsTerminal as _};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::manager;
use crate::settings::{CliError, InForce, Read};

/// Hang-ups, which end no process any more once this is there.
#[derive(Debug)]
pub struct Hangups {
    signals: Signal,
    /// Whether the streams were terminals when the process began.
    terminals: [bool; 3],
}

impl Hangups {
    /// Catches them from now on; those that come before they are asked for count as one.
    ///
    /// # Errors
    /// When the handler cannot be installed.
    pub fn catch() -> io::Result<Self> {
        Ok(Self {
            signals: signal(SignalKind::hangup())?,
            terminals: terminals(),
        })
    }

    /// Waits for the next one. Several that come meanwhile are one.
    async fn next(&mut self) -> Hangup {
        if self.signals.recv().await.is_none() {
            return std::future::pending().await;
        }
        let is_gone = self.terminals.iter().zip(terminals());
        match is_gone.into_iter().any(|(was, is)| *was && !is) {
            true => Hangup::Terminal,
            false => Hangup::Reload,
        }
    }
}

fn terminals() -> [bool; 3] {
    [
        io::stdin().is_terminal(),
        io::stdout().is_terminal(),
        io::stderr().is_terminal(),
    ]
}

/// What is meant.
enum Hangup {
    /// Settings are to be read again.
    Reload,
    /// The terminal in which this was started is gone, and whoever started it with it.
    Terminal,
}

/// A daemon that can change while it runs.
pub trait Reloadable: Send + 'static {
    /// Its settings, checked.
    type Config;

    /// Reads all sources again. May block.
    ///
    /// # Errors
    /// All mistakes.
    fn read(&self) -> Result<(Self::Config, Read), CliError>;

    /// Puts into force what is [marked](crate::settings::Setting::reloadable) in the table of settings,
    /// whether it has changed or not: files may have another content. May block.
    ///
    /// # Errors
    /// What is wrong and what to do. Nothing is changed then.
    fn apply(&mut self, config: &Self::Config) -> Result<Applied, String>;
}

/// What came of it, beside what the settings say.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Settings that cannot be changed this time, although they are marked, each with the reason.
    pub held: Vec<(&'static str, &'static str)>,
    /// Files that had another content, and the settings that name them. Told unless these have changed,
    /// too.
    pub contents: Vec<(&'static str, &'static [&'static str])>,
}

impl Applied {
    /// These settings stay as they are.
    pub fn hold(&mut self, keys: &[&'static str], why: &'static str) {
        self.held.extend(keys.iter().map(|key| (*key, why)));
    }
}

/// A daemon with what is in force.
#[derive(Debug)]
pub struct Reloader<D> {
    daemon: D,
    in_force: InForce,
}

impl<D: Reloadable> Reloader<D> {
    /// With the settings that it was started with.
    pub fn new(daemon: D, in_force: InForce) -> Self {
        Self { daemon, in_force }
    }

    /// Reads the settings again, changes what can be changed, and says what came of it.
    pub fn reload(&mut self) {
        match self.try_to() {
            Ok(outcome) => outcome.tell(),
            Err(problems) => {
                for problem in &problems {
                    tracing::error!("{problem}");
                }
                let mistakes = problems.len();
                tracing::error!(
                    mistakes,
                    "settings stay as they were; correct them and send SIGHUP again"
                );
            }
        }
    }

    fn try_to(&mut self) -> Result<Outcome, Vec<String>> {
        let (config, read) = self
            .daemon
            .read()
            .map_err(|error| error.mistakes().collect::<Vec<_>>())?;
        let Applied { held, contents } = self
            .daemon
            .apply(&config)
            .map_err(|problem| vec![problem])?;
        let mut outcome = Outcome {
            warnings: read.warnings.clone(),
            ..Outcome::default()
        };
        let changes = self.in_force.changes(&read.in_force);
        for change in &changes {
            let key = change.setting.key;
            match held.iter().find(|(held, _)| *held == key) {
                Some((_, why)) => outcome.restart.push(format!("{change} ({why})")),
                None if !change.setting.reloadable => outcome.restart.push(change.to_string()),
                None => {
                    outcome.changed.push(change.to_string());
                    self.in_force.put(change);
                }
            }
        }
        for (files, keys) in contents {
            if !changes
                .iter()
                .any(|change| keys.contains(&change.setting.key))
            {
                outcome.changed.push(files.to_owned());
            }
        }
        Ok(outcome)
    }
}

/// What is to be told of a reload.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    warnings: Vec<String>,
    changed: Vec<String>,
    restart: Vec<String>,
}

impl Outcome {
    fn tell(&self) {
        for warning in &self.warnings {
            tracing::warn!("{warning}");
        }
        if !self.changed.is_empty() {
            tracing::info!(
                "settings were read again; in force now: {}",
                list(&self.changed)
            );
        }
        if !self.restart.is_empty() {
            tracing::warn!("restart to change {}", list(&self.restart));
        }
        if self.changed.is_empty() && self.restart.is_empty() {
            tracing::info!("settings were read again; nothing changed");
        }
    }
}

fn list(texts: &[String]) -> String {
    texts.join(", ")
}

/// Reloads at each hang-up, one after the other, until stopped. The loss of the terminal that the daemon
/// was started in stops it, as it always did.
pub async fn reload_on_hangup<D: Reloadable>(
    mut hangups: Hangups,
    mut reloader: Reloader<D>,
    stop: CancellationToken,
) {
    loop {
        let hangup = tokio::select! {
            hangup = hangups.next() => hangup,
            () = stop.cancelled() => return,
        };
        if matches!(hangup, Hangup::Terminal) {
            tracing::info!("the terminal is gone; stopping");
            manager::stopping();
            return stop.cancel();
        }
        manager::reloading();
        let reloading = tokio::task::spawn_blocking(move || {
            reloader.reload();
            reloader
        });
        match reloading.await {
            Ok(back) => reloader = back,
            // A panic there has been told of; settings stay as they are from now on.
            Err(_) => return manager::reloaded(),
        }
        // At the end of a stop nobody is told that all is ready.
        if !stop.is_cancelled() {
            manager::reloaded();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests;
