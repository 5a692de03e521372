//! What is looked at, and in which order.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use transmitter::config::{OutboxPlace, SourceOptions};

use super::holder::Holder;
use super::listeners::Whose;
use super::{Finding, Group, Level, certificates, clock, disk, limits, listeners, outbox, reach};
use super::{source, space};

/// A station that is looked at.
pub(crate) struct Subject {
    /// Its settings.
    pub(crate) kind: Kind,
    /// Files with keys and tokens, and the settings that name them.
    pub(crate) secrets: Vec<(&'static str, PathBuf)>,
}

/// The settings of a station.
pub(crate) enum Kind {
    Transmitter(Box<transmitter::config::Config>),
    Receiver(Box<receiver::config::Config>),
    Users(Box<users::config::Config>),
}

impl Kind {
    /// The program of its daemon.
    fn program(&self) -> &'static str {
        match self {
            Self::Transmitter(_) => "pantelegraph-transmitter",
            Self::Receiver(_) => "pantelegraph-receiver",
            Self::Users(_) => "pantelegraph",
        }
    }

    /// How its daemon is asked whether it is ready, where it says so at a port that others use, too.
    fn asked(&self) -> Option<listeners::Asked<'_>> {
        let (who, files) = match self {
            Self::Transmitter(_) => return None,
            Self::Receiver(config) => ("receiver", config.security.tls.as_ref()),
            Self::Users(config) => ("user service", config.security.tls.as_ref()),
        };
        Some(listeners::Asked { who, files })
    }

    /// Where it keeps what it must not lose, and the name of the lock there.
    fn folder(&self) -> Option<(PathBuf, Option<&'static str>)> {
        match self {
            Self::Transmitter(config) => match &config.outbox.place {
                OutboxPlace::Folder(folder) => Some((folder.clone(), Some("lock"))),
                OutboxPlace::Memory => None,
            },
            Self::Receiver(config) => Some((config.data.clone(), Some("receiver.lock"))),
            Self::Users(config) => {
                let folder = config.data.as_ref()?.parent()?;
                let here = folder.as_os_str().is_empty();
                let folder = if here { Path::new(".") } else { folder };
                Some((folder.to_owned(), None))
            }
        }
    }

    /// What it listens on, by the settings that say so.
    fn listeners(&self) -> Vec<(&'static str, SocketAddr)> {
        let listeners = match self {
            Self::Transmitter(config) => vec![
                ("--listen", config.listen),
                ("--status-listen", config.status_listen),
            ],
            Self::Receiver(config) => vec![
                ("--grpc-listen", config.grpc_listen),
                ("--http-listen", config.http_listen),
                ("--listen-all", config.listen_all),
            ],
            Self::Users(config) => vec![
                ("--grpc-listen", config.grpc_listen),
                ("--http-listen", config.http_listen),
                ("--listen-all", config.listen_all),
            ],
        };
        let on = listeners.into_iter();
        on.filter_map(|(setting, address)| Some((setting, address?)))
            .collect()
    }
}

/// How it is looked at.
pub(crate) struct Options {
    /// Time for each look at the network.
    pub(crate) timeout: Duration,
    /// What is looked at.
    pub(crate) groups: BTreeSet<Group>,
    /// Whether the disk may be written to.
    pub(crate) disk_test: bool,
    /// Set when nobody waits for the findings any more.
    pub(crate) stop: Arc<AtomicBool>,
}

impl Options {
    fn wants(&self, group: Group) -> bool {
        self.groups.contains(&group)
    }
}

type Checking<'a> = BoxFuture<'a, Vec<Finding>>;

