//! The end of an upload: is it whole and right, is it an image, and into store and catalogue.

use std::io::BufReader;
use std::sync::Arc;
use std::time::Duration;

use shared::chunk::AssemblyError;
use shared::clock::UnixNanos;
use shared::digest::{Digest, Hasher};
use shared::image::ImageMeta;
use shared::receipt::{Durability, Receipt, ReceiverTimeline, Reject, RejectReason};
use shared::sabotage::{self, Sabotage};

use super::Body;
use crate::catalog::{Entry, Inserted, Verdict};
use crate::config::Verify;
use crate::intake::decoding::Decoded;
use crate::intake::inspect::{Facts, Finding, decode_fully, takes_too_long};
use crate::intake::{quarantine_reject, store_failed};
use crate::store::{Area, Placement};

impl Body {
    pub(super) async fn complete(&mut self, declared: Option<Digest>) -> Result<Receipt, Reject> {
        if self.open_ended {
            let received = self.received();
            Arc::make_mut(&mut self.meta).size = received;
            self.state.assembler.end_here();
        }
        let digest = self.verified_digest(declared)?;
        if let Some(known) = self.known.take() {
            let found = self.state.second.as_ref().map_or(digest, Hasher::finish);
            return self
                .intake
                .seen_before(&self.meta, &self.origin, found, *known)
                .await;
        }
        let inspector = &self.state.inspector;
        let finding = match inspector.finish(self.meta.content_type.as_deref()) {
            Ok(facts) => self.look_closer(&facts).await?.map_or(Ok(facts), Err),
            Err(finding) => Err(finding),
        };
        let verified = UnixNanos::now();
        let entry = self.place(digest, finding, verified).await?;
        self.catalogue(entry).await
    }

    fn verified_digest(&mut self, declared: Option<Digest>) -> Result<Digest, Reject> {
        let assembler = &self.state.assembler;
        let algorithm = assembler.algorithm();
        let expected = self.meta.digest.or(declared);
        if let (Some(first), Some(second)) = (self.meta.digest, declared)
            && first != second
        {
            let message = format!("begin declares digest {first}, end {second}");
            return Err(self.turned_down(Reject::new(
                self.meta.id,
                RejectReason::Invalid,
                message,
            )));
        }
        match assembler.finish(expected.filter(|digest| digest.algorithm() == algorithm)) {
            Ok(digest) => match expected {
                // A digest in End, of another kind than the one made while the bytes came.
                Some(other) if other.algorithm() != algorithm => {
                    let message = format!(
                        "digest {} can only be checked when begin announces it; \
                         send it in begin, or use {algorithm} in end",
                        other.algorithm()
                    );
                    let reject = Reject::new(self.meta.id, RejectReason::Invalid, message);
                    Err(self.turned_down(reject))
                }
                _ => Ok(digest),
            },
            Err(error) => {
                let reason = match error {
                    AssemblyError::Truncated { .. } => RejectReason::Truncated,
                    AssemblyError::Digest { .. } => RejectReason::DigestMismatch,
                };
                Err(self.turned_down(Reject::new(self.meta.id, reason, error.to_string())))
            }
        }
    }

    /// Decodes the whole image, if that is wanted.
    async fn look_closer(&mut self, facts: &Facts) -> Result<Option<Finding>, Reject> {
        if self.intake.parts.verify != Verify::Full {
            return Ok(None);
        }
        let id = self.meta.id;
        let Some(writer) = &mut self.writer else {
            return Ok(None);
        };
        let reopened = writer.reopen().await;
        let file = reopened.map_err(|error| self.turned_down(store_failed(id, &error)))?;
        let Some(file) = file else { return Ok(None) };
        let (stated, max_pixels) = (facts.clone(), self.intake.limits().max_pixels);
        let decoding = self
            .intake
            .decoders
            .run(move |until| decode_fully(BufReader::new(file), &stated, max_pixels, until));
        match decoding.await {
            Decoded::Done(verdict) => Ok(verdict.err()),
            Decoded::Failed(panic) => Ok(Some(Finding {
                reason: RejectReason::CorruptImage,
                message: format!("the decoder failed: {panic}"),
            })),
            Decoded::Overdue => Ok(Some(takes_too_long(facts))),
            Decoded::Busy => {
                let message = "images that take too long keep the receiver from decoding others; try \
                               again later";
                let reject = Reject::new(id, RejectReason::Unavailable, message);
                Err(self.turned_down(reject))
            }
        }
    }

