//! Where images come from: whether the source is there, without taking anything from it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use shared::report::format::bytes;
use shared::telemetry::chain;
use transmitter::capture::{self, survey};
use transmitter::config::{AfterDelivery, FolderOptions, SourceOptions};
use url::Url;

use super::{Finding, Group, Level, advice};

const GROUP: Group = Group::Source;

/// Looks at a source that is on this machine.
pub(crate) fn examine(options: &SourceOptions) -> Vec<Finding> {
    match options {
        SourceOptions::File { path, .. } => vec![file(path)],
        SourceOptions::Folder(options) => folder(options),
        SourceOptions::Command { command } => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            vec![program(
                command,
                &std::env::split_paths(&path).collect::<Vec<_>>(),
            )]
        }
        SourceOptions::Pattern(options) => {
            let found = format!(
                "images of {}x{} are generated",
                options.width, options.height
            );
            vec![Finding::ok(GROUP, "pattern", found)]
        }
        SourceOptions::Snapshot { .. } => Vec::new(),
    }
}

fn file(path: &Path) -> Finding {
    let shown = path.display();
    match std::fs::File::open(path).and_then(|file| file.metadata()) {
        Ok(data) if data.is_file() => Finding::ok(
            GROUP,
            "file",
            format!("{shown} can be read, {}", bytes(data.len())),
        ),
        Ok(_) => {
            let found = format!("{shown} is no file");
            Finding::bad(
                Level::Problem,
                (GROUP, "file"),
                found,
                "name a file with --file, or take --folder",
            )
        }
        Err(error) => {
            let found = format!("{shown}: {error}");
            let fix = "name a file that this user can read with --file";
            Finding::bad(Level::Problem, (GROUP, "file"), found, fix)
        }
    }
}

fn folder(options: &FolderOptions) -> Vec<Finding> {
    let place = (GROUP, "folder");
    let shown = options.path.display();
    let mut findings = vec![match survey(options) {
        Ok(survey) if survey.files == 0 => {
            let found = format!("there are no files in {shown} that would be taken");
            let fix = "see --include and --recursive, if there should be some; new ones are taken as they come, except with --once";
            Finding::bad(Level::Note, place, found, fix)
        }
        Ok(survey) => {
            let more = if survey.complete { "" } else { " or more" };
            let found = format!("{} files{more} in {shown} would be taken", survey.files);
            Finding::ok(place.0, place.1, found).with("files", survey.files)
        }
        Err(error) => {
            let words = chain(&error);
            let (found, fix) = advice(
                &words,
                "name a folder that this user can read with --folder",
            );
            Finding::bad(Level::Problem, place, found, fix)
        }
    }];
    findings.extend(after(options));
    findings
}

/// Whether files may be taken away when they are delivered.
fn after(options: &FolderOptions) -> Option<Finding> {
    let place = (GROUP, "after-delivery");
    let (source, archive) = match &options.after_delivery {
        AfterDelivery::Keep => return None,
        AfterDelivery::Delete => (&options.path, None),
        AfterDelivery::Archive(archive) => (&options.path, Some(super::space::nearest(archive))),
    };
    let writable = |path: &Path| {
        let wanted = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
        rustix::fs::access(path, wanted).is_ok()
    };
    let closed = std::iter::once(source.clone())
        .chain(archive)
        .find(|path| !writable(path));
    Some(match closed {
        None => Finding::ok(
            place.0,
            place.1,
            "delivered files can be taken away (--after-delivery)",
        ),
        Some(path) => {
            let path = path.display();
            let found = format!(
                "delivered files cannot be taken away (--after-delivery): {path} cannot be written"
            );
            let fix = format!(
                "give the transmitter's user the right to write {path}, or take --after-delivery keep"
            );
            Finding::bad(Level::Problem, place, found, fix)
        }
    })
}

