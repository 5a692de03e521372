//! A small HTTP camera, which shows one frame after another for ever.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

/// Time between two frames of a stream.
const FRAME_TIME: Duration = Duration::from_millis(10);
/// A request of more bytes is not answered.
const MAX_REQUEST: u64 = 16 << 10;
const BOUNDARY: &str = "--camera--frame";

/// Serves until the process ends.
pub(super) struct Camera {
    address: SocketAddr,
}

impl Camera {
    /// Starts on a free port.
    pub(super) fn start(frames: Vec<Vec<u8>>) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("a port for the camera")?;
        let address = listener.local_addr()?;
        let shown = Arc::new(Shown {
            frames,
            next: AtomicUsize::new(0),
        });
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shown = Arc::clone(&shown);
                // Fails when the client has gone, which ends a stream.
                thread::spawn(move || shown.serve(&client));
            }
        });
        Ok(Self { address })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

struct Shown {
    frames: Vec<Vec<u8>>,
    next: AtomicUsize,
}

impl Shown {
    fn frame(&self) -> &[u8] {
        &self.frames[self.next.fetch_add(1, Ordering::Relaxed) % self.frames.len()]
    }

    fn serve(&self, mut client: &TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(client.take(MAX_REQUEST)).lines();
        let request = lines.next().transpose()?.unwrap_or_default();
        for line in lines {
            if line?.is_empty() {
                break;
            }
        }
        match request.split(' ').nth(1) {
            Some("/snapshot.jpg") => {
                let frame = self.frame();
                write!(
                    client,
                    "HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\
                     Connection: close\r\n\r\n",
                    frame.len()
                )?;
                client.write_all(frame)
            }
            Some("/stream") => self.stream(client, true),
            Some("/plain-stream") => self.stream(client, false),
            _ => client.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
        }
    }

    fn stream(&self, mut client: &TcpStream, with_lengths: bool) -> std::io::Result<()> {
        write!(
            client,
            "HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary={BOUNDARY}\r\n\
             \r\n"
        )?;
        loop {
            let frame = self.frame();
            write!(client, "--{BOUNDARY}\r\nContent-Type: image/jpeg\r\n")?;
            if with_lengths {
                write!(client, "Content-Length: {}\r\n", frame.len())?;
            }
            client.write_all(b"\r\n")?;
            client.write_all(frame)?;
            client.write_all(b"\r\n")?;
            thread::sleep(FRAME_TIME);
        }
    }
}
