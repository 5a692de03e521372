//! `pantelegraph bench chat`: many clients, each of whom hears everything, once and in order.

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use shared::telemetry::{LogFormat, Usage, say};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use users::config::Config;
use users::server::{Listeners, Server};
use users::wire::proto::ChatMessage;
use users::wire::proto::user_service_client::UserServiceClient;

use crate::cli::ChatOptions;

/// Time without a message after which a client gives up.
const SILENCE: Duration = Duration::from_secs(60);

/// Messages that fill the room, and what the network holds, so that who does not read is cut off.
const TO_FILL: u64 = 40_000;

/// Runs the benchmark.
pub(crate) fn run(options: &ChatOptions) -> ExitCode {
    let _ = shared::telemetry::log_to(std::io::stderr, "warn", LogFormat::Text, false);
    let measured = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(measure(options)),
        Err(error) => Err(format!("cannot start threads: {error}")),
    };
    match measured {
        Ok(text) => {
            // A reader that has gone (`| head`) is no failure.
            let _ = std::io::stdout().lock().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(words) => {
            say(format_args!("pantelegraph bench chat: {words}"));
            ExitCode::FAILURE
        }
    }
}

async fn measure(options: &ChatOptions) -> Result<String, String> {
    let Some(server) = &options.server else {
        let config = Config::default();
        let listeners = Listeners::open(&config)
            .await
            .map_err(|error| error.to_string())?;
        let server = Server::start(config, listeners).await;
        let server = server.map_err(|error| error.to_string())?;
        let address = server.grpc_address.ok_or("the server serves no gRPC")?;
        let text = talk(options, &format!("http://{address}")).await;
        server.stop().await;
        return text;
    };
    talk(options, server).await
}

/// A client that has its seat.
struct Seat {
    say: mpsc::Sender<ChatMessage>,
    heard: Streaming<ChatMessage>,
}

async fn connect(server: &str) -> Result<UserServiceClient<Channel>, String> {
    let endpoint =
        Endpoint::new(server.to_owned()).map_err(|error| format!("{server}: {error}"))?;
    let channel = endpoint.tcp_nodelay(true).connect().await;
    let channel =
        channel.map_err(|error| format!("{server}: {}", shared::telemetry::chain(&error)))?;
    Ok(UserServiceClient::new(channel))
}

async fn sit(client: &mut UserServiceClient<Channel>) -> Result<Seat, String> {
    let (say, said) = mpsc::channel(4);
    let heard = client.chat(ReceiverStream::new(said)).await;
    let heard = heard.map_err(|status| words(&status))?.into_inner();
    Ok(Seat { say, heard })
}

fn words(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

async fn talk(options: &ChatOptions, server: &str) -> Result<String, String> {
    let said = options.clients * options.messages;
    if options.stalled > 0 && said < TO_FILL {
        return Err(format!(
            "{said} messages do not fill the room, so nobody would be cut off: raise --clients or \
             --messages until there are {TO_FILL}"
        ));
    }
    let mut connections = Vec::new();
    for _ in 0..options.connections.min(options.clients) {
        connections.push(connect(server).await?);
    }
    let mut seats = Vec::new();
    for number in 0..options.clients as usize {
        let count = connections.len();
        seats.push(sit(&mut connections[number % count]).await?);
    }
    // On connections of their own: what they do not read fills a connection for all of its calls.
    let mut stalled = Vec::new();
    for _ in 0..options.stalled {
        let mut connection = connect(server).await?;
        stalled.push(sit(&mut connection).await?);
    }
    let total = options.clients * options.messages;
    let text = "x".repeat(usize::try_from(options.text).map_err(|error| error.to_string())?);
    let begin = Instant::now();
    let cpu = Usage::now().cpu;
    let mut tasks = JoinSet::new();
    for (number, Seat { say, heard }) in seats.into_iter().enumerate() {
        let message = ChatMessage {
            user: format!("client {number}"),
            text: text.clone(),
            ..ChatMessage::default()
        };
        let messages = options.messages;
        // Two tasks: who waits to speak has to hear meanwhile.
        tokio::spawn(async move {
            for _ in 0..messages {
                if say.send(message.clone()).await.is_err() {
                    return;
                }
            }
            // Stays until the server ends the call.
            say.closed().await;
        });
        tasks.spawn(async move {
            let heard = hear(heard, total).await;
            heard.map_err(|problem| format!("client {number}: {problem}"))
        });
    }
    let mut worst = Duration::ZERO;
    while let Some(heard) = tasks.join_next().await {
        worst = worst.max(heard.map_err(|panic| panic.to_string())??);
    }
    let took = begin.elapsed();
    let usage = Usage::now();
    let cut = cut_off(stalled, total).await;
    if options.stalled > 0 && cut < options.stalled {
        return Err(format!(
            "{cut} of {} stalled clients were cut off",
            options.stalled
        ));
    }
    let deliveries = total * options.clients;
    let rate = deliveries as f64 / took.as_secs_f64();
    let side = if options.server.is_some() {
        "clients"
    } else {
        "server and clients"
    };
    Ok(format!(
        "{clients} clients on {connections} connections, {each} messages of {size} bytes each\n\
         deliveries            {deliveries}: every client heard all {total} messages, each once, in the same order\n\
         time                  {took:.2?}\n\
         rate                  {rate:.0} deliveries/s\n\
         longest silence       {worst:.2?} (of any client, from one message to the next)\n\
         stalled clients       {cut} of {stalled} cut off\n\
         CPU                   {cpu:.2?} ({side})\n\
         peak memory           {memory:.1} MiB ({side})\n",
        clients = options.clients,
        connections = connections.len(),
        each = options.messages,
        size = options.text,
        stalled = options.stalled,
        cpu = usage.cpu.saturating_sub(cpu),
        memory = usage.peak_memory as f64 / f64::from(1 << 20),
    ))
}

/// Hears `total` messages; the longest time between two of them.
async fn hear(mut heard: Streaming<ChatMessage>, total: u64) -> Result<Duration, String> {
    let mut last: Option<u64> = None;
    let mut at = Instant::now();
    let mut worst = Duration::ZERO;
    for count in 0..total {
        let message = match tokio::time::timeout(SILENCE, heard.message()).await {
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None)) => {
                return Err(format!("the chat ended after {count} of {total} messages"));
            }
            Ok(Err(status)) => {
                return Err(format!(
                    "after {count} of {total} messages: {}",
                    words(&status)
                ));
            }
            Err(_) => {
                return Err(format!(
                    "nothing came for {SILENCE:?} after {count} of {total} messages"
                ));
            }
        };
        worst = worst.max(at.elapsed());
        at = Instant::now();
        // All have their seats before anybody speaks, so nothing may be left out or come twice.
        if last.is_some_and(|last| message.sequence != last + 1) {
            return Err(format!("message {} came after {last:?}", message.sequence));
        }
        last = Some(message.sequence);
    }
    Ok(worst)
}

/// How many of those who did not read were told that they were cut off, before they had everything.
async fn cut_off(stalled: Vec<Seat>, total: u64) -> u64 {
    let mut cut = 0;
    for mut seat in stalled {
        for _ in 0..=total {
            match tokio::time::timeout(SILENCE, seat.heard.message()).await {
                Ok(Ok(Some(_))) => {}
                Ok(Err(status)) if status.code() == Code::ResourceExhausted => {
                    cut += 1;
                    break;
                }
                _ => break,
            }
        }
    }
    cut
}
