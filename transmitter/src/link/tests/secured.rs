//! Dialling receivers that are encrypted, and ask who comes.

use std::net::SocketAddr;
use std::time::Duration;

use shared::digest::DigestAlgorithm;
use shared::image::ImageMeta;
use shared::security::bearer::Bearer;
use shared::security::identity::Role;
use shared::security::tls::{ClientTls, ServerTls};
use shared::settings::units::ByteSize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use super::certificates::{World, replace};
use super::receiver::Receiver;
use super::*;
use crate::payload::Payload;

/// The certificates of `gw`, at this machine's address, and of `cam-1`.
fn world() -> World {
    let world = World::new();
    world.issue(Role::Receiver, "gw", "127.0.0.1", 1, 30);
    world.issue(Role::Transmitter, "cam-1", "cam-1.test", 2, 30);
    world
}

pub(in crate::link) fn options(grpc_call: GrpcCall) -> LinkOptions {
    LinkOptions {
        bandwidth: Default::default(),
        chunk_size: ByteSize::kib(256),
        grpc_call,
        message_size: ByteSize::mib(4),
        window: ByteSize::mib(4),
        connections: 1,
        http2_frame_size: ByteSize::kib(256),
        // Longer than anything here takes.
        connect_timeout: Duration::from_secs(60),
        idle_timeout: Duration::from_secs(60),
        clock_interval: Duration::from_secs(5),
    }
}

pub(in crate::link) fn identity(dialler: Dialler) -> Identity {
    Identity {
        outbox: OutboxId::new(),
        unfinished: Default::default(),
        limiter: Default::default(),
        transmitter: "cam-1".to_owned(),
        wire: Default::default(),
        clock: Default::default(),
        dialler,
    }
}

fn link(
    receiver: &Receiver,
    call: GrpcCall,
    transport: Transport,
    identity: &Identity,
) -> Arc<dyn Link> {
    let url = match transport {
        Transport::WebSocket => format!("wss://{}/v1/stream", receiver.address),
        Transport::Grpc | Transport::Rest => format!("https://{}", receiver.address),
    };
    open(
        transport,
        &Url::parse(&url).unwrap(),
        &options(call),
        identity,
    )
}

/// What becomes of an attempt to connect.
async fn refused(receiver: &Receiver, transport: Transport, tls: Arc<ClientTls>) -> LinkError {
    let identity = identity(Dialler::new(Some(tls), None));
    let link = link(receiver, GrpcCall::Exchange, transport, &identity);
    link.connect().await.err().unwrap()
}

pub(in crate::link) async fn deliver(
    connection: &dyn Connection,
    size: usize,
) -> Result<Receipt, DeliveryError> {
    let bytes = bytes::Bytes::from(vec![7; size]);
    let mut meta = ImageMeta::new(ImageId::new(), bytes.len() as u64);
    meta.digest = Some(DigestAlgorithm::Xxh3.digest(&bytes));
    let image = Owed {
        meta,
        payload: Payload::Memory(bytes),
        source_file: None,
        source_mark: None,
        carried: false,
    };
    let attempt = Attempt {
        number: 1,
        started: UnixNanos::now(),
        turn: None,
        trace: None,
    };
    connection.deliver(&image, attempt).await
}

#[tokio::test]
async fn images_go_encrypted_and_what_is_renewed_is_shown_on_the_next_connection() {
    const SIZE: usize = 900 << 10;
    for transport in Transport::ALL {
        let world = world();
        let token = world.path("token");
        std::fs::write(&token, "first").unwrap();
        let receiver = Receiver::start(transport, world.server("gw", true)).await;
        let bearer = Bearer::file(token.clone()).unwrap();
        let identity = identity(Dialler::new(
            Some(world.client(Some("cam-1"))),
            Some(bearer),
        ));
        assert!(!format!("{identity:?}").contains("first"));
        let link = link(&receiver, GrpcCall::Exchange, transport, &identity);
        let connection = link.connect().await.unwrap();
        let receipt = deliver(&*connection, SIZE).await.unwrap();
        assert_eq!(receipt.size, SIZE as u64);
        let shown = |token: &str, serial: &str| (format!("Bearer {token}"), serial.to_owned());
        assert_eq!(
            receiver.door.last_shown(),
            shown("first", "4002"),
            "{transport}"
        );
        // The bytes on the socket, with what the encryption adds.
        let sent = identity.wire.sent();
        assert!(sent > SIZE as u64 + 1_000, "{sent} {transport}");
        replace(&token, b"second");
        world.issue(Role::Transmitter, "cam-1", "cam-1.test", 3, 30);
        let _again = link.connect().await.unwrap();
        assert_eq!(
            receiver.door.last_shown(),
            shown("second", "4003"),
            "{transport}"
        );
    }
}

#[tokio::test]
async fn a_receiver_that_is_not_to_be_trusted_is_told_of_in_words() {
    let world = world();
    world.issue(Role::Receiver, "elsewhere", "elsewhere.test", 4, 30);
    world.issue(Role::Transmitter, "camera", "127.0.0.1", 5, 30);
    let stranger = World::new();
    for transport in Transport::ALL {
        for (server, client, words) in [
            ("gw", stranger.client(None), "not signed by the CA in"),
            ("elsewhere", world.client(None), "not for 127.0.0.1"),
            (
                "camera",
                world.client(None),
                "spiffe://test/transmitter/camera, which has another role",
            ),
        ] {
            let receiver = Receiver::start(transport, world.server(server, false)).await;
            let error = refused(&receiver, transport, client).await;
            assert!(
                matches!(error, LinkError::Unreachable { .. }),
                "{transport}: {error:?}"
            );
            assert!(error.to_string().contains(words), "{transport}: {error}");
        }
    }
}

