//! The receiver: its real session and intake over a simulated network and disk, with the real
//! catalogue.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use pantelegraph_receiver::catalog::sqlite::SqliteCatalog;
use pantelegraph_receiver::catalog::{
    Catalog, CatalogError, Entry, Filter, Gap, Inserted, Integrity, Kept, KeptLoss, LossFilter,
    Numbered, Repeat, RunLedger, Series, Tally,
};
use pantelegraph_receiver::config::{Limits, Quota, Verify};
use pantelegraph_receiver::endpoint::session::{MAX_WAITING_REPLIES, Patience, Session};
use pantelegraph_receiver::intake::{Intake, Origin, Parts};
use pantelegraph_receiver::metrics::ReceiverMetrics;
use shared::chunk::Segments;
use shared::image::{ImageId, Transport};
use shared::receipt::Durability;
use shared::report::RunAccount;
use shared::security::access::Caller;
use shared::settings::units::ByteSize;
use shared::wire::{LossReport, ServerMessage, decode_client, encode_server};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::blocking::at_once;
use crate::disk::Disk;
use crate::network::{Inbound, Network, Outbound};
use crate::random::Random;
use crate::scene::{CREDIT, Evidence, IDLE_TIMEOUT, runtime};

/// A receiver that runs.
pub(crate) struct Receiver {
    runtime: Runtime,
    network: Network,
    disk: Disk,
    catalog: Arc<SqliteCatalog>,
    intake: Arc<Intake>,
    stop: CancellationToken,
}

/// Time between looks for room on the disk.
const ROOM_INTERVAL: Duration = Duration::from_millis(200);

fn limits() -> Limits {
    Limits {
        max_image_size: ByteSize::kib(64),
        max_message_size: ByteSize::kib(16),
        max_chunks: 1_000,
        max_metadata: ByteSize::kib(1),
        max_connections: 16,
        max_unfinished: 64,
        max_memory: ByteSize::kib(8),
        idle_timeout: IDLE_TIMEOUT,
        partial_ttl: Duration::from_secs(3_600),
        partial_limit: ByteSize::mib(64),
        min_free: ByteSize(0),
        quota: Quota::default(),
        max_pixels: 1_000_000,
        decode_timeout: Duration::from_secs(30),
    }
}

impl Receiver {
    /// Starts on what an earlier process left in `folder` and on `disk`; hands that back when it
    /// cannot, because the disk is full.
    pub(crate) fn start(
        folder: &Path,
        disk: Disk,
        network: Network,
        evidence: Evidence,
        random: Random,
    ) -> Result<Self, Disk> {
        let Ok(store) = disk.store() else {
            return Err(disk);
        };
        let database = folder.join("catalog.sqlite");
        // The file lies where nobody cares for power losses: those are the simulated disk's.
        let catalog = Arc::new(SqliteCatalog::open(&database, Durability::Written).unwrap());
        let runtime = runtime();
        let known: BTreeSet<String> = entries(&catalog)
            .into_iter()
            .map(|entry| entry.location)
            .collect();
        disk.reconcile(|location| known.contains(location));
        let watched = Arc::clone(&store);
        runtime.spawn(async move {
            // As the receiver does now and then.
            loop {
                tokio::time::sleep(ROOM_INTERVAL).await;
                watched.look_for_room().await;
            }
        });
        let intake = Intake::new(Parts {
            store,
            catalog: Arc::new(SlowCatalog {
                real: Arc::clone(&catalog),
                random: Mutex::new(random),
            }),
            metrics: ReceiverMetrics::new("0.0.0"),
            name: "receiver".to_owned(),
            durability: Durability::Synced,
            verify: Verify::Header,
            limits: limits(),
            spans: Default::default(),
        });
        let settling = Arc::clone(&intake);
        runtime.spawn(async move {
            // A store that fails is one whose power is about to go; the next start settles.
            let _ = settling.settle().await;
        });
        let stop = CancellationToken::new();
        let mut connections = network.listen();
        let endpoint = Endpoint {
            intake: Arc::clone(&intake),
            stop: stop.clone(),
            disk: disk.clone(),
            evidence,
        };
        runtime.spawn(async move {
            while let Some((outbound, inbound)) = connections.recv().await {
                tokio::spawn(endpoint.clone().serve(outbound, inbound));
            }
        });
        Ok(Self {
            runtime,
            network,
            disk,
            catalog,
            intake,
            stop,
        })
    }

    /// A millisecond passes.
    pub(crate) fn tick(&self) {
        let passes = async { tokio::time::sleep(Duration::from_millis(1)).await };
        self.runtime.block_on(passes);
    }

    /// Asks all sessions to end, as a signal does.
    pub(crate) fn ask_to_stop(&self) {
        self.network.stop_listening();
        self.stop.cancel();
    }

    /// Dies wherever it is; what is left of its disk.
    pub(crate) fn crash(self, power_loss: bool) -> Disk {
        self.network.stop_listening();
        let left = self.disk.crash(power_loss);
        drop(self.runtime);
        // What is still to be torn down belongs to the dead.
        let undertaker = runtime();
        undertaker.block_on(async {
            self.intake.close().await;
            self.catalog.close().await;
        });
        left
    }

    /// The disk, for whoever checks.
    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// All entries of the catalogue.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        entries(&self.catalog)
    }

    /// The state of all sequence numbers, and the losses that were told, by their numbers.
    pub(crate) fn ledger(&self) -> (Integrity, BTreeMap<u64, ImageId>) {
        let asking = async {
            let integrity = self.catalog.integrity().await.unwrap();
            let losses = self.catalog.losses(LossFilter::default(), 0, 10_000).await;
            let losses = losses.unwrap().into_iter();
            let losses = losses.map(|kept| (kept.loss.sequence, kept.loss.image_id));
            (integrity, losses.collect())
        };
        runtime().block_on(asking)
    }
}

