//! Which transports are used, and where each of them goes.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use shared::image::Transport;
use shared::settings::Values;
use shared::settings::address::{StationUrl, parse_listener, parse_station_url};
use shared::wire::WEBSOCKET_PATH;
use url::Url;

/// Transports and their addresses.
pub(super) struct Addresses {
    pub(super) transports: Vec<Transport>,
    pub(super) to: BTreeMap<Transport, Url>,
    pub(super) listen: Option<SocketAddr>,
}

/// Reads `--transport`, `--to` and `--listen`.
pub(super) fn read(values: &mut Values) -> Addresses {
    if values.keep_strongest(&["listen", "to"]).len() > 1 {
        let problem = "waits for receivers, so there is no address to dial; remove it or --to";
        values.mistake("listen", problem);
    }
    let listen = values.optional("listen", parse_listener);
    if values.is_given("listen") {
        let websocket = Transport::WebSocket.key().to_owned();
        values.derive("transport", vec![websocket], "the one that can listen");
    }
    let transports = transports(values);
    if listen.is_some() && values.is_known(&["transport"]) && transports != [Transport::WebSocket] {
        let problem = "works with WebSocket only; remove it or choose --transport websocket";
        values.mistake("listen", problem);
    }
    if values.is_given("listen") {
        return Addresses {
            transports,
            to: BTreeMap::new(),
            listen,
        };
    }
    let mut to = written(values, &transports);
    let derived = !values.is_given("to");
    for transport in &transports {
        to.entry(*transport).or_insert_with(|| local(*transport));
    }
    if derived {
        let texts = transports
            .iter()
            .map(|transport| format!("{}={}", transport.key(), to[transport]));
        values.derive("to", texts.collect(), "this machine");
    }
    Addresses {
        transports,
        to,
        listen,
    }
}

fn transports(values: &mut Values) -> Vec<Transport> {
    let transports: Vec<Transport> = values.list("transport", str::parse);
    for (at, transport) in transports.iter().enumerate() {
        if transports[..at].contains(transport) {
            let key = transport.key();
            values.mistake("transport", &format!("{key} is named twice; name it once"));
            break;
        }
    }
    transports
}

/// The addresses that are set, for the transports in use.
fn written(values: &mut Values, transports: &[Transport]) -> BTreeMap<Transport, Url> {
    let mut to = BTreeMap::new();
    let transports_known = values.is_known(&["transport"]);
    for target in values.list("to", parse_target) {
        let transports = match target_transports(&target, transports) {
            // Without knowing the transports, nothing can be said about what belongs to them.
            _ if !transports_known => continue,
            Ok(transports) => transports,
            Err(problem) => {
                values.mistake("to", &problem);
                continue;
            }
        };
        for transport in transports {
            match resolve(transport, &target.station) {
                Ok(url) => {
                    if to.insert(transport, url).is_some() {
                        let key = transport.key();
                        let problem = format!("{key} has two addresses; leave one of them");
                        values.mistake("to", &problem);
                    }
                }
                Err(problem) => values.mistake("to", &problem),
            }
        }
    }
    to
}

struct Target {
    whose: Whose,
    station: StationUrl,
}

/// Which transports an address is said to be of.
#[derive(Clone, Copy)]
enum Whose {
    /// Nothing is said.
    Unsaid,
    /// This one.
    One(Transport),
    /// All of them, on one port.
    All,
}

/// `URL`, `TRANSPORT=URL` or `all=URL`.
fn parse_target(text: &str) -> Result<Target, String> {
    let named = text
        .split_once('=')
        .filter(|(name, _)| !name.contains("://"));
    let Some((name, url)) = named else {
        return Ok(Target {
            whose: Whose::Unsaid,
            station: parse_station_url(text)?,
        });
    };
    let name = name.trim();
    if !name.eq_ignore_ascii_case("all") {
        return Ok(Target {
            whose: Whose::One(name.parse()?),
            station: parse_station_url(url)?,
        });
    }
    let station = parse_station_url(url)?;
    if !["http", "https"].contains(&station.url.scheme()) {
        return Err("all= needs an http:// or https:// address".to_owned());
    }
    if !station.has_port {
        let scheme = station.url.scheme();
        return Err(format!(
            "all= means one port, that of --listen-all; write all={scheme}://HOST:PORT"
        ));
    }
    let whose = Whose::All;
    Ok(Target { whose, station })
}

/// The transports that an address is meant for.
fn target_transports(target: &Target, used: &[Transport]) -> Result<Vec<Transport>, String> {
    let StationUrl { url, has_port } = &target.station;
    match (target.whose, used) {
        // One `.env` may name the addresses of all transports; those not in use do no harm.
        (Whose::One(transport), _) => Ok(vec![transport]),
        (Whose::All, used) => Ok(used.to_vec()),
        (Whose::Unsaid, _) if ["ws", "wss"].contains(&url.scheme()) => {
            if used.contains(&Transport::WebSocket) {
                return Ok(vec![Transport::WebSocket]);
            }
            let scheme = url.scheme();
            Err(format!(
                "a {scheme}:// address, but WebSocket is not in use; add --transport websocket"
            ))
        }
        (Whose::Unsaid, [one]) => Ok(vec![*one]),
        (Whose::Unsaid, several) if !has_port => Ok(several.to_vec()),
        (Whose::Unsaid, several) => {
            let names: Vec<String> = several
                .iter()
                .map(|transport| format!("{}={url}", transport.key()))
                .collect();
            let names: Vec<&str> = names
                .iter()
                .map(|name| name.trim_end_matches('/'))
                .collect();
            Err(format!(
                "with several transports, say which one has this port: {}; or, where the receiver has \
                 --listen-all, that all of them do: all={}",
                shared::settings::units::or_list(&names),
                url.as_str().trim_end_matches('/')
            ))
        }
    }
}

/// The address of one transport, with what the written one leaves out.
fn resolve(transport: Transport, station: &StationUrl) -> Result<Url, String> {
    let mut url = station.url.clone();
    let key = transport.key();
    if transport == Transport::WebSocket {
        // https and wss have the same default port, and so have http and ws: nothing else changes.
        let scheme = if station.is_encrypted() { "wss" } else { "ws" };
        url.set_scheme(scheme)
            .map_err(|()| format!("{key} needs a {scheme}:// address"))?;
        if url.path() == "/" {
            url.set_path(WEBSOCKET_PATH);
        }
    } else if !["http", "https"].contains(&url.scheme()) {
        return Err(format!("{key} needs an http:// or https:// address"));
    } else if url.path() != "/" || url.query().is_some() {
        return Err(format!(
            "{key} has its own paths; write {}://HOST:PORT without one",
            url.scheme()
        ));
    }
    if !station.has_port {
        let port = local(transport).port();
        url.set_port(port)
            .map_err(|()| "no host; write http://HOST:PORT".to_owned())?;
    }
    Ok(url)
}

/// Where a receiver on this machine is found when neither side is told otherwise.
fn local(transport: Transport) -> Url {
    let url = match transport {
        Transport::Grpc => "http://127.0.0.1:50051",
        Transport::WebSocket => "ws://127.0.0.1:8080/v1/stream",
        Transport::Rest => "http://127.0.0.1:8080",
    };
    Url::parse(url).expect("default addresses are addresses")
}

/// An address, or `off`.
pub(super) fn listener_or_off(text: &str) -> Result<Option<SocketAddr>, String> {
    if text.trim().eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    parse_listener(text)
        .map(Some)
        .map_err(|problem| format!("{problem}, or off"))
}
