//! The receiver's disk: a model, with which a simulation is the same each time, or the product's own
//! store on a disk that loses power, whose threads take turns as they like.

use std::sync::Arc;

use pantelegraph_receiver::store::{ImageStore, StoreError};
use shared::image::ImageId;

use crate::files::Files;
use crate::medium::Medium;
use crate::random::Random;

/// Which disk a simulation has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disks {
    Model,
    Real,
}

/// A disk for images. Clones are the same.
#[derive(Clone)]
pub(crate) enum Disk {
    Model(Medium),
    Real(Files),
}

impl Disk {
    pub(crate) fn new(disks: Disks, random: Random) -> Self {
        match disks {
            Disks::Model => Self::Model(Medium::new(random)),
            Disks::Real => Self::Real(Files::new(random)),
        }
    }

    /// The store on it, for the next process.
    ///
    /// # Errors
    /// When the disk is full.
    pub(crate) fn store(&self) -> Result<Arc<dyn ImageStore>, StoreError> {
        match self {
            Self::Model(medium) => Ok(Arc::new(medium.clone())),
            Self::Real(files) => files.store(),
        }
    }

    /// Whether there is space for another byte.
    pub(crate) fn set_full(&self, full: bool) {
        match self {
            Self::Model(medium) => medium.set_full(full),
            Self::Real(files) => files.set_full(full),
        }
    }

    /// The power goes in the middle of what is being done next; the machine stops a moment later.
    pub(crate) fn lose_power(&self) {
        if let Self::Real(files) = self {
            files.lose_power();
        }
    }

    /// What is left when the process dies, or with `power_loss` the machine: a disk of its own.
    pub(crate) fn crash(&self, power_loss: bool) -> Self {
        match self {
            Self::Model(medium) => Self::Model(medium.crash(power_loss)),
            Self::Real(files) => Self::Real(files.crash(power_loss)),
        }
    }

    /// Removes files of a model that `known` does not know, as the receiver does at its start.
    pub(crate) fn reconcile(&self, known: impl Fn(&str) -> bool) {
        if let Self::Model(medium) = self {
            medium.reconcile(known);
        }
    }

    /// Images of this id, those kept apart included in a model, that would survive a power loss.
    pub(crate) fn synced(&self, id: ImageId) -> Vec<Vec<u8>> {
        match self {
            Self::Model(medium) => medium.synced(id),
            Self::Real(files) => files.synced().remove(&id).unwrap_or_default(),
        }
    }

    /// How many files of images there are, those kept apart included in a model.
    pub(crate) fn files(&self) -> usize {
        match self {
            Self::Model(medium) => medium.files(),
            Self::Real(files) => files.count(),
        }
    }
}
