//! What is made of space and file systems.

use super::*;

fn asked() -> Asked {
    Asked {
        folder: "/data".into(),
        setting: "--data",
        floor: 1_000_000,
        floor_setting: "--min-free",
        limit: None,
        durable: true,
    }
}

fn facts() -> Facts {
    Facts {
        there: "/data".into(),
        exists: true,
        free: 50_000_000,
        total: 100_000_000,
        inodes: Some(1_000_000),
        mount: Some(Mount {
            at: "/".into(),
            kind: "ext4".to_owned(),
            read_only: false,
        }),
        writable: true,
        mode: 0o700,
        owner: 0,
    }
}

/// The worst level of this check.
fn level(asked: &Asked, facts: &Facts, check: &str) -> Level {
    let findings = judge(asked, facts, &Holder::Nobody);
    let of = findings.iter().filter(|finding| finding.check == check);
    of.map(|finding| finding.level)
        .max()
        .expect("it is looked at")
}

#[test]
fn a_disk_that_is_low_is_a_problem_below_the_floor() {
    let mut facts = facts();
    assert_eq!(
        judge(&asked(), &facts, &Holder::Nobody)
            .iter()
            .map(|it| it.level)
            .max(),
        Some(Level::Ok)
    );
    let free = |facts: &mut Facts, free| {
        facts.free = free;
        level(&asked(), facts, "free")
    };
    assert_eq!(free(&mut facts, 999_999), Level::Problem);
    assert_eq!(free(&mut facts, 1_000_000), Level::Warning);
    assert_eq!(free(&mut facts, 4_999_999), Level::Warning);
    assert_eq!(free(&mut facts, 5_000_000), Level::Ok);
    let large = Asked {
        limit: Some(10_000_000),
        ..asked()
    };
    facts.free = 10_999_999;
    assert_eq!(level(&large, &facts, "free"), Level::Note);
    facts.inodes = Some(9_999);
    assert_eq!(level(&asked(), &facts, "inodes"), Level::Warning);
    facts.inodes = Some(99);
    assert_eq!(level(&asked(), &facts, "inodes"), Level::Problem);
}

#[test]
fn what_does_not_survive_a_restart_is_warned_of() {
    let with = |kind: &str, read_only| Facts {
        mount: Some(Mount {
            at: "/x".into(),
            kind: kind.to_owned(),
            read_only,
        }),
        ..facts()
    };
    let of = |facts: &Facts| level(&asked(), facts, "filesystem");
    assert_eq!(of(&with("tmpfs", false)), Level::Warning);
    assert_eq!(of(&with("nfs4", false)), Level::Warning);
    assert_eq!(of(&with("overlay", false)), Level::Note);
    assert_eq!(of(&with("xfs", false)), Level::Ok);
    assert_eq!(of(&with("xfs", true)), Level::Problem);
    let light = Asked {
        durable: false,
        ..asked()
    };
    assert_eq!(
        level(&light, &with("tmpfs", false), "filesystem"),
        Level::Note
    );
}

#[test]
fn a_folder_is_for_the_daemon() {
    let mut facts = facts();
    let of = |facts: &Facts| level(&asked(), facts, "folder");
    facts.mode = 0o777;
    assert_eq!(of(&facts), Level::Warning);
    facts.writable = false;
    assert_eq!(of(&facts), Level::Problem);
    facts.exists = false;
    assert_eq!(of(&facts), Level::Problem);
}
