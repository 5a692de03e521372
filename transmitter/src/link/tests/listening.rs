//! Waiting for receivers behind TLS.

use shared::security::identity::Role;
use shared::security::tls::{ClientStream, ClientTls, HTTP_1_1};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::certificates::World;
use super::receiver::converse;
use super::secured::{deliver, identity, options};
use super::*;
use crate::link::websocket::ListenLink;

type Socket = WebSocketStream<ClientStream<TcpStream>>;

/// Dials as a receiver does.
async fn dial(address: std::net::SocketAddr, tls: &Arc<ClientTls>) -> Result<Socket, Error> {
    let stream = TcpStream::connect(address).await?;
    let roles = [Role::Transmitter];
    let connected = tls.connect("127.0.0.1", stream, HTTP_1_1, &roles).await?;
    let request = format!("wss://{address}/v1/stream");
    client_async(request, connected.0)
        .await
        .map(|(socket, _)| socket)
}

#[tokio::test]
async fn only_receivers_with_a_certificate_take_images_from_a_listener() {
    let world = World::new();
    world.issue(Role::Transmitter, "cam-1", "127.0.0.1", 1, 30);
    world.issue(Role::Transmitter, "cam-2", "cam-2.test", 2, 30);
    world.issue(Role::Receiver, "gw", "gw.test", 3, 30);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let link = ListenLink::new(
        listener,
        options(GrpcCall::Exchange),
        identity(Dialler::default()),
    );
    let link = link.with_tls(world.server("cam-1", true));
    let address = link.address().unwrap();
    let waiting = tokio::spawn(async move { link.connect().await });
    // Nobody, somebody who is no receiver, and somebody who speaks no TLS.
    assert!(dial(address, &world.client(None)).await.is_err());
    match dial(address, &world.client(Some("cam-2"))).await {
        Err(Error::Http(response)) => assert_eq!(response.status(), 403),
        other => panic!("{other:?}"),
    }
    let plain = TcpStream::connect(address).await.unwrap();
    let request = format!("ws://{address}/v1/stream");
    assert!(client_async(request, plain).await.is_err());
    let socket = dial(address, &world.client(Some("gw"))).await.unwrap();
    let receiving = tokio::spawn(converse(socket));
    let connection = waiting.await.unwrap().unwrap();
    assert!(deliver(&*connection, 900 << 10).await.is_ok());
    connection.close().await;
    receiving.await.unwrap();
}
