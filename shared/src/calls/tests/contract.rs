//! A contract for tests, and calls by it. Messages are `google.protobuf.StringValue`.

use std::sync::LazyLock;

use http::uri::PathAndQuery;
use prost::Message as _;
use prost_types::method_options::IdempotencyLevel;
use prost_types::{
    FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, MethodOptions,
    ServiceDescriptorProto,
};
use tonic::Status;
use tonic_prost::ProstCodec;

use crate::calls::{Caller, Method, Methods};

pub(super) const READ: &str = "/test.Things/Read";
pub(super) const PUT: &str = "/test.Things/Put";
pub(super) const CREATE: &str = "/test.Things/Create";
pub(super) const LIST: &str = "/test.Things/List";
pub(super) const UPLOAD: &str = "/test.Things/Upload";

pub(super) static METHODS: LazyLock<Methods> =
    LazyLock::new(|| Methods::from_descriptors(&descriptors().encode_to_vec()).unwrap());

fn descriptors() -> FileDescriptorSet {
    use IdempotencyLevel::{IdempotencyUnknown, Idempotent, NoSideEffects};
    let method = |name: &str, level: IdempotencyLevel, client, server| MethodDescriptorProto {
        name: Some(name.to_owned()),
        client_streaming: Some(client),
        server_streaming: Some(server),
        options: Some(MethodOptions {
            idempotency_level: Some(level.into()),
            ..MethodOptions::default()
        }),
        ..MethodDescriptorProto::default()
    };
    let service = ServiceDescriptorProto {
        name: Some("Things".to_owned()),
        method: vec![
            method("Read", NoSideEffects, false, false),
            method("Put", Idempotent, false, false),
            method("Create", IdempotencyUnknown, false, false),
            method("List", NoSideEffects, false, true),
            method("Upload", Idempotent, true, false),
        ],
        ..ServiceDescriptorProto::default()
    };
    let file = FileDescriptorProto {
        package: Some("test".to_owned()),
        service: vec![service],
        ..FileDescriptorProto::default()
    };
    FileDescriptorSet { file: vec![file] }
}

#[test]
fn reads_what_a_contract_says_of_its_methods() {
    let method = |idempotent, client_streaming, server_streaming| {
        Some(Method {
            idempotent,
            client_streaming,
            server_streaming,
        })
    };
    assert_eq!(METHODS.method(READ), method(true, false, false));
    assert_eq!(METHODS.method(PUT), method(true, false, false));
    assert_eq!(METHODS.method(CREATE), method(false, false, false));
    assert_eq!(METHODS.method(LIST), method(true, false, true));
    assert_eq!(METHODS.method(UPLOAD), method(true, true, false));
    assert_eq!(METHODS.method("/test.Things/Other"), None);
    let error = Methods::from_descriptors(b"\xff").unwrap_err();
    assert!(error.to_string().contains("FileDescriptorSet"), "{error}");
}

/// A unary call.
pub(super) async fn call(caller: &Caller, path: &'static str, say: &str) -> Result<String, Status> {
    call_with(caller, path, tonic::Request::new(say.to_owned())).await
}

pub(super) async fn call_with(
    caller: &Caller,
    path: &'static str,
    request: tonic::Request<String>,
) -> Result<String, Status> {
    let mut client = client(caller).await;
    let codec = ProstCodec::<String, String>::default();
    let answer = client.unary(request, PathAndQuery::from_static(path), codec);
    Ok(answer.await?.into_inner())
}

/// A call that the server answers with a stream.
pub(super) async fn list(
    caller: &Caller,
    request: tonic::Request<String>,
) -> Result<tonic::Streaming<String>, Status> {
    let mut client = client(caller).await;
    let codec = ProstCodec::<String, String>::default();
    let answer = client.server_streaming(request, PathAndQuery::from_static(LIST), codec);
    Ok(answer.await?.into_inner())
}

async fn client(caller: &Caller) -> tonic::client::Grpc<Caller> {
    let mut client = tonic::client::Grpc::new(caller.clone());
    client.ready().await.unwrap();
    client
}
