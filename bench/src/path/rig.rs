//! Receiver and transmitter in one process, each on a thread of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use receiver::config as rx;
use receiver::server::{Listeners, Receiver};
use shared::clock::UnixNanos;
use shared::digest::DigestAlgorithm;
use shared::image::{ImageId, ImageMeta, Transport};
use shared::receipt::Durability;
use shared::security::tls::{ClientFiles, ClientTls, ServerFiles};
use shared::settings::units::ByteSize;
use shared::telemetry::{Usage, WireCount};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use transmitter::config as tx;
use transmitter::link::{Attempt, Connection, Dialler, Identity};
use transmitter::outbox::Owed;
use transmitter::payload::Payload;
use url::Url;

use super::{Options, Sample, median, sample};

/// A running receiver, and images to send to it.
pub(super) struct Rig {
    urls: BTreeMap<Transport, Url>,
    link: tx::LinkOptions,
    dialler: Dialler,
    image: Bytes,
    latency_image: Bytes,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
    runtime: tokio::runtime::Runtime,
    _data: tempfile::TempDir,
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())
}

impl Rig {
    /// Starts a receiver, that of an encrypted path with a certificate of its own.
    pub(super) fn start(options: &Options, encrypted: bool) -> Result<Self, String> {
        let data = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut config = receiver_config(options, data.path().to_owned());
        let mut dialler = Dialler::default();
        if encrypted {
            let (server, client) = certificates(data.path())?;
            config.security.tls = Some(server);
            let client = ClientTls::open(client).map_err(|error| error.to_string())?;
            dialler = Dialler::new(Some(client), None);
        }
        let stop = CancellationToken::new();
        let (ready, addresses) = std::sync::mpsc::channel();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let started = runtime()
                .and_then(|runtime| runtime.block_on(serve(config, stopped, ready.clone())));
            if let Err(problem) = started {
                let _ = ready.send(Err(problem));
            }
        });
        let (grpc, http) = addresses.recv().map_err(|error| error.to_string())??;
        let url = |scheme: &str, address: std::net::SocketAddr, path: &str| {
            Url::parse(&format!("{scheme}://{address}{path}")).map_err(|error| error.to_string())
        };
        let (scheme, socket) = match encrypted {
            true => ("https", "wss"),
            false => ("http", "ws"),
        };
        let urls = BTreeMap::from([
            (Transport::Grpc, url(scheme, grpc, "")?),
            (Transport::WebSocket, url(socket, http, "/v1/stream")?),
            (Transport::Rest, url(scheme, http, "")?),
        ]);
        Ok(Self {
            urls,
            link: link_options(options),
            dialler,
            image: image_of(options.image_size.as_usize()),
            latency_image: image_of(options.latency_size.as_usize()),
            stop,
            thread: Some(thread),
            runtime: runtime()?,
            _data: data,
        })
    }

    pub(super) fn measure(
        &self,
        transport: Transport,
        options: &Options,
    ) -> Result<Sample, String> {
        let url = self.urls.get(&transport).ok_or("no such transport")?;
        let identity = Identity {
            outbox: shared::image::OutboxId::new(),
            unfinished: Default::default(),
            limiter: Default::default(),
            transmitter: "bench".to_owned(),
            wire: WireCount::default(),
            clock: Default::default(),
            dialler: self.dialler.clone(),
        };
        let link = transmitter::link::open(transport, url, &self.link, &identity);
        self.runtime.block_on(async {
            let mut connections = Vec::new();
            for _ in 0..options.connections {
                connections.push(link.connect().await.map_err(|error| error.to_string())?);
            }
            let count = (options.volume.0 / options.image_size.0).max(1);
            let (took, cpu) =
                throughput(&connections, &self.image, count, options.window.0).await?;
            let delivery =
                latency(&connections[0], &self.latency_image, options.latency_images).await?;
            for connection in connections {
                connection.close().await;
            }
            Ok(sample(count * options.image_size.0, took, cpu, delivery))
        })
    }

    pub(super) fn stop(mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A certificate that is its own CA, in files below `folder`.
fn certificates(folder: &std::path::Path) -> Result<(ServerFiles, ClientFiles), String> {
    let names = vec!["127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).map_err(|error| error.to_string())?;
    let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    std::fs::write(&certificate, made.cert.pem())
        .and_then(|()| std::fs::write(&key, made.signing_key.serialize_pem()))
        .map_err(|error| error.to_string())?;
    let client = ClientFiles {
        ca: Some(certificate.clone()),
        ..ClientFiles::default()
    };
    let server = ServerFiles {
        certificate,
        key,
        clients: None,
    };
    Ok((server, client))
}

type Addresses = Result<(std::net::SocketAddr, std::net::SocketAddr), String>;

async fn serve(
    config: rx::Config,
    stop: CancellationToken,
    ready: std::sync::mpsc::Sender<Addresses>,
) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    let listeners = Listeners {
        grpc: Some(TcpListener::bind("127.0.0.1:0").await.map_err(text)?),
        http: Some(TcpListener::bind("127.0.0.1:0").await.map_err(text)?),
        all: None,
    };
    let receiver = Receiver::start(config, listeners)
        .await
        .map_err(|error| error.to_string())?;
    let addresses = receiver.grpc_address.zip(receiver.http_address);
    let _ = ready.send(addresses.ok_or_else(|| "no listeners".to_owned()));
    stop.cancelled().await;
    receiver.stop().await;
    Ok(())
}

fn receiver_config(options: &Options, data: std::path::PathBuf) -> rx::Config {
    rx::Config {
        name: "bench".to_owned(),
        grpc_listen: None,
        http_listen: None,
        listen_all: None,
        security: shared::security::settings::ServerSettings::default(),
        open_metrics: true,
        max_connections_per_peer: 64,
        max_requests_per_second: None,
        handshake_timeout: Duration::from_secs(10),
        pull: Vec::new(),
        data,
        durability: Durability::Memory,
        verify: rx::Verify::Header,
        limits: rx::Limits {
            max_image_size: ByteSize(1 << 30),
            max_message_size: ByteSize::mib(4),
            max_chunks: 1_000_000,
            max_metadata: ByteSize::kib(16),
            max_connections: 64,
            max_unfinished: 64,
            max_memory: ByteSize::mib(256),
            idle_timeout: Duration::from_secs(60),
            partial_ttl: Duration::from_secs(60),
            partial_limit: ByteSize::mib(4_096),
            min_free: ByteSize(0),
            quota: rx::Quota::default(),
            max_pixels: 500_000_000,
            decode_timeout: Duration::from_secs(30),
        },
        link: rx::LinkOptions {
            credit: ByteSize(options.window.0.max(ByteSize::mib(8).0)),
            http2_frame_size: options.http2_frame_size,
            http2_window: options.http2_window,
        },
        grace: Duration::from_secs(5),
        log: "off".to_owned(),
        log_format: shared::telemetry::LogFormat::Text,
        telemetry: Default::default(),
    }
}

fn link_options(options: &Options) -> tx::LinkOptions {
    tx::LinkOptions {
        bandwidth: tx::BandwidthOptions::default(),
        chunk_size: options.chunk_size,
        grpc_call: tx::GrpcCall::Exchange,
        message_size: ByteSize::mib(4),
        window: options.window,
        connections: options.connections,
        http2_frame_size: options.http2_frame_size,
        connect_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(30),
        clock_interval: Duration::from_secs(10),
    }
}

/// A PNG of `size` bytes: a real head (1 by 1 pixel), one chunk of padding, a real end.
fn image_of(size: usize) -> Bytes {
    let crc = |kind: &[u8; 4], data: &[u8]| {
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32IsoHdlc);
        digest.update(kind);
        digest.update(data);
        digest.finalize() as u32
    };
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    let chunk = |png: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]| {
        png.extend_from_slice(&u32::try_from(data.len()).unwrap_or(0).to_be_bytes());
        png.extend_from_slice(kind);
        png.extend_from_slice(data);
        png.extend_from_slice(&crc(kind, data).to_be_bytes());
    };
    chunk(&mut png, b"IHDR", &[0, 0, 0, 1, 0, 0, 0, 1, 8, 0, 0, 0, 0]);
    // zlib, stored: filter byte and one grey pixel.
    let pixels = [0x78, 1, 1, 2, 0, 0xfd, 0xff, 0, 7, 0, 9, 0, 8];
    chunk(&mut png, b"IDAT", &pixels);
    let rest = size.saturating_sub(png.len() + 12 + 12);
    let padding: Vec<u8> = (0..rest).map(|i| (i * 31 % 251) as u8).collect();
    chunk(&mut png, b"paDd", &padding);
    chunk(&mut png, b"IEND", &[]);
    png.into()
}

