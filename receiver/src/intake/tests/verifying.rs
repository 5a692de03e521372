//! What an earlier process left is verified, however long that takes and whoever gives up meanwhile.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use shared::image::{ImageId, ImageMeta, Transport};
use shared::receipt::ReceiptStatus;
use shared::wire::Begin;
use tokio::sync::mpsc;

use crate::intake::Begun;
use crate::intake::sample::{Rig, meta, origin, picture, push};
use crate::store::{About, ImageStore, ImageWriter, Partial, Replay, StoreError};

/// A store whose partial images are read only when the test says so.
struct Gated {
    store: Arc<dyn ImageStore>,
    gate: Gate,
}

/// Each verification says that it began, and waits for a word.
#[derive(Clone)]
struct Gate {
    began: mpsc::UnboundedSender<()>,
    go: Arc<Mutex<std::sync::mpsc::Receiver<()>>>,
    /// Those under way, and the most that were.
    at_once: Arc<Mutex<(usize, usize)>>,
}

struct GatedPartial {
    partial: Box<dyn Partial>,
    gate: Gate,
}

#[async_trait]
impl ImageStore for Gated {
    async fn create(&self, about: About) -> Result<Box<dyn ImageWriter>, StoreError> {
        self.store.create(about).await
    }

    async fn open(&self, location: &str) -> Result<Option<std::fs::File>, StoreError> {
        self.store.open(location).await
    }

    async fn size(&self, location: &str) -> Result<Option<u64>, StoreError> {
        self.store.size(location).await
    }

    async fn discard(&self, location: &str) -> Result<(), StoreError> {
        self.store.discard(location).await
    }

    fn partials(&self) -> Vec<Box<dyn Partial>> {
        let partials = self.store.partials().into_iter();
        partials
            .map(|partial| {
                let gate = self.gate.clone();
                Box::new(GatedPartial { partial, gate }) as Box<dyn Partial>
            })
            .collect()
    }
}

impl Partial for GatedPartial {
    fn about(&self) -> &About {
        self.partial.about()
    }

    fn length(&self) -> u64 {
        self.partial.length()
    }

    fn age(&self) -> Duration {
        self.partial.age()
    }

    fn leave(&mut self) {
        self.partial.leave();
    }

    fn recover(
        self: Box<Self>,
        replay: &mut dyn Replay,
    ) -> Result<Box<dyn ImageWriter>, StoreError> {
        {
            let mut at_once = self.gate.at_once.lock();
            at_once.0 += 1;
            at_once.1 = at_once.1.max(at_once.0);
        }
        self.gate.began.send(()).unwrap();
        // An error is a test that has ended.
        let _ = self.gate.go.lock().recv();
        self.gate.at_once.lock().0 -= 1;
        self.partial.recover(replay)
    }
}

/// A receiver that found 300 bytes of an image of an earlier process.
struct Scene {
    rig: Rig,
    meta: ImageMeta,
    bytes: Vec<u8>,
    began: mpsc::UnboundedReceiver<()>,
    go: std::sync::mpsc::Sender<()>,
    at_once: Arc<Mutex<(usize, usize)>>,
}

impl Scene {
    async fn new() -> Self {
        let bytes = picture(20, 1);
        Self::of(&[meta(&bytes)], bytes).await
    }

    /// Found as many, all with the same bytes; the first of them is `meta`.
    async fn of(metas: &[ImageMeta], bytes: Vec<u8>) -> Self {
        let rig = Rig::new();
        for meta in metas {
            let mut upload = rig.upload(meta.clone()).await;
            push(&mut upload, &bytes[..300]).await.unwrap();
            rig.intake.park(upload).await;
        }
        let meta = metas[0].clone();
        let (told, began) = mpsc::unbounded_channel();
        let (go, waiting) = std::sync::mpsc::channel();
        let gate = Gate {
            began: told,
            go: Arc::new(Mutex::new(waiting)),
            at_once: Arc::default(),
        };
        let at_once = gate.at_once.clone();
        let rig = rig
            .again(|parts| {
                let store = Arc::clone(&parts.store);
                parts.store = Arc::new(Gated { store, gate });
            })
            .await;
        Self {
            rig,
            meta,
            bytes,
            began,
            go,
            at_once,
        }
    }

    /// Asks for the image, and gives up while it is verified.
    async fn gives_up<T>(&mut self, ask: impl Future<Output = T>) {
        tokio::select! {
            biased;
            _ = ask => panic!("an answer before it was verified"),
            _ = self.began.recv() => {}
        }
    }

