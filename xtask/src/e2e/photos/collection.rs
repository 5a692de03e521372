//! The folder that is sent: many formats, 10 KB to 50 MB, and names that are hard on programs.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::e2e::photograph::{self, Encoding};
use crate::e2e::{check, clear};

/// Name, encoding, width and height of a photograph.
const PHOTOGRAPHS: [(&[u8], Encoding, u32, u32); 16] = [
    (b"thumbnail.jpg", Encoding::Jpeg(80), 240, 160),
    (b"with spaces in the name.png", Encoding::Png, 640, 480),
    (
        "Gr\u{fc}\u{df}e/\u{5199}\u{771f} \u{1f4f7}.webp".as_bytes(),
        Encoding::WebP,
        800,
        600,
    ),
    // Two spellings of one letter are two names.
    (
        "Gr\u{fc}\u{df}e/cafe\u{301}.jpg".as_bytes(),
        Encoding::Jpeg(85),
        640,
        480,
    ),
    (
        "Gr\u{fc}\u{df}e/caf\u{e9}.jpg".as_bytes(),
        Encoding::Jpeg(85),
        644,
        484,
    ),
    (b"-leading-dash.jpg", Encoding::Jpeg(90), 1_280, 720),
    (b"--once.gif", Encoding::Gif, 480, 320),
    (b"up..and..over..jpg", Encoding::Jpeg(90), 1_024, 768),
    (b"%2e%2e%2fescape.png", Encoding::Png, 320, 240),
    (b"back\\..\\slash.bmp", Encoding::Bmp, 320, 200),
    (b"2026/11/21/night shift.TIFF", Encoding::Tiff, 1_200, 900),
    (b"2026/11/21/same.jpg", Encoding::Jpeg(95), 2_000, 1_500),
    (b"2026/11/22/same.jpg", Encoding::Jpeg(95), 2_004, 1_500),
    (b"quotes'\"$(id)`;&|\n.jpg", Encoding::Jpeg(70), 400, 300),
    (b"old encoding caf\xe9.jpg", Encoding::Jpeg(70), 404, 300),
    (b"huge.jpg", Encoding::Jpeg(100), 7_000, 5_600),
];

/// What lies in the folder and must not be taken: hidden, unfinished, or no image.
const OTHERS: [&str; 4] = [
    "..hidden.jpg",
    ".cache/inner.jpg",
    "notes.txt",
    "half.jpg.part",
];

/// Sizes that the photographs must span.
const SMALLEST: u64 = 16 << 10;
const LARGEST: u64 = 45_000_000;

/// A folder, and what of it is sent.
pub(super) struct Collection {
    pub(super) folder: PathBuf,
    /// Photographs by the name under which the receiver must know them.
    pub(super) sent: BTreeMap<String, PathBuf>,
    /// Files that are not to be taken, sorted.
    pub(super) others: Vec<PathBuf>,
    bytes: u64,
}

impl Collection {
    /// Makes the collection in `folder`, with copies of `photographs` in it.
    pub(super) fn make(folder: &Path, photographs: Option<&Path>) -> Result<Self> {
        clear(folder)?;
        fs::create_dir_all(folder)?;
        let mut sent = BTreeMap::new();
        for (seed, (name, encoding, width, height)) in (1..).zip(PHOTOGRAPHS) {
            let path = folder.join(OsStr::from_bytes(name));
            make_parent(&path)?;
            photograph::write(&path, encoding, width, height, seed)?;
            sent.insert(name_below(folder, &path)?, path);
        }
        if let Some(from) = photographs {
            for file in check::files_below(from)? {
                let path = folder.join("given").join(file.strip_prefix(from)?);
                make_parent(&path)?;
                fs::copy(&file, &path).with_context(|| format!("copying {}", file.display()))?;
                sent.insert(name_below(folder, &path)?, path);
            }
        }
        for name in OTHERS {
            let path = folder.join(name);
            make_parent(&path)?;
            fs::write(&path, "not to be taken")?;
        }
        let mut others: Vec<PathBuf> = OTHERS.iter().map(|name| folder.join(name)).collect();
        others.sort();
        let mut sizes = Vec::new();
        for path in sent.values() {
            sizes.push(fs::metadata(path)?.len());
        }
        let (least, most) = (sizes.iter().min(), sizes.iter().max());
        ensure!(
            least.is_some_and(|least| *least <= SMALLEST),
            "the smallest has {least:?} bytes"
        );
        ensure!(
            most.is_some_and(|most| *most >= LARGEST),
            "the largest has {most:?} bytes"
        );
        Ok(Self {
            folder: folder.to_owned(),
            sent,
            others,
            bytes: sizes.iter().sum(),
        })
    }

    /// The photographs' bytes by their names.
    pub(super) fn contents(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let read = |(name, path): (&String, &PathBuf)| Ok((name.clone(), fs::read(path)?));
        self.sent.iter().map(read).collect()
    }

    /// Checks that all files are where they were.
    pub(super) fn is_untouched(&self) -> Result<()> {
        let mut expected: Vec<&PathBuf> = self.sent.values().chain(&self.others).collect();
        expected.sort();
        let found = check::files_below(&self.folder)?;
        ensure!(
            found.iter().eq(expected),
            "in the folder there are {found:?}"
        );
        Ok(())
    }
}

impl fmt::Display for Collection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = self.bytes as f64 / 1e6;
        write!(f, "{} photographs, {megabytes:.1} MB", self.sent.len())
    }
}

/// The name that the receiver is told: the path below the folder, as text.
pub(super) fn name_below(folder: &Path, path: &Path) -> Result<String> {
    Ok(path.strip_prefix(folder)?.to_string_lossy().into_owned())
}

fn make_parent(path: &Path) -> Result<()> {
    let parent = path.parent().context("a file lies in a folder")?;
    fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))
}