fn entries(catalog: &SqliteCatalog) -> Vec<Entry> {
    let listing = catalog.list(Filter::default(), 0, 10_000);
    // Not the receiver's own runtime, whose turns must not depend on threads.
    let listed = runtime().block_on(listing).unwrap();
    listed.into_iter().map(|numbered| numbered.entry).collect()
}

/// What a connection works with.
#[derive(Clone)]
struct Endpoint {
    intake: Arc<Intake>,
    stop: CancellationToken,
    disk: Disk,
    evidence: Evidence,
}

impl Endpoint {
    /// One session, in the manner of the WebSocket endpoint.
    async fn serve(self, outbound: Outbound, mut inbound: Inbound) {
        let (replies, mut waiting) = mpsc::channel(MAX_WAITING_REPLIES);
        let patience = Patience {
            idle_timeout: IDLE_TIMEOUT,
            stop: self.stop.clone(),
        };
        let mut session = Session::new(
            Arc::clone(&self.intake),
            Origin::new(Transport::WebSocket, "", &Caller::Anyone),
            CREDIT,
            replies,
            patience.clone(),
            self.intake.budget().holder(),
            true,
        );
        let mut open = true;
        while open {
            let packet = tokio::select! {
                biased;
                Some(reply) = waiting.recv() => {
                    open = self.send(&patience, &outbound, reply).await;
                    continue;
                }
                packet = inbound.receive() => packet,
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep(IDLE_TIMEOUT) => break,
            };
            let Some(message) = packet else { break };
            let message = decode_client(Segments::from(message));
            let handling = session.handle(message);
            tokio::pin!(handling);
            let handled = loop {
                tokio::select! {
                    biased;
                    handled = &mut handling => break handled,
                    // The session waits for room among the answers, so they go out meanwhile.
                    Some(reply) = waiting.recv() => if open {
                        open = self.send(&patience, &outbound, reply).await;
                    },
                }
            };
            if let ControlFlow::Break(_) = handled {
                break;
            }
        }
        let closing = session.close();
        tokio::pin!(closing);
        let mut closed = false;
        loop {
            tokio::select! {
                biased;
                () = &mut closing, if !closed => closed = true,
                reply = waiting.recv() => match reply {
                    Some(reply) if open => open = self.send(&patience, &outbound, reply).await,
                    Some(_) => {}
                    None => break,
                },
            }
        }
    }

    /// Sends an answer to a client that reads. A receipt is looked into first.
    async fn send(&self, patience: &Patience, outbound: &Outbound, reply: ServerMessage) -> bool {
        if let ServerMessage::Receipt(receipt) = &reply {
            let known = at_once(self.intake.catalog().find(receipt.image_id)).unwrap();
            self.evidence
                .receipt_given(receipt, &self.disk, known.map(|known| known.entry));
        }
        let what = self.evidence.describe_reply(&reply);
        tokio::select! {
            biased;
            sent = outbound.send(encode_server(&reply).to_vec(), &what, false) => sent,
            () = patience.end() => false,
        }
    }
}

/// The real catalogue, which takes its time.
struct SlowCatalog {
    real: Arc<SqliteCatalog>,
    random: Mutex<Random>,
}

impl SlowCatalog {
    async fn pause(&self) {
        let millis = self.random.lock().unwrap().below(4);
        if millis > 0 {
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
    }
}

#[async_trait]
impl Catalog for SlowCatalog {
    async fn find(&self, id: ImageId) -> Result<Option<Numbered>, CatalogError> {
        at_once(self.real.find(id))
    }

    async fn insert(&self, entry: Entry) -> Result<Inserted, CatalogError> {
        self.pause().await;
        let inserted = at_once(self.real.insert(entry));
        self.pause().await;
        inserted
    }

    async fn remove(
        &self,
        id: ImageId,
        location: &str,
        reason: &str,
    ) -> Result<bool, CatalogError> {
        at_once(self.real.remove(id, location, reason))
    }

    fn insert_later(&self, entry: Entry) {
        self.real.insert_later(entry);
    }

    fn tally(&self, tally: Tally) {
        self.real.tally(tally);
    }

    async fn account(&self, account: RunAccount) -> Result<(), CatalogError> {
        self.pause().await;
        at_once(self.real.account(account))
    }

    async fn list(
        &self,
        filter: Filter,
        after: i64,
        limit: usize,
    ) -> Result<Vec<Numbered>, CatalogError> {
        at_once(self.real.list(filter, after, limit))
    }

    async fn series(&self, filter: Filter) -> Result<Vec<Series>, CatalogError> {
        at_once(self.real.series(filter))
    }

    async fn keep_losses(&self, report: LossReport) -> Result<Kept, CatalogError> {
        self.pause().await;
        let kept = at_once(self.real.keep_losses(report));
        self.pause().await;
        kept
    }

    async fn repeat(&self, repeat: Repeat) -> Result<(), CatalogError> {
        self.pause().await;
        at_once(self.real.repeat(repeat))
    }

    async fn losses(
        &self,
        filter: LossFilter,
        after: i64,
        limit: usize,
    ) -> Result<Vec<KeptLoss>, CatalogError> {
        at_once(self.real.losses(filter, after, limit))
    }

    async fn gaps(&self, filter: LossFilter, limit: usize) -> Result<Vec<Gap>, CatalogError> {
        at_once(self.real.gaps(filter, limit))
    }

    async fn ledger(&self, series: &Series) -> Result<RunLedger, CatalogError> {
        at_once(self.real.ledger(series))
    }

    async fn integrity(&self) -> Result<Integrity, CatalogError> {
        at_once(self.real.integrity())
    }
}
