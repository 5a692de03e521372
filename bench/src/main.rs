//! The `pantelegraph` command.

mod chat;
mod cli;
mod demo;
mod doctor;
mod doctor_command;
mod http2;
mod http2_command;
mod keys_command;
mod path;
mod path_command;
mod users_command;

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let command = match cli::Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => {
            // Help and version go to standard output, mistakes to standard error.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match command {
        cli::Command::Demo(options) => demo::run(&options),
        cli::Command::Bench {
            bench: cli::Bench::Path(options),
        } => path_command::run(&options),
        cli::Command::Bench {
            bench: cli::Bench::Chat(options),
        } => chat::run(&options),
        cli::Command::Bench {
            bench: cli::Bench::Http2(options),
        } => http2_command::run(&options),
        cli::Command::Users { users } => users_command::run(users),
        cli::Command::Doctor(doctor) => doctor_command::run(&doctor),
        cli::Command::Keys(keys) => keys_command::run(&keys),
        cli::Command::Completions { shell } => cli::completions(shell),
    }
}
