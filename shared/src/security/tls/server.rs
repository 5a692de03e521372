//! The side that is dialled.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ServerConfig, version};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::files::{self, Look};
use super::{Certificate, READ_BUFFER, Refused, ServerStream, TlsError, certificate, suites};

/// Where a server's certificates are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFiles {
    /// Its certificate, and those between it and the CA.
    pub certificate: PathBuf,
    /// The private key to it.
    pub key: PathBuf,
    /// Whom clients' certificates are asked of, if they are.
    pub clients: Option<ClientAuth>,
}

/// What is asked of clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientAuth {
    /// The CAs that sign their certificates.
    pub ca: PathBuf,
    /// Which of these are revoked.
    pub revoked: Option<PathBuf>,
    /// Whether those without one get in too, and have to show a token instead.
    pub optional: bool,
}

impl ServerFiles {
    fn all(&self) -> impl Iterator<Item = &Path> {
        let clients = self.clients.iter();
        let others = clients.flat_map(|clients| [Some(&clients.ca), clients.revoked.as_ref()]);
        let own = [Some(&self.certificate), Some(&self.key)];
        own.into_iter()
            .chain(others)
            .flatten()
            .map(PathBuf::as_path)
    }

    fn look(&self) -> Vec<Look> {
        self.all().map(Look::at).collect()
    }
}

/// Shakes hands with clients.
#[derive(Debug)]
pub struct ServerTls {
    files: RwLock<ServerFiles>,
    protocols: Vec<Vec<u8>>,
    loaded: RwLock<Arc<Loaded>>,
    /// What the files looked like when they were last read, whatever came of it. Whoever has it is the only
    /// one that changes anything.
    looked: Mutex<Vec<Look>>,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Loaded {
    config: Arc<ServerConfig>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    own: Option<Certificate>,
    warnings: Vec<String>,
}

impl Loaded {
    fn warn(&self) {
        for warning in &self.warnings {
            tracing::warn!("{warning}");
        }
    }
}

/// Certificates that were read, and are not in use yet.
#[derive(Debug)]
pub struct Prepared {
    files: ServerFiles,
    looked: Vec<Look>,
    loaded: Loaded,
}

/// Connections whose client has shown a certificate.
#[derive(Debug, Default)]
struct Open {
    next: u64,
    chains: HashMap<u64, (Vec<CertificateDer<'static>>, CancellationToken)>,
}

/// What became of a look at the files.
#[derive(Debug)]
pub enum Reloaded {
    /// They are as they were.
    Unchanged,
    /// They were read, and this is the certificate now; so many connections had to end.
    Changed {
        /// This side's certificate.
        certificate: Option<Certificate>,
        /// Connections whose client is let in no more.
        ended: usize,
    },
}

/// A handshake that went well.
#[derive(Debug)]
pub struct Accepted<S> {
    /// The connection.
    pub stream: ServerStream<S>,
    /// What the client has shown.
    pub certificate: Option<Certificate>,
    /// Tells when that is good no more.
    pub ended: Ended,
}

/// Is cancelled when the certificate of a client is good no more while its connection is open.
#[derive(Debug)]
pub struct Ended {
    server: Option<(Arc<ServerTls>, u64)>,
    token: CancellationToken,
}

impl Ended {
    /// The token that is cancelled.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some((server, number)) = &self.server {
            server.open.lock().chains.remove(number);
        }
    }
}

/// Time between looks at the files, and at the certificates of clients whose connections are open.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const REVIEW_INTERVAL: Duration = Duration::from_secs(60);

impl ServerTls {
    /// With the certificates in these files, for clients that speak one of these protocols.
    ///
    /// # Errors
    /// When a file cannot be read, or they do not go together.
    pub fn open(files: ServerFiles, protocols: &[&[u8]]) -> Result<Arc<Self>, TlsError> {
        let protocols: Vec<_> = protocols.iter().map(|name| name.to_vec()).collect();
        let looked = files.look();
        let loaded = load(&files, &protocols)?;
        loaded.warn();
        Ok(Arc::new(Self {
            files: RwLock::new(files),
            protocols,
            loaded: RwLock::new(Arc::new(loaded)),
            looked: Mutex::new(looked),
            open: Mutex::default(),
        }))
    }

