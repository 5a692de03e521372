//! The user service on a thread of its own, and ways to call it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use shared::telemetry::chain;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use users::config::{Config, Stopping};
use users::refusal::Refusal;
use users::server::{Listeners, Server};
use users::service::Service;
use users::user::{Draft, NewUser};
use users::wire::proto::user_service_client::UserServiceClient;

use super::tap::Tap;
use super::witness::Witness;

/// Windows of flow control that a client grants, bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Windows {
    pub(super) stream: u32,
    pub(super) connection: u32,
}

/// A running server.
pub(super) struct Rig {
    pub(super) grpc: SocketAddr,
    pub(super) http: SocketAddr,
    pub(super) service: Arc<Service>,
    pub(super) witness: Witness,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

type Started = Result<(SocketAddr, SocketAddr, Arc<Service>), String>;

/// A runtime of one thread.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start a runtime: {error}"))
}

impl Rig {
    pub(super) fn start() -> Result<Self, String> {
        let (witness, stop) = (Witness::default(), CancellationToken::new());
        let (started, wait) = std::sync::mpsc::channel();
        let (listening, stopped) = (witness.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let _listening = tracing::subscriber::set_default(listening);
            let served = runtime().and_then(|runtime| {
                runtime.block_on(serve(stopped, |ready| started.send(Ok(ready))))
            });
            if let Err(problem) = served {
                let _ = started.send(Err(problem));
            }
        });
        let started: Started = wait.recv().map_err(|error| chain(&error))?;
        let (grpc, http, service) = started?;
        Ok(Self {
            grpc,
            http,
            service,
            witness,
            stop,
            thread: Some(thread),
        })
    }

    /// A client of gRPC with one connection, through `tap`.
    pub(super) async fn calls(
        &self,
        tap: &Tap,
        windows: Option<Windows>,
    ) -> Result<UserServiceClient<Channel>, String> {
        calls(tap.address, windows).await
    }

    /// The same without a tap.
    pub(super) async fn direct_calls(&self) -> Result<UserServiceClient<Channel>, String> {
        calls(self.grpc, None).await
    }

    /// Creates so many users, without a call.
    pub(super) async fn fill(&self, count: usize) -> Result<(), String> {
        let new: Vec<NewUser> = (0..count).map(new_user).collect::<Result<_, _>>()?;
        let created = self.service.directory.create_all(new).await;
        created.map(drop).map_err(|error| chain(&error))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve<E>(
    stop: CancellationToken,
    ready: impl FnOnce((SocketAddr, SocketAddr, Arc<Service>)) -> Result<(), E>,
) -> Result<(), String> {
    let config = Config {
        stopping: Stopping {
            drain_delay: Duration::ZERO,
            grace: Duration::from_millis(500),
        },
        ..Config::default()
    };
    let listeners = Listeners::open(&config).await.map_err(|e| chain(&e))?;
    let server = Server::start(config, listeners)
        .await
        .map_err(|e| chain(&e))?;
    let service = Arc::clone(server.service());
    // Who does not wait any more needs no server.
    if let Some((grpc, http)) = server.grpc_address.zip(server.http_address)
        && ready((grpc, http, service)).is_ok()
    {
        stop.cancelled().await;
    }
    server.stop().await;
    Ok(())
}

async fn calls(
    server: SocketAddr,
    windows: Option<Windows>,
) -> Result<UserServiceClient<Channel>, String> {
    let endpoint = Endpoint::from_shared(format!("http://{server}")).map_err(|e| chain(&e))?;
    let endpoint = match windows {
        None => endpoint,
        Some(windows) => endpoint
            .initial_stream_window_size(windows.stream)
            .initial_connection_window_size(windows.connection),
    };
    let channel = endpoint.connect().await.map_err(|e| chain(&e))?;
    Ok(UserServiceClient::new(channel))
}

/// A made-up user.
pub(super) fn draft(index: usize) -> Draft {
    Draft {
        name: format!("Made-up User {index:07}"),
        email: format!("user{index:07}@example.com"),
        age: i32::try_from(18 + index % 60).unwrap_or(18),
        roles: vec!["user".to_owned(), "editor".to_owned()],
    }
}

/// The same, checked.
pub(super) fn new_user(index: usize) -> Result<NewUser, String> {
    draft(index)
        .check()
        .map_err(|violations| chain(&Refusal::from(violations)))
}
