//! Which files a station has, and what is in them.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;
use shared::security::bearer::Bearer;
use shared::security::identity::{Role, StationId};
use shared::security::tls::{
    ClientFiles, ClientTls, H2, HTTP_1_1, ServerFiles, ServerTls, TlsError,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;

use super::{Paper, problem};
use crate::doctor::plan::{Kind, Subject};

/// The files of a station that say who it is and whom it trusts.
#[derive(Debug)]
pub(crate) struct Files {
    /// The name that has to be in its certificate; receivers may have any.
    pub(super) name: Option<String>,
    pub(super) role: Role,
    pub(super) own: Option<PathBuf>,
    pub(super) ca: Option<PathBuf>,
    pub(super) revoked: Option<PathBuf>,
    /// Files that nobody else should read, with their settings.
    pub(super) secrets: Vec<(&'static str, PathBuf)>,
    server: Option<ServerFiles>,
    client: Option<ClientFiles>,
    token: Option<Bearer>,
}

impl Files {
    /// Those of this station.
    pub(crate) fn of(subject: &Subject) -> Self {
        let secrets = subject.secrets.clone();
        match &subject.kind {
            Kind::Transmitter(config) => {
                let tls = &config.security.tls;
                let encrypts = config.dials_encrypted();
                Self {
                    name: Some(config.name.clone()),
                    role: Role::Transmitter,
                    own: tls.own.as_ref().map(|(certificate, _)| certificate.clone()),
                    ca: tls.ca.clone(),
                    revoked: tls.revoked.clone(),
                    secrets,
                    server: config.listener_files(),
                    client: (encrypts && config.listen.is_none()).then(|| tls.clone()),
                    token: config.security.token.clone(),
                }
            }
            Kind::Receiver(config) => Self::of_server(config.security.tls.as_ref(), secrets),
            Kind::Users(config) => Self::of_server(config.security.tls.as_ref(), secrets),
        }
    }

    fn of_server(tls: Option<&ServerFiles>, secrets: Vec<(&'static str, PathBuf)>) -> Self {
        let clients = tls.and_then(|tls| tls.clients.as_ref());
        Self {
            role: Role::Receiver,
            own: tls.map(|tls| tls.certificate.clone()),
            ca: clients.map(|clients| clients.ca.clone()),
            revoked: clients.and_then(|clients| clients.revoked.clone()),
            secrets,
            server: tls.cloned(),
            name: None,
            client: None,
            token: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.own.is_none()
            && self.ca.is_none()
            && self.secrets.is_empty()
            && self.client.is_none()
            && self.token.is_none()
    }

    /// Loads them as the daemon does, with what it would warn of; nothing where it does not.
    pub(super) fn load(&self) -> Option<Result<Vec<String>, TlsError>> {
        if let Some(server) = &self.server {
            let loaded = ServerTls::open(server.clone(), &[H2, HTTP_1_1]);
            return Some(loaded.map(|tls| tls.warnings()));
        }
        let client = self.client.as_ref()?;
        Some(ClientTls::open(client.clone()).map(|_| Vec::new()))
    }

    /// The token, as it is shown.
    pub(super) fn token(&self) -> Option<Result<HeaderValue, String>> {
        self.token.as_ref().map(Bearer::header)
    }
}

fn time(seconds: i64) -> SystemTime {
    let length = Duration::from_secs(seconds.unsigned_abs());
    let time = match seconds < 0 {
        true => UNIX_EPOCH.checked_sub(length),
        false => UNIX_EPOCH.checked_add(length),
    };
    time.unwrap_or(UNIX_EPOCH)
}

/// The blocks of a file in PEM.
fn blocks(path: &Path) -> Result<Vec<Pem>, String> {
    let text = std::fs::read(path).map_err(|error| problem(path, &error))?;
    let blocks: Result<Vec<_>, _> = Pem::iter_from_buffer(&text).collect();
    blocks.map_err(|_| problem(path, &"is not in PEM"))
}

/// The certificates in a file.
pub(crate) fn papers(path: &Path) -> Result<Vec<Paper>, String> {
    let blocks = blocks(path)?;
    let papers: Option<Vec<_>> = blocks
        .iter()
        .filter(|block| block.label == "CERTIFICATE")
        .map(|block| {
            let (_, certificate) = X509Certificate::from_der(&block.contents).ok()?;
            Some(paper(&certificate))
        })
        .collect();
    let papers = papers.filter(|papers| !papers.is_empty());
    papers.ok_or_else(|| problem(path, &"there is no certificate in it that can be read"))
}

fn paper(certificate: &X509Certificate<'_>) -> Paper {
    let mut ids: Vec<StationId> = Vec::new();
    let mut names = Vec::new();
    let all = certificate.subject_alternative_name().ok().flatten();
    for name in all.iter().flat_map(|all| &all.value.general_names) {
        match name {
            GeneralName::URI(uri) => ids.extend(uri.parse::<StationId>()),
            GeneralName::DNSName(name) => names.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => names.extend(address(bytes).map(|ip| ip.to_string())),
            _ => {}
        }
    }
    let station = ids.pop().filter(|_| ids.is_empty());
    let subject = certificate.subject().to_string();
    Paper {
        of: station
            .as_ref()
            .map_or_else(|| subject.clone(), ToString::to_string),
        station,
        serial: certificate.raw_serial().to_vec(),
        from: time(certificate.validity().not_before.timestamp()),
        until: time(certificate.validity().not_after.timestamp()),
        subject,
        issuer: certificate.issuer().to_string(),
        names,
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

/// When the next list of revoked certificates is due, and the numbers on this one.
pub(super) fn revoked(path: &Path) -> Result<(Option<SystemTime>, Vec<Vec<u8>>), String> {
    let words = "there is no list of revoked certificates in it that can be read";
    let (mut soonest, mut serials) = (None, Vec::new());
    let blocks = blocks(path)?;
    let lists = blocks.iter().filter(|block| block.label == "X509 CRL");
    for block in lists {
        let (_, list) = CertificateRevocationList::from_der(&block.contents)
            .map_err(|_| problem(path, &words))?;
        let next = list.next_update().map(|next| time(next.timestamp()));
        soonest = [soonest, next].into_iter().flatten().min();
        let numbers = list.iter_revoked_certificates();
        serials.extend(numbers.map(|one| one.raw_serial().to_vec()));
    }
    match blocks.is_empty() {
        true => Err(problem(path, &words)),
        false => Ok((soonest, serials)),
    }
}
