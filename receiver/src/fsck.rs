//! A full check of a data folder while no receiver runs: every file against its entry, every entry
//! against its file.

use std::path::PathBuf;

use serde::Serialize;
use shared::image::ImageId;
use shared::receipt::Durability;

use crate::catalog::sqlite::SqliteCatalog;
use crate::catalog::{Catalog, CatalogError, Entry, FILE_MISSING, Filter, Numbered, Verdict};
use crate::store::files::survey::{FileState, Survey};
use crate::store::{Area, StoreError};

/// Entries that are read at a time.
const PAGE: usize = 1_000;

/// Problems that are listed one by one; beyond, they are only counted.
const LISTED: usize = 1_000;

/// Why an image is lost whose file is not what was stored.
const FILE_DAMAGED: &str = "file damaged, found by fsck";

/// What is to be checked.
#[derive(Debug, Clone)]
pub struct Options {
    /// The receiver's data folder.
    pub data: PathBuf,
    /// Whether what is found is put in order.
    pub repair: bool,
    /// Whether that holds even if nearly all files are missing.
    pub accept_missing: bool,
}

/// What is wrong with one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The image.
    pub image_id: ImageId,
    /// Where its file is, or should be.
    pub location: String,
    /// What kind of problem it is.
    pub kind: Kind,
    /// What is wrong, with its figures.
    pub detail: String,
    /// Whether it was put in order.
    pub repaired: bool,
}

/// Kinds of [`Problem`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// An entry without its file.
    Missing,
    /// A file that is not what was stored.
    Damaged,
    /// A file of which nobody knows, because it cannot be read. It may be as it was stored.
    Unreadable,
    /// A file without an entry.
    Orphan,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// Whether the last receiver stopped in order.
    pub stopped_in_order: bool,
    /// Entries in the catalogue.
    pub entries: u64,
    /// Entries of which no bytes are kept, by their durability.
    pub without_bytes: u64,
    /// Of the entries, images in quarantine.
    pub quarantined: u64,
    /// Files that are as the catalogue says.
    pub good: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Entries without their files.
    pub missing: u64,
    /// Files that are not what was stored.
    pub damaged: u64,
    /// Files that cannot be read.
    pub unreadable: u64,
    /// Files without entries.
    pub orphans: u64,
    /// Files among the images that are none.
    pub other_files: u64,
    /// Unfinished images.
    pub unfinished: u64,
    /// Bytes of them that are verified.
    pub unfinished_bytes: u64,
    /// Bytes of unfinished images that are torn: they will be sent again.
    pub torn_bytes: u64,
    /// Problems that were put in order.
    pub repaired: u64,
    /// The first thousand problems.
    pub problems: Vec<Problem>,
}

impl Findings {
    /// Problems that were found.
    #[must_use]
    pub fn found(&self) -> u64 {
        self.missing + self.damaged + self.unreadable + self.orphans
    }

    /// Problems that are there yet.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.found().saturating_sub(self.repaired)
    }

    fn note(&mut self, problem: Problem) {
        *match problem.kind {
            Kind::Missing => &mut self.missing,
            Kind::Damaged => &mut self.damaged,
            Kind::Unreadable => &mut self.unreadable,
            Kind::Orphan => &mut self.orphans,
        } += 1;
        self.repaired += u64::from(problem.repaired);
        if self.problems.len() < LISTED {
            self.problems.push(problem);
        }
    }
}

/// Why the folder could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum FsckError {
    /// It cannot be used; a receiver that works on it is named.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The catalogue cannot be used.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// There is none.
    #[error("{path} has no catalogue: is it the --data of a receiver?", path = path.display())]
    NoCatalog {
        /// The folder.
        path: PathBuf,
    },
    /// Nearly all files are missing, which is rather a folder that is not there than a loss of each.
    #[error(
        "nothing is repaired: {missing} of {of} images are missing below {path}; mount or bring back \
         what belongs there, or say --accept-missing to give them up as lost",
        path = path.display()
    )]
    NearlyAllMissing {
        /// Files that are not there.
        missing: u64,
        /// Files that there should be.
        of: u64,
        /// Where they should be.
        path: PathBuf,
    },
}

/// How far a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Images that were looked at.
    pub images: u64,
    /// Images that there are.
    pub of: u64,
    /// Bytes that were read.
    pub bytes: u64,
}

