//! The settings about who gets in, which all servers have, and those of clients.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::Secret;
use super::bearer::Bearer;
use super::tls::ClientFiles;
#[cfg(feature = "tokens")]
use super::tls::{ClientAuth, ServerFiles};
#[cfg(feature = "tokens")]
use super::tokens::{TokenKey, Tokens};
use crate::settings::{Setting, Values};

/// Settings of a server.
pub static SERVER: &[Setting] = &[
    Setting::value("tls-cert", "FILE", "Encrypt, with the certificate in this file").long(
        "PEM, with those between it and the CA behind it. TLS 1.3 only. `pantelegraph keys` makes \
         certificates. New files are noticed within a second; connections that are open stay.",
    )
    .reloadable(),
    Setting::value("tls-key", "FILE", "The private key to it").reloadable(),
    Setting::value(
        "tls-client-ca",
        "FILE",
        "Clients need a certificate that one of these CAs has signed",
    )
    .long(
        "Its name spiffe://DOMAIN/ROLE/NAME says who they are: transmitters bring their own images, \
         readers read, admins do everything.",
    )
    .reloadable(),
    Setting::value(
        "tls-client-auth",
        "required|optional",
        "Whether clients without a certificate get in",
    )
    .default("required")
    .long("optional: without one they need a token.")
    .reloadable(),
    Setting::value("tls-crl", "FILE", "Certificates in this list are revoked").long(
        "PEM. A new list is noticed within a second; connections of those on it that came in end. Those \
         that were made by this side (--pull) end with their session.",
    )
    .reloadable(),
    Setting::list(
        "token-key-file",
        "FILE",
        "Callers need a token that the key in this file has signed",
    )
    .long(
        "An Ed25519 key in PEM, for which the public half is enough, or a secret of at least 32 bytes \
         (HS256). Several keys count side by side, so that they can be exchanged. Tokens are JSON Web \
         Tokens with an expiry, given as `authorization: Bearer ...`; `pantelegraph keys token` makes \
         them.",
    )
    .reloadable(),
    Setting::value(
        "token-key",
        "KEY",
        "Such a key itself, where there is no file for it",
    )
    .secret()
    .reloadable(),
    Setting::value(
        "token-audience",
        "NAME",
        "Tokens have to be for NAME [default: pantelegraph, or not said]",
    )
    .reloadable(),
    INSECURE,
];

/// The setting by which an operator says that an open listener is meant.
pub const INSECURE: Setting = Setting::flag(
    "insecure",
    "Listen beyond this machine although everybody gets in",
);

/// Settings of a client.
pub static CLIENT: &[Setting] = &[
    Setting::value(
        "tls-ca",
        "FILE",
        "Trust servers whose certificate this CA has signed [default: whom the system trusts]",
    )
    .reloadable(),
    Setting::value("tls-cert", "FILE", "Show the certificate in this file").long(
        "PEM. `pantelegraph keys` makes certificates. A new one is shown on the next connection.",
    )
    .reloadable(),
    Setting::value("tls-key", "FILE", "The private key to it").reloadable(),
    Setting::value(
        "tls-crl",
        "FILE",
        "Certificates in this list are revoked, those of servers too",
    )
    .long("PEM. It is read anew when it changes.")
    .reloadable(),
    Setting::value("token-file", "FILE", "Show the token in this file")
        .long("It is read for each connection, so that it can be exchanged.")
    .reloadable(),
    Setting::value(
        "token",
        "TOKEN",
        "The token itself, where there is no file for it",
    )
    .secret()
    .reloadable(),
];

/// What a client shows, and whom it trusts.
#[derive(Debug, Clone, Default)]
pub struct ClientSettings {
    /// Its certificates.
    pub tls: ClientFiles,
    /// Its token.
    pub token: Option<Bearer>,
}

impl ClientSettings {
    /// Reads [`CLIENT`]. What is wrong is noted in `values`.
    pub fn from_values(values: &mut Values) -> Self {
        let ca = values.optional("tls-ca", file);
        let certificate = values.optional("tls-cert", file);
        let key = values.optional("tls-key", file);
        let revoked = values.optional("tls-crl", file);
        needs(values, &[("tls-cert", "tls-key"), ("tls-key", "tls-cert")]);
        needs(values, &[("tls-crl", "tls-ca")]);
        if values.keep_strongest(&["token-file", "token"]).len() > 1 {
            values.mistake("token-file", "there is --token already; give one of them");
        }
        let from_file = values.optional("token-file", |text| Bearer::file(file(text)?));
        let itself = values.optional("token", |text| Bearer::value(secret(text)));
        Self {
            tls: ClientFiles {
                ca,
                own: certificate.zip(key),
                revoked,
            },
            token: from_file.or(itself),
        }
    }
}

