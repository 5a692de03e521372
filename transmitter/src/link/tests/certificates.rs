//! A CA, and stations with certificates of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use shared::security::identity::Role;
use shared::security::tls::{ClientAuth, ClientFiles, ClientTls, ServerFiles, ServerTls};

/// A CA and a folder for what it signs.
pub(super) struct World {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

const DAY: Duration = Duration::from_secs(86_400);

impl World {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        Self {
            folder,
            issuer: Issuer::new(params, key),
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A certificate for a station at `host`, a name or an address, that is good for `days` from now.
    pub(super) fn issue(&self, role: Role, name: &str, host: &str, serial: u8, days: i32) {
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        let id = format!("spiffe://test/{role}/{name}");
        let id = SanType::URI(id.as_str().try_into().unwrap());
        params.subject_alt_names.push(id);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let now = SystemTime::now();
        params.not_before = (now - 30 * DAY).into();
        params.not_after = match u32::try_from(days) {
            Ok(days) => (now + days * DAY).into(),
            Err(_) => (now - DAY).into(),
        };
        params.serial_number = Some(SerialNumber::from_slice(&[0x40, serial]));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let pem = format!("{}{}", certificate.pem(), key.serialize_pem());
        // As those do who renew certificates: nobody sees half of a file.
        replace(&self.path(&format!("{name}.pem")), pem.as_bytes());
    }

    fn own(&self, name: &str) -> (PathBuf, PathBuf) {
        let path = self.path(&format!("{name}.pem"));
        (path.clone(), path)
    }

    /// What a server with the certificate of `name` shakes hands with.
    pub(super) fn server(&self, name: &str, asks_clients: bool) -> Arc<ServerTls> {
        let (certificate, key) = self.own(name);
        let clients = asks_clients.then(|| ClientAuth {
            ca: self.path("ca.pem"),
            revoked: None,
            optional: false,
        });
        let files = ServerFiles {
            certificate,
            key,
            clients,
        };
        ServerTls::open(files, &[b"h2", b"http/1.1"]).unwrap()
    }

    /// What a client that shows the certificate of `name` shakes hands with.
    pub(super) fn client(&self, name: Option<&str>) -> Arc<ClientTls> {
        let files = ClientFiles {
            ca: Some(self.path("ca.pem")),
            own: name.map(|name| self.own(name)),
            revoked: None,
        };
        ClientTls::open(files).unwrap()
    }
}

pub(super) fn replace(path: &Path, content: &[u8]) {
    let part = path.with_extension("part");
    fs::write(&part, content).unwrap();
    fs::rename(part, path).unwrap();
}
