//! Delivery over links that do what the test wants. The clock of these tests runs only when nothing
//! else does, so that hours pass at once.

use super::*;
use crate::config::Order;
use crate::link::{Attempt, DeliveryError, LinkError};
use crate::outbox::Owed;
use crate::outbox::memory::MemoryOutbox;
use crate::payload::Payload;
use bytes::Bytes;
use shared::clock::{ClockEstimate, UnixNanos};
use shared::digest::DigestAlgorithm;
use shared::image::{ImageId, ImageMeta, Transport};
use shared::receipt::{Durability, Receipt, ReceiptStatus, ReceiverTimeline};
use shared::report::RunAccount;
use shared::settings::units::ByteSize;
use shared::wire::{Loss, Standing};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use tokio::sync::Notify;

mod losses;
mod retrying;

/// Longer than anything here takes.
const GUARD: Duration = Duration::from_secs(30 * 24 * 3_600);

/// What becomes of one attempt to connect.
enum Plan {
    /// Nobody is there.
    Refuse,
    /// Never answers.
    Hang,
    /// A connection.
    Connect(Arc<Wire>),
}

struct TestLink {
    plans: Mutex<VecDeque<Plan>>,
    connects: AtomicUsize,
    lazy: bool,
}

impl TestLink {
    fn new(plans: impl IntoIterator<Item = Plan>) -> Arc<Self> {
        Arc::new(Self {
            plans: Mutex::new(plans.into_iter().collect()),
            connects: AtomicUsize::new(0),
            lazy: false,
        })
    }

    fn lazy(plans: impl IntoIterator<Item = Plan>) -> Arc<Self> {
        let link = Self::new(plans);
        let plans = std::mem::take(&mut *link.plans.lock());
        Arc::new(Self {
            plans: Mutex::new(plans),
            connects: AtomicUsize::new(0),
            lazy: true,
        })
    }
}

#[async_trait]
impl Link for TestLink {
    fn transport(&self) -> Transport {
        Transport::Grpc
    }

    fn is_lazy(&self) -> bool {
        self.lazy
    }

    async fn connect(&self) -> Result<Arc<dyn Connection>, LinkError> {
        self.connects.fetch_add(1, Relaxed);
        let plan = self.plans.lock().pop_front();
        match plan {
            Some(Plan::Connect(wire)) => Ok(wire),
            Some(Plan::Hang) => std::future::pending().await,
            Some(Plan::Refuse) | None => Err(LinkError::Lost("nobody is there".to_owned())),
        }
    }
}

/// How a connection answers.
enum Answer {
    Receipt,
    OtherDigest,
    /// Not before it is told to.
    Wait,
    /// As this says, after this time.
    By(Duration, Verdict),
}

/// What becomes of an attempt to send an image.
type Verdict = Box<dyn Fn(&Wire, &Owed, u32) -> Result<Receipt, DeliveryError> + Send + Sync>;

/// Sequence numbers of losses, and the standing that was told with them.
type Told = (Vec<u64>, Standing);

struct Wire {
    answer: Answer,
    taken: Notify,
    lost: CancellationToken,
    /// That is because the station is not let in.
    refused: AtomicBool,
    accounts: AtomicUsize,
    parallel: usize,
    /// Sequence numbers in the order in which they were sent.
    sent: Mutex<Vec<u64>>,
    /// Time to tell losses.
    telling: Duration,
    /// Losses can be told so often, then it turns out that the connection is gone.
    lasts: AtomicUsize,
    /// What was told of losses; `None` when they are not kept.
    told: Mutex<Option<Vec<Told>>>,
}

impl Wire {
    fn new(answer: Answer) -> Arc<Self> {
        Self::with_places(answer, 4)
    }

    fn with_places(answer: Answer, parallel: usize) -> Arc<Self> {
        Arc::new(Self::plain(answer, parallel))
    }

    fn plain(answer: Answer, parallel: usize) -> Self {
        Self {
            telling: Duration::ZERO,
            lasts: AtomicUsize::new(usize::MAX),
            answer,
            parallel,
            sent: Mutex::default(),
            told: Mutex::new(Some(Vec::new())),
            taken: Notify::new(),
            lost: CancellationToken::new(),
            refused: AtomicBool::new(false),
            accounts: AtomicUsize::new(0),
        }
    }
}

fn receipt(meta: &ImageMeta) -> Receipt {
    let at = UnixNanos(1);
    Receipt {
        image_id: meta.id,
        status: ReceiptStatus::Stored,
        size: meta.size,
        digest: meta.digest.expect("given below"),
        durability: Durability::Synced,
        format: String::new(),
        width: 1,
        height: 1,
        timeline: ReceiverTimeline {
            first_byte: at,
            last_byte: at,
            verified: at,
            durable: at,
        },
        receiver: "test".to_owned(),
    }
}

