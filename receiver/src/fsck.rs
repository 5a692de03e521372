//! A full check of a data folder while no receiver runs: every file against its entry, every entry
//! against its file.

use std::path::PathBuf;

use serde::Serialize;
use shared::image::ImageId;
use shared::receipt::Durability;

use crate::catalog::sqlite::SqliteCatalog;
use crate::catalog::{Catalog, CatalogError, Entry, FILE_MISSING, Filter, Verdict};
use crate::store::StoreError;
use crate::store::files::survey::{FileState, Survey};

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
    /// Problems that are there yet.
    #[must_use]
    pub fn left(&self) -> u64 {
        (self.missing + self.damaged + self.orphans).saturating_sub(self.repaired)
    }

    fn note(&mut self, problem: Problem) {
        *match problem.kind {
            Kind::Missing => &mut self.missing,
            Kind::Damaged => &mut self.damaged,
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
/// moved to `orphans/`. What is in quarantine is only reported.
///
/// # Errors
/// When the folder or its catalogue cannot be used.
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
        FileState::Unreadable(error) => {
            (Kind::Damaged, format!("the file cannot be read: {error}"))
        }
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
