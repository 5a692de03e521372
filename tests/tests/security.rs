//! Who gets in, and what they may do: each attack is refused on every transport, the operator sees
//! why, and the next honest station is served.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

#[path = "security/certificates.rs"]
mod certificates;
#[path = "security/identities.rs"]
mod identities;
#[path = "security/limits.rs"]
mod limits;
#[path = "security/pair.rs"]
mod pair;
#[path = "security/sessions.rs"]
mod sessions;
#[path = "security/tokens.rs"]
mod tokens;

use std::net::SocketAddr;

use bytes::Bytes;
use http::Method;
use pantelegraph_tests::authority::Authority;
use pantelegraph_tests::caller::Caller;
use pantelegraph_tests::http::Answer;
use pantelegraph_tests::pictures::{self, Picture};
use pantelegraph_tests::station::Station;
use shared::digest::DigestAlgorithm;
use shared::image::{ImageId, ImageMeta};
use shared::security::Secret;
use shared::security::identity::Role;
use shared::security::tokens::{NewToken, TokenKey};
use shared::wire::framing::prefixed_head;
use shared::wire::{Begin, Encoded, begin_to_proto, proto};

/// Long after these tests.
const FAR: u64 = 4_000_000_000;

const PUT: &str = "/pantelegraph.transfer.v1.TransferService/Put";

/// A call as gRPC frames it.
fn framed(message: &impl prost::Message) -> Bytes {
    prefixed_head(&Encoded::from(Bytes::from(message.encode_to_vec())))
}

/// The call that puts an image in, under the name of a transmitter.
fn put_request(picture: &Picture, transmitter: &str) -> (ImageId, Bytes) {
    let mut meta = ImageMeta::new(ImageId::new(), picture.bytes.len() as u64);
    meta.digest = Some(DigestAlgorithm::Xxh3.digest(&picture.bytes));
    let id = meta.id;
    let request = proto::PutRequest {
        begin: Some(begin_to_proto(&Begin { meta, offset: 0 })),
        data: picture.bytes.clone(),
        transmitter: transmitter.to_owned(),
        ..Default::default()
    };
    (id, framed(&request))
}

/// Puts an image in by gRPC.
async fn put_by_grpc(
    caller: &Caller,
    address: SocketAddr,
    transmitter: &str,
) -> Result<Answer, String> {
    let (_, body) = put_request(&pictures::jpeg(1), transmitter);
    caller.call(address, PUT, body).await
}

/// Puts an image in by REST.
async fn put_by_rest(
    caller: &Caller,
    address: SocketAddr,
    transmitter: &str,
) -> Result<Answer, String> {
    let path = format!("/v1/images/{}", ImageId::new());
    let caller = match transmitter {
        "" => caller.clone(),
        name => caller.clone().with("pantelegraph-transmitter", name),
    };
    let body = pictures::jpeg(1).bytes;
    caller.ask(address, Method::PUT, &path, body).await
}

/// Asks to be let in by WebSocket.
async fn upgrade(caller: &Caller, address: SocketAddr) -> Result<Answer, String> {
    let caller = caller
        .clone()
        .with("connection", "upgrade")
        .with("upgrade", "websocket")
        .with("sec-websocket-version", "13")
        .with("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    caller.get(address, "/v1/stream").await
}

/// Status of gRPC.
fn code(answer: &Answer) -> &str {
    answer.header("grpc-status")
}

const UNAUTHENTICATED: &str = "16";
const PERMISSION_DENIED: &str = "7";

/// What a receiver counted of those whom it turned away for this reason.
async fn refused(admin: &Caller, station: &Station, reason: &str) -> u64 {
    let figures = admin.get(station.http(), "/metrics").await.unwrap();
    assert_eq!(figures.status, 200, "{figures:?}");
    let text = String::from_utf8(figures.body.to_vec()).unwrap();
    let name = format!("pantelegraph_refused_total{{reason=\"{reason}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    line.map_or(0, |count| count.parse().unwrap())
}

/// How many images are stored.
fn stored(station: &Station) -> usize {
    station.data().images().len()
}

/// A receiver that asks for certificates, a good admin, and what made both.
struct Site {
    authority: Authority,
    station: Station,
    admin: Caller,
}

impl Site {
    async fn start(flags: &[&str]) -> Self {
        let authority = Authority::default();
        authority.issue(Role::Receiver, "gw");
        authority.issue(Role::Admin, "root");
        authority.issue(Role::Transmitter, "cam-1");
        authority.issue(Role::Transmitter, "cam-2");
        authority.issue(Role::Reader, "eye");
        authority.revoke(&[]);
        let files = ["gw.pem", "gw.key", "ca.pem", "revoked.pem"].map(|name| authority.file(name));
        let [cert, key, ca, crl] = files.each_ref().map(String::as_str);
        let mut all = vec!["--tls-cert", cert, "--tls-key", key];
        all.extend(["--tls-client-ca", ca, "--tls-crl", crl]);
        all.extend(flags);
        let station = Station::start(&all).await;
        let admin = Caller::encrypted(authority.client(Some("root")));
        Self {
            authority,
            station,
            admin,
        }
    }

    fn caller(&self, name: &str) -> Caller {
        Caller::encrypted(self.authority.client(Some(name)))
    }
}

fn secret(byte: u8) -> TokenKey {
    TokenKey::from_secret(Secret::new(vec![byte; 32])).unwrap()
}

/// A token of a subject with scopes that is good for long.
fn token(key: &TokenKey, subject: &str, scope: &str) -> String {
    key.sign(&NewToken {
        subject,
        audience: None,
        scope,
        not_before: None,
        issued: None,
        expires: FAR,
    })
    .unwrap()
}