    /// This side's certificate.
    pub fn certificate(&self) -> Option<Certificate> {
        self.loaded.read().own.clone()
    }

    /// What is to be warned of: what can be used, and keeps some out.
    pub fn warnings(&self) -> Vec<String> {
        self.loaded.read().warnings.clone()
    }

    /// Whether clients are asked for certificates.
    pub fn asks_clients(&self) -> bool {
        self.files.read().clients.is_some()
    }

    /// Shakes hands, within this time. `ended` is cancelled when the client's certificate is good no more
    /// while [`Accepted::ended`] is there.
    ///
    /// # Errors
    /// When the client is not let in.
    pub async fn accept<S>(
        self: &Arc<Self>,
        stream: S,
        within: Duration,
        ended: CancellationToken,
    ) -> Result<Accepted<S>, Refused>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let loaded = Arc::clone(&self.loaded.read());
        let stream = BufReader::with_capacity(READ_BUFFER as usize, stream);
        let shaking = TlsAcceptor::from(Arc::clone(&loaded.config)).accept(stream);
        let stream = match tokio::time::timeout(within, shaking).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(Refused::from_io(&error)),
            Err(_) => return Err(Refused::TimedOut(within)),
        };
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let certificate = chain.first().and_then(Certificate::read);
        let ended = self.watch_over(chain, ended);
        // The files may have changed since the handshake began.
        let now = Arc::clone(&self.loaded.read());
        if !Arc::ptr_eq(&loaded, &now)
            && let (Some(clients), Some((first, others))) = (&now.clients, chain.split_first())
            && clients
                .verify_client_cert(first, others, UnixTime::now())
                .is_err()
        {
            ended.token().cancel();
        }
        Ok(Accepted {
            stream,
            certificate,
            ended,
        })
    }

    fn watch_over(
        self: &Arc<Self>,
        chain: &[CertificateDer<'_>],
        token: CancellationToken,
    ) -> Ended {
        if chain.is_empty() {
            return Ended {
                server: None,
                token,
            };
        }
        let chain = chain
            .iter()
            .map(|certificate| certificate.clone().into_owned())
            .collect();
        let mut open = self.open.lock();
        let number = open.next;
        open.next += 1;
        open.chains.insert(number, (chain, token.clone()));
        Ended {
            server: Some((Arc::clone(self), number)),
            token,
        }
    }

    /// Reads the files anew when they have changed.
    ///
    /// # Errors
    /// When they cannot be used; what was there before goes on to count, and the same files are not tried
    /// again until they change.
    pub fn reload(&self) -> Result<Reloaded, TlsError> {
        let mut looked = self.looked.lock();
        let files = self.files.read().clone();
        let look = files.look();
        if *looked == look {
            return Ok(Reloaded::Unchanged);
        }
        *looked = look;
        let loaded = load(&files, &self.protocols)?;
        loaded.warn();
        let certificate = loaded.own.clone();
        *self.loaded.write() = Arc::new(loaded);
        drop(looked);
        Ok(Reloaded::Changed {
            certificate,
            ended: self.review(),
        })
    }

    /// Reads these files, to be used from [`ServerTls::use_prepared`] on.
    ///
    /// # Errors
    /// When a file cannot be read, or they do not go together.
    pub fn prepare(&self, files: ServerFiles) -> Result<Prepared, TlsError> {
        let looked = files.look();
        let loaded = load(&files, &self.protocols)?;
        Ok(Prepared {
            files,
            looked,
            loaded,
        })
    }

    /// Changes over to these files, and ends the connections that they do not let in. Tells whether they
    /// are others than before, or have changed.
    pub fn use_prepared(&self, prepared: Prepared) -> bool {
        let mut looked = self.looked.lock();
        let is_new = *looked != prepared.looked || *self.files.read() != prepared.files;
        if !is_new {
            return false;
        }
        prepared.loaded.warn();
        *looked = prepared.looked;
        *self.files.write() = prepared.files;
        *self.loaded.write() = Arc::new(prepared.loaded);
        drop(looked);
        tell_of_ended(self.review());
        true
    }

    /// Ends the connections of clients whose certificates are good no more: expired, revoked, or of a CA
    /// that is trusted no more. Returns how many these are.
    pub fn review(&self) -> usize {
        let Some(clients) = self.loaded.read().clients.clone() else {
            // Certificates let nobody in any more, and nobody would look at these again.
            let open = self.open.lock();
            open.chains.values().for_each(|(_, token)| token.cancel());
            return open.chains.len();
        };
        let (now, mut ended) = (UnixTime::now(), 0);
        for (chain, token) in self.open.lock().chains.values() {
            let Some((first, others)) = chain.split_first() else {
                continue;
            };
            if !token.is_cancelled() && clients.verify_client_cert(first, others, now).is_err() {
                token.cancel();
                ended += 1;
            }
        }
        ended
    }

    /// Looks at the files every second, and each minute at those who are there, until `stop`.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut reviewed = tokio::time::Instant::now();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            let review = reviewed.elapsed() >= REVIEW_INTERVAL;
            if review {
                reviewed = tokio::time::Instant::now();
            }
            let this = Arc::clone(&self);
            let looking = tokio::task::spawn_blocking(move || {
                this.look_after();
                if review {
                    tell_of_ended(this.review());
                }
            });
            // A panic there has been told of.
            let _ = looking.await;
        }
    }

    /// Reloads, and says what came of it.
    pub fn look_after(&self) {
        match self.reload() {
            Ok(Reloaded::Unchanged) => {}
            Ok(Reloaded::Changed { certificate, ended }) => {
                let until = certificate.and_then(|certificate| certificate.until);
                let until = until.map(date);
                tracing::info!(until, "certificates were read anew");
                tell_of_ended(ended);
            }
            Err(error) => tracing::error!("the certificates of before go on to count: {error}"),
        }
    }
}

