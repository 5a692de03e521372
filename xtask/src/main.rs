//! Tasks of this repository that take more than one command: `cargo xtask --help`.

mod console;
mod e2e;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Tasks of this repository that take more than one command"
)]
struct Options {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Check the release programs from outside, with real files, sockets and foreign clients
    E2e(e2e::Options),
}

fn main() -> ExitCode {
    let Task::E2e(options) = Options::parse().task;
    match e2e::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console::failure(&error);
            ExitCode::FAILURE
        }
    }
}
