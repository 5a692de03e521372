//! What is shown to receivers and asked of them, and what is to be warned of.

use std::net::SocketAddr;

use shared::security::settings::{ClientSettings, Listener, refuse_open_listeners};
use shared::security::tls::{ClientAuth, ServerFiles};
use shared::settings::Values;
use shared::settings::address::is_encrypted;
use url::{Host, Url};

use super::Config;

/// Reads the settings about it. The flag tells whether open listeners are meant.
pub(super) fn read(
    values: &mut Values,
    listen: Option<SocketAddr>,
    status: Option<SocketAddr>,
) -> (ClientSettings, bool) {
    let security = ClientSettings::from_values(values);
    let insecure = values.flag("insecure");
    let encrypted = values.is_given("tls-cert");
    let known = values.is_known(&["insecure", "tls-ca", "tls-cert", "tls-key"]);
    if listen.is_some() && !encrypted && known && values.is_given("tls-ca") {
        let problem = "whoever comes to --listen shows a certificate only where it is encrypted; give \
                       --tls-cert and --tls-key too";
        values.mistake("tls-ca", problem);
    }
    if !insecure && known {
        let images: Listener = ("listen", listen.filter(|_| !encrypted));
        refuse_open_listeners(
            values,
            &[images],
            "give --tls-cert, --tls-key and --tls-ca (see `pantelegraph keys`)",
        );
        let figures: Listener = ("status-listen", status);
        refuse_open_listeners(values, &[figures], "take 127.0.0.1");
    }
    (security, insecure)
}

impl Config {
    /// Whether any address that is dialled is encrypted.
    pub fn dials_encrypted(&self) -> bool {
        self.dialled().any(is_encrypted)
    }

    /// The certificates of `--listen`, if it is encrypted.
    pub fn listener_files(&self) -> Option<ServerFiles> {
        let files = &self.security.tls;
        let (certificate, key) = files.own.clone().filter(|_| self.listen.is_some())?;
        Some(ServerFiles {
            certificate,
            key,
            clients: files.ca.clone().map(|ca| ClientAuth {
                ca,
                revoked: files.revoked.clone(),
                optional: false,
            }),
        })
    }

    /// What to warn of at each start.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.unused();
        warnings.extend(self.readable_token());
        warnings.extend(self.open_listeners());
        warnings
    }

    /// The addresses of the transports in use; others may be set and do no harm.
    fn dialled(&self) -> impl Iterator<Item = &Url> {
        let transports = self.transports.iter();
        transports.filter_map(|transport| self.to.get(transport))
    }

    fn unused(&self) -> Vec<String> {
        let (files, token) = (&self.security.tls, &self.security.token);
        let dials = self.listen.is_none();
        let idle = dials && !self.dials_encrypted();
        let why = "is not used: no address is https or wss";
        [
            (files.ca.is_some() && idle, "--tls-ca", why),
            (files.own.is_some() && idle, "--tls-cert", why),
            (files.revoked.is_some() && idle, "--tls-crl", why),
            (
                token.is_some() && !dials,
                "the token",
                "is not used: whoever waits with --listen shows none",
            ),
        ]
        .into_iter()
        .filter(|(applies, ..)| *applies)
        .map(|(_, what, why)| format!("{what} {why}"))
        .collect()
    }

    fn readable_token(&self) -> Vec<String> {
        if self.security.token.is_none() {
            return Vec::new();
        }
        let open = self
            .dialled()
            .filter(|url| !is_encrypted(url) && !is_this_machine(url));
        open.map(|url| {
            format!(
                "{url} is not encrypted: everybody on the way can read the token, and use it; take https or wss"
            )
        })
        .collect()
    }

    fn open_listeners(&self) -> Vec<String> {
        let open =
            |address: Option<SocketAddr>| address.filter(|address| !address.ip().is_loopback());
        let mut warnings = Vec::new();
        if let Some(address) = open(self.listen) {
            let who = "everybody who reaches it can take images";
            if self.security.tls.own.is_none() {
                warnings.push(format!(
                    "{address} (--listen): {who}, and everybody on the way can read and change them"
                ));
            } else if self.security.tls.ca.is_none() {
                warnings.push(format!(
                    "{address} (--listen): {who}; name with --tls-ca who signs the certificates of receivers"
                ));
            }
        }
        if let Some(address) = open(self.status_listen) {
            warnings.push(format!(
                "{address} (--status-listen): everybody who reaches it can read the figures"
            ));
        }
        warnings
    }
}

fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        // A name below it is this machine too (RFC 6761, section 6.3).
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}
