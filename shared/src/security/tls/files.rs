//! Certificates, keys and lists in files, and whether these have changed.

use std::path::Path;
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use super::{Certificate, TlsError, revocation};

/// What a file looks like from outside; `None` when it is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Look(Option<(u64, u64, SystemTime)>);

impl Look {
    pub(super) fn at(path: &Path) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = std::fs::metadata(path).ok();
        Self(metadata.and_then(|data| Some((data.ino(), data.len(), data.modified().ok()?))))
    }
}

fn problem(path: &Path, problem: impl Into<String>) -> TlsError {
    TlsError::File {
        path: path.to_owned(),
        problem: problem.into(),
    }
}

fn words(path: &Path, error: &pem::Error, what: &str) -> TlsError {
    let words = match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => format!("there is no {what} in it; PEM is expected"),
        other => format!("is no {what} in PEM: {other}"),
    };
    problem(path, words)
}

/// The certificates in a file, that of the station first.
pub(super) fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = found.map_err(|error| words(path, &error, "certificate"))?;
    if found.is_empty() {
        return Err(words(path, &pem::Error::NoItemsFound, "certificate"));
    }
    Ok(found)
}

/// The private key in a file.
pub(super) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| words(path, &error, "private key"))
}

/// Those who sign others, and which of their certificates are revoked.
pub(super) struct Trust {
    pub(super) roots: RootCertStore,
    /// Lists of revoked certificates, if there are to be some.
    pub(super) lists: Option<Vec<CertificateRevocationListDer<'static>>>,
    /// What is to be warned of.
    pub(super) warnings: Vec<String>,
}

/// Reads the CAs in a file, and the lists in another.
pub(super) fn trust(
    ca: &Path,
    revoked: Option<&Path>,
    provider: &CryptoProvider,
) -> Result<Trust, TlsError> {
    let authorities = chain(ca)?;
    let mut roots = RootCertStore::empty();
    for certificate in &authorities {
        let added = roots.add(certificate.clone());
        added.map_err(|error| problem(ca, format!("a certificate cannot be used: {error}")))?;
    }
    let (mut read, mut warnings) = (None, Vec::new());
    if let Some(path) = revoked {
        let lists = lists(path)?;
        let algorithms = &provider.signature_verification_algorithms;
        let missing = revocation::without_list(&authorities, &lists, algorithms);
        if missing.len() == authorities.len() {
            let words = format!(
                "is the list of another CA than that in {}, and would keep everybody out; take revoked.pem from \
                 the folder in which that CA is (`pantelegraph keys show`)",
                ca.display()
            );
            return Err(problem(path, words));
        }
        warnings.extend(missing.iter().filter_map(|place| {
            let serial = Certificate::read(authorities.get(*place)?)?.serial;
            Some(format!(
                "{} has no list of the CA with the number {serial} in {}: nobody whom it signed gets in; add its \
                 list to the file, or take it out of the CAs",
                path.display(),
                ca.display()
            ))
        }));
        read = Some(lists);
    }
    Ok(Trust {
        roots,
        lists: read,
        warnings,
    })
}

/// Whom this system trusts.
pub(super) fn system_trust(revoked: Option<&Path>) -> Result<Trust, TlsError> {
    Ok(Trust {
        roots: system_roots()?,
        lists: revoked.map(lists).transpose()?,
        warnings: Vec::new(),
    })
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found
            .errors
            .first()
            .map_or_else(|| "no certificates".to_owned(), ToString::to_string);
        return Err(TlsError::NoRoots(why));
    }
    Ok(roots)
}

/// The lists of revoked certificates in a file.
fn lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let what = "list of revoked certificates (X509 CRL)";
    let found = CertificateRevocationListDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = found.map_err(|error| words(path, &error, what))?;
    if found.is_empty() {
        return Err(words(path, &pem::Error::NoItemsFound, what));
    }
    Ok(found)
}
