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
    /// Send many images; the last ones must cost no more than the first
    Soak(e2e::soak::Options),
}

fn main() -> ExitCode {
    let result = match Options::parse().task {
        Task::E2e(options) => e2e::run(&options),
        Task::Soak(options) => e2e::soak::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console::failure(&error);
            ExitCode::FAILURE
        }
    }
}
