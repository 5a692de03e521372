//! Old programs with new ones (R1.12): the contract of a year ago, which knew neither roles nor
//! following, spoken with today's server and by today's client.

use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::server::UnaryService;
use tonic_prost::ProstCodec;

use super::*;

/// `CreateUserRequest` before there were roles.
#[derive(Clone, PartialEq, prost::Message)]
struct OldCreateUserRequest {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    email: String,
    #[prost(int32, tag = "3")]
    age: i32,
}

/// `UserResponse` before there were times and roles.
#[derive(Clone, PartialEq, prost::Message)]
struct OldUserResponse {
    #[prost(int32, tag = "1")]
    user_id: i32,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    email: String,
    #[prost(int32, tag = "4")]
    age: i32,
}

/// `UserResponse` of the future, with a field that nobody here knows.
#[derive(Clone, PartialEq, prost::Message)]
struct FutureCreateUserRequest {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    email: String,
    #[prost(int32, tag = "3")]
    age: i32,
    #[prost(string, tag = "99")]
    nickname: String,
}

const CREATE: &str = "/user.v1.UserService/CreateUser";

async fn create<M: prost::Message + 'static>(server: &Server, request: M) -> OldUserResponse {
    let channel = tonic::transport::Endpoint::new(address(server, Over::Grpc)).unwrap();
    let mut old = Grpc::new(channel.connect().await.unwrap());
    old.ready().await.unwrap();
    let codec = ProstCodec::<M, OldUserResponse>::default();
    let path = PathAndQuery::from_static(CREATE);
    old.unary(tonic::Request::new(request), path, codec)
        .await
        .unwrap()
        .into_inner()
}

#[tokio::test]
async fn an_old_client_works_with_a_new_server() {
    let server = start(Config::default()).await;
    let request = OldCreateUserRequest {
        name: "Ada".to_owned(),
        email: "ada@example.com".to_owned(),
        age: 36,
    };
    let answer = create(&server, request).await;
    assert_eq!(
        (answer.user_id, answer.name.as_str(), answer.age),
        (6, "Ada", 36)
    );
    assert!(
        server
            .service()
            .directory
            .user(6)
            .unwrap()
            .fields
            .roles()
            .is_empty()
    );
    server.stop().await;
}

#[tokio::test]
async fn a_client_of_the_future_works_with_this_server() {
    let server = start(Config::default()).await;
    let request = FutureCreateUserRequest {
        name: "Ada".to_owned(),
        email: "ada@example.com".to_owned(),
        age: 36,
        nickname: "the enchantress of numbers".to_owned(),
    };
    assert_eq!(create(&server, request).await.name, "Ada");
    server.stop().await;
}

/// A server that knows the old messages only.
#[derive(Clone)]
struct OldServer;

impl UnaryService<OldCreateUserRequest> for OldServer {
    type Response = OldUserResponse;
    type Future = std::future::Ready<Result<tonic::Response<OldUserResponse>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<OldCreateUserRequest>) -> Self::Future {
        let OldCreateUserRequest { name, email, age } = request.into_inner();
        std::future::ready(Ok(tonic::Response::new(OldUserResponse {
            user_id: 1,
            name,
            email,
            age,
        })))
    }
}

#[tokio::test]
async fn a_new_client_works_with_an_old_server() {
    let route = axum::routing::post(|request: http::Request<Body>| async {
        let codec = ProstCodec::<OldUserResponse, OldCreateUserRequest>::default();
        let answer = tonic::server::Grpc::new(codec)
            .unary(OldServer, request)
            .await;
        answer.map(Body::new)
    });
    // It has no health service either.
    let router = Router::new()
        .route(CREATE, route)
        .fallback(|| async { tonic::Status::unimplemented("an old server").into_http::<Body>() });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let host = Host {
        name: "grpc",
        metrics: Default::default(),
        router,
        tls: None,
        connections: Config::default().connections,
        stop: stop.clone(),
        cut: stop.clone(),
        tasks: tasks.clone(),
    };
    tasks.spawn(host.run(listener));
    let options = CallOptions::default();
    let client = client(Over::Grpc, &format!("http://{address}"), options).unwrap();
    let created = client.create_user(draft("Ada", "editor")).await.unwrap();
    assert_eq!((created.user_id, created.name.as_str()), (1, "Ada"));
    // What the old server does not know is as if it had not been said.
    assert!(created.roles.is_empty() && created.created_at.is_empty());
    stop.cancel();
    tasks.close();
    within("the old server to end", tasks.wait()).await;
}