#[async_trait]
impl Connection for Wire {
    async fn deliver(&self, image: &Owed, attempt: Attempt<'_>) -> Result<Receipt, DeliveryError> {
        self.sent.lock().push(image.meta.sequence);
        self.taken.notify_one();
        match &self.answer {
            Answer::By(after, verdict) => {
                tokio::time::sleep(*after).await;
                verdict(self, image, attempt.number)
            }
            Answer::Receipt => Ok(receipt(&image.meta)),
            Answer::OtherDigest => Ok(Receipt {
                digest: DigestAlgorithm::Xxh3.digest(b"other bytes"),
                ..receipt(&image.meta)
            }),
            Answer::Wait => {
                self.lost.cancelled().await;
                Err(DeliveryError::Lost("gone".to_owned()))
            }
        }
    }

    fn parallel(&self) -> usize {
        self.parallel
    }

    fn clock(&self) -> Option<ClockEstimate> {
        None
    }

    async fn account(&self, _account: RunAccount) -> Result<(), LinkError> {
        if self.lost.is_cancelled() {
            return Err(LinkError::Lost("gone".to_owned()));
        }
        self.accounts.fetch_add(1, Relaxed);
        Ok(())
    }

    async fn losses(&self, losses: Vec<Loss>, standing: Standing) -> Result<(), LinkError> {
        let cut_off = self.lost.clone().drop_guard();
        tokio::time::sleep(self.telling).await;
        if self.lasts.load(Relaxed) == 0 {
            return Err(LinkError::Lost("it has gone meanwhile".to_owned()));
        }
        self.lasts.fetch_sub(1, Relaxed);
        cut_off.disarm();
        let sequences = losses.iter().map(|loss| loss.sequence).collect();
        match &mut *self.told.lock() {
            Some(told) => told.push((sequences, standing)),
            None => return Err(LinkError::Lost("not now".to_owned())),
        }
        Ok(())
    }

    async fn closed(&self) -> String {
        self.lost.cancelled().await;
        "gone".to_owned()
    }

    fn is_refused(&self) -> bool {
        self.refused.load(Relaxed)
    }

    async fn close(&self) {}
}

/// Cannot write down as many answers as this says.
#[derive(Default)]
struct TestLedger(AtomicUsize);

