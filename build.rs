//! Compiles `proto/` at build time. protox is a protobuf compiler in Rust, so no `protoc` is needed.
//!
//! `shared/Cargo.toml` points here (`build = "../build.rs"`).

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../proto");
    let files = [root.join("pantelegraph/transfer/v1/transfer.proto")];
    println!("cargo:rerun-if-changed={}", root.display());

    let descriptors = protox::compile(&files, [&root])?;
    tonic_prost_build::configure()
        .bytes(".")
        .client_mod_attribute(".", "#[cfg(feature = \"grpc-client\")]")
        // The receiver serves the contract with its own frame handling (endpoint/grpc).
        .build_server(false)
        .compile_fds(descriptors)?;
    Ok(())
}
