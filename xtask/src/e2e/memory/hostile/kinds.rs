//! What clients do that want nothing but a receiver's memory. Each does what it does until its
//! connection ends, and begins anew.

use std::time::Duration;

use anyhow::Result;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::wire::{
    Call, begin, begin_of_nothing, chunk, end_of_nothing, field, frame, frame_head, hello, ping,
    prefix, prefixed, read_on, websocket,
};

/// Time after which one begins anew whose connection nobody ended.
const STAY: Duration = Duration::from_secs(20);

/// Longest name and type of an image that a receiver takes.
const LONG: usize = 15_000;

/// A message as large as a receiver takes.
const LARGE: usize = 4 << 20;

/// A way to waste memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    HalfMessages,
    HalfFrames,
    UnreadCalls,
    UnreadSockets,
    SmallPieces,
    OneByteChunks,
    LongNames,
    Rejected,
    MadeUpRuns,
    HollowLists,
}

impl Kind {
    pub(super) const ALL: [Self; 10] = [
        Self::HalfMessages,
        Self::HalfFrames,
        Self::UnreadCalls,
        Self::UnreadSockets,
        Self::SmallPieces,
        Self::OneByteChunks,
        Self::LongNames,
        Self::Rejected,
        Self::MadeUpRuns,
        Self::HollowLists,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::HalfMessages => "half of a gRPC message",
            Self::HalfFrames => "half of a frame after a ping",
            Self::UnreadCalls => "gRPC answers not read",
            Self::UnreadSockets => "WebSocket answers not read",
            Self::SmallPieces => "small pieces of large buffers",
            Self::OneByteChunks => "chunks of 1 byte over HTTP",
            Self::LongNames => "images with names of 15 KB",
            Self::Rejected => "endless rejected messages",
            Self::MadeUpRuns => "endless runs, all rejected",
            Self::HollowLists => "lists of nothing, 4 MiB each",
        }
    }

    /// Whether it keeps the processor busy, which is no matter of memory.
    pub(super) fn is_busy(self) -> bool {
        matches!(
            self,
            Self::UnreadSockets
                | Self::OneByteChunks
                | Self::Rejected
                | Self::MadeUpRuns
                | Self::HollowLists
        )
    }

    /// Clients of it by themselves.
    pub(super) fn clients(self) -> usize {
        match self {
            Self::Rejected | Self::MadeUpRuns | Self::HollowLists => 8,
            Self::UnreadSockets | Self::SmallPieces | Self::OneByteChunks => 40,
            _ => 150,
        }
    }

    /// Does it once.
    pub(super) async fn once(self, grpc: &str, http: &str) -> Result<()> {
        match self {
            Self::HalfMessages => half_message(grpc).await,
            Self::HalfFrames => half_frame(http).await,
            Self::UnreadCalls => unread_call(grpc).await,
            Self::UnreadSockets => unread_socket(http).await,
            Self::SmallPieces => small_pieces(http).await,
            Self::OneByteChunks => one_byte_chunks(http).await,
            Self::LongNames => long_names(http).await,
            Self::Rejected => endless(http, end_of_nothing).await,
            Self::MadeUpRuns => endless(http, begin_of_nothing).await,
            Self::HollowLists => hollow_list(http).await,
        }
    }
}

async fn half_message(grpc: &str) -> Result<()> {
    let mut call = Call::open(grpc, 65_535).await?;
    call.send(&prefixed(&hello("half"))).await?;
    call.send(&prefix(LARGE)).await?;
    call.send(&vec![1; LARGE - 1]).await?;
    call.stay().await;
    Ok(())
}

async fn half_frame(http: &str) -> Result<()> {
    let mut socket = websocket(http).await?;
    socket.write_all(&frame(&hello("half"))).await?;
    // The ping and the head of what follows come together.
    let both = [frame(&ping()), frame_head(4 * LARGE)].concat();
    socket.write_all(&both).await?;
    let (reading, mut writing) = socket.into_split();
    let sending = async {
        let piece = vec![1; 64 << 10];
        for _ in 0..4 * LARGE / piece.len() - 1 {
            writing.write_all(&piece).await?;
        }
        std::future::pending::<Result<()>>().await
    };
    tokio::select! {
        sent = sending => sent,
        () = read_on(reading) => Ok(()),
    }
}

