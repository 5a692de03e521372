//! Uploads that are left, and gone on with or not.

use std::sync::Arc;
use std::time::Duration;

use shared::image::{ImageId, Transport};
use shared::receipt::Reject;
use shared::security::access::Caller;

use super::unfinished::{Claim, Content, Held};
use super::upload::{Upload, recover};
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

    /// The same for this caller, who is told nothing of what is another's.
    pub async fn held_for(self: &Arc<Self>, id: ImageId, caller: &Caller) -> Option<u64> {
        if let Some(whose) = self.unfinished.whose(id) {
            caller.may_upload_as(&whose).ok()?;
        }
        self.held(id).await
    }

    /// The unfinished upload of an image, by whomever, one without bytes included. Takes it from
    /// nobody. `None` while the image is being stored. What an earlier process left is verified
    /// first, however long that takes.
    pub async fn unfinished(self: &Arc<Self>, id: ImageId) -> Option<Held> {
        let mut verified = false;
        loop {
            self.unfinished.not_taken(id).await;
            let (cell, left) = self.unfinished.cell(id)?;
            let content = match tokio::time::timeout(PATIENCE, cell.lock()).await {
                Ok(content) => content,
                // Somebody verifies it.
                Err(_) if self.unfinished.is_taken(id) => continue,
                Err(_) => return None,
            };
            match &*content {
                Some(Content::Cold(_)) if !verified => {}
                Some(Content::Warm(body)) if body.can_be_left() => {
                    return Some(Held {
                        received: body.proven(),
                        size: body.size(),
                        left,
                    });
                }
                _ => return None,
            }
            drop(content);
            if let Some(claim) = Claim::of_parked(self, id).await {
                verified = true;
                // It is parked again at once.
                drop(self.warm_up(claim).await);
            }
        }
    }

    /// Takes an unfinished upload, one without bytes included, from whichever connection has it,
    /// and parks it. That connection learns of it with its next chunk. An image that is being
    /// stored is waited for. `None` when nothing is unfinished.
    pub async fn seize(self: &Arc<Self>, id: ImageId) -> Option<Held> {
        let claim = self.claim_unfinished(id).await?;
        let this = Arc::clone(self);
        // Goes on to its end even if the caller gives up, which must not cost what is held.
        let parked = self
            .storing
            .spawn(async move { this.park_claimed(claim).await });
        parked.await.ok()??;
        self.unfinished(id).await
    }

    async fn park_claimed(self: &Arc<Self>, claim: Claim) -> Option<()> {
        let mut claim = self.warm_up(claim).await?;
        let parked = match claim.content() {
            Some(Some(Content::Warm(body))) if body.can_be_left() => body.park().await,
            // Not verified, because the catalogue failed.
            Some(Some(Content::Cold(_))) => return None,
            _ => {
                drop(claim.take());
                return None;
            }
        };
        if let Err(error) = parked {
            tracing::error!(image = %claim.id(), "unfinished upload cannot be kept: {error}");
            drop(claim.take());
            return None;
        }
        Some(())
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
    /// stored since, and drops what its sender was still to prove. `None` when that failed. Nothing
    /// is lost when the caller gives up: the claim is with whoever works on what is claimed, so that
    /// others wait, and parks it in the end.
    pub(super) async fn warm_up(self: &Arc<Self>, mut claim: Claim) -> Option<Claim> {
        match claim.content() {
            Some(Some(Content::Cold(_))) => self.verify(claim).await,
            Some(Some(Content::Warm(body))) if body.is_suspect() => {
                let dropping = self.storing.spawn(async move {
                    if let Some(Some(Content::Warm(body))) = claim.content()
                        && let Err(error) = body.drop_unproven().await
                    {
                        tracing::error!(image = %claim.id(), %error, "an unfinished image is dropped");
                        drop(claim.take());
                    }
                    claim
                });
                dropping.await.ok()
            }
            _ => Some(claim),
        }
    }

    async fn verify(self: &Arc<Self>, mut claim: Claim) -> Option<Claim> {
        let id = claim.id();
        match self.parts.catalog.find(id).await {
            Ok(None) => {}
            Ok(Some(_)) => {
                tracing::debug!(image = %id, "an unfinished image is stored already");
                drop(claim.take());
                return Some(claim);
            }
            Err(error) => {
                tracing::error!("{error}");
                return Some(claim);
            }
        }
        let place = Arc::clone(&self.verifiers).acquire_owned().await.ok()?;
        let this = Arc::clone(self);
        let verifying = self.storing.spawn_blocking(move || {
            // It is read to its end, also when nobody waits any more.
            let _place = place;
            if let Some(Content::Cold(partial)) = claim.take()
                && let Some(content) = claim.content()
            {
                *content = recover(&this, partial).map(Content::Warm);
            }
            claim
        });
        verifying
            .await
            .inspect_err(
                |error| tracing::error!(image = %id, %error, "an unfinished image is dropped"),
            )
            .ok()
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
        let claim = self.claim_unfinished(id).await?;
        let mut claim = self.warm_up(claim).await?;
        if matches!(claim.content(), Some(Some(Content::Cold(_)))) {
            return None;
        }
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
        // Goes on to its end even if the caller gives up.
        let parked = self.storing.spawn(upload.park()).await;
        if let Err(error) = parked {
            tracing::error!(%error, "an unfinished upload cannot be kept");
        }
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
