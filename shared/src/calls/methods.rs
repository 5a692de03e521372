//! What the contract says of its methods.

use std::collections::HashMap;
use std::sync::Arc;

use prost::Message as _;
use prost_types::FileDescriptorSet;
use prost_types::method_options::IdempotencyLevel;

/// What the contract says of one method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method {
    /// Doing it twice is the same as doing it once: `idempotency_level` is `NO_SIDE_EFFECTS` or
    /// `IDEMPOTENT`.
    pub idempotent: bool,
    /// The client sends a stream of messages.
    pub client_streaming: bool,
    /// The server answers with a stream of messages.
    pub server_streaming: bool,
}

impl Method {
    /// One message there, one message back.
    pub fn is_unary(self) -> bool {
        !self.client_streaming && !self.server_streaming
    }
}

/// The methods of a contract by the path of their requests, as in `/user.v1.UserService/GetUser`.
/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Methods {
    by_path: Arc<HashMap<String, Method>>,
}

/// Bytes that are no descriptors.
#[derive(Debug, thiserror::Error)]
#[error(
    "the contract's descriptors cannot be read; give the bytes of a google.protobuf.FileDescriptorSet"
)]
pub struct InvalidDescriptors(#[from] prost::DecodeError);

impl Methods {
    /// All methods of a `google.protobuf.FileDescriptorSet`.
    ///
    /// # Errors
    /// When the bytes are none.
    pub fn from_descriptors(bytes: &[u8]) -> Result<Self, InvalidDescriptors> {
        let descriptors = FileDescriptorSet::decode(bytes)?;
        let mut by_path = HashMap::new();
        for file in &descriptors.file {
            let package = match file.package() {
                "" => String::new(),
                package => format!("{package}."),
            };
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{package}{}/{}", service.name(), method.name());
                    by_path.insert(path, of(method));
                }
            }
        }
        Ok(Self {
            by_path: Arc::new(by_path),
        })
    }

    /// What the contract says of the method with this path; nothing when it is not in it. Such a
    /// method is given no deadline and is not retried.
    pub fn method(&self, path: &str) -> Option<Method> {
        self.by_path.get(path).copied()
    }
}

fn of(method: &prost_types::MethodDescriptorProto) -> Method {
    let level = method
        .options
        .as_ref()
        .map_or(IdempotencyLevel::IdempotencyUnknown, |options| {
            options.idempotency_level()
        });
    Method {
        idempotent: level != IdempotencyLevel::IdempotencyUnknown,
        client_streaming: method.client_streaming(),
        server_streaming: method.server_streaming(),
    }
}
