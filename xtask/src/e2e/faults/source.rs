//! Where a transmitter gets its images from, and what is known of them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use fastrand::Rng;

use super::checker::{Known, Truth};
use super::images::{Maker, Shape};
use super::plan;

/// The source of an episode.
pub(crate) struct Source {
    kind: plan::Source,
    /// For each transport a folder of its own, because a file is captured once for each.
    folder: PathBuf,
    maker: Maker,
    pub(crate) truth: Truth,
    made: u32,
    /// Images for which there was no space, by their names.
    postponed: Vec<(PathBuf, Vec<u8>)>,
}

impl Source {
    /// One whose files lie in `folder`.
    pub(crate) fn new(kind: plan::Source, folder: PathBuf) -> Result<Self> {
        Ok(Self {
            kind,
            folder,
            maker: Maker::new()?,
            truth: Truth::default(),
            made: 0,
            postponed: Vec::new(),
        })
    }

    /// Whether contents are known.
    pub(crate) fn is_known(&self) -> bool {
        !matches!(self.kind, plan::Source::Pattern { .. })
    }

    /// Whether its images can be given one by one.
    pub(crate) fn is_folder(&self) -> bool {
        matches!(self.kind, plan::Source::Folder { .. })
    }

    fn offered(&self, transport: &str) -> PathBuf {
        self.folder.join(transport)
    }

    /// Settings of a transmitter that takes from it.
    pub(crate) fn args(&mut self, transport: &str, random: &mut Rng) -> Result<Vec<String>> {
        let args = match self.kind {
            plan::Source::Folder { files, after, .. } => {
                let folder = self.offered(transport);
                make(&folder)?;
                let after = match after {
                    "archive" => format!("archive:{}", self.folder.join("archive").display()),
                    other => other.to_owned(),
                };
                vec![
                    "--folder".to_owned(),
                    folder.display().to_string(),
                    "--rescan".to_owned(),
                    "300ms".to_owned(),
                    "--outbox-files".to_owned(),
                    files.to_owned(),
                    "--after-delivery".to_owned(),
                    after,
                ]
            }
            plan::Source::Command { images } => {
                let mut all = Vec::new();
                for _ in 0..images {
                    let size = random.usize(500..150_000);
                    let image = self.maker.make(Shape::Jpeg, size, random);
                    self.made += 1;
                    self.truth
                        .add(format!("frame {}", self.made), &image, false, true);
                    all.extend(image);
                }
                make(&self.folder)?;
                let stream = self.folder.join(format!("stream-{}", self.made));
                fs::write(&stream, all)?;
                vec![
                    "--command".to_owned(),
                    format!("cat '{}'", stream.display()),
                ]
            }
            plan::Source::Pattern { images } => vec![
                "--pattern".to_owned(),
                "64x48".to_owned(),
                "--count".to_owned(),
                images.to_string(),
                "--seed".to_owned(),
                random.u32(..).to_string(),
            ],
        };
        Ok(args)
    }

    /// Settings of a transmitter that delivers what is there and ends.
    pub(crate) fn last_args(&mut self, transport: &str, random: &mut Rng) -> Result<Vec<String>> {
        if self.is_folder() {
            let mut args = self.args(transport, random)?;
            args.push("--once".to_owned());
            return Ok(args);
        }
        let nothing = self.folder.join("nothing");
        make(&nothing)?;
        Ok(["--folder", &nothing.display().to_string(), "--once"]
            .map(str::to_owned)
            .to_vec())
    }

    /// Offers a new image.
    pub(crate) fn offer(
        &mut self,
        transport: &str,
        shape: Shape,
        size: usize,
        random: &mut Rng,
    ) -> Result<Known> {
        let bytes = self.maker.make(shape, size, random);
        self.made += 1;
        let name = format!("{:04}.{}", self.made, shape.ending());
        let known = self.truth.add(
            format!("{transport}/{name}"),
            &bytes,
            true,
            shape.is_proper(),
        );
        let path = self.offered(transport).join(name);
        if self.place(&path, &bytes).is_err() {
            self.postponed.push((path, bytes));
        }
        Ok(known)
    }

    /// Offers what had no place; there is space now.
    pub(crate) fn offer_postponed(&mut self) -> Result<()> {
        for (path, bytes) in std::mem::take(&mut self.postponed) {
            self.place(&path, &bytes)
                .with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }

    /// Writes a file as a careful camera would: complete, synced, then visible.
    fn place(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let stage = self.folder.join("stage");
        let folder = path.parent().context("a file lies in a folder")?;
        make(&stage)?;
        make(folder)?;
        let first = stage.join("image");
        let written = fs::write(&first, bytes).and_then(|()| File::open(&first)?.sync_all());
        if let Err(error) = written {
            let _ = fs::remove_file(&first);
            return Err(error.into());
        }
        fs::rename(&first, path)?;
        File::open(folder)?.sync_all()?;
        Ok(())
    }
}

/// Makes a folder that stays when the power goes.
fn make(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        make(parent)?;
        fs::create_dir(folder).with_context(|| format!("making {}", folder.display()))?;
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}