/// Looks at a station. `settings` is what its settings told already.
pub(crate) async fn examine(
    subject: &Subject,
    settings: Vec<Finding>,
    options: &Options,
    progress: &(dyn Fn(&'static str) + Sync),
) -> Vec<Finding> {
    progress("looking at the network and the system");
    let station = &subject.kind;
    let folder = station.folder();
    let (lock, stuck) = match &folder {
        Some((folder, Some(lock))) => {
            let (holder, stuck) = hold(folder.join(lock), PATIENCE).await;
            (Some(holder), stuck)
        }
        _ => (None, None),
    };
    let holder = lock.clone().unwrap_or(Holder::Nobody);
    let mut checks: Vec<Checking<'_>> = Vec::new();
    if options.wants(Group::Listeners) {
        checks.push(Box::pin(listen(station, lock.as_ref(), options)));
    }
    if options.wants(Group::Reachability) || options.wants(Group::Clock) {
        checks.push(Box::pin(network(station, options)));
    }
    checks.push(Box::pin(files(subject, &holder, options)));
    let mut findings: Vec<_> = join_all(checks).await.into_iter().flatten().collect();
    // What hangs is not timed.
    let hangs = stuck.is_some();
    findings.extend(stuck);
    if options.wants(Group::Settings) {
        findings.extend(settings);
    }
    // Alone, so that the network's times and the disk's do not spoil one another.
    if let Some((folder, _)) = &folder
        && options.wants(Group::Disk)
        && !hangs
    {
        progress("timing the disk");
        findings.extend(time_disk(station, folder, &holder, options).await);
    }
    // Where something hangs, what was asked for has not been looked at.
    let mut told = BTreeSet::new();
    findings.retain(|finding| match finding.check {
        STUCK => told.insert(finding.found.clone()),
        _ => options.wants(finding.group),
    });
    // In the order of the groups, and within them as they were found.
    findings.sort_by_key(|finding| finding.group);
    findings
}

/// Who looks at files and the system may have to wait for them.
async fn blocking(
    look: impl FnOnce() -> Vec<Finding> + Send + 'static,
    patience: Duration,
) -> Vec<Finding> {
    let looked = patiently(look, patience).await;
    looked.unwrap_or_else(|stuck| vec![stuck])
}

/// What a look at the files finds, or that it has not ended. The thread may hang for ever.
pub(crate) async fn patiently<T: Send + 'static>(
    look: impl FnOnce() -> T + Send + 'static,
    patience: Duration,
) -> Result<T, Finding> {
    let looking = tokio::task::spawn_blocking(look);
    match tokio::time::timeout(patience, looking).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(stuck(&format!("a look at the files failed: {error}"))),
        Err(_) => Err(stuck(&format!(
            "a look at the files has not ended within {patience:?}: a disk or a network file system hangs"
        ))),
    }
}

const STUCK: &str = "stuck";

fn stuck(found: &str) -> Finding {
    let fix = "see dmesg and `mount`; a process in the state D in `ps aux` names the file system";
    Finding::bad(Level::Problem, (Group::Space, STUCK), found, fix)
}

/// Patience with the disk.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Who has this lock, and that it could not be found out because something hangs.
async fn hold(lock: PathBuf, patience: Duration) -> (Holder, Option<Finding>) {
    match patiently(move || Holder::of(&lock), patience).await {
        Ok(holder) => (holder, None),
        Err(stuck) => (Holder::Unknown(stuck.found.clone()), Some(stuck)),
    }
}

async fn listen(station: &Kind, lock: Option<&Holder>, options: &Options) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (setting, address) in station.listeners() {
        let state = listeners::look(setting, address).await;
        let whose = listeners::whose(&state, lock, station.program());
        findings.push(listeners::judge(setting, address, &state, whose));
        if let (Whose::Ours, Some(asked)) = (whose, station.asked())
            && setting != "--grpc-listen"
        {
            findings.push(listeners::ask(&asked, address, options.timeout).await);
        }
    }
    findings
}

async fn network(station: &Kind, options: &Options) -> Vec<Finding> {
    let mut findings = clock::own(options.timeout).await;
    let (targets, papers) = match station {
        Kind::Transmitter(config) => reach::of_transmitter(config),
        Kind::Receiver(config) => reach::of_receiver(config),
        Kind::Users(_) => return findings,
    };
    let shown = match patiently(move || papers.open(), PATIENCE).await {
        Ok(Ok(shown)) => shown,
        Err(stuck) => {
            findings.push(stuck);
            return findings;
        }
        Ok(Err(error)) => {
            findings.push(reach::unusable(&error));
            return findings;
        }
    };
    let probing = targets
        .iter()
        .map(|target| reach::probe(target, &shown, options.timeout));
    for (target, reached) in targets.iter().zip(join_all(probing).await) {
        let now = std::time::SystemTime::now();
        findings.extend(reach::judge(target, &reached, &shown, now));
        if let Some(estimate) = reached.clock {
            let offset = clock::judge(&target.to_string(), estimate);
            findings.push(offset.with("target", target.url.as_str()));
        }
    }
    findings
}