/// Checks everything. `progress` is called often.
///
/// With `repair`, an entry whose file is missing or damaged is taken out of the catalogue and named
/// as a loss, so that the image is welcome again, and a damaged file or one without an entry is
/// moved to `orphans/`. What is in quarantine, and what cannot be read, is only reported.
///
/// # Errors
/// When the folder or its catalogue cannot be used, or when so much is missing that `repair` would
/// rather do harm.
pub async fn fsck(
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Findings, FsckError> {
    let data = &options.data;
    let survey = Survey::open(data)?;
    let database = data.join("catalog.sqlite");
    if !database.is_file() {
        return Err(FsckError::NoCatalog { path: data.clone() });
    }
    let catalog = SqliteCatalog::open(&database, Durability::Synced)?;
    let checked = check(&survey, &catalog, options, progress).await;
    catalog.close().await;
    let findings = checked?;
    if options.repair && findings.left() == 0 {
        survey.settled()?;
    }
    Ok(findings)
}

async fn check(
    survey: &Survey,
    catalog: &SqliteCatalog,
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Findings, FsckError> {
    let mut findings = Findings {
        stopped_in_order: !survey.is_unsettled(),
        ..Findings::default()
    };
    if options.repair && !options.accept_missing {
        guard(survey, catalog, options).await?;
    }
    let series = catalog.series(Filter::default()).await?;
    let of = series
        .iter()
        .map(|series| series.stored + series.quarantined)
        .sum();
    let mut after = 0;
    loop {
        let page = catalog.list(Filter::default(), after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.number;
        for numbered in &page {
            let problem = look(survey, &numbered.entry, &mut findings, of, progress);
            findings.entries += 1;
            if let Some(mut problem) = problem {
                if options.repair {
                    repair_entry(survey, catalog, &numbered.entry, &mut problem).await?;
                }
                findings.note(problem);
            }
        }
    }
    find_orphans(survey, catalog, options.repair, &mut findings).await?;
    let unfinished = survey.unfinished()?;
    findings.unfinished = unfinished.images;
    findings.unfinished_bytes = unfinished.verified;
    findings.torn_bytes = unfinished.torn;
    findings.other_files += unfinished.useless;
    if options.repair {
        survey.clear()?;
    }
    Ok(findings)
}

/// Sees to it that nothing is repaired while the images are just not there: on a file system that is
/// not mounted, or after a rename. It looks for the files and reads none.
async fn guard(
    survey: &Survey,
    catalog: &SqliteCatalog,
    options: &Options,
) -> Result<(), FsckError> {
    let (mut missing, mut of, mut after) = (0_u64, 0_u64, 0);
    loop {
        let page = catalog.list(Filter::default(), after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.number;
        for Numbered { entry, .. } in &page {
            if entry.verdict == Verdict::Stored && !entry.location.is_empty() {
                of += 1;
                missing += u64::from(survey.is_missing(&entry.location));
            }
        }
    }
    // More than nine in ten: of a few images, all.
    if missing.saturating_mul(10) > of.saturating_mul(9) {
        let path = options.data.join(Area::Images.folder());
        return Err(FsckError::NearlyAllMissing { missing, of, path });
    }
    Ok(())
}

async fn find_orphans(
    survey: &Survey,
    catalog: &SqliteCatalog,
    repair: bool,
    findings: &mut Findings,
) -> Result<(), FsckError> {
    let (folders, others) = survey.folders()?;
    findings.other_files = others;
    for folder in &folders {
        for found in survey.files(folder)? {
            let Some(found) = found? else {
                findings.other_files += 1;
                continue;
            };
            let known = catalog.find(found.id).await?;
            if known.is_some_and(|known| known.entry.location == found.location) {
                continue;
            }
            if repair {
                survey.set_aside(&found.location)?;
            }
            findings.note(Problem {
                image_id: found.id,
                location: found.location,
                kind: Kind::Orphan,
                detail: "the catalogue does not know this file: no receipt was given for it"
                    .to_owned(),
                repaired: repair,
            });
        }
    }
    Ok(())
}

fn look(
    survey: &Survey,
    entry: &Entry,
    findings: &mut Findings,
    of: u64,
    progress: &mut dyn FnMut(Progress),
) -> Option<Problem> {
    findings.quarantined += u64::from(entry.verdict != Verdict::Stored);
    if entry.location.is_empty() {
        findings.without_bytes += 1;
        return None;
    }
    let images = findings.entries + 1;
    let state = survey.look(
        &entry.location,
        entry.meta.size,
        entry.digest,
        &mut |read| {
            findings.bytes += read;
            let bytes = findings.bytes;
            progress(Progress { images, of, bytes });
        },
    );
    let (size, digest) = (entry.meta.size, entry.digest);
    let (kind, detail) = match state {
        FileState::Good => {
            findings.good += 1;
            return None;
        }
        FileState::Missing => (Kind::Missing, "the file is not there".to_owned()),
        FileState::Size(found) => (
            Kind::Damaged,
            format!("the file has {found} bytes, not {size}"),
        ),
        FileState::Digest(found) => (
            Kind::Damaged,
            format!("the file has digest {found}, not {digest}"),
        ),
        FileState::Unreadable(error) => (
            Kind::Unreadable,
            format!("the file cannot be read, and is left as it is: {error}"),
        ),
    };
    Some(Problem {
        image_id: entry.meta.id,
        location: entry.location.clone(),
        kind,
        detail,
        repaired: false,
    })
}

async fn repair_entry(
    survey: &Survey,
    catalog: &SqliteCatalog,
    entry: &Entry,
    problem: &mut Problem,
) -> Result<(), FsckError> {
    if entry.verdict != Verdict::Stored {
        return Ok(());
    }
    // The file goes first: an entry without a file is found again, a file without an entry too.
    let reason = match problem.kind {
        // It may be whole, and readable to another user, or at another time.
        Kind::Unreadable => return Ok(()),
        Kind::Missing | Kind::Orphan => FILE_MISSING,
        Kind::Damaged => {
            survey.set_aside(&entry.location)?;
            FILE_DAMAGED
        }
    };
    let (id, location) = (entry.meta.id, &entry.location);
    problem.repaired = catalog.remove(id, location, reason).await?;
    Ok(())
}
