//! What the fuzz targets do: each takes bytes that may be anything, hands them to a decoder of the
//! product as they would come from outside, and panics when a promise does not hold.
//!
//! `cargo fuzz` finds the bytes; the tests of the workspace run the same functions over the corpus.

pub mod answers;
pub mod assembler;
mod input;
pub mod inspect;
pub mod outbox;
mod rig;
pub mod session;
pub mod settings;
pub mod tus;
pub mod websocket;

/// A target: its name, what it does, and the inputs that it begins with.
pub struct Target {
    /// Name of the program and of the folder below `corpus/`.
    pub name: &'static str,
    /// Does it.
    pub run: fn(&[u8]),
    /// Inputs by name.
    pub seeds: fn() -> Vec<(&'static str, Vec<u8>)>,
}

/// All of them.
pub const TARGETS: [Target; 8] = [
    Target {
        name: "answers",
        run: answers::run,
        seeds: answers::seeds,
    },
    Target {
        name: "assembler",
        run: assembler::run,
        seeds: assembler::seeds,
    },
    Target {
        name: "inspect",
        run: inspect::run,
        seeds: inspect::seeds,
    },
    Target {
        name: "outbox",
        run: outbox::run,
        seeds: outbox::seeds,
    },
    Target {
        name: "session",
        run: session::run,
        seeds: session::seeds,
    },
    Target {
        name: "settings",
        run: settings::run,
        seeds: settings::seeds,
    },
    Target {
        name: "tus",
        run: tus::run,
        seeds: tus::seeds,
    },
    Target {
        name: "websocket",
        run: websocket::run,
        seeds: websocket::seeds,
    },
];
