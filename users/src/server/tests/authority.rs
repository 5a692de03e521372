//! Certificates for tests.

use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use shared::security::identity::Role;
use shared::security::tls::{ClientAuth, ClientFiles, ServerFiles};

/// A CA and a folder for what it signs.
pub(super) struct Authority {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// With a certificate for a server at 127.0.0.1.
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        let authority = Self {
            folder,
            issuer: Issuer::new(params, key),
        };
        authority.sign("server", Some(Role::Receiver));
        authority
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A certificate for the station of this name, or for nobody in particular.
    pub(super) fn sign(&self, name: &str, role: Option<Role>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params
            .subject_alt_names
            .push(SanType::IpAddress([127, 0, 0, 1].into()));
        if let Some(role) = role {
            let id = format!("spiffe://test/{role}/{name}");
            let id = SanType::URI(id.as_str().try_into().unwrap());
            params.subject_alt_names.push(id);
        }
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    /// For a server; with `clients` it asks for their certificates too, and has to have them unless
    /// these are optional.
    pub(super) fn server(&self, clients: Option<bool>) -> ServerFiles {
        ServerFiles {
            certificate: self.path("server.pem"),
            key: self.path("server.key"),
            clients: clients.map(|optional| ClientAuth {
                ca: self.path("ca.pem"),
                revoked: None,
                optional,
            }),
        }
    }

    /// For a client that trusts this CA and shows the certificate of this name.
    pub(super) fn client(&self, name: Option<&str>) -> ClientFiles {
        let file = |name: &str, kind: &str| self.path(&format!("{name}.{kind}"));
        ClientFiles {
            ca: Some(self.path("ca.pem")),
            own: name.map(|name| (file(name, "pem"), file(name, "key"))),
            revoked: None,
        }
    }
}
