//! gRPC: `Put`, `Upload`, `Exchange` and `Watch` of `pantelegraph.transfer.v1.TransferService`.
//!
//! tonic serves the connection and the calls with small messages. The two calls that carry chunks
//! take their request body apart here, so that image bytes are not copied on their way from
//! HTTP/2's DATA frames to the intake.

mod stream;
mod unary;

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use shared::security::access::Caller;
use shared::wire::proto;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic_prost::ProstCodec;

use super::metered::MeteredBody;
use crate::budget::{Holder, REVOKED};
use crate::intake::Intake;
pub(super) use unary::status_of;

/// What the gRPC endpoint needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// Chunk bytes that a session may have under way.
    pub credit: u64,
    /// Time without a message after which a call is ended.
    pub idle_timeout: Duration,
    /// Owns the tasks of long calls, which may outlive their connections.
    pub tasks: TaskTracker,
}

/// The service, to be added to a tonic server.
#[derive(Clone)]
pub struct TransferService {
    intake: Arc<Intake>,
    options: Options,
    stop: CancellationToken,
}

/// Bytes of a `PutRequest` beside its image and the texts about it, at most: numbers, id, digest.
const PUT_OVERHEAD: usize = 1 << 10;

/// Largest request to watch: two short texts.
const MAX_WATCH_REQUEST: usize = 64 << 10;

impl TransferService {
    /// A service over `intake` whose long calls end when `stop` is cancelled.
    pub fn new(intake: Arc<Intake>, options: Options, stop: CancellationToken) -> Self {
        Self {
            intake,
            options,
            stop,
        }
    }

    /// Answers a call. Whose it is stands in its extensions; without that, it is nobody's, and refused.
    pub async fn serve(self, request: Request<Body>) -> Response<Body> {
        let Some(caller) = request.extensions().get::<Caller>().cloned() else {
            return tonic::Status::internal("a call came in by the wrong door").into_http();
        };
        let path = request.uri().path();
        let call = path
            .strip_prefix('/')
            .and_then(|path| path.strip_prefix(Self::NAME))
            .and_then(|path| path.strip_prefix('/'));
        let method = call.unwrap_or(path).to_owned();
        let max_message = self.intake.limits().max_message_size.as_usize();
        match method.as_str() {
            "Exchange" => stream::exchange(self, request, &caller),
            "Upload" => stream::upload(self, request, &caller).await,
            "Put" => {
                let codec = ProstCodec::<proto::PutResponse, proto::PutRequest>::default();
                // The limit is for the image; what is said of it has a limit of its own.
                let metadata = self.intake.limits().max_metadata.as_usize();
                let mut grpc = tonic::server::Grpc::new(codec)
                    .max_decoding_message_size(max_message + metadata + PUT_OVERHEAD);
                let memory = self.intake.budget().holder();
                let largest = (max_message + metadata + PUT_OVERHEAD) as u64;
                let request = metered(request, &memory, largest);
                let put = unary::Put(self.intake, memory.clone(), caller);
                let response = tokio::select! {
                    response = grpc.unary(put, request) => response,
                    () = memory.revoked() => tonic::Status::unavailable(REVOKED).into_http(),
                };
                unary::name_the_limit(response, max_message)
            }
            "Watch" => {
                let codec = ProstCodec::<proto::Event, proto::WatchRequest>::default();
                let mut grpc =
                    tonic::server::Grpc::new(codec).max_decoding_message_size(MAX_WATCH_REQUEST);
                grpc.server_streaming(unary::Watch(self.intake, self.stop, caller), request)
                    .await
            }
            _ => tonic::Status::unimplemented(format!(
                "{method} is not a call of pantelegraph.transfer.v1.TransferService; \
                 known are Put, Upload, Exchange and Watch"
            ))
            .into_http(),
        }
    }
}

/// Counts the body of a request that is taken as a whole.
fn metered(request: Request<Body>, memory: &Holder, largest: u64) -> Request<Body> {
    request.map(|body| Body::new(MeteredBody::new(body, memory.clone(), largest)))
}

impl NamedService for TransferService {
    const NAME: &'static str = "pantelegraph.transfer.v1.TransferService";
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests;
