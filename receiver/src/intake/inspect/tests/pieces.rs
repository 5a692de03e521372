use proptest::prelude::*;

use super::*;

/// First bytes that lead into each walk.
const MAGICS: [&[u8]; 14] = [
    b"\xFF\xD8\xFF",
    b"\xFF\xD8\xFF\xC0\x00\x0B\x08\x00\x08\x00\x08\x01\x01\x11\x00\xFF\xDA\x00\x02",
    b"\x89PNG\r\n\x1A\n",
    b"\x89PNG\r\n\x1A\n\0\0\0\x0DIHDR",
    b"RIFF\x40\0\0\0WEBP",
    b"RIFF\x40\0\0\0WEBPVP8X\x0A\0\0\0",
    b"GIF89a",
    b"BM\x40\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0",
    b"II*\0\x08\0\0\0",
    b"MM\0+\0\x08\0\0",
    b"P1 ",
    b"P3\n2 2\n255\n",
    b"P6 3 3 255\n",
    b"",
];

fn in_pieces(bytes: &[u8], cuts: &[prop::sample::Index]) -> Result<Facts, Finding> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    let mut inspector = Inspector::default();
    for pair in places.windows(2) {
        inspector.update(&bytes[pair[0]..pair[1]]);
    }
    inspector.finish(None)
}

fn cuts() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    prop::collection::vec(any::<prop::sample::Index>(), 0..40)
}

#[test]
fn byte_by_byte_gives_the_same_verdict() {
    for (name, bytes) in samples() {
        for bytes in [&bytes[..], &bytes[..bytes.len() - 1]] {
            let mut inspector = Inspector::default();
            bytes.chunks(1).for_each(|piece| inspector.update(piece));
            assert_eq!(inspector.finish(None), inspect(bytes), "{name}");
        }
    }
}

proptest! {
    #[test]
    fn any_pieces_give_the_same_verdict(
        sample in 0..7_usize,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        end in any::<prop::sample::Index>(),
        whole in any::<bool>(),
        cuts in cuts(),
    ) {
        let (_, mut bytes) = samples().swap_remove(sample);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if !whole {
            bytes.truncate(end.index(bytes.len()));
        }
        prop_assert_eq!(in_pieces(&bytes, &cuts), inspect(&bytes));
    }

    #[test]
    fn garbage_behind_a_good_beginning_never_panics(
        magic in 0..MAGICS.len(),
        garbage in prop::collection::vec(any::<u8>(), 0..600),
        cuts in cuts(),
    ) {
        let bytes = [MAGICS[magic], &garbage].concat();
        let verdict = inspect(&bytes);
        if let Ok(facts) = &verdict {
            prop_assert!(facts.width > 0 && facts.height > 0);
        }
        prop_assert_eq!(in_pieces(&bytes, &cuts), verdict);
    }

    #[test]
    fn text_garbage_never_panics(
        magic in 0..MAGICS.len(),
        garbage in "[0-9# \n,;!]{0,200}",
        declared in "\\PC{0,80}",
    ) {
        let bytes = [MAGICS[magic], garbage.as_bytes()].concat();
        let _ = inspect_as(&bytes, Some(&declared));
    }
}