async fn files(subject: &Subject, holder: &Holder, options: &Options) -> Vec<Finding> {
    let station = &subject.kind;
    let mut looks: Vec<Checking<'_>> = Vec::new();
    if options.wants(Group::Certificates) {
        let files = certificates::Files::of(subject);
        looks.push(Box::pin(blocking(
            move || certificates::examine(&files),
            PATIENCE,
        )));
    }
    if options.wants(Group::Limits) {
        let asked = limits::Asked::of(station, holder);
        looks.push(Box::pin(blocking(
            move || limits::judge(&asked, &limits::facts(&asked)),
            PATIENCE,
        )));
    }
    if options.wants(Group::Space)
        && let Some((folder, _)) = station.folder()
    {
        let (asked, holder) = (space::Asked::of(station, folder), holder.clone());
        looks.push(Box::pin(blocking(
            move || match space::facts(&asked.folder) {
                Ok(facts) => space::judge(&asked, &facts, &holder),
                Err(problem) => vec![problem],
            },
            PATIENCE,
        )));
    }
    if let Kind::Transmitter(config) = station {
        if let (OutboxPlace::Folder(folder), true) =
            (&config.outbox.place, options.wants(Group::Outbox))
        {
            let (folder, asked) = (folder.clone(), config.outbox.clone());
            looks.push(Box::pin(blocking(
                move || {
                    outbox::judge(
                        &asked,
                        &outbox::facts(&folder),
                        std::time::SystemTime::now(),
                    )
                },
                PATIENCE,
            )));
        }
        if options.wants(Group::Source) {
            looks.push(look_at_source(config.source.clone(), options.timeout));
        }
    }
    join_all(looks).await.into_iter().flatten().collect()
}

fn look_at_source(options: SourceOptions, timeout: Duration) -> Checking<'static> {
    match options {
        SourceOptions::Snapshot { url, timeout: own } => {
            Box::pin(async move { vec![source::snapshot(&url, timeout.min(own)).await] })
        }
        other => Box::pin(blocking(move || source::examine(&other), PATIENCE)),
    }
}

async fn time_disk(
    station: &Kind,
    folder: &Path,
    holder: &Holder,
    options: &Options,
) -> Vec<Finding> {
    let synced = match station {
        Kind::Transmitter(config) => {
            config.outbox.durability == transmitter::config::OutboxDurability::Synced
        }
        Kind::Receiver(config) => config.durability == shared::receipt::Durability::Synced,
        Kind::Users(_) => true,
    };
    if !options.disk_test {
        return vec![disk::skipped()];
    }
    let (folder, stop) = (folder.to_owned(), Arc::clone(&options.stop));
    let busy = matches!(holder, Holder::Process(_) | Holder::Somebody);
    let timing = move || {
        vec![disk::judge(
            &folder,
            &disk::measure(&folder, &stop),
            synced,
            busy,
        )]
    };
    blocking(timing, PATIENCE).await
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use rustix::fs::{FileType, Mode};

    use super::*;

    #[test]
    fn what_hangs_is_told_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("lock");
        // Nobody ever writes to it.
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (holder, stuck) = runtime.block_on(hold(pipe.clone(), Duration::from_millis(50)));
        let stuck = stuck.unwrap();
        assert_eq!((stuck.level, stuck.check), (Level::Problem, "stuck"));
        assert!(matches!(holder, Holder::Unknown(_)), "{holder:?}");
        let looking = move || std::fs::read(&pipe).map_or_else(|_| Vec::new(), |_| Vec::new());
        let found = runtime.block_on(blocking(looking, Duration::from_millis(50)));
        assert_eq!(found, [stuck]);
        // As the command ends: with threads that hang.
        runtime.shutdown_background();
    }
}
