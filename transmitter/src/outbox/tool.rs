//! `pantelegraph-transmitter outbox`: looking into an outbox that no transmitter has open, and
//! putting right what is wrong in it.

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use shared::disk::{Disk, OsDisk};
use shared::image::ImageId;

use super::OutboxError;
use super::disk::core::{Core, CoreOptions};
use super::disk::recovery;
use crate::config::OutboxDurability;

pub mod arguments;
mod change;
mod find;
mod fsck;
mod list;
mod show;
mod text;

/// What is to be done with which outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Folder of the outbox.
    pub outbox: PathBuf,
    /// How it is told.
    pub output: Output,
    /// What is done.
    pub action: Action,
}

/// How results are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs: an object of JSON on each line.
    Json,
}

/// What is done with an outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Names what is in it.
    List {
        /// Which part of it.
        part: Part,
        /// Numbers above this one.
        after: u64,
        /// So many at most; `None`: all.
        limit: Option<u64>,
    },
    /// Tells everything of one image.
    Show(Image),
    /// Reads all payloads and compares them with their digests.
    Fsck {
        /// What is damaged goes to the ledger, what is left over goes.
        repair: bool,
    },
    /// Puts images back that are in quarantine.
    Requeue(Vec<Image>),
    /// Gives images up.
    Drop {
        /// These; all when there are none.
        images: Vec<Image>,
        /// Without asking.
        yes: bool,
    },
}

/// A part of an outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Images that are owed.
    Owed,
    /// Images that are lost.
    Ledger,
    /// Files that were put aside.
    Quarantine,
}

/// An image, as somebody names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Image {
    /// By its id.
    Id(ImageId),
    /// By its sequence number.
    Sequence(u64),
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Sequence(sequence) => sequence.fmt(f),
        }
    }
}

impl std::str::FromStr for Image {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(sequence) = text.parse() {
            return Ok(Self::Sequence(sequence));
        }
        let id = text.parse().map(Self::Id);
        id.map_err(|_| format!("{text:?} is neither an image id nor a sequence number"))
    }
}

/// Who uses the tool.
pub struct Console<'a> {
    /// Takes what is found out.
    pub out: &'a mut dyn Write,
    /// Characters of a line; `None` when nobody reads along.
    pub columns: Option<usize>,
    /// Is told how far it is: images done, of so many.
    pub progress: &'a mut dyn FnMut(u64, u64),
    /// Answers a question; `None` when there is nobody to ask.
    pub ask: Option<&'a mut dyn FnMut(&str) -> bool>,
}

/// How the tool ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Done, and all is well.
    Well,
    /// Something is damaged, and was left as it is.
    Damaged,
    /// Nothing was done, since the answer was no.
    Declined,
}

/// Why the tool cannot do what it is asked to.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// There is no outbox.
    #[error("there is no outbox in {0}; name its folder with --outbox")]
    NoOutbox(String),
    /// It cannot be opened.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// No such image.
    #[error("{image} is not {whence}; see outbox list {flag}")]
    NotFound {
        /// The image.
        image: Image,
        /// Where it was looked for.
        whence: &'static str,
        /// What lists that.
        flag: &'static str,
    },
    /// It cannot be put back.
    #[error("{image} cannot be put back: {reason}")]
    Unfit {
        /// The image.
        image: Image,
        /// Why.
        reason: String,
    },
    /// Nobody can be asked.
    #[error("nobody can be asked here; say --yes if {0} images are to be dropped")]
    NobodyToAsk(u64),
    /// What was found out cannot be told.
    #[error("the output cannot be written")]
    Output(#[source] io::Error),
    /// The outbox cannot be read or written.
    #[error("the outbox cannot be {0}")]
    Broken(&'static str, #[source] io::Error),
}

impl ToolError {
    /// The exit code, as the help has it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Outbox(OutboxError::InUse { .. }) => 3,
            Self::NoOutbox(_) | Self::NotFound { .. } => 4,
            Self::NobodyToAsk(_) => 2,
            Self::Outbox(_) | Self::Unfit { .. } | Self::Output(_) | Self::Broken(..) => 1,
        }
    }
}

impl End {
    /// The exit code, as the help has it.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Well => 0,
            Self::Damaged | Self::Declined => 1,
        }
    }
}

pub(super) fn unreadable(error: super::disk::IndexError) -> ToolError {
    ToolError::Broken("read", error.into_io())
}

pub(super) fn unwritable(error: super::disk::IndexError) -> ToolError {
    ToolError::Broken("written", error.into_io())
}

/// Does what is asked. Blocks while it does.
///
/// # Errors
/// When the outbox is in use, is not there or cannot be read; when what is asked for is not there.
pub fn run(request: &Request, console: &mut Console<'_>) -> Result<End, ToolError> {
    let mut core = open(&request.outbox)?;
    let output = request.output;
    let end = match &request.action {
        Action::List { part, after, limit } => {
            list::list(&core, *part, *after, *limit, output, console)
        }
        Action::Show(image) => show::show(&core, *image, output, console),
        Action::Fsck { repair } => fsck::fsck(&mut core, *repair, output, console),
        Action::Requeue(images) => change::requeue(&mut core, images, output, console),
        Action::Drop { images, yes } => change::drop(&mut core, images, *yes, output, console),
    };
    core.close()?;
    let end = end?;
    console.out.flush().map_err(ToolError::Output)?;
    Ok(end)
}

fn open(folder: &std::path::Path) -> Result<Core, ToolError> {
    let there = ["index.redb", "mark", "images"]
        .iter()
        .any(|name| folder.join(name).exists());
    if !there {
        return Err(ToolError::NoOutbox(folder.display().to_string()));
    }
    let disk: Arc<dyn Disk> = Arc::new(OsDisk);
    let options = CoreOptions::new(OutboxDurability::Synced);
    Ok(recovery::open(&disk, folder, &options)?)
}
