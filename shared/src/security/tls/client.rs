//! The side that dials.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::{CertificateError, ClientConfig, Error, version};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio_rustls::TlsConnector;

use super::files::{self, Look};
use super::{Certificate, ClientStream, READ_BUFFER, TlsError, suites};
use crate::security::identity::Role;

/// Where a client's certificates are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientFiles {
    /// Who signs the certificates of servers; whom the system trusts without it.
    pub ca: Option<PathBuf>,
    /// What this side shows: its certificate and the private key to it.
    pub own: Option<(PathBuf, PathBuf)>,
    /// Which certificates that [`Self::ca`] has signed are revoked.
    pub revoked: Option<PathBuf>,
}

impl ClientFiles {
    fn look(&self) -> Vec<Look> {
        let own = self
            .own
            .iter()
            .flat_map(|(certificate, key)| [certificate, key]);
        self.ca
            .iter()
            .chain(own)
            .chain(&self.revoked)
            .map(|path| Look::at(path))
            .collect()
    }
}

/// Certificates that were read, and are not in use yet.
#[derive(Debug)]
pub struct PreparedClient(Loaded);

/// Shakes hands with servers.
#[derive(Debug)]
pub struct ClientTls {
    loaded: Mutex<Loaded>,
}

#[derive(Debug, Clone)]
struct Loaded {
    files: ClientFiles,
    looked: Vec<Look>,
    config: Arc<ClientConfig>,
}

impl ClientTls {
    /// With the certificates in these files.
    ///
    /// # Errors
    /// When a file cannot be read, or they do not go together.
    pub fn open(files: ClientFiles) -> Result<Arc<Self>, TlsError> {
        let PreparedClient(loaded) = Self::prepare(files)?;
        Ok(Arc::new(Self {
            loaded: Mutex::new(loaded),
        }))
    }

    /// Reads these files, to be used from [`ClientTls::use_prepared`] on.
    ///
    /// # Errors
    /// When a file cannot be read, or they do not go together.
    pub fn prepare(files: ClientFiles) -> Result<PreparedClient, TlsError> {
        let looked = files.look();
        let config = Arc::new(load(&files)?);
        Ok(PreparedClient(Loaded {
            files,
            looked,
            config,
        }))
    }

    /// Changes over to these files, for the connections from now on. Tells whether they are others than
    /// before, or have changed.
    pub fn use_prepared(&self, PreparedClient(new): PreparedClient) -> bool {
        let mut loaded = self.loaded.lock();
        let is_new = loaded.files != new.files || loaded.looked != new.looked;
        if is_new {
            *loaded = new;
        }
        is_new
    }

    /// Whether this side has a certificate to show.
    pub fn shows_certificate(&self) -> bool {
        self.loaded.lock().files.own.is_some()
    }

    /// This side's certificate, if it shows one.
    pub fn certificate(&self) -> Option<Certificate> {
        let (path, _) = self.loaded.lock().files.own.clone()?;
        files::chain(&path)
            .ok()?
            .first()
            .and_then(Certificate::read)
    }

    /// The present certificates: files that have changed are read anew, and where that fails, those of
    /// before go on to count.
    fn config(&self) -> Arc<ClientConfig> {
        let before = self.loaded.lock().clone();
        let looked = before.files.look();
        if before.looked == looked {
            return before.config;
        }
        let config = match load(&before.files) {
            Ok(config) => {
                tracing::info!("certificates were read anew");
                Arc::new(config)
            }
            Err(error) => {
                tracing::error!("the certificates of before go on to count: {error}");
                before.config
            }
        };
        let mut loaded = self.loaded.lock();
        // Unless there are other files meanwhile.
        if loaded.files == before.files {
            loaded.looked = looked;
            loaded.config = Arc::clone(&config);
        }
        drop(loaded);
        config
    }

