//! Files and catalogue agree again after a process that did not stop in order.
//!
//! Both ways: a file that the catalogue does not know got no receipt, because its process died
//! between placing and cataloguing it, and is moved out of sight; its sender sends it again. An
//! entry whose file is missing or short is taken away and named as a loss. It goes on while images
//! come: nothing depends on it but that no file is left over, because a duplicate is only told of
//! an image whose file is there.

use std::ops::ControlFlow;
use std::sync::Arc;

use shared::image::ImageId;
use tokio::sync::mpsc;

use super::Intake;
use super::unfinished::Claim;
use crate::catalog::{CatalogError, Entry, Filter, Numbered, Verdict};
use crate::store::{Found, StoreError, Unsettled};

/// Entries whose files are looked at: the latest, as what came before is long on the medium.
const RECENT: i64 = 100_000;

/// Entries that are read at a time.
const PAGE: usize = 1_000;

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settled {
    /// Files that the catalogue did not know.
    pub orphans: u64,
    /// Entries without their files.
    pub missing: u64,
}

/// Why it could not be found out.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The catalogue failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

impl Intake {
    /// Makes files and catalogue agree where an earlier process may have left them otherwise;
    /// `None` if it stopped in order. Dropped, it goes on at the next start.
    ///
    /// # Errors
    /// When store or catalogue fail; the next start tries again.
    pub async fn settle(self: &Arc<Self>) -> Result<Option<Settled>, SettleError> {
        let Some(unsettled) = self.parts.store.unsettled() else {
            return Ok(None);
        };
        let settled = Settled {
            missing: self.find_missing(&*unsettled).await?,
            orphans: self.find_orphans(&unsettled).await?,
        };
        blocking(&unsettled, |unsettled| unsettled.settled()).await?;
        Ok(Some(settled))
    }

    async fn find_missing(self: &Arc<Self>, unsettled: &dyn Unsettled) -> Result<u64, SettleError> {
        let catalog = &self.parts.catalog;
        let (mut missing, mut after) = (0, self.last_number().await?.saturating_sub(RECENT).max(0));
        loop {
            let page = catalog.list(Filter::default(), after, PAGE).await?;
            let Some(last) = page.last() else {
                return Ok(missing);
            };
            after = last.number;
            for numbered in &page {
                let entry = &numbered.entry;
                if entry.verdict == Verdict::Stored
                    && unsettled.concerns(&entry.location)
                    && !self.has_file(entry).await?
                {
                    missing += u64::from(self.lose_if_missing(numbered).await?);
                }
            }
        }
    }

    async fn has_file(&self, entry: &Entry) -> Result<bool, StoreError> {
        let size = self.parts.store.size(&entry.location).await?;
        Ok(size == Some(entry.meta.size))
    }

    /// Takes the entry away, unless the image was stored again since it was looked at: at the same
    /// place, and with a receipt of its own.
    async fn lose_if_missing(self: &Arc<Self>, found: &Numbered) -> Result<bool, SettleError> {
        let id = found.entry.meta.id;
        let _nobody_else = Claim::of_settled(self, id).await;
        match self.parts.catalog.find(id).await? {
            Some(now) if now.number == found.number && !self.has_file(&now.entry).await? => {
                Ok(self.lose(&now.entry).await?)
            }
            _ => Ok(false),
        }
    }

    /// The highest number of an entry. The catalogue tells what comes after a number.
    async fn last_number(&self) -> Result<i64, CatalogError> {
        let (mut low, mut high) = (0_i64, i64::MAX);
        while low < high {
            let middle = low + (high - low) / 2;
            let after = self
                .parts
                .catalog
                .list(Filter::default(), middle, 1)
                .await?;
            match after.first() {
                Some(entry) => low = entry.number,
                None => high = middle,
            }
        }
        Ok(low)
    }

    async fn find_orphans(
        self: &Arc<Self>,
        unsettled: &Arc<dyn Unsettled>,
    ) -> Result<u64, SettleError> {
        let (tell, mut told) = mpsc::channel::<Found>(PAGE);
        let walk = {
            let unsettled = Arc::clone(unsettled);
            tokio::task::spawn_blocking(move || {
                unsettled.files(&mut |found| match tell.blocking_send(found) {
                    Ok(()) => ControlFlow::Continue(()),
                    // Nobody wants to know any more.
                    Err(_) => ControlFlow::Break(()),
                })
            })
        };
        let mut orphans = 0;
        while let Some(found) = told.recv().await {
            if self.is_known(&found).await? {
                continue;
            }
            // While it is being stored, its file is there before its entry.
            let _nobody_else = Claim::of_settled(self, found.id).await;
            if self.is_known(&found).await? {
                continue;
            }
            tracing::warn!(
                image = %found.id,
                location = found.location,
                "a file without an entry, for which no receipt was given, is moved to orphans/"
            );
            let location = found.location;
            blocking(unsettled, move |unsettled| unsettled.set_aside(&location)).await?;
            orphans += 1;
        }
        match walk.await {
            Ok(walked) => walked?,
            Err(error) => {
                let path = "images".into();
                let source = std::io::Error::other(error);
                let action = "reading";
                return Err(StoreError::Io {
                    action,
                    path,
                    source,
                }
                .into());
            }
        }
        Ok(orphans)
    }

    async fn is_known(&self, found: &Found) -> Result<bool, CatalogError> {
        let known = self.parts.catalog.find(found.id).await?;
        Ok(known.is_some_and(|known| known.entry.location == found.location))
    }
}

async fn blocking(
    unsettled: &Arc<dyn Unsettled>,
    work: impl FnOnce(&dyn Unsettled) -> Result<(), StoreError> + Send + 'static,
) -> Result<(), StoreError> {
    let unsettled = Arc::clone(unsettled);
    match tokio::task::spawn_blocking(move || work(&*unsettled)).await {
        Ok(done) => done,
        Err(error) => Err(StoreError::Io {
            action: "working on",
            path: "the store".into(),
            source: std::io::Error::other(error),
        }),
    }
}

/// For those who look at what is not sent.
impl Claim {
    /// Keeps the image from being stored while the answer is held, without taking it from whoever
    /// sends it.
    async fn of_settled(intake: &Arc<Intake>, id: ImageId) -> Settling {
        loop {
            intake.unfinished.not_exclusive(id).await;
            let Some(cell) = intake.unfinished.unstored(id) else {
                if let Some(claim) = Self::of_absent(intake, id) {
                    return Settling::Claimed { _claim: claim };
                }
                continue;
            };
            // Whoever is to store it needs this lock first.
            let guard = cell.lock_owned().await;
            if intake.unfinished.unstored(id).is_some() {
                return Settling::Locked { _guard: guard };
            }
        }
    }
}

/// Nobody stores the image until this is dropped.
enum Settling {
    Claimed {
        _claim: Claim,
    },
    Locked {
        _guard: tokio::sync::OwnedMutexGuard<Option<super::unfinished::Content>>,
    },
}
