//! Ports that are listened on.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use shared::listen::ListenError;
use shared::security::identity::Role;
use shared::security::tls::{ClientFiles, ClientTls, HTTP_1_1, ServerFiles};
use tokio::net::TcpStream;

use super::certificates::papers;
use super::holder::Holder;
use super::{Finding, Group, Level, advice, reach};

const GROUP: Group = Group::Listeners;

/// The programs of this project: none of them is to be killed by its number.
const PROGRAMS: [&str; 3] = [
    "pantelegraph",
    "pantelegraph-receiver",
    "pantelegraph-transmitter",
];

/// What became of trying to listen.
#[derive(Debug)]
pub(crate) enum State {
    /// It can be done.
    Free,
    /// Somebody does already.
    Taken(Option<Seen>),
    /// It cannot be done.
    Refused(ListenError),
}

/// A process that has a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    process: u32,
    /// The file of its program, or else the name that the system has, of which no more than 15 bytes are left.
    program: String,
    /// Its number in each namespace that it is in.
    numbers: Vec<u32>,
}

impl Seen {
    /// What the system says of this process.
    fn of(holder: &shared::listen::Holder) -> Self {
        let folder = Path::new("/proc").join(holder.process.to_string());
        let file = std::fs::read_link(folder.join("exe")).ok();
        let file = file.as_deref().and_then(Path::file_name);
        let program = file.map(|file| {
            let file = file.to_string_lossy();
            // An update has put another file there.
            file.strip_suffix(" (deleted)").unwrap_or(&file).to_owned()
        });
        let status = std::fs::read_to_string(folder.join("status")).unwrap_or_default();
        let numbers = status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:"))
            .unwrap_or_default();
        Self {
            process: holder.process,
            program: program.unwrap_or_else(|| holder.name.clone()),
            numbers: numbers
                .split_whitespace()
                .filter_map(|number| number.parse().ok())
                .collect(),
        }
    }

    /// Whether it is this program.
    fn is(&self, program: &str) -> bool {
        /// `TASK_COMM_LEN` of the kernel, without the zero at the end.
        const SHORT: usize = 15;
        let cut = self.program.len() == SHORT && program.starts_with(&self.program);
        self.program == program || cut
    }

    /// Whether it calls itself by this number, here or in its container.
    fn has_number(&self, number: u32) -> bool {
        self.process == number || self.numbers.contains(&number)
    }
}

/// Whose a port is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// This station's daemon's.
    Ours,
    /// Another daemon's of this project.
    Kin,
    /// A process that cannot be seen has it, and nothing tells whether it is this station's.
    Hidden,
    /// Somebody else's, or nobody's.
    Other,
}

/// Whose it is: by the lock of the station, or by the program's name where it has no lock, or one that does not
/// tell.
pub(crate) fn whose(state: &State, lock: Option<&Holder>, program: &str) -> Whose {
    let State::Taken(seen) = state else {
        return Whose::Other;
    };
    let ours = match (seen, lock) {
        (Some(seen), Some(Holder::Process(number))) => seen.has_number(*number),
        (Some(seen), None | Some(Holder::Somebody | Holder::Unknown(_))) => seen.is(program),
        (None, Some(Holder::Process(_) | Holder::Somebody)) => true,
        (None, None | Some(Holder::Unknown(_))) => return Whose::Hidden,
        (_, Some(Holder::Nobody)) => false,
    };
    let of_this_project = |seen: &Seen| PROGRAMS.iter().any(|program| seen.is(program));
    match seen {
        _ if ours => Whose::Ours,
        Some(seen) if of_this_project(seen) => Whose::Kin,
        _ => Whose::Other,
    }
}

/// Listens for a moment.
pub(crate) async fn look(setting: &'static str, address: SocketAddr) -> State {
    match shared::listen::listen(address, setting).await {
        Ok(_) => State::Free,
        Err(error) if error.source.kind() == io::ErrorKind::AddrInUse => {
            State::Taken(error.holder.as_ref().map(Seen::of))
        }
        Err(error) => State::Refused(error),
    }
}

