//! The transmitter: its real delivery and sessions over a simulated network, with a model of an
//! outbox.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use pantelegraph_transmitter::config::{GrpcCall, LinkOptions, RetryOptions};
use pantelegraph_transmitter::delivery::{Delivery, Ledger, Means, Settled, Settlement, Tally};
use pantelegraph_transmitter::link::session::Pipe;
use pantelegraph_transmitter::link::{
    Attempt, Connection, DeliveryError, Identity, Link, LinkError,
};
use pantelegraph_transmitter::outbox::{Outbox, Owed};
use pantelegraph_transmitter::payload::Payload;
use shared::chunk::Segments;
use shared::clock::ClockEstimate;
use shared::image::{ImageId, OutboxId, Transport};
use shared::receipt::Receipt;
use shared::report::RunAccount;
use shared::settings::units::ByteSize;
use shared::wire::{
    ClientMessage, Encoded, Loss, ServerMessage, Standing, decode_client, decode_server,
};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::blocking::at_once;
use crate::disk::Disks;
use crate::network::{Inbound, Network, Outbound};
use crate::outbox::{Kept, ModelOutbox};
use crate::own_outbox::OutboxDisk;
use crate::random::Random;
use crate::scene::{CHUNK, Evidence, IDLE_TIMEOUT, WINDOW, runtime};

/// A transmitter that runs.
pub(crate) struct Transmitter {
    runtime: Runtime,
    disk: Keeping,
    outbox: Arc<dyn Outbox>,
    drained: Arc<AtomicBool>,
}

/// The disk of an outbox. Clones are the same.
#[derive(Clone)]
pub(crate) enum Keeping {
    Model(Arc<Mutex<Kept>>),
    Real(OutboxDisk),
}

impl Keeping {
    /// An empty one; the model's outbox has this id.
    pub(crate) fn new(disks: Disks, id: OutboxId, random: Random) -> Self {
        match disks {
            Disks::Model => Self::Model(Arc::new(Mutex::new(Kept::new(id, random)))),
            Disks::Real => Self::Real(OutboxDisk::new(random)),
        }
    }

    fn open(&self) -> (Arc<dyn Outbox>, OutboxId) {
        match self {
            Self::Model(kept) => {
                let id = kept.lock().unwrap().id();
                (Arc::new(ModelOutbox::open(Arc::clone(kept))), id)
            }
            Self::Real(disk) => {
                let outbox = disk.open();
                let id = outbox.id();
                (Arc::new(outbox), id)
            }
        }
    }

    /// What is left when the process dies, or with `power_loss` the machine.
    fn crash(&self, power_loss: bool) -> Self {
        match self {
            Self::Model(kept) => {
                let left = kept.lock().unwrap().clone().crash(power_loss);
                Self::Model(Arc::new(Mutex::new(left)))
            }
            Self::Real(disk) => Self::Real(disk.crash(power_loss)),
        }
    }

    /// Images on the ledger.
    fn lost(&self) -> BTreeSet<ImageId> {
        match self {
            Self::Model(kept) => kept.lock().unwrap().lost(),
            Self::Real(disk) => disk.lost.lock().unwrap().clone(),
        }
    }
}

/// What differs from one seed to the next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    /// Connections side by side.
    pub(crate) connections: usize,
    /// Attempts for one image.
    pub(crate) attempts: Option<u32>,
    /// Milliseconds between images at most.
    pub(crate) interval: u64,
}

fn options(manner: Manner) -> LinkOptions {
    LinkOptions {
        bandwidth: Default::default(),
        chunk_size: ByteSize(CHUNK),
        grpc_call: GrpcCall::Exchange,
        message_size: ByteSize(1 << 20),
        window: ByteSize(WINDOW),
        connections: manner.connections,
        http2_frame_size: ByteSize(16 << 10),
        connect_timeout: Duration::from_millis(600),
        idle_timeout: IDLE_TIMEOUT,
        clock_interval: Duration::from_millis(300),
    }
}

