//! What every outbox does, whatever it is made of.

use std::sync::Arc;

use bytes::Bytes;
use shared::digest::DigestAlgorithm;
use shared::image::{ImageId, ImageMeta, Transport};

use super::{Backlog, Outbox, OutboxError, Outcome, Owed, SeriesKey};
use crate::config::Order;
use crate::payload::Payload;

/// An outbox for `images` images of at most a kilobyte.
pub(crate) trait Maker {
    fn make(&self, order: Order, images: u64) -> Arc<dyn Outbox>;
}

pub(crate) fn image(size: usize) -> Owed {
    let bytes = Bytes::from(vec![u8::try_from(size % 251).expect("small"); size]);
    let mut meta = ImageMeta::new(ImageId::new(), size as u64);
    meta.digest = Some(DigestAlgorithm::Xxh3.digest(&bytes));
    meta.run = "run".to_owned();
    Owed {
        meta,
        payload: Payload::Memory(bytes),
        source_file: None,
        source_mark: None,
        carried: false,
    }
}

pub(crate) fn series() -> SeriesKey {
    SeriesKey {
        run: "run".to_owned(),
        transport: Transport::Grpc,
    }
}

async fn push(outbox: &dyn Outbox) -> ImageId {
    let image = image(1_000);
    let id = image.meta.id;
    outbox.push(image).await.expect("room");
    id
}

/// Everything below, one after the other.
pub(crate) async fn all(maker: &dyn Maker) {
    hands_out_in_order_and_again_what_was_given_back(maker).await;
    the_newest_goes_first_when_that_is_asked(maker).await;
    a_full_outbox_makes_the_source_wait_until_there_is_room(maker).await;
    an_image_that_can_never_fit_is_refused(maker).await;
    every_taker_learns_that_the_end_has_come(maker).await;
    losses_stay_until_they_are_kept(maker).await;
    the_standing_never_passes_what_is_open(maker).await;
    counts_say_what_became_of_every_image(maker).await;
    takers_that_gave_up_take_nothing(maker).await;
    an_outbox_that_was_closed_opens_again(maker).await;
    what_is_settled_twice_counts_once(maker).await;
}

async fn hands_out_in_order_and_again_what_was_given_back(maker: &dyn Maker) {
    let outbox = maker.make(Order::OldestFirst, 10);
    outbox.begin_series(series()).await.expect("a series");
    for _ in 0..3 {
        push(&*outbox).await;
    }
    let first = outbox.take().await.expect("three are waiting");
    let second = outbox.take().await.expect("two are waiting");
    assert_eq!((first.meta.sequence, second.meta.sequence), (1, 2));
    assert!(first.meta.queued.is_some() && !first.carried);
    outbox.give_back(first.meta.id).await;
    let again = outbox.take().await.expect("two are waiting");
    assert_eq!(again.meta.sequence, 1);
    let outcome = Outcome::Delivered;
    outbox
        .settle(first.meta.id, outcome)
        .await
        .expect("settled");
    let outcome = Outcome::Duplicate;
    outbox
        .settle(second.meta.id, outcome)
        .await
        .expect("settled");
    let left = Backlog {
        images: 1,
        bytes: 1_000,
    };
    assert_eq!(outbox.backlog(), left);
}

async fn the_newest_goes_first_when_that_is_asked(maker: &dyn Maker) {
    let outbox = maker.make(Order::NewestFirst, 10);
    outbox.begin_series(series()).await.expect("a series");
    for _ in 0..3 {
        push(&*outbox).await;
    }
    let third = outbox.take().await.expect("three are waiting");
    let second = outbox.take().await.expect("two are waiting");
    outbox.give_back(third.meta.id).await;
    outbox.give_back(second.meta.id).await;
    push(&*outbox).await;
    for expected in [4, 3, 2, 1] {
        let image = outbox.take().await.expect("some are waiting");
        assert_eq!(image.meta.sequence, expected);
    }
}

