//! Uploads that are left, and gone on with or not.

use std::sync::Arc;
use std::time::Duration;

use shared::image::{ImageId, Transport};
use shared::receipt::Reject;

use super::unfinished::{Claim, Content, Held};
use super::upload::{Upload, warm};
use super::{Intake, catalog_failed, store_failed};
use crate::catalog::{CatalogError, Entry, FILE_MISSING, Verdict};

/// Time for a write that is under way to end, before its image is told of.
const PATIENCE: Duration = Duration::from_secs(5);

impl Intake {
    /// Verified bytes that are held of an unfinished image, by whomever. Takes it from nobody:
    /// whoever goes on with it says so by [`Self::begin`]. `None` while the image is being stored.
    pub async fn held(self: &Arc<Self>, id: ImageId) -> Option<u64> {
        let held = self.unfinished(id).await?;
        (held.received > 0).then_some(held.received)
    }

    /// The unfinished upload of an image, by whomever, one without bytes included. Takes it from
    /// nobody. `None` while the image is being stored.
    pub async fn unfinished(self: &Arc<Self>, id: ImageId) -> Option<Held> {
        let (cell, left) = self.unfinished.cell(id)?;
        let mut content = tokio::time::timeout(PATIENCE, cell.lock()).await.ok()?;
        if matches!(&*content, Some(Content::Cold(_))) {
            self.warm_up(Some(&mut *content)).await;
            let bytes = match &*content {
                Some(Content::Warm(body)) => Some(body.received()),
                _ => None,
            };
            self.unfinished.verified(id, &cell, bytes);
        }
        match &*content {
            Some(Content::Warm(body)) if body.can_be_left() => Some(Held {
                received: body.received(),
                size: body.size(),
                left,
            }),
            _ => None,
        }
    }

    /// Takes an unfinished upload, one without bytes included, from whichever connection has it,
    /// and parks it. That connection learns of it with its next chunk. An image that is being
    /// stored is waited for. `None` when nothing is unfinished.
    pub async fn seize(self: &Arc<Self>, id: ImageId) -> Option<Held> {
        let mut claim = self.claim_unfinished(id).await?;
        self.warm_up(claim.content()).await;
        let parked = match claim.content() {
            Some(Some(Content::Warm(body))) if body.can_be_left() => body.park().await,
            _ => {
                drop(claim.take());
                return None;
            }
        };
        if let Err(error) = parked {
            tracing::error!(image = %id, "unfinished upload cannot be kept: {error}");
            drop(claim.take());
            return None;
        }
        drop(claim);
        self.unfinished(id).await
    }

    /// Becomes the owner of an unfinished upload, unless it is one that nobody else can go on with.
    async fn claim_unfinished(self: &Arc<Self>, id: ImageId) -> Option<Claim> {
        if let Some((cell, _)) = self.unfinished.cell(id)
            && let Ok(content) = tokio::time::timeout(PATIENCE, cell.lock()).await
            && matches!(&*content, Some(Content::Warm(body)) if !body.can_be_left())
        {
            return None;
        }
        Claim::of_begun(self, id).await
    }

    /// Verifies what an earlier process left, if that has not been done, unless the image has been
    /// stored since.
    pub(super) async fn warm_up(self: &Arc<Self>, content: Option<&mut Option<Content>>) {
        let Some(content) = content else { return };
        let partial = match content.take() {
            Some(Content::Cold(partial)) => partial,
            other => {
                *content = other;
                return;
            }
        };
        let id = partial.about().meta.id;
        match self.parts.catalog.find(id).await {
            Ok(None) => *content = warm(self, partial).await.map(Content::Warm),
            Ok(Some(_)) => tracing::debug!(image = %id, "an unfinished image is stored already"),
            Err(error) => {
                tracing::error!("{error}");
                *content = Some(Content::Cold(partial));
            }
        }
    }

    /// Whether the image is being sent or stored.
    pub fn is_busy(&self, id: ImageId) -> bool {
        self.unfinished.is_owned(id)
    }

    /// Waits until the image is not being stored.
    pub async fn settled(&self, id: ImageId) {
        self.unfinished.not_exclusive(id).await;
    }

    /// Takes an unfinished upload, as it is, to go on with it over `transport`. `None` when there
    /// is none.
    pub async fn resume(self: &Arc<Self>, id: ImageId, transport: Transport) -> Option<Upload> {
        let mut claim = self.claim_unfinished(id).await?;
        self.warm_up(claim.content()).await;
        match claim.take() {
            Some(Content::Warm(mut body)) if body.can_be_left() => {
                body.comes_by(transport);
                let received = body.received();
                Upload::new(claim, body, received)
            }
            _ => None,
        }
    }

    /// Drops an unfinished upload, whoever has it; whether there was one.
    pub async fn forget(self: &Arc<Self>, id: ImageId) -> bool {
        let Some(mut claim) = self.claim_unfinished(id).await else {
            return false;
        };
        claim.take().is_some()
    }

    /// Keeps an unfinished upload for a later connection to go on with, if it has any bytes.
    pub async fn park(&self, upload: Upload) {
        if upload.received() > 0 {
            self.keep(upload).await;
        }
    }

    /// The same for one that is to be kept even without a byte.
    pub async fn keep(&self, upload: Upload) {
        upload.park().await;
    }

    /// Forgets parked uploads older than the limit; to be called now and then.
    pub fn expire(&self) {
        let uploads = self.unfinished.expire();
        if uploads > 0 {
            tracing::info!(uploads, "unfinished uploads expired");
        }
    }

    /// Leaves all unfinished uploads to the next process, and waits until what is being stored is
    /// stored. To be called when no connection is left: parked uploads keep intake and store alive.
    pub async fn close(&self) {
        self.unfinished.close().await;
        self.storing.close();
        self.storing.wait().await;
    }

    /// Whether the bytes of a catalogued image are where the catalogue says. If not, it takes the
    /// entry away and names it as a loss: the image is welcome again, and no duplicate.
    pub(super) async fn is_there(&self, entry: &Entry) -> Result<bool, Reject> {
        let id = entry.meta.id;
        if entry.location.is_empty() || entry.verdict != Verdict::Stored {
            return Ok(true);
        }
        let size = self.parts.store.size(&entry.location).await;
        let size = size.map_err(|error| store_failed(id, &error))?;
        if size == Some(entry.meta.size) {
            return Ok(true);
        }
        self.lose(entry)
            .await
            .map_err(|error| catalog_failed(id, &error))?;
        Ok(false)
    }

    /// Takes an entry away whose bytes are not there; whether it was there.
    pub(super) async fn lose(&self, entry: &Entry) -> Result<bool, CatalogError> {
        let id = entry.meta.id;
        let removed = self
            .parts
            .catalog
            .remove(id, &entry.location, FILE_MISSING)
            .await?;
        if removed {
            tracing::error!(
                image = %id,
                location = entry.location,
                transmitter = entry.transmitter,
                sequence = entry.meta.sequence,
                "lost: {FILE_MISSING}"
            );
            self.parts.metrics.image_missing();
        }
        Ok(removed)
    }
}
