//! Keeps nothing: for benchmarks of everything but the disk.

use std::fs::File;

use async_trait::async_trait;
use shared::chunk::Segments;
use shared::digest::Digest;

use crate::store::{About, ImageStore, ImageWriter, Placement, StoreError};

/// A store for [`shared::receipt::Durability::Memory`]: bytes are dropped as they come, so that
/// memory does not grow with what is sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct MemoryStore;

#[async_trait]
impl ImageStore for MemoryStore {
    async fn create(&self, _about: About) -> Result<Box<dyn ImageWriter>, StoreError> {
        Ok(Box::new(Discard))
    }

    async fn open(&self, _location: &str) -> Result<Option<File>, StoreError> {
        Ok(None)
    }

    async fn size(&self, _location: &str) -> Result<Option<u64>, StoreError> {
        Ok(None)
    }

    async fn discard(&self, _location: &str) -> Result<(), StoreError> {
        Ok(())
    }
}

struct Discard;

#[async_trait]
impl ImageWriter for Discard {
    async fn write(&mut self, _data: Segments, _digest: Digest) -> Result<(), StoreError> {
        Ok(())
    }

    async fn truncate(&mut self, _length: u64, _digest: Digest) -> Result<(), StoreError> {
        Ok(())
    }

    async fn reopen(&mut self) -> Result<Option<File>, StoreError> {
        Ok(None)
    }

    async fn park(&mut self, _digest: Digest) -> Result<(), StoreError> {
        Ok(())
    }

    fn leave(&mut self) {}

    async fn commit(self: Box<Self>, _placement: Placement) -> Result<String, StoreError> {
        Ok(String::new())
    }
}
