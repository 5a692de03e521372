//! Certificates that are not good enough.

use pantelegraph_tests::authority::{Authority, Validity};
use pantelegraph_tests::http::RawHttp;
use pantelegraph_tests::within;
use shared::security::identity::Role;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

#[tokio::test]
async fn whoever_has_no_good_certificate_is_turned_away_and_the_operator_knows_why() {
    let site = Site::start(&[]).await;
    let Site {
        authority, station, ..
    } = &site;
    let camera = Role::Transmitter;
    authority.issue_as(camera, "cam-1", "expired", Validity::Over, 1);
    authority.issue_as(camera, "cam-1", "early", Validity::Later, 2);
    authority.issue_as(camera, "cam-1", "withdrawn", Validity::Now, 3);
    authority.revoke(&[3]);
    let stranger = Authority::new("ca");
    stranger.issue(camera, "cam-1");
    let other = Authority::new("other");
    other.issue(camera, "cam-1");
    // The list is new, so it has to be read first.
    pantelegraph_tests::within("the list is read", async {
        let revoked = site.caller("withdrawn");
        while revoked.get(station.http(), "/v1/clock").await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for (case, client, reason) in [
        (
            "no certificate",
            authority.client(None),
            "missing-certificate",
        ),
        (
            "expired",
            authority.client(Some("expired")),
            "expired-certificate",
        ),
        (
            "early",
            authority.client(Some("early")),
            "early-certificate",
        ),
        (
            "revoked",
            authority.client(Some("withdrawn")),
            "revoked-certificate",
        ),
        (
            "a CA of the same name",
            authority.client_of(&stranger, Some("cam-1")),
            "unknown-issuer",
        ),
        (
            "another CA",
            authority.client_of(&other, Some("cam-1")),
            "unknown-issuer",
        ),
    ] {
        let before = refused(&site.admin, station, reason).await;
        let caller = Caller::encrypted(client);
        let answers = [
            put_by_grpc(&caller, station.grpc(), "cam-1").await,
            put_by_rest(&caller, station.http(), "cam-1").await,
            upgrade(&caller, station.http()).await,
        ];
        for answer in answers {
            assert!(answer.is_err(), "{case}: {answer:?}");
        }
        let after = refused(&site.admin, station, reason).await;
        assert_eq!(after - before, 3, "{case}");
    }
    assert_eq!(stored(station), 0);
    let good = put_by_grpc(&site.caller("cam-1"), station.grpc(), "cam-1").await;
    assert_eq!(code(&good.unwrap()), "0");
    assert_eq!(stored(station), 1);
    site.station.stop().await;
}

#[tokio::test]
async fn plain_text_on_an_encrypted_port_is_turned_away() {
    let site = Site::start(&[]).await;
    let address = site.station.http();
    let mut raw = RawHttp::connect(address).await;
    raw.write("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    raw.end().await;
    assert!(raw.gone().await, "nothing is told to it in the clear");
    let plain = Caller::default();
    assert!(
        put_by_grpc(&plain, site.station.grpc(), "cam-1")
            .await
            .is_err()
    );
    assert_eq!(refused(&site.admin, &site.station, "plain-text").await, 2);
}

#[tokio::test]
async fn a_client_that_trusts_another_ca_goes_away_and_says_why() {
    let site = Site::start(&[]).await;
    let other = Authority::new("other");
    other.issue(Role::Transmitter, "cam-1");
    let client = other.client_of(&site.authority, Some("cam-1"));
    let words = put_by_rest(&Caller::encrypted(client), site.station.http(), "cam-1").await;
    assert!(words.unwrap_err().contains("is not signed by the CA"));
    assert_eq!(refused(&site.admin, &site.station, "turned-down").await, 1);
}

#[tokio::test]
async fn all_transports_are_served_on_one_port() {
    let site = Site::start(&["--listen-all", "127.0.0.1:0"]).await;
    let address = site.station.all();
    let caller = site.caller("cam-1");
    let put = put_by_grpc(&caller, address, "cam-1").await.unwrap();
    assert_eq!(code(&put), "0", "{put:?}");
    let put = put_by_rest(&caller, address, "cam-1").await.unwrap();
    assert_eq!(put.status, 201, "{put:?}");
    assert_eq!(upgrade(&caller, address).await.unwrap().status, 101);
    // Nobody gets around the gate by the other door.
    let eye = site.caller("eye");
    let put = put_by_grpc(&eye, address, "eye").await.unwrap();
    assert_eq!(code(&put), PERMISSION_DENIED);
    assert_eq!(put_by_rest(&eye, address, "eye").await.unwrap().status, 403);
    let path = format!("{PUT}/../../v1/images");
    let answer = caller.get(address, &path).await.unwrap();
    assert_eq!(code(&answer), "12", "no such call: {answer:?}");
    assert_eq!(stored(&site.station), 2);
}

#[tokio::test]
async fn whoever_has_shown_a_certificate_keeps_its_place_in_a_crowd() {
    // Four places for those of whom nothing is known.
    let site = Site::start(&["--max-connections", "8"]).await;
    let address = site.station.http();
    let client = site.authority.client(Some("cam-1"));
    let stream = TcpStream::connect(address).await.unwrap();
    let shaken = client
        .connect("127.0.0.1", stream, b"http/1.1", &[Role::Receiver])
        .await;
    let mut slow = shaken.unwrap().0;
    let mut crowd = Vec::new();
    within("the crowd is sent away", async {
        while refused(&site.admin, &site.station, "gave-way").await < 8 {
            crowd.push(TcpStream::connect(address).await.unwrap());
        }
    })
    .await;
    // It has taken its time, and says something now.
    let request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    slow.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    slow.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{answer:?}");
}
