use super::*;

fn name(text: &str) -> &OsStr {
    OsStr::new(text)
}

fn random(seed: u64) -> Rng {
    Rng::with_seed(seed)
}

fn bytes(tree: &Tree, folder: u64, file: &str) -> Option<Vec<u8>> {
    let node = tree.find(folder, name(file)).ok()?;
    Some(tree.read(node, 0, u32::MAX).unwrap().to_vec())
}

/// What is left of `make` after each of many power cuts.
fn cuts<T>(make: impl Fn() -> Tree, look: impl Fn(&Tree) -> T) -> Vec<T> {
    (0..64)
        .map(|seed| look(&make().cut(&mut random(seed))))
        .collect()
}

#[test]
fn what_was_synced_survives_every_cut() {
    let make = || {
        let mut tree = Tree::new(1 << 20);
        let folder = tree.make_folder(ROOT, name("images")).unwrap();
        let file = tree.make_file(folder, name("a")).unwrap();
        tree.write(file, 0, &[7; 3_000]).unwrap();
        tree.sync_file(file).unwrap();
        tree.sync_folder(folder).unwrap();
        tree.sync_folder(ROOT).unwrap();
        tree
    };
    let all = cuts(make, |tree| {
        let folder = tree.find(ROOT, name("images")).unwrap();
        bytes(tree, folder, "a") == Some(vec![7; 3_000])
    });
    assert!(all.iter().all(|holds| *holds));
}

#[test]
fn bytes_that_were_not_synced_may_be_lost_kept_or_torn() {
    let make = || {
        let mut tree = Tree::new(1 << 20);
        let file = tree.make_file(ROOT, name("a")).unwrap();
        tree.write(file, 0, &[1; 4_096]).unwrap();
        tree.sync_file(file).unwrap();
        tree.sync_folder(ROOT).unwrap();
        tree.write(file, 1_000, &[2; 2_000]).unwrap();
        tree
    };
    let all = cuts(make, |tree| bytes(tree, ROOT, "a").unwrap());
    let twos = |bytes: &Vec<u8>| bytes.iter().filter(|byte| **byte == 2).count();
    assert!(all.iter().all(|bytes| bytes.len() == 4_096));
    assert!(all.iter().any(|bytes| twos(bytes) == 0));
    assert!(all.iter().any(|bytes| twos(bytes) > 1_400));
    assert!(all.iter().any(|bytes| (1..1_400).contains(&twos(bytes))));
}

#[test]
fn a_synced_file_without_a_synced_name_may_be_gone() {
    let make = || {
        let mut tree = Tree::new(1 << 20);
        let incoming = tree.make_folder(ROOT, name("incoming")).unwrap();
        let images = tree.make_folder(ROOT, name("images")).unwrap();
        tree.sync_folder(ROOT).unwrap();
        let file = tree.make_file(incoming, name("a")).unwrap();
        tree.write(file, 0, b"image").unwrap();
        tree.sync_file(file).unwrap();
        tree.rename((incoming, name("a")), (images, name("b")), false)
            .unwrap();
        tree
    };
    let all = cuts(make, |tree| {
        let images = tree.find(ROOT, name("images")).unwrap();
        bytes(tree, images, "b").is_some()
    });
    assert!(all.contains(&false) && all.contains(&true));
}

#[test]
fn a_file_that_had_a_name_never_loses_both_by_a_rename() {
    let make = || {
        let mut tree = Tree::new(1 << 20);
        let file = tree.make_file(ROOT, name("a")).unwrap();
        tree.sync_file(file).unwrap();
        let folder = tree.make_folder(ROOT, name("f")).unwrap();
        tree.sync_folder(ROOT).unwrap();
        tree.rename((ROOT, name("a")), (folder, name("b")), false)
            .unwrap();
        tree
    };
    let all = cuts(make, |tree| {
        let folder = tree.find(ROOT, name("f")).unwrap();
        let old = bytes(tree, ROOT, "a").is_some();
        (old, bytes(tree, folder, "b").is_some())
    });
    assert!(all.iter().all(|(old, new)| *old || *new));
    assert!(all.contains(&(true, false)) && all.contains(&(false, true)));
}

#[test]
fn a_removal_that_was_not_synced_may_be_undone() {
    let make = || {
        let mut tree = Tree::new(1 << 20);
        tree.make_file(ROOT, name("a")).unwrap();
        tree.sync_folder(ROOT).unwrap();
        tree.remove(ROOT, name("a")).unwrap();
        tree
    };
    let all = cuts(make, |tree| tree.find(ROOT, name("a")).is_ok());
    assert!(all.contains(&false) && all.contains(&true));
}

#[test]
fn a_full_medium_takes_nothing_more_until_something_is_removed() {
    let mut tree = Tree::new(10);
    let a = tree.make_file(ROOT, name("a")).unwrap();
    let b = tree.make_file(ROOT, name("b")).unwrap();
    tree.write(a, 0, &[1; 8]).unwrap();
    assert!(tree.write(b, 0, &[1; 3]).is_err());
    tree.write(a, 0, &[2; 8]).unwrap();
    tree.remove(ROOT, name("a")).unwrap();
    tree.write(b, 0, &[1; 3]).unwrap();
    assert_eq!(tree.space(), (10, 7));
    tree.leave_free(1);
    assert!(tree.write(b, 3, &[1; 2]).is_err());
}

#[test]
fn the_same_seed_loses_the_same() {
    let make = || {
        let mut tree = Tree::new(1 << 20);
        for file in 0..40 {
            let node = tree.make_file(ROOT, name(&format!("{file}"))).unwrap();
            tree.write(node, 0, &[file; 1_500]).unwrap();
        }
        tree
    };
    for seed in 0..16 {
        let left = |tree: Tree| {
            let names = tree.names(ROOT).unwrap();
            let files = names
                .into_iter()
                .map(|(node, name)| (name, tree.read(node, 0, u32::MAX).unwrap().to_vec()));
            files.collect::<Vec<_>>()
        };
        assert_eq!(
            left(make().cut(&mut random(seed))),
            left(make().cut(&mut random(seed)))
        );
    }
}
