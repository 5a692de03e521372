//! Keeps nothing: for benchmarks of everything but the disk.

use std::fs::File;

use async_trait::async_trait;
use shared::chunk::Segments;
use shared::image::ImageId;

use crate::store::{ImageStore, ImageWriter, Placement, StoreError};

/// A store for [`shared::receipt::Durability::Memory`]: bytes are dropped as they come, so that
/// memory does not grow with what is sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct MemoryStore;

#[async_trait]
impl ImageStore for MemoryStore {
    async fn create(&self, _id: ImageId) -> Result<Box<dyn ImageWriter>, StoreError> {
        Ok(Box::new(Discard))
    }

    async fn open(&self, _location: &str) -> Result<Option<File>, StoreError> {
        Ok(None)
    }
}

struct Discard;

#[async_trait]
impl ImageWriter for Discard {
    async fn write(&mut self, _data: Segments) -> Result<(), StoreError> {
        Ok(())
    }

    async fn truncate(&mut self, _length: u64) -> Result<(), StoreError> {
        Ok(())
    }

    async fn reopen(&mut self) -> Result<Option<File>, StoreError> {
        Ok(None)
    }

    async fn commit(self: Box<Self>, _placement: Placement) -> Result<String, StoreError> {
        Ok(String::new())
    }
}