async fn unread_call(grpc: &str) -> Result<()> {
    let mut call = Call::open(grpc, 0).await?;
    call.send(&prefixed(&hello("unread"))).await?;
    for _ in 0..254 {
        call.send(&prefixed(&ping())).await?;
    }
    let (id, _) = begin("");
    let data = vec![1; LARGE];
    for _ in 0..4 {
        call.send(&prefixed(&chunk(&id, 0, &data))).await?;
    }
    call.stay().await;
    Ok(())
}

/// Never reads, so it does not see its connection end either.
async fn unread_socket(http: &str) -> Result<()> {
    let mut socket = websocket(http).await?;
    socket.write_all(&frame(&hello("unread"))).await?;
    let (id, announced) = begin("");
    socket.write_all(&frame(&announced)).await?;
    let data = vec![1; 900_000];
    socket.write_all(&frame(&chunk(&id, 0, &data))).await?;
    let many = frame(&ping()).repeat(1_000);
    let flooding = async {
        loop {
            socket.write_all(&many).await?;
        }
    };
    let flooded: Result<Result<()>, _> = tokio::time::timeout(STAY, flooding).await;
    flooded.unwrap_or(Ok(()))
}

/// Of many images a little, each cut from a buffer with much that is of no use.
async fn small_pieces(http: &str) -> Result<()> {
    let mut socket = websocket(http).await?;
    socket.write_all(&frame(&hello("small"))).await?;
    let (nothing, _) = begin("");
    let (small, rest) = (vec![1; 4_096], vec![2; 250 << 10]);
    let (reading, mut writing) = socket.into_split();
    let sending = async {
        for _ in 0..60 {
            let (id, announced) = begin("");
            let together = [
                frame(&announced),
                frame(&chunk(&id, 0, &small)),
                frame(&chunk(&nothing, 0, &rest)),
            ];
            writing.write_all(&together.concat()).await?;
        }
        tokio::time::sleep(STAY).await;
        Ok(())
    };
    tokio::select! {
        sent = sending => sent,
        () = read_on(reading) => Ok(()),
    }
}

async fn one_byte_chunks(http: &str) -> Result<()> {
    let mut stream = TcpStream::connect(http).await?;
    let (id, _) = begin("");
    let head = format!(
        "PUT /v1/images/{id} HTTP/1.1\r\nHost: station\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let thousand = b"1\r\nx\r\n".repeat(1_000);
    for _ in 0..131 {
        stream.write_all(&thousand).await?;
    }
    read_on(stream).await;
    Ok(())
}

async fn long_names(http: &str) -> Result<()> {
    let mut socket = websocket(http).await?;
    socket.write_all(&frame(&hello("long"))).await?;
    let name = "n".repeat(LONG);
    for _ in 0..64 {
        socket.write_all(&frame(&begin(&name).1)).await?;
    }
    read_on(socket).await;
    Ok(())
}

/// Sends what is turned down and reads the answers, as fast as it can.
async fn endless(http: &str, message: fn() -> Vec<u8>) -> Result<()> {
    let mut socket = websocket(http).await?;
    socket.write_all(&frame(&hello(&"t".repeat(500)))).await?;
    let (reading, mut writing) = socket.into_split();
    let sending = async {
        loop {
            let many: Vec<u8> = (0..100).flat_map(|_| frame(&message())).collect();
            writing.write_all(&many).await?;
        }
    };
    tokio::select! {
        sent = sending => sent,
        () = read_on(reading) => Ok(()),
    }
}

async fn hollow_list(http: &str) -> Result<()> {
    let mut stream = TcpStream::connect(http).await?;
    let body = field(3, b"").repeat(LARGE / 2);
    let head = format!(
        "POST /v1/losses HTTP/1.1\r\nHost: station\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&body).await?;
    read_on(stream).await;
    Ok(())
}
