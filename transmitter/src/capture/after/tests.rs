use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::*;

struct Place {
    dir: TempDir,
    root: PathBuf,
    archive: PathBuf,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let (root, archive) = (dir.path().join("in"), dir.path().join("done"));
    fs::create_dir_all(root.join("cam 1")).unwrap();
    Place { dir, root, archive }
}

impl Place {
    fn file(&self, below: &str, content: &str) -> (PathBuf, Taken) {
        let path = self.root.join(below);
        fs::write(&path, content).unwrap();
        let captured = UnixNanos(UnixNanos::now().0 + 1);
        (
            path,
            Taken {
                size: content.len() as u64,
                captured,
                linked: None,
            },
        )
    }

    fn archive(&self, (file, taken): &(PathBuf, Taken)) -> PathBuf {
        let policy = AfterDelivery::Archive(self.archive.clone());
        match settle_file(&policy, Some(&self.root), file, taken).unwrap() {
            Settled::Archived(to) => to,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn keep_does_not_even_look() {
    let taken = Taken {
        size: 1,
        captured: UnixNanos(0),
        linked: None,
    };
    let kept = settle_file(
        &AfterDelivery::Keep,
        None,
        Path::new("/no/such/file"),
        &taken,
    );
    assert_eq!(kept.unwrap(), Settled::Kept);
}

#[test]
fn delete_deletes_and_a_file_that_is_gone_is_no_error() {
    let place = place();
    let (file, taken) = place.file("a.jpg", "1");
    let delete = || settle_file(&AfterDelivery::Delete, Some(&place.root), &file, &taken).unwrap();
    assert_eq!(delete(), Settled::Deleted);
    assert!(!file.exists());
    assert_eq!(delete(), Settled::Gone);
}

#[test]
fn a_file_that_was_changed_after_its_capture_is_left_alone() {
    let place = place();
    let policies = [
        AfterDelivery::Delete,
        AfterDelivery::Archive(place.archive.clone()),
    ];
    for policy in policies {
        let (file, taken) = place.file("a.jpg", "old");
        let settle = || settle_file(&policy, Some(&place.root), &file, &taken).unwrap();

        fs::write(&file, "other size").unwrap();
        assert_eq!(settle(), Settled::Changed);

        // Same size, and another file under the old name with an old modification time.
        let other = place.root.join("b.jpg");
        fs::write(&other, "new").unwrap();
        let past = SystemTime::now() - Duration::from_secs(3600);
        let opened = OpenOptions::new().write(true).open(&other).unwrap();
        opened
            .set_times(FileTimes::new().set_modified(past))
            .unwrap();
        let before = Taken {
            captured: UnixNanos(UnixNanos::now().0 - 60_000_000_000),
            ..taken
        };
        fs::rename(&other, &file).unwrap();
        let settled = settle_file(&policy, Some(&place.root), &file, &before).unwrap();
        assert_eq!(settled, Settled::Changed);
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
    }
}

#[test]
fn the_archive_keeps_the_path_below_the_root() {
    let place = place();
    let to = place.archive(&place.file("cam 1/a.jpg", "1"));
    assert_eq!(to, place.archive.join("cam 1/a.jpg"));
    assert_eq!(fs::read_to_string(to).unwrap(), "1");
    assert!(!place.root.join("cam 1/a.jpg").exists());
}

#[test]
fn the_archive_overwrites_nothing() {
    let place = place();
    let names: Vec<_> = ["1", "22", "333"]
        .map(|content| place.archive(&place.file("a.tar.jpg", content)))
        .into_iter()
        .map(|to| {
            (
                to.file_name().unwrap().to_owned(),
                fs::read_to_string(to).unwrap(),
            )
        })
        .collect();
    let expected = [
        ("a.tar.jpg", "1"),
        ("a.tar-1.jpg", "22"),
        ("a.tar-2.jpg", "333"),
    ];
    assert_eq!(
        names,
        expected.map(|(name, content)| (name.into(), content.to_owned()))
    );
    let bare = [
        place.archive(&place.file("bare", "")),
        place.archive(&place.file("bare", "")),
    ];
    assert_eq!(bare[1], place.archive.join("bare-1"));
}

#[test]
fn a_file_outside_the_root_keeps_its_name_only() {
    let place = place();
    let (file, taken) = place.file("a.jpg", "1");
    let policy = AfterDelivery::Archive(place.archive.clone());
    let other_root = place.dir.path().join("elsewhere");
    let settled = settle_file(&policy, Some(&other_root), &file, &taken).unwrap();
    assert_eq!(settled, Settled::Archived(place.archive.join("a.jpg")));
    let sneaky = place.root.join("cam 1/../../x.jpg");
    assert_eq!(path_below(Some(&place.root), &sneaky), Path::new("x.jpg"));
}

#[test]
fn a_copy_is_complete_and_dated_before_the_original_goes() {
    let place = place();
    let (file, _) = place.file("a.jpg", "content");
    let past = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let opened = OpenOptions::new().write(true).open(&file).unwrap();
    opened
        .set_times(FileTimes::new().set_modified(past))
        .unwrap();
    fs::create_dir(&place.archive).unwrap();
    let target = claim_name(&place.archive.join("a.jpg")).unwrap();
    copy_then_remove(&file, &target, &place.archive).unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "content");
    assert_eq!(fs::metadata(&target).unwrap().modified().unwrap(), past);
    assert!(!file.exists());
    assert_eq!(
        fs::read_dir(&place.archive).unwrap().count(),
        1,
        "nothing else stays behind"
    );
}

#[test]
fn an_archive_that_cannot_be_made_leaves_the_file_where_it_is() {
    let place = place();
    let (file, taken) = place.file("a.jpg", "1");
    fs::write(&place.archive, "a file in its place").unwrap();
    let policy = AfterDelivery::Archive(place.archive.clone());
    let error = settle_file(&policy, Some(&place.root), &file, &taken).unwrap_err();
    assert!(error.to_string().contains("cannot be moved to the archive"));
    assert!(file.exists());
}
