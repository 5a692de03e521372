//! Figures of delivered images that the receiver was not told yet.

use std::collections::VecDeque;

use shared::report::ImageAccount;

/// Images told to the receiver in one account.
const PORTION: usize = 1_000;

/// Figures that wait, two megabytes. They are told every second; so many wait only while images get
/// through and accounts do not.
pub(super) const MOST: usize = 1 << 16;

/// Figures in the order in which their images were settled. Beyond [`MOST`] the oldest give way: the
/// receiver then knows when the image came and not how long it had been on its way.
#[derive(Debug, Default)]
pub(super) struct Untold {
    images: VecDeque<ImageAccount>,
    has_dropped: bool,
}

impl Untold {
    pub(super) fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.images.len()
    }

    pub(super) fn push(&mut self, image: ImageAccount) {
        self.images.push_back(image);
        if self.images.len() > MOST {
            self.drop_oldest();
        }
    }

    /// The next portion; it counts as told.
    pub(super) fn take(&mut self) -> Vec<ImageAccount> {
        let count = self.images.len().min(PORTION);
        let portion = self.images.drain(..count).collect();
        if self.images.is_empty() {
            self.images.shrink_to(PORTION);
        }
        portion
    }

    /// A portion could not be told.
    pub(super) fn put_back(&mut self, portion: Vec<ImageAccount>) {
        let room = MOST.saturating_sub(self.images.len());
        if portion.len() > room {
            self.note_dropped();
        }
        for image in portion.into_iter().rev().take(room) {
            self.images.push_front(image);
        }
    }

    /// Makes room.
    pub(super) fn drop_oldest(&mut self) {
        self.images.pop_front();
        self.note_dropped();
    }

    fn note_dropped(&mut self) {
        if !std::mem::replace(&mut self.has_dropped, true) {
            tracing::warn!(
                "the receiver gets more images than it could be told figures of: its report will \
                 lack delivery times and attempts of some"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::image::ImageId;

    use super::*;

    fn image(number: u64) -> ImageAccount {
        ImageAccount {
            image_id: ImageId::new(),
            delivery_ns: number,
            attempts: 1,
        }
    }

    fn numbers(portion: &[ImageAccount]) -> Vec<u64> {
        portion.iter().map(|image| image.delivery_ns).collect()
    }

    fn all(untold: &mut Untold) -> Vec<u64> {
        let mut all = Vec::new();
        while !untold.is_empty() {
            all.extend(numbers(&untold.take()));
        }
        all
    }

    #[test]
    fn portions_come_in_order_also_after_one_failed() {
        let mut untold = Untold::default();
        for number in 0..2_500 {
            untold.push(image(number));
        }
        let portion = untold.take();
        assert_eq!(numbers(&portion), (0..1_000).collect::<Vec<_>>());
        untold.put_back(portion);
        assert_eq!(all(&mut untold), (0..2_500).collect::<Vec<_>>());
    }

    #[test]
    fn the_oldest_give_way_when_nobody_takes_them() {
        let mut untold = Untold::default();
        let most = MOST as u64;
        for number in 0..most {
            untold.push(image(number));
        }
        let portion = untold.take();
        for number in most..most + 400 {
            untold.push(image(number));
        }
        assert!(!untold.has_dropped);
        untold.put_back(portion);
        assert!(untold.has_dropped);
        untold.push(image(most + 400));
        assert_eq!(all(&mut untold), (401..=most + 400).collect::<Vec<_>>());
    }
}
