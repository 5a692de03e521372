//! How a session ends, and why.

use std::sync::atomic::Ordering;

use super::Session;
use crate::link::LinkError;
use crate::link::dial::Denial;

impl Session {
    /// The receiver's words, and what to do about it.
    pub(in crate::link) fn advise(&self, denial: Denial, words: &str) -> String {
        self.identity.dialler.advise(denial, words)
    }

    /// That the receiver does not let this station in, if that ended the session.
    pub(super) fn refusal(&self) -> Option<LinkError> {
        self.refused
            .load(Ordering::Relaxed)
            .then(|| LinkError::Refused {
                address: self.address.clone(),
                problem: self.why_lost.lock().clone(),
            })
    }

    pub(super) fn reason(&self) -> String {
        if let Some(refusal) = self.refusal() {
            return refusal.to_string();
        }
        let why = self.why_lost.lock();
        if why.is_empty() {
            "the transport stopped".to_owned()
        } else {
            why.clone()
        }
    }

    /// The connection is of no more use.
    pub(in crate::link) fn lose(&self, reason: String) {
        self.end_because(reason, false);
    }

    /// The receiver does not let this station in.
    pub(in crate::link) fn refuse(&self, problem: String) {
        self.end_because(problem, true);
    }

    fn end_because(&self, reason: String, refused: bool) {
        {
            let mut why = self.why_lost.lock();
            if why.is_empty() {
                *why = reason;
                self.refused.store(refused, Ordering::Relaxed);
            }
        }
        self.lost.cancel();
        self.ended.cancel();
        self.pending.lock().clear();
        self.told.forget();
    }
}