async fn a_full_outbox_makes_the_source_wait_until_there_is_room(maker: &dyn Maker) {
    let outbox = maker.make(Order::OldestFirst, 1);
    outbox.begin_series(series()).await.expect("a series");
    push(&*outbox).await;
    let pushing = tokio::spawn({
        let outbox = Arc::clone(&outbox);
        async move { outbox.push(image(1_000)).await }
    });
    let first = outbox.take().await.expect("one is waiting");
    assert_eq!(outbox.backlog().images, 1);
    let outcome = Outcome::Delivered;
    outbox
        .settle(first.meta.id, outcome)
        .await
        .expect("settled");
    let pushed = pushing.await.expect("no panic").expect("room now");
    assert_eq!(pushed.sequence, 2);
    assert!(pushed.lost.is_empty());
}

async fn an_image_that_can_never_fit_is_refused(maker: &dyn Maker) {
    let outbox = maker.make(Order::OldestFirst, 2);
    outbox.begin_series(series()).await.expect("a series");
    let image = image(100_000);
    let meta = image.meta.clone();
    let refused = outbox.push(image).await;
    assert!(matches!(refused, Err(OutboxError::TooLarge { .. })));
    let lost = outbox
        .lose(meta.clone(), "too large")
        .await
        .expect("a ledger");
    assert_eq!(lost.meta.sequence, 1);
    let (losses, _) = outbox.losses(10).await;
    assert_eq!(losses.len(), 1);
    assert_eq!(losses[0].image_id, meta.id);
    assert_eq!(losses[0].reason, "too large");
}

async fn every_taker_learns_that_the_end_has_come(maker: &dyn Maker) {
    let outbox = maker.make(Order::OldestFirst, 10);
    outbox.begin_series(series()).await.expect("a series");
    push(&*outbox).await;
    let last = outbox.take().await.expect("one is waiting");
    let takers: Vec<_> = (0..4)
        .map(|_| {
            let outbox = Arc::clone(&outbox);
            tokio::spawn(async move { outbox.take().await.is_none() })
        })
        .collect();
    tokio::task::yield_now().await;
    outbox.close();
    assert!(matches!(
        outbox.push(image(1)).await,
        Err(OutboxError::Closed)
    ));
    let outcome = Outcome::Quarantined;
    outbox.settle(last.meta.id, outcome).await.expect("settled");
    for taker in takers {
        assert!(taker.await.expect("no panic"));
    }
}

async fn losses_stay_until_they_are_kept(maker: &dyn Maker) {
    let outbox = maker.make(Order::OldestFirst, 10);
    outbox.begin_series(series()).await.expect("a series");
    for _ in 0..3 {
        push(&*outbox).await;
        let image = outbox.take().await.expect("one is waiting");
        let outcome = Outcome::Lost("tried too often".to_owned());
        outbox
            .settle(image.meta.id, outcome)
            .await
            .expect("settled");
    }
    outbox.loss_waits().await;
    let (losses, standing) = outbox.losses(2).await;
    let numbers: Vec<u64> = losses.iter().map(|loss| loss.sequence).collect();
    assert_eq!(numbers, [1, 2]);
    assert_eq!(losses[0].reason, "tried too often");
    assert_eq!((standing.first_owed, standing.next_sequence), (3, 4));
    outbox.losses_kept(&[1, 2]).await.expect("kept");
    let (losses, standing) = outbox.losses(2).await;
    assert_eq!(losses.len(), 1);
    assert_eq!(losses[0].sequence, 3);
    assert_eq!(standing.first_owed, 4);
    outbox.losses_kept(&[3]).await.expect("kept");
    assert_eq!(outbox.losses(2).await.0, []);
}