/// Whether the program of a command line is there.
fn program(command: &str, path: &[PathBuf]) -> Finding {
    let place = (GROUP, "command");
    let Some(word) = shlex::split(command).and_then(|words| words.into_iter().next()) else {
        let found = "the command line has no program, or a quotation mark that is not closed";
        return Finding::bad(
            Level::Problem,
            place,
            found,
            "give --command 'PROGRAM ARGUMENTS'",
        );
    };
    let runs = |path: &PathBuf| {
        let data = std::fs::metadata(path);
        data.is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    };
    let candidates: Vec<PathBuf> = match word.contains('/') {
        true => vec![word.clone().into()],
        false => path.iter().map(|folder| folder.join(&word)).collect(),
    };
    match candidates.iter().find(|candidate| runs(candidate)) {
        Some(found) => Finding::ok(place.0, place.1, format!("{word} is {}", found.display())),
        None => {
            let found = format!("there is no program {word} in PATH that can be run");
            let fix = format!(
                "install it, or give its full path; a service has another PATH than your shell (`systemctl show-environment`), and for shell syntax take sh -c '{word} ...'"
            );
            Finding::bad(Level::Problem, place, found, fix)
        }
    }
}

/// Asks a camera for one image.
pub(crate) async fn snapshot(url: &Url, patience: Duration) -> Finding {
    let place = (GROUP, "snapshot");
    let host = url.host_str().unwrap_or_default();
    let options = SourceOptions::Snapshot {
        url: url.clone(),
        timeout: patience,
    };
    let taking = async {
        let mut source = capture::open(&options)
            .await
            .map_err(|error| chain(&error))?;
        source.next().await.map_err(|error| chain(&error))
    };
    // A camera that fails is asked again for ever.
    match tokio::time::timeout(patience, taking).await {
        Ok(Ok(Some(image))) => {
            let kind = image.content_type.as_deref().unwrap_or("unknown");
            let found = format!(
                "the camera at {host} gives an image of {} ({kind})",
                bytes(image.payload.size())
            );
            Finding::ok(place.0, place.1, found)
        }
        Ok(Ok(None)) => {
            let found = format!("the camera at {host} gives no image");
            Finding::bad(
                Level::Problem,
                place,
                found,
                "see the camera, and the path in --snapshot-url",
            )
        }
        Ok(Err(words)) => {
            let (found, fix) = advice(&words, "see --snapshot-url");
            Finding::bad(Level::Problem, place, found, fix)
        }
        Err(_) => {
            let found = format!("the camera at {host} has given no image within {patience:?}");
            let fix = "open the address of --snapshot-url with curl -v: it says whether the camera is off, wants a password, or \
                       is asked for the wrong path";
            Finding::bad(Level::Problem, place, found, fix)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_as_the_system_finds_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = [folder.path().to_owned()];
        let tool = folder.path().join("camera");
        std::fs::write(&tool, "").unwrap();
        let level = |command: &str| program(command, &path).level;
        assert_eq!(level("camera -t 0"), Level::Problem);
        std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(level("camera -t 0"), Level::Ok);
        assert_eq!(level(&format!("'{}' -o -", tool.display())), Level::Ok);
        assert_eq!(level("other"), Level::Problem);
        assert_eq!(level("'camera"), Level::Problem);
    }

    #[test]
    fn files_and_folders_are_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let options = FolderOptions {
            path: folder.path().to_owned(),
            recursive: false,
            include: Vec::new(),
            once: false,
            rescan: Duration::from_secs(30),
            after_delivery: AfterDelivery::Archive(folder.path().join("sent")),
            recapture: false,
        };
        let levels = |options: &FolderOptions| {
            let findings = examine(&SourceOptions::Folder(options.clone()));
            findings
                .iter()
                .map(|finding| finding.level)
                .collect::<Vec<_>>()
        };
        assert_eq!(levels(&options), [Level::Note, Level::Ok]);
        let image = folder.path().join("a.jpg");
        std::fs::write(&image, "x").unwrap();
        assert_eq!(levels(&options), [Level::Ok, Level::Ok]);
        assert_eq!(file(&image).level, Level::Ok);
        assert_eq!(file(folder.path()).level, Level::Problem);
        let gone = FolderOptions {
            path: folder.path().join("gone"),
            after_delivery: AfterDelivery::Keep,
            ..options
        };
        assert_eq!(levels(&gone), [Level::Problem]);
    }
}
