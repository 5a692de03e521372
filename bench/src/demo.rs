//! `pantelegraph demo`: both daemons in this process, on free loopback ports, with real files.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use receiver::server::{Listeners, Receiver};
use shared::image::Transport;
use shared::settings::units::format_duration;
use shared::telemetry::{LogFormat, chain, say};
use tokio_util::sync::CancellationToken;
use transmitter::cli::Invocation as TransmitterInvocation;
use transmitter::progress::LogWriter;
use transmitter::run::{RunOutcome, Summary, Surroundings};

use crate::cli::DemoOptions;

/// Size and seed of the generated image.
const PATTERN: (u32, u32, u64) = (1_920, 1_080, 1_865);

/// Runs the demo and prints what it did.
pub(crate) fn run(options: &DemoOptions) -> ExitCode {
    // The log's filter is fixed, so it can be read.
    let _ = shared::telemetry::log_to(
        || LogWriter,
        "warn",
        LogFormat::Text,
        std::io::stderr().is_terminal(),
    );
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(format_args!("pantelegraph: cannot start threads: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(demo(options)) {
        Ok(done) => {
            let mut out = std::io::stdout().lock();
            let _ = out.write_all(done.text().as_bytes());
            if done.summary.outcome == RunOutcome::Delivered && done.stored == done.expected {
                return ExitCode::SUCCESS;
            }
            say(format_args!(
                "pantelegraph: {} of {} images were stored ({:?})",
                done.stored, done.expected, done.summary.outcome
            ));
            ExitCode::FAILURE
        }
        Err(problem) => {
            say(format_args!("pantelegraph: {problem}"));
            ExitCode::FAILURE
        }
    }
}

/// What the demo leaves behind.
struct Done {
    summary: Summary,
    folder: PathBuf,
    /// Files in the receiver's folder that are byte for byte the image that was sent.
    stored: u64,
    expected: u64,
}

impl Done {
    fn text(&self) -> String {
        let mut text = String::new();
        for report in &self.summary.reports {
            text.push_str(&report.block());
            text.push('\n');
        }
        text.push_str(&shared::report::comparison(&self.summary.reports));
        text.push_str(&format!(
            "\n{} of {} images are stored, each compared byte for byte with what was sent.\n\
             Images: {}\nReport: {}\n",
            self.stored,
            self.expected,
            self.folder.join("data/images").display(),
            self.folder.join("report.json").display()
        ));
        text
    }
}

async fn demo(options: &DemoOptions) -> Result<Done, String> {
    let folder = folder(options)?;
    let image = match &options.image {
        Some(path) => path.clone(),
        None => generate(&folder).await?,
    };
    let receiver = start_receiver(&folder).await?;
    let result = transmit(options, &image, &receiver, &folder).await;
    receiver.stop().await;
    let summary = result?;
    let report = folder.join("report.json");
    std::fs::write(&report, summary.json())
        .map_err(|error| format!("{}: {error}", report.display()))?;
    let sent = std::fs::read(&image).map_err(|error| format!("{}: {error}", image.display()))?;
    let transports = options.transport.len() as u64;
    Ok(Done {
        summary,
        stored: count_equal(&folder.join("data/images"), &sent),
        expected: options.count * transports,
        folder,
    })
}

fn folder(options: &DemoOptions) -> Result<PathBuf, String> {
    let made = match &options.output {
        Some(folder) => std::fs::create_dir_all(folder).map(|()| folder.clone()),
        None => tempfile::Builder::new()
            .prefix("pantelegraph-demo-")
            .tempdir()
            .map(tempfile::TempDir::keep),
    };
    made.map_err(|error| format!("no folder for the demo can be made: {error}; try --output DIR"))
}

async fn generate(folder: &Path) -> Result<PathBuf, String> {
    let (width, height, seed) = PATTERN;
    let options = transmitter::config::PatternOptions {
        width,
        height,
        format: transmitter::config::PatternFormat::Jpeg,
        seed,
    };
    let source = transmitter::config::SourceOptions::Pattern(options);
    let mut capture = transmitter::capture::open(&source)
        .await
        .map_err(|error| chain(&error))?;
    let image = capture.next().await.map_err(|error| chain(&error))?;
    let payload = image.ok_or("the pattern source gave no image")?.payload;
    let len = u32::try_from(payload.size()).map_err(|error| error.to_string())?;
    let reader = payload.open().await.map_err(|error| error.to_string())?;
    let bytes = reader
        .read(0, len)
        .await
        .map_err(|error| error.to_string())?;
    let path = folder.join("sample.jpg");
    std::fs::write(&path, bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}

async fn start_receiver(folder: &Path) -> Result<Receiver, String> {
    let args = ["pantelegraph-receiver", "--name", "demo-receiver", "--data"];
    let data = folder.join("data").into_os_string();
    let args = args.into_iter().map(Into::into).chain([data]);
    let nothing = BTreeMap::new();
    let config = match receiver::cli::parse(args, &nothing, None) {
        Ok(receiver::cli::Invocation::Run(config, _)) => *config,
        Ok(receiver::cli::Invocation::Print(text)) => return Err(text),
        Err(error) => return Err(error.to_string()),
    };
    let free_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = receiver::config::Config {
        grpc_listen: Some(free_port),
        http_listen: Some(free_port),
        ..config
    };
    let listeners = Listeners::open(&config)
        .await
        .map_err(|error| chain(&error))?;
    Receiver::start(config, listeners)
        .await
        .map_err(|error| chain(&error))
}

async fn transmit(
    options: &DemoOptions,
    image: &Path,
    receiver: &Receiver,
    folder: &Path,
) -> Result<Summary, String> {
    let grpc = receiver.grpc_address.ok_or("the receiver serves no gRPC")?;
    let http = receiver.http_address.ok_or("the receiver serves no HTTP")?;
    let destinations = options.transport.iter().map(|transport| match transport {
        Transport::Grpc => format!("grpc=http://{grpc}"),
        Transport::WebSocket => format!("websocket=ws://{http}/v1/stream"),
        Transport::Rest => format!("rest=http://{http}"),
    });
    let transports: Vec<&str> = options.transport.iter().map(|one| one.key()).collect();
    let words: [(&str, String); 7] = [
        ("--name", "demo-transmitter".to_owned()),
        ("--repeat", options.count.to_string()),
        ("--delay", format_duration(options.delay)),
        ("--transport", transports.join(",")),
        ("--to", destinations.collect::<Vec<_>>().join(",")),
        ("--give-up-after", "30s".to_owned()),
        // Nothing is left behind in the working directory.
        (
            "--outbox",
            folder.join("outbox").to_string_lossy().into_owned(),
        ),
    ];
    let args = [
        "pantelegraph-transmitter".into(),
        "--file".into(),
        image.into(),
    ];
    let flags = words
        .iter()
        .flat_map(|(flag, value)| [(*flag).into(), value.as_str().into()]);
    let args = args.into_iter().chain(flags);
    let nothing = BTreeMap::new();
    let config = match transmitter::cli::parse(args, &nothing, None) {
        Ok(TransmitterInvocation::Run(config, _)) => *config,
        Ok(TransmitterInvocation::Print(text) | TransmitterInvocation::Refuse(text)) => {
            return Err(text);
        }
        Ok(TransmitterInvocation::Outbox(request)) => return Err(format!("{request:?}")),
        Err(error) => return Err(error.to_string()),
    };
    let stop: CancellationToken =
        shared::lifecycle::stop_on_signals().map_err(|error| error.to_string())?;
    let surroundings = Surroundings {
        shared_process: true,
        ..Surroundings::default()
    };
    transmitter::run::run(&config, surroundings, stop)
        .await
        .map_err(|error| chain(&error))
}

/// Files below `folder` whose content is `expected`.
fn count_equal(folder: &Path, expected: &[u8]) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| {
            let path = entry.path();
            if path.is_dir() {
                return count_equal(&path, expected);
            }
            u64::from(std::fs::read(&path).is_ok_and(|bytes| bytes == expected))
        })
        .sum()
}
