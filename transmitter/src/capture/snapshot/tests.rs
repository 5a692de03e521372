use std::future::Future;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};

use super::*;
use crate::payload::Payload;

const LONG: Duration = Duration::from_secs(60);
const JPEG: &[u8] = b"\xFF\xD8\xFF one image";

/// A camera that answers each connection as told, in order; and where it is.
async fn camera<F, Fut>(serve: F) -> Url
where
    F: Fn(usize, TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(number, stream));
        }
    });
    Url::parse(&format!("http://{address}/snap.jpg")).unwrap()
}

fn open(url: &Url, timeout: Duration) -> SnapshotSource {
    let mut source = SnapshotSource::open(url, timeout).unwrap();
    Arc::get_mut(&mut source.camera).unwrap().first_wait = Duration::from_millis(1);
    source
}

/// Reads a request; its text. Empty at the end of the connection.
async fn request(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => text.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(text).unwrap()
}

async fn answer(stream: &mut TcpStream, status: &str, kind: &str, body: &[u8]) {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream
        .write_all(&[head.as_bytes(), body].concat())
        .await
        .unwrap();
}

async fn take(source: &mut SnapshotSource) -> (Vec<u8>, Captured) {
    let image = timeout(LONG, source.next())
        .await
        .expect("in time")
        .unwrap()
        .unwrap();
    match &image.payload {
        Payload::Memory(bytes) => (bytes.to_vec(), image),
        Payload::File { .. } => panic!("a camera's images are in memory"),
    }
}

#[tokio::test]
async fn one_connection_gives_image_after_image() {
    let url = camera(|number, mut stream| async move {
        assert_eq!(number, 0, "one connection is enough");
        for count in 0_u8.. {
            if request(&mut stream).await.is_empty() {
                return;
            }
            answer(
                &mut stream,
                "200 OK",
                "image/jpeg; q=1",
                &[JPEG, &[count]].concat(),
            )
            .await;
        }
    })
    .await;
    let mut source = open(&url, LONG);
    assert!(!source.is_finite());
    for count in 0..3 {
        let (bytes, image) = take(&mut source).await;
        assert_eq!(bytes.last(), Some(&count));
        assert_eq!(image.content_type.as_deref(), Some("image/jpeg"));
        assert_eq!(image.name, Some(format!("127.0.0.1-{:06}.jpg", count + 1)));
    }
}

#[tokio::test]
async fn a_camera_that_closes_after_each_image_is_asked_anew() {
    let url = camera(|_, mut stream| async move {
        request(&mut stream).await;
        // No length: the end of the connection is the end of the image.
        let head = b"HTTP/1.0 200 OK\r\nContent-Type: application/octet-stream\r\n\r\n";
        stream.write_all(&[head, JPEG].concat()).await.unwrap();
    })
    .await;
    let mut source = open(&url, LONG);
    for _ in 0..3 {
        let (bytes, image) = take(&mut source).await;
        assert_eq!(bytes, JPEG);
        assert_eq!(
            image.content_type.as_deref(),
            Some("image/jpeg"),
            "by its first bytes"
        );
    }
}

#[tokio::test]
async fn user_and_password_are_sent_but_never_shown() {
    let (sender, mut requests) = mpsc::unbounded_channel();
    let mut url = camera(move |_, mut stream| {
        let sender = sender.clone();
        async move {
            sender.send(request(&mut stream).await).unwrap();
            answer(&mut stream, "200 OK", "image/jpeg", JPEG).await;
        }
    })
    .await;
    url.set_username("us%3Aer").unwrap();
    url.set_password(Some("p@ss wörd")).unwrap();
    url.set_query(Some("pwd=hidden&size=2"));
    take(&mut open(&url, LONG)).await;
    let request = requests.recv().await.unwrap();
    assert!(
        request.starts_with("GET /snap.jpg?pwd=hidden&size=2 HTTP/1.1\r\n"),
        "{request}"
    );
    // base64 of "us:er:p@ss wörd", by `printf 'us:er:p@ss wörd' | base64`.
    assert!(
        request.contains("Basic dXM6ZXI6cEBzcyB3w7ZyZA=="),
        "{request}"
    );
    let port = url.port().unwrap();
    assert!(
        request
            .to_ascii_lowercase()
            .contains(&format!("host: 127.0.0.1:{port}\r\n"))
    );
    let shown = Target::new(&url).unwrap().shown().to_owned();
    assert_eq!(shown, format!("http://127.0.0.1:{port}/snap.jpg"));
}