/// Judges a listener.
pub(crate) fn judge(setting: &str, address: SocketAddr, state: &State, whose: Whose) -> Finding {
    let place = (GROUP, "port");
    let port = address.port();
    let seen = match state {
        State::Free => {
            return Finding::ok(GROUP, "port", format!("{address} ({setting}) is free"));
        }
        State::Refused(error) => {
            let words = error.to_string();
            let (found, fix) = advice(&words, "choose another address");
            return Finding::bad(Level::Problem, place, found, fix);
        }
        State::Taken(seen) => seen.as_ref(),
    };
    let who = seen.map_or_else(
        || "a process that cannot be seen from here".to_owned(),
        |Seen {
             process, program, ..
         }| format!("process {process} ({program})"),
    );
    let taken = format!("{address} ({setting}) is taken: {who} listens there");
    let number = seen.map(|seen| seen.process);
    let finding = match (whose, number) {
        (Whose::Ours, Some(_)) => Finding::ok(
            place.0,
            place.1,
            format!("{address} ({setting}) is this station's: {who} runs"),
        ),
        (Whose::Ours, None) => {
            let found = format!(
                "{address} ({setting}) is this station's, whose daemon runs: {who} listens there"
            );
            Finding::ok(place.0, place.1, found)
        }
        (Whose::Hidden, _) => {
            let found = format!("{taken}, which may be this station's daemon");
            let fix = format!(
                "run the doctor as the daemon's user (`sudo -u USER`); `sudo ss -ltnp 'sport = :{port}'` says who it \
                 is, and if it is somebody else, choose another port with {setting}"
            );
            Finding::bad(Level::Warning, place, found, fix)
        }
        (Whose::Kin, Some(process)) => {
            let fix = format!(
                "it belongs to another station (`systemctl status {process}` says which): choose another port with \
                 {setting}, or stop that station where it was started"
            );
            Finding::bad(Level::Problem, place, taken, fix)
        }
        (Whose::Kin | Whose::Other, process) => {
            let stop = match process {
                Some(process) => format!("stop it (`kill {process}`)"),
                None => format!("find it (`sudo ss -ltnp 'sport = :{port}'`) and stop it"),
            };
            let fix = format!("{stop}, or choose another port with {setting}");
            Finding::bad(Level::Problem, place, taken, fix)
        }
    };
    match number {
        Some(number) => finding.with("process", number),
        None => finding,
    }
}

/// Who runs here and answers `/readyz`.
pub(crate) struct Asked<'a> {
    /// The word for it.
    pub(crate) who: &'static str,
    /// What it shows, where it encrypts.
    pub(crate) files: Option<&'a ServerFiles>,
}

/// Asks whoever runs here how it is.
pub(crate) async fn ask(asked: &Asked<'_>, address: SocketAddr, patience: Duration) -> Finding {
    let (of, who) = (address.to_string(), asked.who);
    match tokio::time::timeout(patience, readyz(asked.files, address)).await {
        Ok(Ok(ready)) => Finding {
            group: GROUP,
            ..reach::readiness(&of, who, &ready)
        },
        Ok(Err(problem)) => unasked(&of, who, &problem),
        Err(_) => {
            let found =
                format!("{of}: the {who} that runs here has not answered within {patience:?}");
            let fix = "see its log and its load (`top`); a disk that hangs holds it up, too";
            Finding::bad(Level::Problem, (GROUP, "ready"), found, fix)
        }
    }
}

fn unasked(of: &str, who: &str, problem: &str) -> Finding {
    let found =
        format!("{of}: the {who} that runs here cannot be asked whether it is ready: {problem}");
    let fix = "ask GET /readyz as a station that it trusts, or see its log";
    Finding::bad(Level::Note, (GROUP, "ready"), found, fix)
}

async fn readyz(files: Option<&ServerFiles>, address: SocketAddr) -> Result<Value, String> {
    let address = within_this_machine(address);
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| error.to_string())?;
    let host = address.to_string();
    let (_, body) = match files {
        None => reach::get(stream, &host, "/readyz").await?,
        Some(files) => {
            let own = (files.certificate.clone(), files.key.clone());
            let ca = files.clients.as_ref().map(|clients| clients.ca.clone());
            let opening = move || {
                let name = first_name(&own.0)?;
                let tls = ClientTls::open(ClientFiles {
                    ca,
                    own: Some(own),
                    revoked: None,
                });
                tls.map(|tls| (name, tls))
                    .map_err(|error| error.to_string())
            };
            let opened = tokio::task::spawn_blocking(opening).await;
            let (name, tls) = opened.map_err(|error| error.to_string())??;
            let roles = [Role::Receiver, Role::Gateway, Role::Admin];
            let shaken = tls.connect(&name, stream, HTTP_1_1, &roles).await;
            let (stream, _) = shaken.map_err(|error| error.to_string())?;
            reach::get(stream, &name, "/readyz").await?
        }
    };
    let ready: Value = serde_json::from_slice(&body).unwrap_or_default();
    match ready["checks"].is_object() {
        true => Ok(ready),
        false => Err("its answer is not that of a daemon of this project".to_owned()),
    }
}

/// By which name it is dialled.
fn first_name(certificate: &Path) -> Result<String, String> {
    let papers = papers(certificate)?;
    let name = papers.first().and_then(|own| own.names.first().cloned());
    name.ok_or_else(|| "its certificate has no name by which it is dialled".to_owned())
}

