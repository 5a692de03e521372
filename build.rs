//! Compiles `proto/` at build time. protox is a protobuf compiler in Rust, so no `protoc` is needed.
//!
//! `shared` and `users` point here (`build = "../build.rs"`), each for its own contract.

use std::error::Error;
use std::path::{Path, PathBuf};

use tonic_prost_build::Builder;

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    match std::env::var("CARGO_PKG_NAME")?.as_str() {
        "pantelegraph-shared" => transfer(&root),
        "pantelegraph-users" => users(&root),
        other => Err(format!("there is no contract for {other}").into()),
    }
}

fn builder() -> Builder {
    tonic_prost_build::configure()
}

fn transfer(root: &Path) -> Result<(), Box<dyn Error>> {
    let files = [root.join("pantelegraph/transfer/v1/transfer.proto")];
    builder()
        .bytes(".")
        .client_mod_attribute(".", "#[cfg(feature = \"grpc-client\")]")
        // The receiver serves the contract with its own frame handling (endpoint/grpc).
        .build_server(false)
        .compile_fds(protox::compile(files, [root])?)?;
    Ok(())
}

fn users(root: &Path) -> Result<(), Box<dyn Error>> {
    let files = [root.join("user/v1/user.proto")];
    // With their comments, for whoever asks by reflection; and their options, which tell what may
    // be retried.
    let mut compiler = protox::Compiler::new([root])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(files)?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("user.bin"), compiler.encode_file_descriptor_set())?;
    builder().compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
