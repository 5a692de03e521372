//! What happened, in order: a sum of it for comparing, and the lines for those who want to read.

use std::sync::{Arc, Mutex};

/// The trace of one simulation. Clones are the same.
#[derive(Clone)]
pub(crate) struct Trace(Arc<Mutex<State>>);

struct State {
    /// FNV-1a.
    sum: u64,
    events: u64,
    /// Kept only where somebody will read them.
    lines: Option<Vec<String>>,
}

impl Trace {
    pub(crate) fn new(keep: bool) -> Self {
        Self(Arc::new(Mutex::new(State {
            sum: 0xcbf2_9ce4_8422_2325,
            events: 0,
            lines: keep.then(Vec::new),
        })))
    }

    pub(crate) fn note(&self, now: u64, line: &str) {
        let line = format!("{now} {line}");
        let mut state = self.0.lock().unwrap();
        for byte in line.bytes() {
            state.sum = (state.sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        state.events += 1;
        if let Some(lines) = &mut state.lines {
            lines.push(line);
        }
    }

    /// Sum and number of events.
    pub(crate) fn sum(&self) -> (u64, u64) {
        let state = self.0.lock().unwrap();
        (state.sum, state.events)
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().lines.clone().unwrap_or_default()
    }
}