    /// Shakes hands with `host`, a name or an address, over `stream`, to speak `protocol`. A certificate
    /// that names a station must be that of one of these `roles`: the same CA signs those of cameras and
    /// of those who look at the pictures.
    ///
    /// # Errors
    /// When the other side is not who it should be, in words; or does not want this side.
    pub async fn connect<S>(
        self: &Arc<Self>,
        host: &str,
        stream: S,
        protocol: &[u8],
        roles: &[Role],
    ) -> io::Result<(ClientStream<S>, Option<Certificate>)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            let words = format!("{host:?} is no name that a certificate could be for");
            io::Error::new(io::ErrorKind::InvalidInput, words)
        })?;
        let this = Arc::clone(self);
        let config = tokio::task::spawn_blocking(move || this.config()).await?;
        let stream = BufReader::with_capacity(READ_BUFFER as usize, stream);
        let connector = TlsConnector::from(config);
        let connecting = connector
            .with_alpn(vec![protocol.to_vec()])
            .connect(name, stream);
        let stream = connecting
            .await
            .map_err(|error| self.explain(host, error))?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let shown = chain.first().and_then(Certificate::read);
        let station = shown
            .as_ref()
            .and_then(|certificate| certificate.station.as_ref());
        if let Some(station) = station.filter(|station| !roles.contains(&station.role)) {
            let words =
                format!("{host} shows the certificate of {station}, which has another role");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, words));
        }
        Ok((stream, shown))
    }

    fn explain(&self, host: &str, error: io::Error) -> io::Error {
        use CertificateError as E;
        let Some(inner) = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<Error>())
        else {
            return error;
        };
        let words = match inner {
            Error::InvalidCertificate(E::UnknownIssuer | E::BadSignature) => {
                match self.loaded.lock().files.ca.clone() {
                    Some(ca) => format!(
                        "the certificate of {host} is not signed by the CA in {} (--tls-ca)",
                        ca.display()
                    ),
                    None => format!(
                        "the certificate of {host} is signed by nobody whom this system trusts; name its CA with \
                     --tls-ca"
                    ),
                }
            }
            Error::InvalidCertificate(E::NotValidForName | E::NotValidForNameContext { .. }) => {
                format!(
                    "the certificate that is shown is not for {host}; dial a name that is in it, or issue one \
                 with --name or --ip {host}"
                )
            }
            Error::InvalidCertificate(E::Expired | E::ExpiredContext { .. }) => {
                format!(
                    "the certificate of {host} has expired; renew it there, and compare the clocks"
                )
            }
            Error::InvalidCertificate(E::NotValidYet | E::NotValidYetContext { .. }) => {
                format!("the certificate of {host} is not valid yet; compare the clocks")
            }
            Error::InvalidCertificate(E::Revoked) => {
                format!("the certificate of {host} is revoked (--tls-crl)")
            }
            Error::InvalidMessage(_) => format!("{host} does not speak TLS at this port"),
            Error::AlertReceived(alert) => format!("{host} turned this side down: {alert:?}"),
            other => other.to_string(),
        };
        io::Error::new(error.kind(), words)
    }
}

fn load(files: &ClientFiles) -> Result<ClientConfig, TlsError> {
    let provider = suites::provider();
    let revoked = files.revoked.as_deref();
    let trust = match &files.ca {
        Some(path) => files::trust(path, revoked, &provider)?,
        None => files::system_trust(revoked)?,
    };
    for warning in &trust.warnings {
        tracing::warn!("{warning}");
    }
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&version::TLS13])
        .map_err(|error| TlsError::Unusable(error.to_string()))?;
    let roots = Arc::new(trust.roots);
    let mut verifier = WebPkiServerVerifier::builder_with_provider(roots, provider);
    if let Some(lists) = trust.lists {
        verifier = verifier.with_crls(lists);
    }
    let verifier = verifier
        .build()
        .map_err(|error| TlsError::Unusable(error.to_string()))?;
    let builder = builder.with_webpki_verifier(verifier);
    let mut config = match &files.own {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = files::chain(certificate)?;
            let private = files::key(key)?;
            let own = builder.with_client_auth_cert(chain, private);
            own.map_err(|error| TlsError::File {
                path: key.clone(),
                problem: format!("does not go with {}: {error}", certificate.display()),
            })?
        }
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}
