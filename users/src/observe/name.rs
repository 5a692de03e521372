//! What a call is called in figures and traces: by words of this program, of which there are few,
//! whatever its client writes.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use async_graphql::parser::types::OperationType;
use axum::body::Body;
use axum::extract::MatchedPath;
use http::{Method, Request, StatusCode};

use crate::metrics::Face;
use crate::refusal::Code;

/// What is not known here.
pub(super) const OTHER: &str = "other";

/// The methods of gRPC that are served, and whether either side streams; a test sees to it that these
/// are all.
pub(super) const GRPC: [(&str, bool); 11] = [
    ("user.v1.UserService/GetUser", false),
    ("user.v1.UserService/CreateUser", false),
    ("user.v1.UserService/ListUsers", true),
    ("user.v1.UserService/BatchCreateUsers", true),
    ("user.v1.UserService/StreamUsers", true),
    ("user.v1.UserService/Chat", true),
    ("user.v1.UserService/Echo", false),
    ("grpc.health.v1.Health/Check", false),
    ("grpc.health.v1.Health/Watch", true),
    (
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        true,
    ),
    (
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        true,
    ),
];

/// What a request of GraphQL turned out to be: among the extensions of the request.
#[derive(Debug, Clone, Default)]
pub struct Operation(Arc<OnceLock<&'static str>>);

impl Operation {
    /// It is this.
    pub fn is(&self, kind: &'static str) {
        // What it was first it stays.
        let _ = self.0.set(kind);
    }

    fn kind(&self) -> Option<&'static str> {
        self.0.get().copied()
    }
}

/// How a request of GraphQL ended, whose status of HTTP does not say it: `OK` or the name of a code,
/// among the extensions of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome(pub &'static str);

/// The word for an operation of this kind.
pub fn kind(operation: Option<OperationType>) -> &'static str {
    match operation {
        Some(OperationType::Query) => "query",
        Some(OperationType::Mutation) => "mutation",
        Some(OperationType::Subscription) => "subscription",
        None => OTHER,
    }
}

/// What is called.
#[derive(Debug)]
pub(super) struct Name {
    /// Over which face.
    pub(super) face: Face,
    /// The route of HTTP, if there is one.
    pub(super) route: Option<MatchedPath>,
    /// The method of gRPC, if there is one.
    pub(super) grpc: Option<&'static (&'static str, bool)>,
    /// What a request of GraphQL is, once that is known.
    pub(super) operation: Operation,
    http: &'static str,
}

impl Name {
    /// Of a request to the listener for gRPC, or to the other one.
    pub(super) fn of(request: &Request<Body>, is_grpc: bool) -> Self {
        let route = request.extensions().get::<MatchedPath>().cloned();
        let path = request.uri().path().strip_prefix('/').unwrap_or_default();
        let known = || GRPC.iter().find(|(name, _)| *name == path);
        let is_graphql =
            |route: &MatchedPath| matches!(route.as_str(), "/graphql" | "/graphql/schema");
        let face = match is_grpc {
            true => Face::Grpc,
            false if route.as_ref().is_some_and(is_graphql) => Face::Graphql,
            false => Face::Rest,
        };
        Self {
            face,
            route: route.filter(|_| !is_grpc),
            grpc: is_grpc.then(known).flatten(),
            operation: Operation::default(),
            http: word(request.method()),
        }
    }

    /// The method, in one of a few words.
    pub(super) fn method(&self) -> Cow<'static, str> {
        let route = self.route.as_ref().map(MatchedPath::as_str);
        match (self.face, route) {
            (Face::Grpc, _) => self.grpc.map_or(OTHER, |(name, _)| name).into(),
            (Face::Graphql, Some("/graphql/schema")) => "schema".into(),
            (Face::Graphql, _) => self.operation.kind().unwrap_or(OTHER).into(),
            (Face::Rest, Some(route)) if self.http != UNKNOWN => {
                format!("{} {route}", self.http).into()
            }
            (Face::Rest, _) => OTHER.into(),
        }
    }

    /// The method of HTTP, in one of a few words.
    pub(super) fn http(&self) -> &'static str {
        self.http
    }
}

/// OpenTelemetry's word for methods of HTTP that are not known.
const UNKNOWN: &str = "_OTHER";

fn word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        // Routes take no others.
        _ => UNKNOWN,
    }
}

/// How a call of gRPC or GraphQL ended of which only the status of HTTP is known.
pub(super) fn code_of(status: StatusCode) -> &'static str {
    match status.as_u16() {
        ..400 => "OK",
        400 | 405 | 413 | 415 => Code::InvalidArgument.name(),
        401 => Code::Unauthenticated.name(),
        403 => Code::PermissionDenied.name(),
        404 => Code::Unimplemented.name(),
        429 => Code::ResourceExhausted.name(),
        503 => Code::Unavailable.name(),
        500.. => Code::Internal.name(),
        _ => Code::Unknown.name(),
    }
}

/// Whether a call that ended so is the server's fault, and not its client's.
pub(super) fn is_fault(code: &str) -> bool {
    let codes = [
        Code::Unknown,
        Code::DeadlineExceeded,
        Code::Internal,
        Code::Unavailable,
        Code::DataLoss,
    ];
    let is_status = code.len() == 3 && code.starts_with('5');
    is_status || codes.into_iter().any(|fault| fault.name() == code)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;
    use prost::Message as _;

    #[test]
    fn every_method_that_is_served_has_its_name() {
        let mut served = Vec::new();
        for descriptors in [
            crate::wire::DESCRIPTORS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ] {
            let files = prost_types::FileDescriptorSet::decode(descriptors).unwrap();
            for file in files.file {
                for service in &file.service {
                    served.extend(service.method.iter().map(|method| {
                        let name =
                            format!("{}.{}/{}", file.package(), service.name(), method.name());
                        (name, method.client_streaming() || method.server_streaming())
                    }));
                }
            }
        }
        let mut known = GRPC
            .map(|(name, streams)| (name.to_owned(), streams))
            .to_vec();
        known.sort();
        served.sort();
        assert_eq!(known, served);
    }

    #[test]
    fn clients_are_at_fault_for_what_they_do() {
        for code in [
            "OK",
            "NOT_FOUND",
            "CANCELLED",
            "RESOURCE_EXHAUSTED",
            "200",
            "499",
        ] {
            assert!(!is_fault(code), "{code}");
        }
        for code in ["INTERNAL", "DEADLINE_EXCEEDED", "500", "503"] {
            assert!(is_fault(code), "{code}");
        }
    }
}
