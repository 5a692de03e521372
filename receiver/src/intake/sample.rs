//! An intake for tests, with a real store and a real catalogue.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::image::{ImageFormat, Rgb, RgbImage};
use shared::chunk::Segments;
use shared::image::{ImageId, ImageMeta, Transport};
use shared::receipt::{Durability, Receipt, Reject};
use shared::security::access::Caller;
use shared::settings::units::ByteSize;
use shared::wire::Begin;
use tempfile::TempDir;

use super::{Begun, Intake, Origin, Parts, Upload};
use crate::catalog::sqlite::SqliteCatalog;
use crate::catalog::{Catalog, Entry, Filter};
use crate::config::{Limits, Quota, Verify};
use crate::metrics::ReceiverMetrics;
use crate::store::files::FileStore;

/// An intake and what it works with.
pub(crate) struct Rig {
    pub(crate) intake: Arc<Intake>,
    pub(crate) catalog: Arc<SqliteCatalog>,
    pub(crate) folder: TempDir,
}

/// Limits that tests can reach.
pub(crate) fn limits() -> Limits {
    Limits {
        max_image_size: ByteSize::mib(4),
        max_message_size: ByteSize::mib(1),
        max_chunks: 1_000,
        max_metadata: ByteSize::kib(1),
        max_connections: 16,
        max_unfinished: 16,
        max_memory: ByteSize::mib(1),
        idle_timeout: Duration::from_secs(60),
        partial_ttl: Duration::from_secs(3_600),
        partial_limit: ByteSize::mib(64),
        min_free: ByteSize(0),
        quota: Quota {
            bytes: None,
            images: None,
            period: Duration::from_secs(3_600),
        },
        max_pixels: 1_000_000,
        decode_timeout: Duration::from_secs(30),
    }
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// One whose parts are not all usual.
    pub(crate) fn with(change: impl FnOnce(&mut Parts)) -> Self {
        Self::on(tempfile::tempdir().unwrap(), change)
    }

    /// One on a folder that may hold something.
    fn on(folder: TempDir, change: impl FnOnce(&mut Parts)) -> Self {
        let durability = Durability::Written;
        let store = Arc::new(FileStore::open(folder.path(), durability, 0).unwrap());
        let database = folder.path().join("catalog.sqlite");
        let catalog = Arc::new(SqliteCatalog::open(&database, durability).unwrap());
        let mut parts = Parts {
            store,
            catalog: Arc::clone(&catalog) as Arc<dyn Catalog>,
            metrics: ReceiverMetrics::new("0.0.0"),
            name: "Empfänger".to_owned(),
            durability,
            verify: Verify::Header,
            limits: limits(),
            spans: Default::default(),
        };
        change(&mut parts);
        Self {
            intake: Intake::new(parts),
            catalog,
            folder,
        }
    }

    /// The next process, after an orderly stop of this one.
    pub(crate) async fn again(self, change: impl FnOnce(&mut Parts)) -> Self {
        self.intake.close().await;
        self.catalog.close().await;
        let Self { intake, folder, .. } = self;
        assert_eq!(Arc::strong_count(&intake), 1, "somebody still has it");
        drop(intake);
        Self::on(folder, change)
    }

    /// The next process, after this one was killed while it had `upload`. In between, `change`
    /// happens to the files.
    pub(crate) async fn killed(
        self,
        upload: Upload,
        parts: impl FnOnce(&mut Parts),
        change: impl FnOnce(),
    ) -> Self {
        // What a process leaves that is killed is what it has written by now.
        let left: Vec<(PathBuf, Vec<u8>)> = self
            .files("incoming")
            .into_iter()
            .map(|path| (path.clone(), std::fs::read(path).unwrap()))
            .collect();
        drop(upload);
        self.intake.close().await;
        self.catalog.close().await;
        let Self { intake, folder, .. } = self;
        drop(intake);
        for (path, content) in left {
            std::fs::write(path, content).unwrap();
        }
        change();
        Self::on(folder, parts)
    }

    pub(crate) async fn begin(&self, meta: ImageMeta, offset: u64) -> Result<Begun, Reject> {
        self.intake.begin(Begin { meta, offset }, &origin()).await
    }

    /// An upload that has begun.
    pub(crate) async fn upload(&self, meta: ImageMeta) -> Upload {
        self.upload_from(meta, 0).await
    }

    pub(crate) async fn upload_from(&self, meta: ImageMeta, offset: u64) -> Upload {
        match self.begin(meta, offset).await.unwrap() {
            Begun::Upload(upload) => *upload,
            Begun::Present(receipt) => panic!("present: {receipt:?}"),
        }
    }

    /// Sends `bytes` as the image that `meta` announces.
    pub(crate) async fn send(&self, meta: ImageMeta, bytes: &[u8]) -> Result<Receipt, Reject> {
        match self.begin(meta, 0).await? {
            Begun::Present(receipt) => Ok(receipt),
            Begun::Upload(mut upload) => {
                push(&mut upload, bytes).await?;
                upload.finish(None).await
            }
        }
    }

    /// All entries of the catalogue.
    pub(crate) async fn entries(&self) -> Vec<Entry> {
        let listed = self.catalog.list(Filter::default(), 0, 100).await.unwrap();
        listed.into_iter().map(|numbered| numbered.entry).collect()
    }

    /// Files of `images`, `quarantine` or `incoming`.
    pub(crate) fn files(&self, area: &str) -> Vec<PathBuf> {
        fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => walk(&path, found),
                    false => found.push(path),
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.folder.path().join(area), &mut found);
        found
    }

    /// Nothing became visible, and nothing was left behind.
    #[track_caller]
    pub(crate) fn assert_empty(&self) {
        for area in ["images", "quarantine", "incoming"] {
            assert_eq!(self.files(area), Vec::<PathBuf>::new(), "{area}");
        }
    }
}

pub(crate) fn origin() -> Origin {
    Origin::new(Transport::WebSocket, "camera", &Caller::Anyone)
}

/// Adds the next bytes of an image.
pub(crate) async fn push(upload: &mut Upload, bytes: &[u8]) -> Result<(), Reject> {
    let offset = upload.received();
    let data = Segments::from(bytes.to_vec());
    upload.push(offset, Some(data.crc32c()), data).await
}

/// A PNG of noise, `width` pixels wide and high; `seed` makes different ones.
pub(crate) fn picture(width: u32, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let pixels = RgbImage::from_fn(width, width, |_, _| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let [a, b, c, _] = state.to_be_bytes();
        Rgb([a, b, c])
    });
    let mut file = Cursor::new(Vec::new());
    pixels.write_to(&mut file, ImageFormat::Png).unwrap();
    file.into_inner()
}

/// What a sender says of `bytes` that knows nothing but their number.
pub(crate) fn meta(bytes: &[u8]) -> ImageMeta {
    ImageMeta::new(ImageId::new(), bytes.len() as u64)
}