/// A fresh image with its digest, as capture makes it.
fn owed(image: &Bytes) -> Owed {
    let mut meta = ImageMeta::new(ImageId::new(), image.len() as u64);
    meta.digest = Some(DigestAlgorithm::Xxh3.digest(image));
    meta.content_type = Some("image/png".to_owned());
    Owed {
        meta,
        payload: Payload::Memory(image.clone()),
        source_file: None,
        source_mark: None,
        carried: false,
    }
}

async fn throughput(
    connections: &[Arc<dyn Connection>],
    image: &Bytes,
    count: u64,
    window: u64,
) -> Result<(Duration, Duration), String> {
    let in_flight = usize::try_from(window / image.len() as u64)
        .unwrap_or(1)
        .max(1);
    let usage = Usage::now();
    let start = Instant::now();
    let left = Arc::new(std::sync::atomic::AtomicU64::new(count));
    let mut senders = tokio::task::JoinSet::new();
    for connection in connections {
        for _ in 0..in_flight
            .min(connection.parallel())
            .div_ceil(connections.len())
        {
            let (connection, image, left) =
                (Arc::clone(connection), image.clone(), Arc::clone(&left));
            senders.spawn(async move {
                use std::sync::atomic::Ordering::Relaxed;
                let take = |left: u64| left.checked_sub(1);
                while left.fetch_update(Relaxed, Relaxed, take).is_ok() {
                    let attempt = Attempt {
                        number: 1,
                        started: UnixNanos::now(),
                        turn: None,
                        trace: None,
                    };
                    let delivered = connection.deliver(&owed(&image), attempt).await;
                    delivered.map_err(|error| error.to_string())?;
                }
                Ok::<(), String>(())
            });
        }
    }
    while let Some(sender) = senders.join_next().await {
        sender.map_err(|error| error.to_string())??;
    }
    let took = start.elapsed();
    Ok((took, Usage::now().cpu.saturating_sub(usage.cpu)))
}

async fn latency(
    connection: &Arc<dyn Connection>,
    image: &Bytes,
    count: usize,
) -> Result<Duration, String> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let image = owed(image);
        let start = Instant::now();
        let attempt = Attempt {
            number: 1,
            started: UnixNanos::now(),
            turn: None,
            trace: None,
        };
        connection
            .deliver(&image, attempt)
            .await
            .map_err(|error| error.to_string())?;
        times.push(start.elapsed());
    }
    Ok(median(times))
}
