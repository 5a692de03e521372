//! Which files of a folder are taken, by their names.

use std::path::{Component, Path, PathBuf};

use glob::{MatchOptions, Pattern, PatternError};
use shared::image::media_type_of;

/// Judges paths relative to the watched folder.
#[derive(Debug)]
pub(super) struct Filter {
    include: Vec<Pattern>,
    recursive: bool,
    /// The archive, if it lies within the watched folder.
    archive: Option<PathBuf>,
}

/// Letters of either case, and `*` does not reach across folders (`**` does).
const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: false,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

impl Filter {
    pub(super) fn new(
        include: &[String],
        recursive: bool,
        archive: Option<PathBuf>,
    ) -> Result<Self, (String, PatternError)> {
        let parse = |text: &String| Pattern::new(text).map_err(|error| (text.clone(), error));
        let include = include.iter().map(parse).collect::<Result<_, _>>()?;
        Ok(Self {
            include,
            recursive,
            archive,
        })
    }

    /// Whether the folder is looked into.
    pub(super) fn enters(&self, folder: &Path) -> bool {
        self.recursive && !is_hidden(folder) && !self.is_archive(folder)
    }

    /// Whether a file of this name is taken.
    pub(super) fn takes(&self, file: &Path) -> bool {
        let folder = file.parent().unwrap_or(Path::new(""));
        let reached = folder.as_os_str().is_empty() || self.enters(folder);
        let Some(name) = file.file_name() else {
            return false;
        };
        let name = name.to_string_lossy();
        if !reached || is_hidden(file) || is_temporary(&name) {
            return false;
        }
        if self.include.is_empty() {
            return media_type_of(&name).is_some();
        }
        let path = file.to_string_lossy();
        let matches =
            |glob: &Pattern| glob.matches_with(&name, OPTIONS) || glob.matches_with(&path, OPTIONS);
        self.include.iter().any(matches)
    }

    fn is_archive(&self, folder: &Path) -> bool {
        self.archive
            .as_ref()
            .is_some_and(|archive| folder.starts_with(archive))
    }
}

fn is_hidden(path: &Path) -> bool {
    path.components().any(|part| match part {
        Component::Normal(name) => name.as_encoded_bytes().starts_with(b"."),
        _ => true,
    })
}

/// Names by which programs mark what they have not finished.
fn is_temporary(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.ends_with(".part") || name.ends_with(".tmp") || name.ends_with('~')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(include: &[&str]) -> Filter {
        let include: Vec<_> = include.iter().map(|text| (*text).to_owned()).collect();
        Filter::new(&include, true, Some("done/today".into())).unwrap()
    }

    #[test]
    fn without_globs_all_known_image_endings_are_taken() {
        let filter = filter(&[]);
        for name in ["a.jpg", "A B.JPEG", "x/y/ü.Png", "a.webp", "a.tiff"] {
            assert!(filter.takes(Path::new(name)), "{name}");
        }
        for name in ["a.txt", "jpg", "a.jpg.txt", ""] {
            assert!(!filter.takes(Path::new(name)), "{name}");
        }
    }

    #[test]
    fn globs_match_the_name_or_the_path_in_either_case() {
        let by_name = filter(&["IMG_*.jpg", "*.raw"]);
        assert!(by_name.takes(Path::new("deep/down/img_1.JPG")));
        assert!(by_name.takes(Path::new("a.RAW")));
        assert!(!by_name.takes(Path::new("a.jpg")));
        let by_path = filter(&["cam1/*.jpg", "**/best/*.png"]);
        assert!(by_path.takes(Path::new("cam1/a.jpg")));
        assert!(!by_path.takes(Path::new("cam1/deeper/a.jpg")));
        assert!(by_path.takes(Path::new("a/b/best/c.png")));
        assert!(!by_path.takes(Path::new("a.png")));
    }

    #[test]
    fn hidden_and_temporary_files_are_never_taken() {
        let filter = filter(&["*"]);
        let names = [
            ".a.jpg",
            ".git/a.jpg",
            "a.jpg.part",
            "a.TMP",
            "a.jpg~",
            "x/.y/z.jpg",
        ];
        for name in names {
            assert!(!filter.takes(Path::new(name)), "{name}");
        }
        assert!(filter.takes(Path::new("part.of.jpg")));
    }

    #[test]
    fn the_archive_is_not_looked_into() {
        let filter = filter(&[]);
        assert!(filter.enters(Path::new("done")));
        assert!(!filter.enters(Path::new("done/today")));
        assert!(!filter.takes(Path::new("done/today/cam/a.jpg")));
        assert!(filter.takes(Path::new("done/todays.jpg")));
    }

    #[test]
    fn folders_below_are_looked_into_only_when_asked_for() {
        let flat = Filter::new(&[], false, None).unwrap();
        assert!(!flat.enters(Path::new("below")));
        assert!(!flat.takes(Path::new("below/a.jpg")));
        assert!(flat.takes(Path::new("a.jpg")));
    }

    #[test]
    fn a_glob_that_is_none_is_named() {
        assert_eq!(Filter::new(&["[".into()], true, None).unwrap_err().0, "[");
    }
}
