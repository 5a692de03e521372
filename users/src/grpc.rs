//! The gRPC face.

mod status;
mod streams;

use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use futures_util::Stream;
use http::HeaderMap;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use tonic_health::pb::health_server::{Health, HealthServer};

use crate::access::Credentials;
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
}

/// The service as gRPC asks for it.
struct Face {
    service: Arc<Service>,
}

/// What the metadata of a call says of its caller.
fn credentials(headers: &HeaderMap) -> Credentials<'_> {
    let value = headers.get(http::header::AUTHORIZATION);
    // What is not text is there, but says nothing.
    Credentials(value.map(|value| value.to_str().unwrap_or_default()))
}

#[tonic::async_trait]
impl UserService for Face {
    async fn get_user(
        &self,
        request: Request<proto::GetUserRequest>,
    ) -> Result<Response<proto::UserResponse>, Status> {
        let user = self.service.directory.user(request.get_ref().user_id);
        let user = user.map_err(|refusal| refused(&refusal))?;
        Ok(Response::new(wire::user_to_proto(&user)))
    }

    async fn create_user(
        &self,
        request: Request<proto::CreateUserRequest>,
    ) -> Result<Response<proto::UserResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let headers = metadata.into_headers();
        let draft = wire::draft_from_proto(request);
        let created = self.service.create(credentials(&headers), draft).await;
        let user = created.map_err(|refusal| refused(&refusal))?;
        Ok(Response::new(wire::user_to_proto(&user)))
    }

    type ListUsersStream = Answers<proto::UserResponse>;

    async fn list_users(
        &self,
        request: Request<proto::ListUsersRequest>,
    ) -> Result<Response<Self::ListUsersStream>, Status> {
        let request = request.into_inner();
        let limit = usize::try_from(request.limit)
            .ok()
            .filter(|limit| *limit > 0);
        let after = request.after_user_id;
        let listing = self.service.directory.list(after, limit, request.follow);
        let stop = self.service.stop.clone();
        // The end of the server ends those who follow only; a list that is asked for is sent.
        let stop = request.follow.then_some(stop);
        Ok(Response::new(streams::list(listing, stop)))
    }

    async fn batch_create_users(
        &self,
        request: Request<Streaming<proto::CreateUserRequest>>,
    ) -> Result<Response<proto::BatchCreateUsersResponse>, Status> {
        let (metadata, _, mut users) = request.into_parts();
        let headers = metadata.into_headers();
        let mut batch = self.service.batch();
        while let Some(user) = users.message().await? {
            let added = batch.add(credentials(&headers), wire::draft_from_proto(user));
            added.map_err(|refusal| refused(&refusal))?;
        }
        let created = batch.create().await.map_err(|refusal| refused(&refusal))?;
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
        let (metadata, _, requests) = request.into_parts();
        let service = Arc::clone(&self.service);
        let headers = metadata.into_headers();
        Ok(Response::new(streams::create(service, headers, requests)))
    }

    type ChatStream = Answers<proto::ChatMessage>;

    async fn chat(
        &self,
        request: Request<Streaming<proto::ChatMessage>>,
    ) -> Result<Response<Self::ChatStream>, Status> {
        let seat = self.service.room.join();
        let seat = seat.map_err(|refusal| refused(&refusal))?;
        let service = Arc::clone(&self.service);
        let said = request.into_inner();
        Ok(Response::new(streams::chat(service, seat, said)))
    }

    async fn echo(
        &self,
        request: Request<proto::EchoRequest>,
    ) -> Result<Response<proto::EchoResponse>, Status> {
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
            self.service.echo(payload, delay, request.code).await
        };
        let payload = answer.await.map_err(|refusal: Refusal| refused(&refusal))?;
        Ok(Response::new(proto::EchoResponse { payload }))
    }
}
