//! Opening listeners, and saying who has the port when it is taken.

mod opening;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use tokio::net::TcpListener;

pub use opening::Opening;

/// Why a listener could not be opened.
#[derive(Debug, thiserror::Error)]
pub struct ListenError {
    /// Where it should have listened.
    pub address: SocketAddr,
    /// The flag that says so.
    pub setting: &'static str,
    /// Who listens there already, where the system tells.
    pub holder: Option<Holder>,
    /// The system's error.
    #[source]
    pub source: io::Error,
}

/// A process that has a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub process: u32,
    /// Its name, as the system has it: 15 bytes at most.
    pub name: String,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            address,
            setting,
            holder,
            source,
        } = self;
        write!(f, "cannot listen on {address} ({setting}): ")?;
        match (source.kind(), holder) {
            (io::ErrorKind::AddrInUse, Some(Holder { process, name })) => write!(
                f,
                "process {process} ({name}) has this port; stop it, or choose another port"
            )?,
            (io::ErrorKind::AddrInUse, None) => {
                f.write_str("another process has this port; stop it, or choose another port")?;
            }
            (io::ErrorKind::AddrNotAvailable, _) => {
                f.write_str("this machine does not have that address; choose one that it has")?;
            }
            (io::ErrorKind::PermissionDenied, _) => f.write_str(
                "ports below 1024 need the capability net_bind_service; choose a higher one",
            )?,
            _ => write!(f, "{source}; choose another address")?,
        }
        let host = if address.is_ipv4() {
            "127.0.0.1"
        } else {
            "[::1]"
        };
        write!(
            f,
            ", for example {setting} {host}:0, which takes a free port"
        )
    }
}

/// Listens on `address`, which the flag `setting` names.
///
/// # Errors
/// When the address is in use or not this machine's.
pub async fn listen(
    address: SocketAddr,
    setting: &'static str,
) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| {
        let is_taken = source.kind() == io::ErrorKind::AddrInUse;
        ListenError {
            address,
            setting,
            holder: is_taken.then(|| holder(address.port())).flatten(),
            source,
        }
    })
}

/// The same for a listener that may be off.
///
/// # Errors
/// As [`listen`].
pub async fn listen_unless_off(
    address: Option<SocketAddr>,
    setting: &'static str,
) -> Result<Option<TcpListener>, ListenError> {
    match address {
        None => Ok(None),
        Some(address) => listen(address, setting).await.map(Some),
    }
}

/// Who listens on `port`: the socket from the kernel's table (proc_net(5)), its owner from the open
/// files of all processes that this one may look into.
fn holder(port: u16) -> Option<Holder> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(std::fs::read_to_string);
    let sockets: Vec<String> = tables
        .iter()
        .flatten()
        .flat_map(|table| table.lines())
        .filter_map(|line| listening(line, port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let processes = std::fs::read_dir("/proc").ok()?;
    processes.flatten().find_map(|entry| {
        let process = entry.file_name().to_str()?.parse().ok()?;
        let files = std::fs::read_dir(entry.path().join("fd")).ok()?;
        let is_ours = |file: &Path| {
            let target = std::fs::read_link(file).unwrap_or_default();
            sockets.iter().any(|socket| target == Path::new(socket))
        };
        files.flatten().any(|file| is_ours(&file.path())).then(|| {
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            let name = name.trim().to_owned();
            Holder { process, name }
        })
    })
}

/// The inode of a socket that listens on `port`, if `line` of the kernel's table is about one.
fn listening(line: &str, port: u16) -> Option<&str> {
    /// `TCP_LISTEN` of the kernel's `tcp_states.h`.
    const LISTEN: &str = "0A";
    let mut fields = line.split_whitespace();
    let (_, local_port) = fields.nth(1)?.rsplit_once(':')?;
    let state = fields.nth(1)?;
    let inode = fields.nth(5)?;
    let is_port = u16::from_str_radix(local_port, 16) == Ok(port);
    (is_port && state == LISTEN).then_some(inode)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_names_its_process_and_the_flag() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let first = listen(any, "--listen").await.unwrap();
        let taken = first.local_addr().unwrap();
        let error = listen(taken, "--listen").await.unwrap_err();
        let holder = error.holder.clone().unwrap();
        assert_eq!(holder.process, std::process::id());
        let words = error.to_string();
        assert!(
            words.contains(&format!("process {}", std::process::id())),
            "{words}"
        );
        assert!(
            words.ends_with("--listen 127.0.0.1:0, which takes a free port"),
            "{words}"
        );
    }

    #[test]
    fn only_listening_sockets_count() {
        let line = |state: &str| {
            format!(
                "   0: 0100007F:1F90 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 \
                 0        0 4711 1 0000000000000000 100 0 0 10 0"
            )
        };
        assert_eq!(listening(&line("0A"), 8080), Some("4711"));
        assert_eq!(listening(&line("01"), 8080), None);
        assert_eq!(listening(&line("0A"), 8081), None);
        assert_eq!(
            listening("  sl  local_address rem_address   st", 8080),
            None
        );
    }
}