#[async_trait]
impl Ledger for TestLedger {
    async fn prepare(&self, _settled: &Settled) -> std::io::Result<()> {
        let failures = self.0.load(Relaxed);
        if failures > 0 {
            self.0.store(failures - 1, Relaxed);
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    async fn settled(&self, _settled: &Settled) {}
}

struct Test {
    outbox: Arc<MemoryOutbox>,
    ledger: Arc<TestLedger>,
    tally: Arc<Tally>,
    delivery: Arc<Delivery>,
}

fn test(link: Arc<TestLink>, connections: usize, retry: RetryOptions) -> Test {
    test_with(link, connections, retry, Order::OldestFirst, 1 << 20)
}

fn test_with(
    link: Arc<TestLink>,
    connections: usize,
    retry: RetryOptions,
    order: Order,
    window: u64,
) -> Test {
    let outbox = Arc::new(MemoryOutbox::new(1 << 30, order));
    let ledger = Arc::new(TestLedger::default());
    let tally = Arc::new(Tally::new(Transport::Grpc, None, None));
    let options = LinkOptions {
        bandwidth: Default::default(),
        chunk_size: ByteSize(1 << 10),
        grpc_call: crate::config::GrpcCall::Exchange,
        message_size: ByteSize(1 << 20),
        window: ByteSize(window),
        connections,
        http2_frame_size: ByteSize(16 << 10),
        connect_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(60),
        clock_interval: Duration::from_secs(5),
    };
    let delivery = Delivery::new(Means {
        outbox: Arc::clone(&outbox) as _,
        link,
        ledger: Arc::clone(&ledger) as _,
        tally: Arc::clone(&tally),
        options,
        retry,
        own_from: 0,
        spans: Default::default(),
    });
    Test {
        outbox,
        ledger,
        tally,
        delivery,
    }
}

fn patient() -> RetryOptions {
    RetryOptions {
        initial: Duration::from_millis(100),
        max: Duration::from_secs(30),
        attempts: None,
        give_up_after: None,
    }
}

impl Test {
    async fn push(&self) {
        let bytes = Bytes::from_static(b"an image");
        let mut meta = ImageMeta::new(ImageId::new(), bytes.len() as u64);
        meta.digest = Some(DigestAlgorithm::Xxh3.digest(&bytes));
        self.tally.capture();
        let image = Owed {
            meta,
            payload: Payload::Memory(bytes),
            source_file: None,
            source_mark: None,
            carried: false,
        };
        self.outbox.push(image).await.expect("room");
    }

    fn run(&self) -> tokio::task::JoinHandle<End> {
        let delivery = Arc::clone(&self.delivery);
        tokio::spawn(async move {
            let last_words = || async {
                if let Some(connection) = delivery.connection() {
                    let account = account();
                    let _ = connection.account(account).await;
                }
            };
            delivery.run(last_words).await
        })
    }
}

fn account() -> RunAccount {
    shared::wire::decode_account(Bytes::from_static(b"\x12\x04grpc")).expect("a run account")
}

async fn end(running: tokio::task::JoinHandle<End>) -> End {
    let ended = tokio::time::timeout(GUARD, running).await;
    ended.expect("the delivery ends").expect("no panic")
}

#[tokio::test(start_paused = true)]
async fn an_image_in_flight_when_stopped_is_owed_even_at_its_last_attempt() {
    let wire = Wire::new(Answer::Wait);
    let retry = RetryOptions {
        attempts: Some(1),
        ..patient()
    };
    let test = test(TestLink::new([Plan::Connect(Arc::clone(&wire))]), 1, retry);
    test.push().await;
    let running = test.run();
    wire.taken.notified().await;
    test.delivery.stop();
    assert_eq!(end(running).await, End::Stopped);
    let totals = test.tally.totals();
    assert_eq!((totals.owed(), totals.lost), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_was_idle_for_long_is_looked_for_again_when_it_is_lost() {
    for lazy in [false, true] {
        let (first, second) = (Wire::new(Answer::Receipt), Wire::new(Answer::Receipt));
        let plans = [
            Plan::Connect(Arc::clone(&first)),
            Plan::Refuse,
            Plan::Connect(Arc::clone(&second)),
        ];
        let link = if lazy {
            TestLink::lazy(plans)
        } else {
            TestLink::new(plans)
        };
        let retry = RetryOptions {
            give_up_after: Some(Duration::from_secs(60)),
            ..patient()
        };
        let test = test(link, 1, retry);
        test.push().await;
        let running = test.run();
        first.taken.notified().await;
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        first.lost.cancel();
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        test.push().await;
        test.outbox.close();
        let ended = end(running).await;
        let totals = test.tally.totals();
        assert_eq!((ended, totals.delivered), (End::Drained, 2), "lazy: {lazy}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_connection_that_cannot_be_made_gives_up_nothing_while_another_is_open() {
    let wire = Wire::new(Answer::Wait);
    let link = TestLink::new([Plan::Connect(Arc::clone(&wire))]);
    let retry = RetryOptions {
        give_up_after: Some(Duration::from_secs(60)),
        ..patient()
    };
    let test = test(link, 2, retry);
    test.push().await;
    let running = test.run();
    wire.taken.notified().await;
    // One image takes long; the second connection is refused all the while.
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert!(!test.delivery.gave_up.is_cancelled());
    wire.lost.cancel();
    assert!(matches!(end(running).await, End::GaveUp { .. }));
}

#[tokio::test(start_paused = true)]
async fn the_end_does_not_wait_for_a_connection_that_is_still_being_made() {
    let wire = Wire::new(Answer::Receipt);
    let link = TestLink::new([Plan::Hang, Plan::Connect(Arc::clone(&wire))]);
    let test = test(link, 2, patient());
    // Both workers see it waiting.
    test.push().await;
    let running = test.run();
    wire.taken.notified().await;
    test.outbox.close();
    assert_eq!(end(running).await, End::Drained);
    assert_eq!(test.tally.totals().delivered, 1);
}

#[tokio::test(start_paused = true)]
async fn the_last_words_are_said_over_a_new_connection_when_the_last_was_closed_for_idleness() {
    let (first, second) = (Wire::new(Answer::Receipt), Wire::new(Answer::Receipt));
    let link = TestLink::lazy([
        Plan::Connect(Arc::clone(&first)),
        Plan::Connect(Arc::clone(&second)),
    ]);
    let test = test(link, 1, patient());
    test.push().await;
    let running = test.run();
    first.taken.notified().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    first.lost.cancel();
    tokio::time::sleep(Duration::from_secs(60)).await;
    test.outbox.close();
    assert_eq!(end(running).await, End::Drained);
    assert_eq!(second.accounts.load(Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_receipt_of_other_bytes_proves_nothing() {
    let wire = Wire::new(Answer::OtherDigest);
    let test = test(TestLink::new([Plan::Connect(wire)]), 1, patient());
    test.push().await;
    test.outbox.close();
    assert_eq!(end(test.run()).await, End::Drained);
    let totals = test.tally.totals();
    assert_eq!((totals.delivered, totals.lost), (0, 1));
}
