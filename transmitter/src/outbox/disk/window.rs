//! The next images to be handed out: a few of many, so that memory does not grow with the backlog.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::layout::FileName;
use crate::config::Order;
use crate::outbox::Owed;

/// Images in memory at most, those that were given back apart.
const MOST: usize = 512;

/// A waiting image.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) image: Arc<Owed>,
    /// Number of its series.
    pub(super) series: u32,
    /// Bytes that it counts for.
    pub(super) cost: u64,
    /// Its file in the outbox; `None` when its bytes are elsewhere.
    pub(super) file: Option<FileName>,
}

/// The head of the waiting images.
#[derive(Debug)]
pub(super) struct Window {
    order: Order,
    images: BTreeMap<u64, Held>,
    /// Of the numbers up to here (oldest first: below; newest first: from it on) every waiting
    /// image is in `images`. The index knows the others.
    edge: u64,
    /// Changes when what is being read from the index does not continue what is here any more.
    generation: u64,
}

/// What is to be read from the index.
#[derive(Debug)]
pub(super) struct Uncovered {
    pub(super) range: std::ops::RangeInclusive<u64>,
    pub(super) from_the_end: bool,
    /// Of the window that it was asked for.
    pub(super) generation: u64,
}

/// What there is to hand out.
#[derive(Debug)]
pub(super) enum Next {
    /// This image.
    Image(u64, Held),
    /// Something that has to be read from the index first.
    InIndex,
    /// Nothing.
    Nothing,
}

impl Window {
    /// A window that knows nothing yet of what the index holds.
    pub(super) fn new(order: Order) -> Self {
        let edge = match order {
            Order::OldestFirst => 0,
            Order::NewestFirst => u64::MAX,
        };
        Self {
            order,
            images: BTreeMap::new(),
            edge,
            generation: 0,
        }
    }

    fn is_complete(&self) -> bool {
        match self.order {
            Order::OldestFirst => self.edge == u64::MAX,
            Order::NewestFirst => self.edge == 0,
        }
    }

    /// Takes the next image out.
    pub(super) fn pop(&mut self) -> Next {
        let is_complete = self.is_complete();
        let next = match self.order {
            Order::OldestFirst => self.images.first_entry(),
            Order::NewestFirst => self.images.last_entry(),
        };
        match next {
            // Beyond the edge there may be others before this one.
            Some(next) if covers(self.order, self.edge, *next.key()) => {
                let (sequence, held) = next.remove_entry();
                Next::Image(sequence, held)
            }
            _ if !is_complete => Next::InIndex,
            _ => Next::Nothing,
        }
    }

    /// A new image, with a higher number than all before.
    pub(super) fn push(&mut self, sequence: u64, held: Held) {
        match self.order {
            // It is read when its turn comes.
            Order::OldestFirst if !covers(self.order, self.edge, sequence) => {}
            // Reading may have come to its number, and past it, while it was coming in.
            Order::OldestFirst if !self.is_complete() || self.images.len() < MOST => {
                self.images.insert(sequence, held);
            }
            Order::OldestFirst => self.edge = sequence,
            Order::NewestFirst => {
                self.images.insert(sequence, held);
                if self.images.len() > MOST
                    && let Some((oldest, _)) = self.images.pop_first()
                {
                    self.edge = self.edge.max(oldest + 1);
                    self.generation += 1;
                }
            }
        }
    }

    /// An image that was handed out waits again.
    pub(super) fn give_back(&mut self, sequence: u64, held: Held) {
        self.images.insert(sequence, held);
    }

    /// An image does not wait any more; what it was, if it was in memory.
    pub(super) fn remove(&mut self, sequence: u64) -> Option<Held> {
        self.images.remove(&sequence)
    }

    /// The numbers that are not covered, to be read in the order of handing out.
    pub(super) fn uncovered(&self) -> Uncovered {
        let (range, from_the_end) = match self.order {
            Order::OldestFirst => (self.edge..=u64::MAX, false),
            Order::NewestFirst => (0..=self.edge.saturating_sub(1), true),
        };
        Uncovered {
            range,
            from_the_end,
            generation: self.generation,
        }
    }

    /// Whether what is read for this generation still fits.
    pub(super) fn continues(&self, generation: u64) -> bool {
        self.generation == generation
    }

    /// Images that were read from the index, and the number up to which they were read, itself
    /// included; `None` when the end was reached.
    pub(super) fn fill(&mut self, images: Vec<(u64, Held)>, read_up_to: Option<u64>) {
        for (sequence, held) in images {
            self.images.entry(sequence).or_insert(held);
        }
        self.edge = match (self.order, read_up_to) {
            (Order::OldestFirst, Some(sequence)) => self.edge.max(sequence.saturating_add(1)),
            (Order::OldestFirst, None) => u64::MAX,
            (Order::NewestFirst, Some(sequence)) => self.edge.min(sequence),
            (Order::NewestFirst, None) => 0,
        };
    }

    /// Where reading ended that reached the end while `next` was the next number, and other images
    /// have come in since: oldest first, those were not read. Newest first, they are here already.
    pub(super) fn end_of_reading(&self, next: u64) -> Option<u64> {
        match self.order {
            Order::OldestFirst => Some(next.saturating_sub(1)),
            Order::NewestFirst => None,
        }
    }

    /// Forgets everything that was read: the index is another.
    pub(super) fn clear(&mut self) {
        let generation = self.generation + 1;
        *self = Self {
            generation,
            ..Self::new(self.order)
        };
    }
}

fn covers(order: Order, edge: u64, sequence: u64) -> bool {
    match order {
        Order::OldestFirst => sequence < edge || edge == u64::MAX,
        Order::NewestFirst => sequence >= edge,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::conformance::image;

    fn held() -> Held {
        Held {
            image: Arc::new(image(1)),
            series: 1,
            cost: 1,
            file: None,
        }
    }

    fn popped(window: &mut Window) -> Vec<u64> {
        let mut popped = Vec::new();
        while let Next::Image(sequence, _) = window.pop() {
            popped.push(sequence);
        }
        popped
    }

    #[test]
    fn what_was_read_before_newer_images_pushed_others_out_is_not_taken() {
        let mut window = Window::new(Order::NewestFirst);
        window.fill(vec![(10, held())], Some(10));
        let reading = window.uncovered();
        assert!(window.continues(reading.generation));
        for sequence in 11..=10 + MOST as u64 {
            window.push(sequence, held());
        }
        // Number 10 had to go: images up to 9 do not continue what is here.
        assert!(!window.continues(reading.generation));
        assert_eq!(window.uncovered().range, 0..=10);
    }

    #[test]
    fn an_image_that_reading_passed_by_while_it_came_in_is_here() {
        let mut window = Window::new(Order::OldestFirst);
        window.fill(vec![(1, held())], Some(2));
        window.push(2, held());
        window.push(3, held());
        assert_eq!(popped(&mut window), [1, 2], "number 3 is still to be read");
        assert_eq!(window.uncovered().range, 3..=u64::MAX);
    }

    #[test]
    fn a_window_that_was_cleared_takes_nothing_that_was_read_before() {
        for order in [Order::OldestFirst, Order::NewestFirst] {
            let mut window = Window::new(order);
            let reading = window.uncovered();
            window.clear();
            assert!(!window.continues(reading.generation));
        }
    }
}