/// A listener's setting, and the address if it is on.
pub type Listener = (&'static str, Option<SocketAddr>);

/// Notes in `values` listeners that everybody in the network could use.
pub fn refuse_open_listeners(values: &mut Values, listeners: &[Listener], advice: &str) {
    for (setting, address) in listeners {
        if let Some(address) = address.filter(|address| !address.ip().is_loopback()) {
            let problem = format!(
                "{address} is open to the network, and everybody in it would get in; {advice}, or --insecure if \
                 that is meant"
            );
            values.mistake(setting, &problem);
        }
    }
}

/// What a server asks of its callers.
#[cfg(feature = "tokens")]
#[derive(Debug, Clone, Default)]
pub struct ServerSettings {
    /// How it is encrypted, if it is.
    pub tls: Option<ServerFiles>,
    /// Tokens that it takes, if it does.
    pub tokens: Option<Tokens>,
    /// Whether the operator wants it open.
    pub insecure: bool,
}

#[cfg(feature = "tokens")]
impl ServerSettings {
    /// Reads [`SERVER`]. What is wrong is noted in `values`: also a listener that everybody in the network
    /// could use.
    pub fn from_values(values: &mut Values, listeners: &[Listener]) -> Self {
        let certificate = values.optional("tls-cert", file);
        let key = values.optional("tls-key", file);
        let ca = values.optional("tls-client-ca", file);
        let revoked = values.optional("tls-crl", file);
        let optional = values.required("tls-client-auth", |text| match text {
            "required" => Ok(false),
            "optional" => Ok(true),
            _ => Err(format!("{text:?} is unknown; use required or optional")),
        });
        needs(values, &[("tls-cert", "tls-key"), ("tls-key", "tls-cert")]);
        needs(
            values,
            &[("tls-client-ca", "tls-cert"), ("tls-crl", "tls-client-ca")],
        );
        if values.is_on_command_line("tls-client-auth") {
            needs(values, &[("tls-client-auth", "tls-client-ca")]);
        }
        let mut keys = values.list("token-key-file", |path| TokenKey::read(&file(path)?));
        keys.extend(values.optional("token-key", |text| TokenKey::parse(secret(text))));
        let audience = values.optional("token-audience", crate::settings::label);
        let has_keys = values.is_given("token-key-file") || values.is_given("token-key");
        if audience.is_some() && !has_keys {
            needs(values, &[("token-audience", "token-key-file")]);
        }
        let tls = certificate.zip(key).map(|(certificate, key)| ServerFiles {
            certificate,
            key,
            clients: ca.map(|ca| ClientAuth {
                ca,
                revoked,
                optional,
            }),
        });
        let settings = Self {
            tls,
            tokens: has_keys.then(|| Tokens::new(keys, audience)),
            insecure: values.flag("insecure"),
        };
        let has_tls = values.is_given("tls-cert");
        if !has_tls
            && !has_keys
            && !settings.insecure
            && values.is_known(&["insecure", "tls-cert", "token-key-file", "token-key"])
        {
            let advice = "give --tls-cert and --tls-client-ca, or --token-key-file (see `pantelegraph keys`)";
            refuse_open_listeners(values, listeners, advice);
        }
        settings
    }

    /// Whether callers have to show who they are.
    pub fn asks(&self) -> bool {
        self.tokens.is_some() || self.asks_certificates()
    }

    /// Whether they may do so by a certificate.
    pub fn asks_certificates(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.clients.is_some())
    }

    /// What to warn of at each start.
    pub fn warnings(&self, listeners: &[Listener]) -> Vec<String> {
        let open: Vec<_> = listeners
            .iter()
            .filter_map(|(setting, address)| Some((setting, (*address)?)))
            .filter(|(_, address)| !address.ip().is_loopback())
            .map(|(setting, address)| format!("{address} (--{setting})"))
            .collect();
        if open.is_empty() {
            return Vec::new();
        }
        let open = open.join(" and ");
        let asks = self.asks();
        let mut warnings = Vec::new();
        if !asks {
            warnings.push(format!(
                "{open}: everybody who reaches it gets in, for nobody is asked who it is"
            ));
        }
        if self.tls.is_none() {
            let what = if asks {
                "what is sent, tokens too"
            } else {
                "what is sent"
            };
            warnings.push(format!(
                "{open}: not encrypted; everybody on the way can read and change {what}"
            ));
        }
        warnings
    }
}

/// Settings that mean nothing without another one.
fn needs(values: &mut Values, pairs: &[(&'static str, &'static str)]) {
    for (setting, other) in pairs {
        if values.is_given(setting) && !values.is_given(other) && values.is_known(&[setting, other])
        {
            values.mistake(
                setting,
                &format!("means nothing without --{other}; give both"),
            );
        }
    }
}

fn file(text: &str) -> Result<PathBuf, String> {
    if text.contains('\0') {
        return Err("a path cannot contain a zero byte".to_owned());
    }
    Ok(PathBuf::from(text))
}

fn secret(text: &str) -> Secret {
    Secret::new(text.trim().as_bytes().to_vec())
}
