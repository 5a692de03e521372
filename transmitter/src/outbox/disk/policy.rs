//! Which images give way when there is no room.

use super::index::{IndexError, View};
use super::record::Entry;
use super::state::State;
use crate::config::WhenFull;

/// Images that give way in one transaction at most.
const MOST: usize = 1_024;

/// The images that give way for `needed` bytes, in the order of their numbers, and how far thinning
/// out has come.
pub(super) struct Victims {
    pub(super) images: Vec<(u64, Entry)>,
    pub(super) thinned: Option<u64>,
}

/// Chooses among the images that wait.
pub(super) fn choose(
    view: &View,
    state: &State,
    when_full: WhenFull,
    needed: u64,
) -> Result<Victims, IndexError> {
    match when_full {
        WhenFull::Block | WhenFull::DropNewest => Ok(Victims {
            images: Vec::new(),
            thinned: None,
        }),
        WhenFull::DropOldest => oldest(view, state, needed),
        WhenFull::Thin(row) => thin(view, state, row.max(2) as usize, needed),
    }
}

fn waits(state: &State, sequence: u64) -> bool {
    !state.taken_numbers.contains(&sequence) && !state.leaving.contains(&sequence)
}

fn oldest(view: &View, state: &State, needed: u64) -> Result<Victims, IndexError> {
    let mut images = Vec::new();
    let mut freed = 0;
    view.images(.., false, |(sequence, entry)| {
        // One that cannot be read is found out when its turn comes.
        if let Ok(entry) = entry
            && waits(state, sequence)
        {
            freed += entry.cost();
            images.push((sequence, entry));
        }
        freed < needed && images.len() < MOST
    })?;
    Ok(Victims {
        images,
        thinned: None,
    })
}

/// Of each row all but the first give way. The next row begins after the last one that was thinned
/// out, and at the oldest image when there is none: so all images are thinned out equally before
/// any is a second time.
fn thin(view: &View, state: &State, row: usize, needed: u64) -> Result<Victims, IndexError> {
    let mut victims = Victims {
        images: Vec::new(),
        thinned: None,
    };
    let from = view.counters()?.thinned;
    thin_from(view, state, row, needed, from, &mut victims)?;
    if victims.images.is_empty() {
        thin_from(view, state, row, needed, 0, &mut victims)?;
    }
    if victims.images.is_empty() {
        // Fewer than a row wait.
        let mut last = Vec::new();
        view.images(.., false, |(sequence, entry)| {
            if let Ok(entry) = entry
                && waits(state, sequence)
            {
                last.push((sequence, entry));
            }
            last.len() < row
        })?;
        if last.len() > 1 {
            last.remove(0);
        }
        victims.images = last;
    }
    Ok(victims)
}

fn thin_from(
    view: &View,
    state: &State,
    row: usize,
    needed: u64,
    from: u64,
    victims: &mut Victims,
) -> Result<(), IndexError> {
    let mut members: Vec<(u64, Entry)> = Vec::new();
    let mut freed = 0;
    view.images(from.., false, |(sequence, entry)| {
        if let Ok(entry) = entry
            && waits(state, sequence)
        {
            members.push((sequence, entry));
        }
        if members.len() == row {
            victims.thinned = Some(sequence + 1);
            let giving_way = members.drain(..).skip(1);
            for (sequence, entry) in giving_way {
                freed += entry.cost();
                victims.images.push((sequence, entry));
            }
        }
        freed < needed && victims.images.len() < MOST
    })
}
