//! A whole receiver, and connections that break.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use shared::image::ImageId;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::cli::{Invocation, parse};
use crate::intake::sample::picture;
use crate::server::{Listeners, Receiver};

const BYTES: (&str, &str) = ("content-type", "application/offset+octet-stream");

struct Station {
    receiver: Receiver,
    address: SocketAddr,
    folder: TempDir,
}

impl Station {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (address, receiver) = start(&folder).await;
        Self {
            receiver,
            address,
            folder,
        }
    }

    async fn connect(&self) -> Client {
        Client(TcpStream::connect(self.address).await.unwrap())
    }

    /// Creates an upload of `size` bytes.
    async fn create(&self, size: usize) -> ImageId {
        let size = size.to_string();
        let headers = [("upload-length", &*size), ("content-length", "0")];
        let mut client = self.connect().await;
        client.send("POST", "/v1/uploads", &headers).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 201);
        let path = &answer.headers["location"];
        path.strip_prefix("/v1/uploads/").unwrap().parse().unwrap()
    }

    async fn offset(&self, id: ImageId) -> u64 {
        let mut client = self.connect().await;
        client.send("HEAD", &format!("/v1/uploads/{id}"), &[]).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 200);
        answer.headers["upload-offset"].parse().unwrap()
    }

    /// Waits until the receiver holds the upload, and no connection does.
    async fn parked(&self, id: ImageId) -> u64 {
        loop {
            let intake = self.receiver.intake();
            if !intake.is_busy(id)
                && let Some(held) = intake.unfinished(id).await
            {
                return held.received;
            }
            tokio::task::yield_now().await;
        }
    }
}

async fn start(folder: &TempDir) -> (SocketAddr, Receiver) {
    let data = folder.path().to_str().unwrap();
    let args = [
        "pantelegraph-receiver",
        "--data",
        data,
        "--grpc-listen",
        "off",
    ];
    let args = args.iter().map(Into::into);
    let config = match parse(args, &BTreeMap::new(), None).unwrap() {
        Invocation::Run(config, _) => *config,
        Invocation::Print(text) => panic!("{text}"),
    };
    let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listeners = Listeners {
        http: Some(http),
        ..Listeners::default()
    };
    let receiver = Receiver::start(config, listeners).await.unwrap();
    (receiver.http_address.unwrap(), receiver)
}

struct Client(TcpStream);

struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
}

impl Client {
    async fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\ntus-resumable: 1.0.0\r\n");
        for (name, value) in headers {
            write!(head, "{name}: {value}\r\n").unwrap();
        }
        head.push_str("\r\n");
        self.0.write_all(head.as_bytes()).await.unwrap();
    }

    /// Begins a PATCH, and waits until the receiver asks for its body.
    async fn begin_patch(&mut self, id: ImageId, length: usize, headers: &[(&str, &str)]) {
        let length = length.to_string();
        let mut all = vec![
            BYTES,
            ("upload-offset", "0"),
            ("content-length", &length),
            ("expect", "100-continue"),
        ];
        all.extend(headers);
        self.send("PATCH", &format!("/v1/uploads/{id}"), &all).await;
        assert_eq!(self.answer().await.status, 100);
    }

    /// The head of the next answer.
    async fn answer(&mut self) -> Answer {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        let headers = lines.filter_map(|line| line.split_once(": "));
        Answer {
            status: status.parse().unwrap(),
            headers: headers
                .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
                .collect(),
        }
    }
}

#[tokio::test]
async fn a_connection_that_breaks_leaves_its_bytes() {
    let station = Station::start().await;
    let bytes = picture(300, 1);
    let id = station.create(bytes.len()).await;
    let half = bytes.len() / 2;
    let mut client = station.connect().await;
    client.begin_patch(id, bytes.len(), &[]).await;
    client.0.write_all(&bytes[..half]).await.unwrap();
    drop(client);
    assert_eq!(station.parked(id).await, half as u64);
    assert_eq!(station.offset(id).await, half as u64);

    let mut client = station.connect().await;
    let (offset, length) = (half.to_string(), (bytes.len() - half).to_string());
    let headers = [
        BYTES,
        ("upload-offset", &*offset),
        ("content-length", &*length),
    ];
    client
        .send("PATCH", &format!("/v1/uploads/{id}"), &headers)
        .await;
    client.0.write_all(&bytes[half..]).await.unwrap();
    let answer = client.answer().await;
    assert_eq!(answer.status, 204);
    assert_eq!(
        answer.headers["content-location"],
        format!("/v1/images/{id}")
    );
    assert_eq!(station.offset(id).await, bytes.len() as u64);
    station.receiver.stop().await;
}

