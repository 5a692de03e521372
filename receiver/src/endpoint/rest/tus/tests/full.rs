//! Uploads for which the disk has no space, for a while.

use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sha1::{Digest as _, Sha1};
use shared::disk::sim::SimDisk;
use shared::receipt::Durability;

use super::{Station, id_of};
use crate::intake::sample::picture;
use crate::store::files::FileStore;

const ROOT: &str = "/data";

fn station(disk: &SimDisk) -> Station {
    Station::with(|parts| {
        let (disk, root) = (Arc::new(disk.clone()), Path::new(ROOT));
        let store = FileStore::on(disk, root, Durability::Written, 0, None).unwrap();
        parts.store = Arc::new(store);
    })
}

fn used(disk: &SimDisk) -> usize {
    let paths = disk.paths();
    let contents = paths.iter().filter_map(|path| disk.content(path));
    contents.map(|content| content.len()).sum()
}

/// As a network brings it.
fn in_pieces(bytes: &[u8]) -> Body {
    let pieces: Vec<_> = bytes
        .chunks(64 << 10)
        .map(|piece| Ok::<_, std::io::Error>(Bytes::copy_from_slice(piece)))
        .collect();
    Body::from_stream(futures_util::stream::iter(pieces))
}

fn image(disk: &SimDisk) -> Vec<u8> {
    let mut paths = disk.paths();
    paths.retain(|path| path.starts_with("/data/images") && disk.content(path).is_some());
    assert_eq!(paths.len(), 1, "{paths:?}");
    disk.content(&paths[0]).unwrap()
}

#[tokio::test]
async fn a_full_disk_costs_no_more_than_the_request_that_found_it() {
    let bytes = picture(1_100, 1);
    assert!(bytes.len() > 3 << 20);
    // Room for so much of the second request; where it begins and ends; whether it has a sum.
    for (room, from, to, summed) in [
        // Found full when the request ends, before a file would take a portion, and at its last byte.
        (100, 1_000, 200_000, false),
        (1 << 19, 1_000, 2 << 20, false),
        (1 << 19, 1_000, 2 << 20, true),
        (1_500_000, 1_000, 3 << 20, false),
        (1_500_000, 1_000, 3 << 20, true),
        (100, bytes.len() - 10_000, bytes.len(), false),
        (100, bytes.len() - 10_000, bytes.len(), true),
    ] {
        let case = format!("room for {room} of {from}..{to}, {summed}");
        let disk = SimDisk::new(&[Path::new(ROOT)]);
        let station = station(&disk);
        let path = station.create(bytes.len(), &[]).await;
        let answer = station.patch(&path, 0, bytes[..from].to_vec()).await;
        assert_eq!(answer.status, 204, "{case}");
        disk.set_capacity((used(&disk) + room) as u64);
        let sum = format!("sha1 {}", STANDARD.encode(Sha1::digest(&bytes[from..to])));
        let headers: &[(&str, &str)] = match summed {
            true => &[("upload-checksum", &*sum)],
            false => &[],
        };
        let body = in_pieces(&bytes[from..to]);
        let answer = station.patch_with(&path, from, headers, body).await;
        answer.problem(503, "unavailable");
        let head = station.head(&path).await;
        let held = head
            .offset()
            .unwrap_or_else(|| panic!("{case}: {}, {answer:?}", head.status));
        let held = usize::try_from(held).unwrap();
        assert!(held >= from && held < to, "{case}: {held}");
        assert!(!summed || held == from, "{case}: {held}");
        if room > 1 << 20 && !summed {
            assert!(held >= from + (1 << 20), "{case}: {held}");
        }
        disk.set_capacity(u64::MAX);
        let answer = station.patch(&path, held, bytes[held..].to_vec()).await;
        assert_eq!(answer.offset(), Some(bytes.len() as u64), "{case}");
        assert!(image(&disk) == bytes, "{case}");
        assert_eq!(station.rig.entries().await[0].meta.id, id_of(&path));
    }
}