    /// All the rest comes, and the image is stored.
    async fn complete(self) {
        let mut upload = self.rig.upload_from(self.meta, 300).await;
        push(&mut upload, &self.bytes[300..]).await.unwrap();
        let receipt = upload.finish(None).await.unwrap();
        assert_eq!(receipt.status, ReceiptStatus::Stored);
        assert!(self.rig.files("incoming").is_empty());
    }
}

#[tokio::test]
async fn a_client_that_gives_up_while_its_image_is_verified_loses_nothing() {
    for way in ["held", "seize", "resume", "begin"] {
        let mut scene = Scene::new().await;
        let (intake, meta) = (Arc::clone(&scene.rig.intake), scene.meta.clone());
        let asking = async move {
            match way {
                "held" => _ = intake.held(meta.id).await,
                "seize" => _ = intake.seize(meta.id).await,
                "resume" => _ = intake.resume(meta.id, Transport::Rest).await,
                _ => _ = intake.begin(Begin { meta, offset: 300 }, &origin()).await,
            }
        };
        scene.gives_up(asking).await;
        scene.go.send(()).unwrap();
        let held = scene.rig.intake.held(scene.meta.id).await;
        assert_eq!(held, Some(300), "{way}");
        // It was verified once, for all who ask.
        assert!(scene.began.try_recv().is_err(), "{way}");
        scene.complete().await;
    }
}

#[tokio::test]
async fn what_is_verified_at_the_stop_is_left_to_the_next_process() {
    let mut scene = Scene::new().await;
    let intake = Arc::clone(&scene.rig.intake);
    let id = scene.meta.id;
    scene.gives_up(async move { intake.held(id).await }).await;
    let mut closing = Box::pin(scene.rig.intake.close());
    assert!(futures_util::poll!(&mut closing).is_pending());
    scene.go.send(()).unwrap();
    closing.await;
    let rig = scene.rig.again(|_| {}).await;
    assert_eq!(rig.intake.held(id).await, Some(300));
}

#[tokio::test(start_paused = true)]
async fn verifying_may_take_longer_than_anybody_waits_for_a_write() {
    let mut scene = Scene::new().await;
    let (intake, id) = (Arc::clone(&scene.rig.intake), scene.meta.id);
    let mut first = tokio::spawn(async move { intake.held(id).await });
    scene.began.recv().await.unwrap();
    let intake = Arc::clone(&scene.rig.intake);
    let mut second = tokio::spawn(async move { intake.held(id).await });
    let begin = scene.rig.begin(scene.meta.clone(), 300);
    let mut begin = Box::pin(begin);
    for _ in 0..10 {
        assert!(futures_util::poll!(&mut begin).is_pending());
        tokio::time::advance(Duration::from_secs(6)).await;
    }
    assert!(futures_util::poll!(&mut first).is_pending());
    assert!(futures_util::poll!(&mut second).is_pending());
    scene.go.send(()).unwrap();
    assert_eq!(first.await.unwrap(), Some(300));
    let Ok(Begun::Upload(upload)) = begin.await else {
        panic!("its bytes are held")
    };
    assert_eq!(upload.received(), 300);
    assert_eq!(second.await.unwrap(), Some(300));
}

#[tokio::test]
async fn many_verifications_of_one_image_are_one() {
    let mut scene = Scene::new().await;
    let id: ImageId = scene.meta.id;
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let intake = Arc::clone(&scene.rig.intake);
        asking.spawn(async move { intake.held(id).await });
    }
    scene.began.recv().await.unwrap();
    scene.go.send(()).unwrap();
    while let Some(held) = asking.join_next().await {
        assert_eq!(held.unwrap(), Some(300));
    }
    assert!(scene.began.try_recv().is_err());
}

#[tokio::test]
async fn of_many_images_few_are_verified_at_a_time_and_those_that_wait_lose_nothing() {
    let bytes = picture(20, 1);
    let metas: Vec<ImageMeta> = (0..9).map(|_| meta(&bytes)).collect();
    let mut scene = Scene::of(&metas, bytes).await;
    let mut asking = tokio::task::JoinSet::new();
    for meta in &metas {
        let (intake, id) = (Arc::clone(&scene.rig.intake), meta.id);
        asking.spawn(async move { intake.held(id).await });
    }
    for number in 0..metas.len() {
        if number >= 4 {
            scene.go.send(()).unwrap();
        }
        scene.began.recv().await.unwrap();
    }
    for _ in 0..4 {
        scene.go.send(()).unwrap();
    }
    assert_eq!(asking.join_all().await, vec![Some(300); metas.len()]);
    assert_eq!(*scene.at_once.lock(), (0, 4));
}
