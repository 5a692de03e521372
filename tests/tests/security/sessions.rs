//! Sessions whose proof ends while they are open.

use pantelegraph_tests::raw::{End, RawSession};
use pantelegraph_tests::within;
use shared::security::identity::Role;
use shared::wire::ServerMessage;

use super::*;

#[tokio::test]
async fn sessions_end_when_their_token_does() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), [7; 32]).unwrap();
    let station = Station::start(&["--token-key-file", file.path().to_str().unwrap()]).await;
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let brief = secret(7).token("cam-1", "upload", now + 2).unwrap();
    let caller = Caller::default().bearing(&brief);
    let mut socket = RawSession::websocket_as(&caller, station.http()).await;
    let mut call = RawSession::grpc_as(&caller, station.grpc()).await;
    socket.hello_as("cam-1").await;
    call.hello_as("cam-1").await;
    // What comes before it is stored.
    socket.deliver(&pictures::jpeg(1)).await;
    let closed = loop {
        if let Err(end) = socket.next().await {
            break end;
        }
    };
    let (code, reason) = (3000, "Token expired".to_owned());
    assert_eq!(closed, End::Closed { code, reason });
    let goodbye = loop {
        match call.next().await {
            Ok(ServerMessage::Goodbye { reason }) => break reason,
            Ok(_) => {}
            Err(end) => panic!("{end:?}"),
        }
    };
    assert_eq!(goodbye, "Token expired");
    assert_eq!(stored(&station), 1);
}

#[tokio::test]
async fn a_revoked_station_is_put_out_and_others_stay() {
    let site = Site::start(&[]).await;
    let station = &site.station;
    site.authority.issue_as(
        Role::Transmitter,
        "cam-3",
        "cam-3",
        pantelegraph_tests::authority::Validity::Now,
        9,
    );
    let mut bad = RawSession::websocket_as(&site.caller("cam-3"), station.http()).await;
    let mut good = RawSession::grpc_as(&site.caller("cam-1"), station.grpc()).await;
    bad.hello_as("cam-3").await;
    good.hello_as("cam-1").await;
    site.authority.revoke(&[9]);
    while bad.next().await.is_ok() {}
    good.deliver(&pictures::jpeg(1)).await;
    let caller = site.caller("cam-3");
    assert!(put_by_rest(&caller, station.http(), "cam-3").await.is_err());
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_to_the_next_and_open_sessions_go_on() {
    let site = Site::start(&[]).await;
    let station = &site.station;
    let client = site.authority.client(Some("cam-1"));
    let shown = async || {
        let stream = tokio::net::TcpStream::connect(station.http())
            .await
            .unwrap();
        let roles = &[Role::Receiver];
        let shaken = client
            .connect("127.0.0.1", stream, b"http/1.1", roles)
            .await;
        shaken.unwrap().1.unwrap().serial
    };
    let mut session = RawSession::grpc_as(&site.caller("cam-1"), station.grpc()).await;
    session.hello_as("cam-1").await;
    let before = shown().await;
    let valid = pantelegraph_tests::authority::Validity::Now;
    site.authority
        .issue_as(Role::Receiver, "gw", "gw", valid, 77);
    within("the new certificate is shown", async {
        while shown().await == before {
            tokio::task::yield_now().await;
        }
    })
    .await;
    session.deliver(&pictures::jpeg(1)).await;
}