fn tell_of_ended(ended: usize) {
    if ended > 0 {
        tracing::warn!(
            connections = ended,
            "connections end: the certificates of their clients are good no more"
        );
    }
}

fn date(time: std::time::SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| "unknown".to_owned(), |time| time.to_string())
}

fn load(files: &ServerFiles, protocols: &[Vec<u8>]) -> Result<Loaded, TlsError> {
    let provider = suites::provider();
    let chain = files::chain(&files.certificate)?;
    let key = files::key(&files.key)?;
    let own = chain.first().and_then(Certificate::read);
    let mut warnings = Vec::new();
    if chain.first().and_then(certificate::serves) == Some(false) {
        warnings.push(format!(
            "{}: this certificate is not for those who are dialled, and clients turn it down; issue one with \
             `pantelegraph keys issue` and --name or --ip",
            files.certificate.display()
        ));
    }
    let unusable = |error: &dyn std::fmt::Display| TlsError::Unusable(error.to_string());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&version::TLS13])
        .map_err(|error| unusable(&error))?;
    let clients = match &files.clients {
        None => None,
        Some(clients) => {
            let trust = files::trust(&clients.ca, clients.revoked.as_deref(), &provider)?;
            warnings.extend(trust.warnings);
            let roots = Arc::new(trust.roots);
            let mut verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            if let Some(lists) = trust.lists {
                verifier = verifier.with_crls(lists);
            }
            if clients.optional {
                verifier = verifier.allow_unauthenticated();
            }
            let verifier = verifier.build().map_err(|error| TlsError::File {
                path: clients.revoked.as_ref().unwrap_or(&clients.ca).clone(),
                problem: error.to_string(),
            })?;
            Some(verifier)
        }
    };
    let builder = match &clients {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| TlsError::File {
            path: files.key.clone(),
            problem: format!("does not go with {}: {error}", files.certificate.display()),
        })?;
    protocols.clone_into(&mut config.alpn_protocols);
    // Otherwise the device at the other end chooses, for which it matters more.
    config.ignore_client_order = !suites::has_aes();
    // Whoever takes up an old session again is not asked anew whether its certificate is still good, and
    // connections are few and long here.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Loaded {
        config: Arc::new(config),
        clients,
        own,
        warnings,
    })
}
