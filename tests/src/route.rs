//! The ways from a transmitter to a receiver, so that one suite can take all of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use pantelegraph_transmitter::cli::Invocation;
use pantelegraph_transmitter::config::Config;
use pantelegraph_transmitter::link::websocket::ListenLink;
use pantelegraph_transmitter::link::{self, Attempt, Connection, DeliveryError, Identity, Link};
use pantelegraph_transmitter::outbox::Owed;
use pantelegraph_transmitter::payload::Payload;
use pantelegraph_transmitter::run::{self, Summary, Surroundings};
use shared::clock::UnixNanos;
use shared::digest::DigestAlgorithm;
use shared::image::{ImageId, ImageMeta, Transport};
use shared::receipt::{Receipt, Reject};
use shared::telemetry::WireCount;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::pictures::Picture;
use crate::station::{Data, Station};
use crate::within;

/// Name that the transmitters of the tests go by.
pub const NAME: &str = "camera";

/// A way from a transmitter to a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// gRPC, one stream for all images.
    Exchange,
    /// gRPC, a call for each image.
    Put,
    /// WebSocket, dialled by the transmitter.
    WebSocket,
    /// WebSocket, dialled by the receiver.
    Listen,
    /// HTTP `PUT`.
    Rest,
}

impl Route {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Exchange,
        Self::Put,
        Self::WebSocket,
        Self::Listen,
        Self::Rest,
    ];

    /// Its transport.
    pub fn transport(self) -> Transport {
        match self {
            Self::Exchange | Self::Put => Transport::Grpc,
            Self::WebSocket | Self::Listen => Transport::WebSocket,
            Self::Rest => Transport::Rest,
        }
    }

    /// Where `station` takes what comes this way.
    pub fn address(self, station: &Station) -> SocketAddr {
        match self {
            Self::Exchange | Self::Put => station.grpc(),
            Self::WebSocket | Self::Listen | Self::Rest => station.http(),
        }
    }

    /// Flags of a transmitter that goes this way to, or waits at, `address`.
    pub fn flags(self, address: SocketAddr) -> Vec<String> {
        let flags: &[&str] = match self {
            Self::Exchange => &["--transport", "grpc", "--to", "http://"],
            Self::Put => &[
                "--transport",
                "grpc",
                "--grpc-call",
                "put",
                "--to",
                "http://",
            ],
            Self::WebSocket => &["--transport", "websocket", "--to", "ws://"],
            Self::Rest => &["--transport", "rest", "--to", "http://"],
            Self::Listen => &["--listen", ""],
        };
        let mut flags: Vec<String> = flags.iter().copied().map(str::to_owned).collect();
        if let Some(last) = flags.last_mut() {
            last.push_str(&address.to_string());
        }
        flags
    }

    /// The settings of a transmitter that goes this way to, or waits at, `address`.
    ///
    /// # Panics
    /// When `flags` are wrong.
    pub fn config(self, address: SocketAddr, flags: &[&str]) -> Config {
        let own = self.flags(address);
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        Self::settings(&[&own[..], flags].concat())
    }

    /// The settings of a transmitter with these flags, and those of the tests.
    ///
    /// # Panics
    /// When they are wrong.
    pub fn settings(flags: &[&str]) -> Config {
        let defaults = [
            ("--name", NAME),
            ("--retry-initial", "5ms"),
            ("--retry-max", "50ms"),
            ("--give-up-after", "30s"),
            ("--progress", "never"),
            ("--outbox", "memory"),
        ];
        let mut args = vec!["pantelegraph-transmitter".to_owned()];
        for (flag, value) in defaults {
            if !flags.contains(&flag) {
                args.extend([flag.to_owned(), value.to_owned()]);
            }
        }
        args.extend(flags.iter().copied().map(str::to_owned));
        let environment: BTreeMap<String, String> = BTreeMap::new();
        let args = args.into_iter().map(Into::into);
        match pantelegraph_transmitter::cli::parse(args, &environment, None) {
            Ok(Invocation::Run(config, _)) => *config,
            Ok(other) => panic!("{other:?}"),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Runs a transmitter to its end.
///
/// # Panics
/// When it cannot begin.
pub async fn transmit(config: &Config, listener: Option<TcpListener>) -> Summary {
    let surroundings = Surroundings {
        listener,
        shared_process: true,
        ..Surroundings::default()
    };
    let running = run::run(config, surroundings, CancellationToken::new());
    within("the end of the run", running)
        .await
        .expect("the source can be used")
}

/// A receiver, and where a transmitter finds it or is found by it.
pub struct Pair {
    /// The way between them.
    pub route: Route,
    /// The receiver.
    pub station: Station,
    listener: Option<std::net::TcpListener>,
}

impl Pair {
    /// A receiver with an empty folder.
    pub async fn start(route: Route, receiver_flags: &[&str]) -> Self {
        let listener = (route == Route::Listen).then(listener);
        let station =
            start_station(route, receiver_flags, Data::default(), listener.as_ref()).await;
        Self {
            route,
            station,
            listener,
        }
    }

    /// Settings of a transmitter for this receiver.
    pub fn config(&self, flags: &[&str]) -> Config {
        let address = match &self.listener {
            Some(listener) => listener.local_addr().expect("it is bound"),
            None => self.route.address(&self.station),
        };
        self.route.config(address, flags)
    }

    fn tokio_listener(&self) -> Option<TcpListener> {
        self.listener.as_ref().map(tokio_listener)
    }

    /// Runs a transmitter to its end.
    pub async fn transmit(&self, flags: &[&str]) -> Summary {
        transmit(&self.config(flags), self.tokio_listener()).await
    }

    /// A connection without a run around it.
    ///
    /// # Panics
    /// When there is none to be had.
    pub async fn connect(&self, flags: &[&str]) -> Arc<dyn Connection> {
        let connecting = self.link(flags);
        within("a connection", connecting.connect())
            .await
            .expect("the receiver welcomes")
    }

    /// A link without a run around it.
    pub fn link(&self, flags: &[&str]) -> Arc<dyn Link> {
        let source = ["--pattern", "8x8", "--count", "1"];
        let config = self.config(&[&source, flags].concat());
        let identity = Identity {
            outbox: shared::image::OutboxId::new(),
            unfinished: Default::default(),
            limiter: Default::default(),
            transmitter: NAME.to_owned(),
            wire: WireCount::default(),
            clock: Default::default(),
            dialler: Default::default(),
        };
        match self.tokio_listener() {
            Some(listener) => Arc::new(ListenLink::new(listener, config.link, identity)),
            None => {
                let transport = self.route.transport();
                link::open(transport, &config.to[&transport], &config.link, &identity)
            }
        }
    }
}

/// A socket on a free port, for a transmitter that waits there.
///
/// # Panics
/// When there is no free port.
pub fn listener() -> std::net::TcpListener {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("port 0 is always free");
    listener.set_nonblocking(true).expect("sockets can be so");
    listener
}

/// The same socket, for the runtime of this test.
///
/// # Panics
/// When the process is out of file descriptors.
pub fn tokio_listener(listener: &std::net::TcpListener) -> TcpListener {
    let same = listener.try_clone().expect("a file descriptor is free");
    TcpListener::from_std(same).expect("it does not block")
}

/// A receiver for this way, which dials `listener` if there is one.
///
/// # Panics
/// When it cannot start.
pub async fn start_station(
    route: Route,
    flags: &[&str],
    data: Data,
    listener: Option<&std::net::TcpListener>,
) -> Station {
    let Some(listener) = listener else {
        assert_ne!(route, Route::Listen, "somebody must listen");
        return Station::start_on(data, flags).await;
    };
    let url = format!("ws://{}", listener.local_addr().expect("it is bound"));
    Station::start_on(data, &[&["--pull", &url], flags].concat()).await
}

/// `bytes` as an image that is owed.
pub fn owed(
    bytes: &bytes::Bytes,
    name: &str,
    media_type: &str,
    algorithm: DigestAlgorithm,
) -> Owed {
    let mut meta = ImageMeta::new(ImageId::new(), bytes.len() as u64);
    meta.digest = Some(algorithm.digest(bytes));
    meta.name = Some(name.to_owned());
    meta.content_type = Some(media_type.to_owned());
    meta.captured = Some(UnixNanos::now());
    Owed {
        meta,
        payload: Payload::Memory(bytes.clone()),
        source_file: None,
        source_mark: None,
        carried: false,
    }
}

/// A proper image that is owed.
pub fn owed_picture(picture: &Picture, algorithm: DigestAlgorithm) -> Owed {
    let name = format!("picture.{}", picture.ending);
    owed(&picture.bytes, &name, picture.media_type, algorithm)
}

/// Sends an image once.
///
/// # Errors
/// The receiver's rejection.
///
/// # Panics
/// When there is no answer at all.
pub async fn deliver(connection: &dyn Connection, image: &Owed) -> Result<Receipt, Reject> {
    let attempt = Attempt {
        number: 1,
        started: UnixNanos::now(),
        turn: None,
        trace: None,
    };
    match within("an answer", connection.deliver(image, attempt)).await {
        Ok(receipt) => Ok(receipt),
        Err(DeliveryError::Rejected(reject)) => Err(reject),
        Err(error) => panic!("no answer: {error}"),
    }
}
