use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime};

use super::*;

fn write(path: &Path, age: Duration) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = fs::File::create(path).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000) - age)
        .unwrap();
}

fn all() -> Filter {
    Filter::new(&["*".into()], true, None).unwrap()
}

fn paths(scan: &Scan) -> Vec<&str> {
    scan.found
        .iter()
        .map(|file| file.path.to_str().unwrap())
        .collect()
}

fn found(path: &str, size: u64) -> Found {
    Found {
        path: Path::new(path).into(),
        print: Fingerprint {
            size,
            modified: 1,
            inode: 2,
        },
    }
}

#[test]
fn files_come_oldest_first_then_by_name() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("b"), Duration::from_secs(5));
    write(&dir.path().join("sub/c"), Duration::from_secs(9));
    write(&dir.path().join("a"), Duration::from_secs(5));
    let scan = scan(dir.path(), &all(), |_| false, 10).unwrap();
    assert_eq!(paths(&scan), ["sub/c", "a", "b"]);
    assert!(scan.complete);
}

#[test]
fn links_lead_nowhere() {
    let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(&outside.path().join("secret"), Duration::ZERO);
    symlink(outside.path(), dir.path().join("folder")).unwrap();
    symlink(outside.path().join("secret"), dir.path().join("file")).unwrap();
    symlink(dir.path(), dir.path().join("loop")).unwrap();
    assert!(
        scan(dir.path(), &all(), |_| false, 10)
            .unwrap()
            .found
            .is_empty()
    );
    assert_eq!(look(&dir.path().join("file")).unwrap(), None);
}

#[test]
fn a_scan_that_finds_too_much_says_so_and_the_next_finds_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        write(&dir.path().join(name), Duration::ZERO);
    }
    let mut seen = Seen::default();
    let first = scan(dir.path(), &all(), |file| seen.contains(file), 2).unwrap();
    assert_eq!((first.found.len(), first.complete), (2, false));
    first
        .found
        .iter()
        .for_each(|file| assert!(seen.insert(file)));
    let second = scan(dir.path(), &all(), |file| seen.contains(file), 2).unwrap();
    assert_eq!((second.found.len(), second.complete), (1, true));
}

#[test]
fn a_folder_that_is_not_there_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    assert!(scan(&dir.path().join("none"), &all(), |_| false, 10).is_err());
}

#[test]
fn a_rewritten_file_is_new_and_the_same_file_is_not() {
    let mut seen = Seen::default();
    assert!(seen.insert(&found("a", 1)));
    assert!(!seen.insert(&found("a", 1)));
    assert!(seen.contains(&found("a", 1)));
    assert!(!seen.contains(&found("a", 2)));
    assert!(seen.insert(&found("a", 2)));
    assert!(!seen.contains(&found("b", 2)));
}

#[test]
fn files_that_are_gone_are_forgotten_only_when_they_are_many() {
    let mut seen = Seen::default();
    let names: Vec<_> = (0..REMEMBERED + 10)
        .map(|n| found(&n.to_string(), 1))
        .collect();
    names[..100]
        .iter()
        .for_each(|file| assert!(seen.insert(file)));
    seen.begin_scan();
    seen.end_scan();
    assert!(
        seen.contains(&names[0]),
        "a folder that was away for one scan"
    );

    names[100..]
        .iter()
        .for_each(|file| assert!(seen.insert(file)));
    seen.begin_scan();
    assert!(seen.contains(&names[7]));
    seen.end_scan();
    assert_eq!(seen.files.len(), 1);
    assert!(seen.contains(&names[7]));
}
