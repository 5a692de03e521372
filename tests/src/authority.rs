//! A CA that makes good certificates and bad ones.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber,
};
use shared::security::identity::Role;
use shared::security::tls::{ClientFiles, ClientTls};
use tempfile::TempDir;
use time::OffsetDateTime;

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// For some days yet.
    Now,
    /// Until a second ago.
    Over,
    /// From tomorrow on.
    Later,
}

/// A CA, and a folder with everything that it has signed.
pub struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

const DAY: Duration = Duration::from_secs(86_400);

fn now() -> OffsetDateTime {
    OffsetDateTime::from(SystemTime::now())
}

impl Default for Authority {
    fn default() -> Self {
        Self::new("ca")
    }
}

impl Authority {
    /// A CA that calls itself `name`.
    ///
    /// # Panics
    /// When there is no temporary folder.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let authority = Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
            issuer: Issuer::new(params, key),
        };
        authority.write("ca.pem", &certificate.pem());
        authority
    }

    /// A file of this name.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same as a flag's value.
    ///
    /// # Panics
    /// When temporary folders have strange names here.
    pub fn file(&self, name: &str) -> String {
        let path = self.path(name);
        path.to_str().expect("plain names").to_owned()
    }

    /// Puts a file in place of what is there, as those do who renew certificates: nobody sees half of
    /// it.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, name: &str, content: &str) {
        let part = self.path("part");
        std::fs::write(&part, content).expect("the part is written");
        std::fs::rename(part, self.path(name)).expect("the part is renamed");
    }

    /// Makes `NAME.pem` and `NAME.key` for 127.0.0.1, localhost and NAME.test.
    pub fn issue(&self, role: Role, name: &str) {
        self.issue_as(role, name, name, Validity::Now, 0);
    }

    /// The same for the files `file.pem` and `file.key`, and with a number.
    ///
    /// # Panics
    /// When the name cannot be one of a host.
    pub fn issue_as(&self, role: Role, name: &str, file: &str, validity: Validity, serial: u8) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        let id = format!("spiffe://test/{role}/{name}");
        let text = |text: &str| text.try_into().expect("plain text");
        params.subject_alt_names = vec![
            SanType::URI(text(&id)),
            SanType::DnsName(text(&format!("{name}.test"))),
            SanType::DnsName(text("localhost")),
            SanType::IpAddress([127, 0, 0, 1].into()),
        ];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        (params.not_before, params.not_after) = match validity {
            Validity::Now => (now() - DAY, now() + 30 * DAY),
            Validity::Over => (now() - DAY, now() - Duration::from_secs(1)),
            Validity::Later => (now() + DAY, now() + 30 * DAY),
        };
        params.serial_number = Some(SerialNumber::from_slice(&[0x40, serial]));
        let certificate = params.signed_by(&key, &self.issuer).expect("it is signed");
        self.write(&format!("{file}.key"), &key.serialize_pem());
        self.write(&format!("{file}.pem"), &certificate.pem());
    }

    /// Makes `revoked.pem`, which names these certificates.
    ///
    /// # Panics
    /// When the list cannot be made.
    pub fn revoke(&self, serials: &[u8]) {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&[0x40, *serial]),
            revocation_time: now() - DAY,
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: now() - DAY,
            next_update: now() + DAY,
            crl_number: SerialNumber::from_slice(&[1]),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).expect("it is signed");
        self.write("revoked.pem", &list.pem().expect("PEM"));
    }

    /// A client that trusts this CA, and shows the certificate in `own`.pem.
    ///
    /// # Panics
    /// When there is none.
    pub fn client(&self, own: Option<&str>) -> Arc<ClientTls> {
        self.client_of(self, own)
    }

    /// The same with a certificate of another CA.
    ///
    /// # Panics
    /// When there is none.
    pub fn client_of(&self, other: &Self, own: Option<&str>) -> Arc<ClientTls> {
        let own = own.map(|name| {
            (
                other.path(&format!("{name}.pem")),
                other.path(&format!("{name}.key")),
            )
        });
        let files = ClientFiles {
            ca: Some(self.path("ca.pem")),
            own,
            revoked: None,
        };
        ClientTls::open(files).expect("the files are good")
    }
}