#[tokio::test]
async fn a_certificate_that_the_receiver_turns_down_is_told_of_in_words() {
    let world = world();
    world.issue(Role::Transmitter, "late", "late.test", 6, -1);
    let stranger = World::new();
    stranger.issue(Role::Transmitter, "cam-9", "cam-9.test", 7, 30);
    // Trusts the receiver, which does not know its CA.
    std::fs::copy(world.path("ca.pem"), stranger.path("ca.pem")).unwrap();
    for transport in Transport::ALL {
        let receiver = Receiver::start(transport, world.server("gw", true)).await;
        for (client, words) in [
            (world.client(None), "none was shown (CertificateRequired)"),
            (
                world.client(Some("late")),
                "down: CertificateExpired; renew it",
            ),
            (
                stranger.client(Some("cam-9")),
                "get one from a CA that it trusts",
            ),
        ] {
            let error = refused(&receiver, transport, client).await;
            assert!(
                matches!(error, LinkError::Refused { .. }),
                "{transport}: {error:?}"
            );
            let text = error.to_string();
            assert!(
                text.contains(words) && text.contains("does not let this station in"),
                "{transport}: {text}"
            );
        }
    }
}

#[tokio::test]
async fn a_token_that_is_good_no_more_ends_the_connection_and_loses_no_image() {
    for (transport, call) in [
        (Transport::Grpc, GrpcCall::Put),
        (Transport::Rest, GrpcCall::Exchange),
        (Transport::Grpc, GrpcCall::Exchange),
        (Transport::WebSocket, GrpcCall::Exchange),
    ] {
        let world = world();
        let token = world.path("token");
        std::fs::write(&token, "first").unwrap();
        let receiver = Receiver::start(transport, world.server("gw", false)).await;
        let bearer = Bearer::file(token).unwrap();
        let identity = identity(Dialler::new(Some(world.client(None)), Some(bearer)));
        let link = link(&receiver, call, transport, &identity);
        let connection = link.connect().await.unwrap();
        receiver.door.close("Token expired");
        let expected =
            "does not let this station in: Token expired; renew the token in --token-file";
        // Sessions show their token once.
        if call == GrpcCall::Put || transport == Transport::Rest {
            match deliver(&*connection, 1 << 10).await {
                Err(DeliveryError::Refused(words)) => assert!(words.ends_with(expected), "{words}"),
                other => panic!("{transport}: {other:?}"),
            }
            let closed = connection.closed().await;
            assert!(closed.ends_with(expected), "{transport}: {closed}");
        }
        let error = link.connect().await.err().unwrap();
        assert!(
            matches!(error, LinkError::Refused { .. }),
            "{transport}: {error:?}"
        );
        assert!(
            error.to_string().ends_with(expected),
            "{transport}: {error}"
        );
    }
}

#[tokio::test]
async fn whoever_speaks_no_tls_to_a_tls_port_is_told_to() {
    let world = world();
    for transport in Transport::ALL {
        let receiver = Receiver::start(transport, world.server("gw", false)).await;
        let silent = silent(None).await;
        for address in [receiver.address, silent.0] {
            for call in [GrpcCall::Exchange, GrpcCall::Put] {
                let words = fails(transport, call, address, "", Dialler::default()).await;
                assert!(words.contains("use https://"), "{transport}: {words}");
            }
        }
    }
}

#[tokio::test]
async fn who_is_left_after_the_handshake_learns_that_a_certificate_may_be_missing() {
    let world = world();
    for transport in Transport::ALL {
        let silent = silent(Some(world.server("gw", false))).await;
        for own in [None, Some("cam-1")] {
            let dialler = Dialler::new(Some(world.client(own)), None);
            let words = fails(transport, GrpcCall::Exchange, silent.0, "s", dialler).await;
            let is_told = words.contains("show one with --tls-cert and --tls-key");
            assert_eq!(is_told, own.is_none(), "{transport}: {words}");
        }
    }
}

/// Somebody who hangs up on everybody, after the handshake if there is to be one.
async fn silent(tls: Option<Arc<ServerTls>>) -> (SocketAddr, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let hanging_up = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if let Some(tls) = &tls {
                let within = Duration::from_secs(30);
                let accepting = tls.accept(stream, within, CancellationToken::new());
                drop(accepting.await);
            }
        }
    });
    (address, AbortOnDropHandle::new(hanging_up))
}

/// Why there is no connection to `address`.
async fn fails(
    transport: Transport,
    call: GrpcCall,
    address: SocketAddr,
    encrypted: &str,
    dialler: Dialler,
) -> String {
    let url = match transport {
        Transport::WebSocket => format!("ws{encrypted}://{address}/v1/stream"),
        Transport::Grpc | Transport::Rest => format!("http{encrypted}://{address}"),
    };
    let url = Url::parse(&url).unwrap();
    let link = open(transport, &url, &options(call), &identity(dialler));
    link.connect().await.err().unwrap().to_string()
}