impl Transmitter {
    /// Starts on what an earlier process left.
    pub(crate) fn start(
        disk: Keeping,
        network: Network,
        evidence: Evidence,
        manner: Manner,
        random: Random,
    ) -> Self {
        let runtime = runtime();
        // What the outbox starts belongs to the transmitter.
        let context = runtime.enter();
        let (outbox, outbox_id) = disk.open();
        drop(context);
        let options = options(manner);
        let identity = Identity {
            transmitter: "camera".to_owned(),
            outbox: outbox_id,
            unfinished: Default::default(),
            limiter: Default::default(),
            wire: Default::default(),
            clock: Default::default(),
            dialler: Default::default(),
        };
        let link = Arc::new(SimLink {
            network,
            options: options.clone(),
            identity,
            evidence: evidence.clone(),
        });
        let retry = RetryOptions {
            initial: Duration::from_millis(10),
            max: Duration::from_millis(300),
            attempts: manner.attempts,
            give_up_after: None,
        };
        let delivery = Delivery::new(Means {
            own_from: outbox.standing().next_sequence,
            spans: Default::default(),
            outbox: Arc::clone(&outbox),
            link,
            ledger: Arc::new(Witness(evidence.clone())),
            tally: Arc::new(Tally::new(Transport::WebSocket, None, None)),
            options,
            retry,
        });
        let drained = Arc::new(AtomicBool::new(false));
        let is_drained = Arc::clone(&drained);
        runtime.spawn(async move {
            delivery.run(|| async {}).await;
            is_drained.store(true, SeqCst);
        });
        runtime.spawn(capture(Arc::clone(&outbox), evidence, manner, random));
        Self {
            runtime,
            disk,
            outbox,
            drained,
        }
    }

    /// A millisecond passes.
    pub(crate) fn tick(&self) {
        let passes = async { tokio::time::sleep(Duration::from_millis(1)).await };
        self.runtime.block_on(passes);
    }

    /// Dies wherever it is; what is left of its disk.
    pub(crate) fn crash(self, power_loss: bool) -> Keeping {
        let left = self.disk.crash(power_loss);
        drop(self.runtime);
        left
    }

    /// Everything was captured and nothing is owed any more.
    pub(crate) fn is_drained(&self) -> bool {
        self.drained.load(SeqCst)
    }

    /// Images that are owed.
    pub(crate) fn owed(&self) -> u64 {
        self.outbox.backlog().images
    }

    /// Images on the ledger of which the receiver is not known to know.
    pub(crate) fn untold(&self) -> BTreeSet<ImageId> {
        let _context = self.runtime.enter();
        let (losses, _) = at_once(self.outbox.losses(10_000));
        losses.into_iter().map(|loss| loss.image_id).collect()
    }

    /// Images on the ledger.
    pub(crate) fn lost(&self) -> BTreeSet<ImageId> {
        self.disk.lost()
    }
}

async fn capture(outbox: Arc<dyn Outbox>, evidence: Evidence, manner: Manner, mut random: Random) {
    while let Some(number) = evidence.take() {
        let interval = Duration::from_millis(random.below(manner.interval + 1));
        tokio::time::sleep(interval).await;
        let image = &evidence.images()[number];
        let meta = image.meta.clone();
        if image.no_room {
            outbox.lose(meta, "no room").await.unwrap();
        } else {
            let owed = Owed {
                meta,
                payload: Payload::Memory(image.bytes.clone()),
                source_file: None,
                source_mark: None,
                carried: false,
            };
            outbox.push(owed).await.unwrap();
        }
        evidence.kept(number);
    }
    outbox.close();
}

/// Is told of every settled image.
struct Witness(Evidence);

#[async_trait]
impl Ledger for Witness {
    async fn prepare(&self, settled: &Settled) -> std::io::Result<()> {
        if let Settlement::Receipt(receipt) = &settled.settlement {
            self.0.receipt_taken(receipt.image_id);
        }
        Ok(())
    }

    async fn settled(&self, _settled: &Settled) {}
}

/// Sessions over the simulated network.
struct SimLink {
    network: Network,
    options: LinkOptions,
    identity: Identity,
    evidence: Evidence,
}

#[async_trait]
impl Link for SimLink {
    fn transport(&self) -> Transport {
        Transport::WebSocket
    }

