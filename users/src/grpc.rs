//! The gRPC face.

mod status;
mod streams;

use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use futures_util::Stream;
use shared::security::access::Scope;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use tonic_health::pb::health_server::{Health, HealthServer};

use crate::access::Requester;
use crate::admission::{Admission, Ending, Manners, admit};
use crate::refusal::{Refusal, Violations};
use crate::service::Service;
use crate::wire::proto::user_service_server::{UserService, UserServiceServer};
use crate::wire::{self, proto};

pub use status::{explain, refused};

/// A stream of answers.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The user service, its health and its reflection, for gRPC and gRPC-Web.
///
/// # Panics
/// Never: the contract was compiled with this program.
pub fn routes<H: Health>(service: Arc<Service>, health: HealthServer<H>) -> Router {
    let limits = service.limits;
    let admission = Admission {
        service: Arc::clone(&service),
        manners: MANNERS,
    };
    let users =
        UserServiceServer::new(Face { service }).max_decoding_message_size(limits.max_message_size);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(wire::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let (v1, v1alpha) = (reflection().build_v1(), reflection().build_v1alpha());
    Routes::new(users)
        .add_service(health)
        .add_service(v1.expect("the contract was compiled with this program"))
        .add_service(v1alpha.expect("the contract was compiled with this program"))
        .into_axum_router()
        .layer(axum::middleware::map_response(
            move |response: axum::response::Response| async move {
                status::explain_response(response, &limits)
            },
        ))
        .layer(axum::middleware::from_fn_with_state(admission, admit))
}

/// The service as gRPC asks for it.
struct Face {
    service: Arc<Service>,
}

const MANNERS: Manners = Manners {
    // Whoever decides where callers go asks before any caller is there.
    is_open: |request, _| request.uri().path().starts_with("/grpc.health.v1.Health/"),
    refuse: |refusal, _| refused(refusal).into_http(),
    ending: |refusal, _| {
        let mut trailers = http::HeaderMap::new();
        match refused(refusal).add_header(&mut trailers) {
            Ok(()) => Ending::Trailers(trailers),
            Err(_) => Ending::Broken,
        }
    },
};

/// Who calls.
fn requester<T>(request: &Request<T>) -> Result<Requester, Status> {
    let requester = request.extensions().get().cloned();
    // Nothing comes here that was not let in.
    requester.ok_or_else(|| refused(&Refusal::Internal))
}

fn told(refusal: Refusal) -> Status {
    refused(&refusal)
}

#[tonic::async_trait]
impl UserService for Face {
    async fn get_user(
        &self,
        request: Request<proto::GetUserRequest>,
    ) -> Result<Response<proto::UserResponse>, Status> {
        let requester = requester(&request)?;
        let user = self.service.user(&requester, request.get_ref().user_id);
        let user = user.map_err(told)?;
        Ok(Response::new(wire::user_to_proto(&user)))
    }

    async fn create_user(
        &self,
        request: Request<proto::CreateUserRequest>,
    ) -> Result<Response<proto::UserResponse>, Status> {
        let requester = requester(&request)?;
        let draft = wire::draft_from_proto(request.into_inner());
        let user = self.service.create(&requester, draft).await;
        let user = user.map_err(told)?;
        Ok(Response::new(wire::user_to_proto(&user)))
    }

    type ListUsersStream = Answers<proto::UserResponse>;

    async fn list_users(
        &self,
        request: Request<proto::ListUsersRequest>,
    ) -> Result<Response<Self::ListUsersStream>, Status> {
        let requester = requester(&request)?;
        let request = request.into_inner();
        let limit = usize::try_from(request.limit)
            .ok()
            .filter(|limit| *limit > 0);
        let after = request.after_user_id;
        let listing = self.service.list(&requester, after, limit, request.follow);
        let listing = listing.map_err(told)?;
        let stop = self.service.stop.clone();
        // The end of the server ends those who follow only; a list that is asked for is sent.
        let stop = request.follow.then_some(stop);
        Ok(Response::new(streams::list(listing, stop)))
    }

    async fn batch_create_users(
        &self,
        request: Request<Streaming<proto::CreateUserRequest>>,
    ) -> Result<Response<proto::BatchCreateUsersResponse>, Status> {
        let requester = requester(&request)?;
        let mut users = request.into_inner();
        let mut batch = self.service.batch(&requester).map_err(told)?;
        while let Some(user) = users.message().await? {
            let added = batch.add(wire::draft_from_proto(user));
            added.map_err(told)?;
        }
        let created = batch.create().await.map_err(told)?;
        Ok(Response::new(proto::BatchCreateUsersResponse {
            users_created: i32::try_from(created.len()).unwrap_or(i32::MAX),
            user_ids: created.iter().map(|user| user.id).collect(),
        }))
    }

    type StreamUsersStream = Answers<proto::StreamUsersResponse>;

    async fn stream_users(
        &self,
        request: Request<Streaming<proto::StreamUsersRequest>>,
    ) -> Result<Response<Self::StreamUsersStream>, Status> {
        let requester = requester(&request)?;
        requester.may(Scope::Upload).map_err(told)?;
        let (service, requests) = (Arc::clone(&self.service), request.into_inner());
        Ok(Response::new(streams::create(service, requester, requests)))
    }

    type ChatStream = Answers<proto::ChatMessage>;

    async fn chat(
        &self,
        request: Request<Streaming<proto::ChatMessage>>,
    ) -> Result<Response<Self::ChatStream>, Status> {
        let requester = requester(&request)?;
        let seat = self.service.join(&requester).map_err(told)?;
        let (service, said) = (Arc::clone(&self.service), request.into_inner());
        Ok(Response::new(streams::chat(service, requester, seat, said)))
    }

    async fn echo(
        &self,
        request: Request<proto::EchoRequest>,
    ) -> Result<Response<proto::EchoResponse>, Status> {
        let requester = requester(&request)?;
        let request = request.into_inner();
        let answer = async {
            let delay = match request.delay.as_ref().map(wire::duration_from_proto) {
                Some(None) => {
                    let words = "delay must not be negative";
                    return Err(Violations::one("delay", words).into());
                }
                Some(delay) => delay,
                None => None,
            };
            let (strings, most) = (request.payload.len(), self.service.limits.max_strings());
            if strings > most {
                return Err(Refusal::Limit {
                    what: format!("a payload of {strings} strings is above {most}"),
                    setting: "max-message-size",
                    instead: "send fewer",
                });
            }
            let payload = request.payload;
            let echoed = self.service.echo(&requester, payload, delay, request.code);
            echoed.await
        };
        let payload = answer.await.map_err(told)?;
        Ok(Response::new(proto::EchoResponse { payload }))
    }
}