fn within_this_machine(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_is_free_ours_or_somebody_elses() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let free = look("--x", any).await;
        assert_eq!(judge("--x", any, &free, Whose::Other).level, Level::Ok);
        let held = tokio::net::TcpListener::bind(any).await.unwrap();
        let address = held.local_addr().unwrap();
        let state = look("--x", address).await;
        assert_eq!(judge("--x", address, &state, Whose::Ours).level, Level::Ok);
        let taken = judge("--x", address, &state, Whose::Other);
        assert_eq!(taken.level, Level::Problem);
        let process = format!("process {}", std::process::id());
        assert!(taken.found.contains(&process), "{taken:?}");
        let State::Taken(Some(seen)) = state else {
            panic!("it is held here: {state:?}");
        };
        assert_eq!(
            Seen {
                numbers: Vec::new(),
                ..seen.clone()
            },
            here()
        );
        assert!(seen.numbers.contains(&std::process::id()), "{seen:?}");
        // A documentation address (RFC 5737), which no machine has.
        let elsewhere = SocketAddr::from(([192, 0, 2, 1], 8_080));
        let refused = look("--x", elsewhere).await;
        let refused = judge("--x", elsewhere, &refused, Whose::Other);
        assert_eq!(refused.level, Level::Problem);
        assert!(
            refused.fix.unwrap().contains("choose one that it has")
                || refused.found.contains("192.0.2.1")
        );
    }

    /// This process, as it is seen.
    fn here() -> Seen {
        let file = std::env::current_exe().unwrap();
        Seen {
            process: std::process::id(),
            program: file.file_name().unwrap().to_str().unwrap().to_owned(),
            numbers: Vec::new(),
        }
    }

    fn taken(process: u32, program: &str, numbers: &[u32]) -> State {
        State::Taken(Some(Seen {
            process,
            program: program.to_owned(),
            numbers: numbers.to_owned(),
        }))
    }

    #[test]
    fn a_daemon_is_known_by_its_lock_or_by_its_program() {
        let receiver = "pantelegraph-receiver";
        let lock = Holder::Process(7);
        let unknown = Holder::Unknown("denied".to_owned());
        for (state, lock, program, expected) in [
            // There is no lock to know it by.
            (
                taken(7, "pantelegraph", &[]),
                None,
                "pantelegraph",
                Whose::Ours,
            ),
            (taken(7, receiver, &[]), None, "pantelegraph", Whose::Kin),
            (taken(7, "nginx", &[]), None, "pantelegraph", Whose::Other),
            (State::Taken(None), None, "pantelegraph", Whose::Hidden),
            // By the number in it, also by that in a container.
            (taken(7, receiver, &[7]), Some(&lock), receiver, Whose::Ours),
            (
                taken(90, receiver, &[90, 7]),
                Some(&lock),
                receiver,
                Whose::Ours,
            ),
            (taken(8, receiver, &[8]), Some(&lock), receiver, Whose::Kin),
            (taken(8, "nginx", &[8]), Some(&lock), receiver, Whose::Other),
            (State::Taken(None), Some(&lock), receiver, Whose::Ours),
            // It does not say whose it is.
            (
                taken(8, "pantelegraph-re", &[]),
                Some(&Holder::Somebody),
                receiver,
                Whose::Ours,
            ),
            (
                State::Taken(None),
                Some(&Holder::Somebody),
                receiver,
                Whose::Ours,
            ),
            (
                taken(8, receiver, &[]),
                Some(&unknown),
                receiver,
                Whose::Ours,
            ),
            (State::Taken(None), Some(&unknown), receiver, Whose::Hidden),
            // Nobody has it: the daemon does not run.
            (
                taken(8, receiver, &[]),
                Some(&Holder::Nobody),
                receiver,
                Whose::Kin,
            ),
            (
                State::Taken(None),
                Some(&Holder::Nobody),
                receiver,
                Whose::Other,
            ),
            (State::Free, Some(&lock), receiver, Whose::Other),
        ] {
            assert_eq!(whose(&state, lock, program), expected, "{state:?} {lock:?}");
        }
    }

    #[test]
    fn no_daemon_is_to_be_killed() {
        let address = SocketAddr::from(([127, 0, 0, 1], 50_051));
        let judged = |state: &State, lock: Option<&Holder>| {
            let whose = whose(state, lock, "pantelegraph");
            judge("--grpc-listen", address, state, whose)
        };
        let service = judged(&taken(7, "pantelegraph", &[]), None);
        assert_eq!((service.level, service.fix), (Level::Ok, None));
        assert!(service.found.contains("process 7 (pantelegraph) runs"));
        let lock = Holder::Process(9);
        let held = judged(&State::Taken(None), Some(&lock));
        assert_eq!((held.level, held.fix), (Level::Ok, None));
        let hidden = judged(&State::Taken(None), None);
        assert_eq!(hidden.level, Level::Warning);
        for program in PROGRAMS {
            let other = judged(&taken(7, program, &[]), Some(&lock));
            assert_eq!(other.level, Level::Problem);
            assert!(!other.fix.unwrap().contains("kill"), "{program}");
        }
        let other = judged(&taken(7, "nginx", &[]), None);
        assert!(other.fix.unwrap().contains("`kill 7`"));
    }
}