    async fn connect(&self) -> Result<Arc<dyn Connection>, LinkError> {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let Some((outbound, inbound)) = self.network.dial() else {
            return Err(LinkError::Unreachable {
                address: "receiver".to_owned(),
                problem: "nobody listens".to_owned(),
            });
        };
        let (pipe, outgoing) = Pipe::new("receiver".to_owned(), &self.options, &self.identity);
        let credit = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            pipe: pipe.clone(),
            evidence: self.evidence.clone(),
            credit: Arc::clone(&credit),
        };
        tokio::spawn(writer.run(outgoing, outbound));
        tokio::spawn(read(pipe.clone(), inbound, credit));
        let connection = pipe.greet().await?;
        Ok(Arc::new(Watched {
            connection,
            evidence: self.evidence.clone(),
        }))
    }
}

struct Writer {
    pipe: Pipe,
    evidence: Evidence,
    /// What the receiver has granted so far.
    credit: Arc<AtomicU64>,
}

impl Writer {
    async fn run(self, mut outgoing: mpsc::Receiver<Encoded>, outbound: Outbound) {
        let mut chunk_bytes = 0;
        loop {
            let message = tokio::select! {
                biased;
                () = self.pipe.lost() => return,
                message = outgoing.recv() => message,
            };
            let Some(message) = message else { return };
            let mut bytes = message.head.to_vec();
            for piece in message.payload.pieces() {
                bytes.extend_from_slice(piece);
            }
            let said = decode_client(Segments::from(bytes.clone())).unwrap();
            if let ClientMessage::Chunk(chunk) = &said {
                chunk_bytes += chunk.data.len() as u64;
                // A chunk may go beyond the credit, and others that were allowed before it may
                // come after it.
                if chunk_bytes > self.credit.load(SeqCst) + CHUNK {
                    let number = outbound.number();
                    self.evidence.violation(format!(
                        "{chunk_bytes} chunk bytes were sent over connection {number}, which \
                         has credit for {}",
                        self.credit.load(SeqCst)
                    ));
                }
            }
            let fragile = matches!(&said, ClientMessage::Chunk(_));
            let what = self.evidence.describe(&said);
            let sent = tokio::select! {
                biased;
                () = self.pipe.lost() => return,
                sent = outbound.send(bytes, &what, fragile) => sent,
            };
            if !sent {
                return self.pipe.lose("the network broke".to_owned());
            }
        }
    }
}

async fn read(pipe: Pipe, mut inbound: Inbound, credit: Arc<AtomicU64>) {
    loop {
        let packet = tokio::select! {
            biased;
            () = pipe.lost() => return,
            packet = inbound.receive() => packet,
            () = tokio::time::sleep(IDLE_TIMEOUT) => None,
        };
        let Some(message) = packet else {
            return pipe.lose("the receiver is gone".to_owned());
        };
        let message = decode_server(bytes::Bytes::copy_from_slice(&message)).unwrap();
        match &message {
            Some(ServerMessage::Welcome(welcome)) => credit.fetch_max(welcome.credit, SeqCst),
            Some(ServerMessage::Credit { total }) => credit.fetch_max(*total, SeqCst),
            _ => 0,
        };
        if let Some(message) = message {
            pipe.take(message);
        }
    }
}

/// A connection whose window is watched.
struct Watched {
    connection: Arc<dyn Connection>,
    evidence: Evidence,
}

struct Flight<'a>(&'a Evidence, ImageId);

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.0.flight_ends(self.1);
    }
}

#[async_trait]
impl Connection for Watched {
    async fn deliver(&self, image: &Owed, attempt: Attempt<'_>) -> Result<Receipt, DeliveryError> {
        self.evidence.flight_begins(image.meta.id);
        let _flight = Flight(&self.evidence, image.meta.id);
        self.connection.deliver(image, attempt).await
    }

    fn parallel(&self) -> usize {
        self.connection.parallel()
    }

    fn clock(&self) -> Option<ClockEstimate> {
        self.connection.clock()
    }

    async fn account(&self, account: RunAccount) -> Result<(), LinkError> {
        self.connection.account(account).await
    }

    async fn losses(&self, losses: Vec<Loss>, standing: Standing) -> Result<(), LinkError> {
        self.connection.losses(losses, standing).await
    }

    async fn closed(&self) -> String {
        self.connection.closed().await
    }

    fn is_refused(&self) -> bool {
        self.connection.is_refused()
    }

    async fn close(&self) {
        self.connection.close().await;
    }
}