async fn the_standing_never_passes_what_is_open(maker: &dyn Maker) {
    let outbox = maker.make(Order::OldestFirst, 10);
    outbox.begin_series(series()).await.expect("a series");
    assert_eq!(outbox.standing().first_owed, 1);
    assert_eq!(outbox.standing().next_sequence, 1);
    push(&*outbox).await;
    push(&*outbox).await;
    let first = outbox.take().await.expect("two are waiting");
    assert_eq!(outbox.standing().first_owed, 1, "taken is owed");
    let outcome = Outcome::Lost("gone".to_owned());
    outbox
        .settle(first.meta.id, outcome)
        .await
        .expect("settled");
    assert_eq!(outbox.standing().first_owed, 1, "the loss is not told");
    outbox.losses_kept(&[1]).await.expect("kept");
    assert_eq!(outbox.standing().first_owed, 2);
    assert_eq!(outbox.standing().next_sequence, 3);
    let second = outbox.take().await.expect("one is waiting");
    outbox
        .settle(second.meta.id, Outcome::Delivered)
        .await
        .expect("settled");
    let (losses, told) = outbox.losses(1).await;
    assert_eq!(losses, []);
    assert_eq!((told.first_owed, told.next_sequence), (3, 3), "at once");
    outbox
        .losses_kept(&[])
        .await
        .expect("there is nothing to keep");
}

async fn counts_say_what_became_of_every_image(maker: &dyn Maker) {
    let outbox = maker.make(Order::OldestFirst, 10);
    outbox.begin_series(series()).await.expect("a series");
    for _ in 0..5 {
        push(&*outbox).await;
    }
    let outcomes = [
        Outcome::Delivered,
        Outcome::Duplicate,
        Outcome::Quarantined,
        Outcome::Lost("gone".to_owned()),
    ];
    for outcome in outcomes {
        let image = outbox.take().await.expect("some are waiting");
        outbox
            .settle(image.meta.id, outcome)
            .await
            .expect("settled");
    }
    outbox
        .lose(image(1).meta, "unreadable")
        .await
        .expect("a ledger");
    let all = outbox.series().await;
    assert_eq!(all.len(), 1);
    let (key, counts, _) = &all[0];
    assert_eq!(key, &series());
    assert_eq!((counts.captured, counts.delivered), (6, 1));
    assert_eq!((counts.duplicates, counts.quarantined), (1, 1));
    assert_eq!((counts.lost, counts.owed()), (2, 1));
    let another = SeriesKey {
        transport: Transport::Rest,
        ..series()
    };
    outbox.begin_series(another).await.expect("a series");
    assert_eq!(outbox.series().await.len(), 2);
}

async fn takers_that_gave_up_take_nothing(maker: &dyn Maker) {
    let outbox = maker.make(Order::OldestFirst, 10);
    outbox.begin_series(series()).await.expect("a series");
    for _ in 0..20 {
        let mut taking = Box::pin(outbox.take());
        assert!(futures_util::poll!(&mut taking).is_pending());
        drop(taking);
    }
    push(&*outbox).await;
    let image = outbox.take().await.expect("one is waiting");
    assert_eq!(image.meta.sequence, 1);
}

async fn an_outbox_that_was_closed_opens_again(maker: &dyn Maker) {
    let outbox = maker.make(Order::OldestFirst, 10);
    outbox.begin_series(series()).await.expect("a series");
    outbox.close();
    assert!(outbox.take().await.is_none());
    outbox.begin_series(series()).await.expect("a series");
    push(&*outbox).await;
    assert_eq!(
        outbox.take().await.map(|image| image.meta.sequence),
        Some(1)
    );
}

async fn what_is_settled_twice_counts_once(maker: &dyn Maker) {
    let outbox = maker.make(Order::OldestFirst, 10);
    outbox.begin_series(series()).await.expect("a series");
    let id = push(&*outbox).await;
    outbox.take().await.expect("one is waiting");
    let lost = || Outcome::Lost("gone".to_owned());
    let (one, other) = tokio::join!(outbox.settle(id, lost()), outbox.settle(id, lost()));
    assert!(one.is_ok() && other.is_ok());
    outbox
        .settle(id, Outcome::Delivered)
        .await
        .expect("settled");
    outbox.give_back(id).await;
    let (_, counts, _) = outbox.series().await.remove(0);
    assert_eq!((counts.lost, counts.delivered), (1, 0));
    assert_eq!(outbox.backlog(), Backlog::default());
    assert_eq!(outbox.losses(10).await.0.len(), 1);
}