    async fn place(
        &mut self,
        digest: Digest,
        finding: Result<Facts, Finding>,
        verified: UnixNanos,
    ) -> Result<Entry, Reject> {
        let last_byte = self.last_byte.unwrap_or(verified);
        let (area, extension) = match &finding {
            Ok(facts) => (Area::Images, facts.extension),
            Err(_) => (Area::Quarantine, "bin"),
        };
        let placement = Placement {
            id: self.meta.id,
            area,
            extension,
            received: last_byte,
        };
        let committed = match self.writer.take() {
            Some(writer) => writer.commit(placement).await,
            None => Ok(String::new()),
        };
        let location =
            committed.map_err(|error| self.turned_down(store_failed(self.meta.id, &error)))?;
        let (format, media_type, width, height, verdict) = match finding {
            Ok(facts) => (
                facts.format,
                facts.media_type,
                facts.width,
                facts.height,
                Verdict::Stored,
            ),
            Err(Finding { reason, message }) => {
                ("", "", 0, 0, Verdict::Quarantined { reason, message })
            }
        };
        Ok(Entry {
            meta: ImageMeta::clone(&self.meta),
            transmitter: self.origin.transmitter.to_string(),
            outbox: self.origin.outbox,
            transport: self.origin.transport,
            digest,
            verdict,
            format: format.to_owned(),
            media_type: media_type.to_owned(),
            width,
            height,
            location,
            durability: self.intake.durability(),
            timeline: ReceiverTimeline {
                first_byte: self.first_byte.unwrap_or(last_byte),
                last_byte,
                verified,
                durable: UnixNanos::now(),
            },
        })
    }

    async fn catalogue(&mut self, mut entry: Entry) -> Result<Receipt, Reject> {
        let intake = Arc::clone(&self.intake);
        if entry.durability == Durability::Memory {
            intake.room_to_count().await;
            intake.parts.catalog.insert_later(entry.clone());
            self.count();
        } else {
            match intake.parts.catalog.insert(entry.clone()).await {
                Ok(Inserted::New) => {
                    entry.timeline.durable = UnixNanos::now();
                    self.count();
                }
                Ok(Inserted::Present(_)) if sabotage::is(Sabotage::ForgetDuplicates) => {}
                Ok(Inserted::Present(known)) => {
                    if known.location != entry.location {
                        self.take_back(&entry.location).await;
                    }
                    return intake
                        .seen_before(&self.meta, &self.origin, entry.digest, *known)
                        .await;
                }
                Err(error) => {
                    self.take_back(&entry.location).await;
                    return Err(self.turned_down(intake.catalog_failed(self.meta.id, &error)));
                }
            }
        }
        if let Some(reject) = quarantine_reject(&entry) {
            tracing::warn!(
                image = %self.meta.id,
                name = self.meta.name.as_deref(),
                transmitter = %self.origin.transmitter,
                reason = %reject.reason,
                "quarantined: {reject}"
            );
            intake.parts.metrics.image_quarantined(
                self.origin.transport,
                reject.reason,
                self.meta.size,
            );
            intake.announce(&self.meta, &self.origin, Err(reject.clone()));
            return Err(reject);
        }
        let receipt = intake.receipt_of(&entry);
        let storing = entry
            .timeline
            .durable
            .since(entry.timeline.last_byte)
            .max(0)
            .unsigned_abs();
        intake.parts.metrics.image_stored(
            self.origin.transport,
            receipt.size,
            transmission_of(&entry),
            Duration::from_nanos(storing),
        );
        intake.announce(&self.meta, &self.origin, Ok(receipt.clone()));
        Ok(receipt)
    }
}

impl Body {
    /// The image was placed and is not catalogued: it must not stay, because nobody knows of it.
    async fn take_back(&self, location: &str) {
        if let Err(error) = self.intake.parts.store.discard(location).await {
            // What an unclean stop leaves is found at the next start.
            tracing::error!(image = %self.meta.id, location, %error, "not catalogued, stays behind");
        }
    }
}

/// One-way time from send start to last byte, as far as the clocks are known.
fn transmission_of(entry: &Entry) -> Option<Duration> {
    let sent = entry.meta.send_started?;
    let clock = entry.meta.clock?;
    Some(clock.one_way(sent, entry.timeline.last_byte))
}