#[tokio::test]
async fn a_connection_that_breaks_leaves_nothing_where_a_sum_was_to_be_checked() {
    let station = Station::start().await;
    let bytes = picture(300, 1);
    let id = station.create(bytes.len()).await;
    let mut client = station.connect().await;
    let sum = [("upload-checksum", "md5 XrY7u+Ae7tCTyyK7j1rNww==")];
    client.begin_patch(id, bytes.len(), &sum).await;
    client.0.write_all(&bytes[..bytes.len() / 2]).await.unwrap();
    drop(client);
    assert_eq!(station.parked(id).await, 0);
    assert_eq!(station.offset(id).await, 0);
    station.receiver.stop().await;
}

#[tokio::test]
async fn a_dead_connection_blocks_nobody() {
    let station = Station::start().await;
    let bytes = picture(300, 1);
    let id = station.create(bytes.len()).await;
    let mut dead = station.connect().await;
    dead.begin_patch(id, bytes.len(), &[]).await;
    dead.0.write_all(&bytes[..1_000]).await.unwrap();
    // It stays open, and silent; who asks is answered all the same, and goes on from there.
    let offset = usize::try_from(station.offset(id).await).unwrap();
    assert!(offset <= 1_000);
    assert_eq!(dead.answer().await.status, 409);
    let mut client = station.connect().await;
    let (at, length) = (offset.to_string(), (bytes.len() - offset).to_string());
    let headers = [BYTES, ("upload-offset", &*at), ("content-length", &*length)];
    client
        .send("PATCH", &format!("/v1/uploads/{id}"), &headers)
        .await;
    client.0.write_all(&bytes[offset..]).await.unwrap();
    assert_eq!(client.answer().await.status, 204);
    station.receiver.stop().await;
}

#[tokio::test]
async fn an_image_whose_sender_does_not_wait_for_the_answer_is_stored() {
    let station = Station::start().await;
    let bytes = picture(300, 1);
    let id = station.create(bytes.len()).await;
    let mut client = station.connect().await;
    client.begin_patch(id, bytes.len(), &[]).await;
    client.0.write_all(&bytes).await.unwrap();
    drop(client);
    let catalog = station.receiver.intake().catalog();
    while catalog.find(id).await.unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(station.offset(id).await, bytes.len() as u64);
    station.receiver.stop().await;
}

#[tokio::test]
async fn a_refused_request_does_not_make_its_sender_send_the_body() {
    let station = Station::start().await;
    let id = station.create(10).await;
    let mut client = station.connect().await;
    let headers = [
        BYTES,
        ("upload-offset", "5"),
        ("content-length", "5"),
        ("expect", "100-continue"),
    ];
    client
        .send("PATCH", &format!("/v1/uploads/{id}"), &headers)
        .await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 409);
    assert_eq!(answer.headers["connection"], "close");
    station.receiver.stop().await;
}

#[tokio::test]
async fn a_refused_request_leaves_the_connection_to_the_next_one() {
    let station = Station::start().await;
    let bytes = picture(300, 1);
    let id = station.create(bytes.len()).await;
    let path = format!("/v1/uploads/{id}");
    let length = bytes.len().to_string();
    let mut client = station.connect().await;
    let headers = [BYTES, ("upload-offset", "5"), ("content-length", "300000")];
    client.send("PATCH", &path, &headers).await;
    client.0.write_all(&[0; 300_000]).await.unwrap();
    let refused = client.answer().await;
    assert_eq!(refused.status, 409);
    let mut document = vec![0; refused.headers["content-length"].parse().unwrap()];
    client.0.read_exact(&mut document).await.unwrap();
    let headers = [BYTES, ("upload-offset", "0"), ("content-length", &*length)];
    client.send("PATCH", &path, &headers).await;
    client.0.write_all(&bytes).await.unwrap();
    assert_eq!(client.answer().await.status, 204);
    station.receiver.stop().await;
}

#[tokio::test]
async fn a_stopped_receiver_keeps_no_hold_on_its_folder() {
    let station = Station::start().await;
    station.create(10).await;
    station.receiver.stop().await;
    let again = tokio::time::timeout(Duration::from_secs(10), start(&station.folder));
    let (_, receiver) = again.await.unwrap();
    receiver.stop().await;
}