#[tokio::test]
async fn a_camera_that_answers_wrongly_is_asked_until_it_answers_well() {
    let url = camera(|number, mut stream| async move {
        request(&mut stream).await;
        match number {
            0 => answer(&mut stream, "503 Service Unavailable", "image/jpeg", JPEG).await,
            1 => answer(&mut stream, "200 OK", "text/html", b"<html>log in</html>").await,
            2 => answer(&mut stream, "200 OK", "image/jpeg", b"").await,
            3 => stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nx")
                .await
                .unwrap(),
            4 => stream.write_all(b"nonsense\r\n\r\n").await.unwrap(),
            5 => {
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                    MAX_IMAGE + 1
                );
                stream.write_all(head.as_bytes()).await.unwrap();
            }
            _ => answer(&mut stream, "200 OK", "image/png", b"good").await,
        }
    })
    .await;
    let (bytes, image) = take(&mut open(&url, LONG)).await;
    assert_eq!(
        (&bytes[..], image.content_type.as_deref()),
        (&b"good"[..], Some("image/png"))
    );
}

#[tokio::test]
async fn a_camera_that_does_not_answer_in_time_is_asked_again() {
    let url = camera(|number, mut stream| async move {
        request(&mut stream).await;
        if number == 0 {
            // It never answers, and the connection stays open as long as the other side wants.
            assert!(stream.read_u8().await.is_err());
        } else {
            answer(&mut stream, "200 OK", "image/jpeg", JPEG).await;
        }
    })
    .await;
    // Long enough for a busy machine to answer within it, sooner or later.
    let mut source = open(&url, Duration::from_millis(200));
    assert_eq!(take(&mut source).await.0, JPEG);
}

#[tokio::test]
async fn giving_up_waiting_does_not_ask_anew() {
    let (sender, mut asked) = mpsc::unbounded_channel();
    let url = camera(move |number, mut stream| {
        let sender = sender.clone();
        async move {
            request(&mut stream).await;
            sender.send(number).unwrap();
            answer(&mut stream, "200 OK", "image/jpeg", JPEG).await;
            request(&mut stream).await;
        }
    })
    .await;
    let mut source = open(&url, LONG);
    loop {
        // Polled once and dropped, as in a select that something else wins.
        if futures_util::FutureExt::now_or_never(source.next()).is_some() {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(asked.recv().await, Some(0));
    assert!(asked.try_recv().is_err());
}

fn part(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body, b"\r\n"].concat()
}

const STREAM: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=\"--frame\"\r\n\r\n";

#[tokio::test]
async fn a_stream_gives_frames_and_is_begun_again_when_it_ends() {
    let url = camera(|number, mut stream| async move {
        request(&mut stream).await;
        let frame = part(format!("frame of stream {number}").as_bytes());
        stream.write_all(&[STREAM, &frame].concat()).await.unwrap();
    })
    .await;
    let mut source = open(&url, LONG);
    for number in 0..3 {
        let (bytes, image) = take(&mut source).await;
        assert_eq!(bytes, format!("frame of stream {number}").as_bytes());
        assert_eq!(image.content_type.as_deref(), Some("image/jpeg"));
    }
}

#[tokio::test]
async fn a_slow_consumer_gets_the_newest_frame() {
    let first_taken = Arc::new(Notify::new());
    let go_on = Arc::clone(&first_taken);
    let url = camera(move |number, mut stream| {
        let go_on = Arc::clone(&go_on);
        async move {
            request(&mut stream).await;
            if number > 0 {
                return;
            }
            stream
                .write_all(&[STREAM, &part(b"first")].concat())
                .await
                .unwrap();
            go_on.notified().await;
            for count in 0..100 {
                stream
                    .write_all(&part(format!("{count}").as_bytes()))
                    .await
                    .unwrap();
            }
        }
    })
    .await;
    let mut source = open(&url, LONG);
    assert_eq!(take(&mut source).await.0, b"first");
    first_taken.notify_one();
    let frames = match &source.state {
        State::Live { frames, .. } => Arc::clone(frames),
        _ => panic!("not live"),
    };
    // The reader reads on without being asked, to the end of the stream.
    let read = async {
        while !frames.is_closed() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, read).await.unwrap();
    assert_eq!(take(&mut source).await.0, b"99");
}

#[tokio::test]
async fn parts_that_are_no_images_are_skipped() {
    let url = camera(|_, mut stream| async move {
        request(&mut stream).await;
        let text = b"--frame\r\nContent-Type: text/plain\r\n\r\nhello\r\n";
        stream
            .write_all(&[STREAM, text, &part(b"image")].concat())
            .await
            .unwrap();
        request(&mut stream).await;
    })
    .await;
    assert_eq!(take(&mut open(&url, LONG)).await.0, b"image");
}

#[test]
fn addresses_that_cannot_be_asked_are_refused_without_their_password() {
    for (url, expected) in [
        (
            "https://u:secret@cam/x?pwd=secret",
            "https is not supported yet; use http",
        ),
        ("ftp://u:secret@cam/x", "use an http:// address"),
    ] {
        let error = SnapshotSource::open(&Url::parse(url).unwrap(), LONG)
            .err()
            .unwrap();
        let text = format!("{error} {error:?}");
        assert!(text.contains(expected), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }
}
