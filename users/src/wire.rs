//! The contract as generated code, and its way to the domain and back.

/// Code generated from `proto/user/v1`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
pub mod proto {
    tonic::include_proto!("user.v1");
}

/// The contract as a `google.protobuf.FileDescriptorSet`, with all that it imports.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/user.bin"));
