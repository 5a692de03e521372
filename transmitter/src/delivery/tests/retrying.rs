//! Images that are turned down, connections that break, answers that cannot be written down.

use shared::receipt::{Reject, RejectReason};

use super::*;
use crate::delivery::retries::MOST;
use crate::outbox::Outcome;

fn unavailable(image: &Owed) -> DeliveryError {
    let reject = Reject::new(image.meta.id, RejectReason::Unavailable, "no room");
    DeliveryError::Rejected(reject)
}

/// A connection that takes `time` for each image, one after the other, and turns down the first
/// `bad` of them.
fn turns_down(bad: u64, time: Duration) -> Arc<Wire> {
    let verdict = move |_: &Wire, image: &Owed, _: u32| {
        if image.meta.sequence <= bad {
            Err(unavailable(image))
        } else {
            Ok(receipt(&image.meta))
        }
    };
    Wire::with_places(Answer::By(time, Box::new(verdict)), 1)
}

/// Waits until so many are delivered, and says how long that took.
async fn delivered(test: &Test, count: u64) -> Duration {
    let begun = tokio::time::Instant::now();
    while test.tally.totals().delivered < count {
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(begun.elapsed() < GUARD, "{:?}", test.tally.totals());
    }
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn bad_images_do_not_hold_up_the_others_however_many_come_first() {
    let time = Duration::from_millis(10);
    for bad in [1_u64, 2, 1_000] {
        // One image at a time, by the connection and by the window.
        let wire = turns_down(bad, time);
        let link = TestLink::new([Plan::Connect(Arc::clone(&wire))]);
        let test = test_with(link, 1, patient(), Order::OldestFirst, 1);
        for _ in 0..bad + 20 {
            test.push().await;
        }
        let running = test.run();
        let took = delivered(&test, 20).await;
        // Each new image is followed by one that is tried again at most.
        let most = time * u32::try_from(2 * (bad + 20) + 2).expect("few");
        assert!(took <= most, "{took:?} with {bad}");
        test.delivery.stop();
        assert_eq!(end(running).await, End::Stopped);
        let totals = test.tally.totals();
        assert_eq!((totals.owed(), totals.lost), (bad, 0));
        // All of them are the outbox's again.
        test.outbox.close();
        for _ in 0..bad {
            let image = test.outbox.take().await.expect("owed still");
            let lost = Outcome::Lost(String::new());
            test.outbox
                .settle(image.meta.id, lost)
                .await
                .expect("memory");
        }
        assert_eq!(test.outbox.backlog().images, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn images_that_wait_to_be_sent_again_are_bounded_and_go_on_when_the_receiver_recovers() {
    let recovered = Arc::new(AtomicBool::new(false));
    let verdict = {
        let recovered = Arc::clone(&recovered);
        move |_: &Wire, image: &Owed, _: u32| {
            if recovered.load(Relaxed) {
                Ok(receipt(&image.meta))
            } else {
                Err(unavailable(image))
            }
        }
    };
    let wire = Wire::with_places(Answer::By(Duration::from_micros(100), Box::new(verdict)), 8);
    let test = test(TestLink::new([Plan::Connect(wire)]), 1, patient());
    let images = MOST as u64 + 500;
    for _ in 0..images {
        test.push().await;
    }
    let running = test.run();
    tokio::time::sleep(Duration::from_secs(120)).await;
    let in_hand = test.delivery.in_hand.load(Relaxed);
    assert!(
        (MOST as u64..=MOST as u64 + 16).contains(&in_hand),
        "{in_hand}"
    );
    recovered.store(true, Relaxed);
    test.outbox.close();
    assert_eq!(end(running).await, End::Drained);
    assert_eq!(test.tally.totals().delivered, images);
}

#[tokio::test(start_paused = true)]
async fn an_image_is_abandoned_after_the_attempts_of_the_settings_with_the_last_reason() {
    let wire = turns_down(1, Duration::ZERO);
    let retry = RetryOptions {
        attempts: Some(3),
        ..patient()
    };
    let test = test(TestLink::new([Plan::Connect(Arc::clone(&wire))]), 1, retry);
    test.push().await;
    test.push().await;
    test.outbox.close();
    assert_eq!(end(test.run()).await, End::Drained);
    let totals = test.tally.totals();
    assert_eq!((totals.delivered, totals.lost, totals.retries), (1, 1, 2));
    let abandoned = test.tally.lost_by_kind();
    let abandoned: Vec<_> = abandoned.filter(|(_, count)| *count > 0).collect();
    assert_eq!(abandoned, [(LossKind::Abandoned, 1)]);
}

#[tokio::test(start_paused = true)]
async fn what_the_receiver_says_again_that_it_will_never_take_is_lost_with_its_words() {
    for (reason, kind, attempts, retries) in [
        (RejectReason::Conflict, LossKind::Conflict, None, 2),
        (RejectReason::Limit, LossKind::Rejected, None, 0),
        (RejectReason::Invalid, LossKind::Rejected, Some(2), 1),
        (RejectReason::Invalid, LossKind::Rejected, Some(1), 0),
    ] {
        let verdict = move |_: &Wire, image: &Owed, _: u32| {
            Err(Reject::new(image.meta.id, reason, "for this and that").into())
        };
        let wire = Wire::new(Answer::By(Duration::ZERO, Box::new(verdict)));
        let retry = RetryOptions {
            attempts,
            ..patient()
        };
        let test = test(TestLink::new([Plan::Connect(wire)]), 1, retry);
        test.push().await;
        test.outbox.close();
        assert_eq!(end(test.run()).await, End::Drained);
        assert_eq!(test.tally.totals().retries, retries);
        let lost = test.tally.lost_by_kind();
        let lost: Vec<_> = lost.filter(|(_, count)| *count > 0).collect();
        assert_eq!(lost, [(kind, 1)]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_because_the_link_damaged_it_is_not_lost() {
    let verdict = |_: &Wire, image: &Owed, attempt: u32| match attempt {
        1 => Err(Reject::new(image.meta.id, RejectReason::Invalid, "an id of 35 digits").into()),
        2 => Err(Reject::new(image.meta.id, RejectReason::Conflict, "another digest").into()),
        _ => Ok(receipt(&image.meta)),
    };
    let wire = Wire::new(Answer::By(Duration::ZERO, Box::new(verdict)));
    let test = test(TestLink::new([Plan::Connect(wire)]), 1, patient());
    test.push().await;
    test.outbox.close();
    assert_eq!(end(test.run()).await, End::Drained);
    let totals = test.tally.totals();
    assert_eq!((totals.delivered, totals.lost), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn newest_first_a_new_image_overtakes_those_that_wait_even_for_the_window() {
    // Once the connection is what is full, once the window.
    for (parallel, window) in [(1, 1 << 20), (8, 1 << 10)] {
        let verdict = |_: &Wire, image: &Owed, _: u32| Ok(receipt(&image.meta));
        let answer = Answer::By(Duration::from_millis(10), Box::new(verdict));
        let wire = Wire::with_places(answer, parallel);
        let link = TestLink::new([Plan::Connect(Arc::clone(&wire))]);
        let test = test_with(link, 1, patient(), Order::NewestFirst, window);
        test.push().await;
        let running = test.run();
        wire.taken.notified().await;
        for _ in 0..3 {
            test.push().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        delivered(&test, 2).await;
        test.push().await;
        test.outbox.close();
        assert_eq!(end(running).await, End::Drained);
        assert_eq!(*wire.sent.lock(), [1, 4, 3, 5, 2], "{parallel} places");
    }
}

#[tokio::test(start_paused = true)]
async fn an_image_that_breaks_every_connection_does_not_keep_the_others_from_getting_through() {
    let poison = || {
        let verdict = |wire: &Wire, image: &Owed, _: u32| {
            if image.meta.sequence == 1 {
                wire.lost.cancel();
            }
            if wire.lost.is_cancelled() {
                return Err(DeliveryError::Lost("reset".to_owned()));
            }
            Ok(receipt(&image.meta))
        };
        let answer = Answer::By(Duration::from_millis(10), Box::new(verdict));
        Plan::Connect(Wire::with_places(answer, 1))
    };
    let link = TestLink::new((0..1_000).map(|_| poison()));
    let test = test(Arc::clone(&link), 1, patient());
    for _ in 0..200 {
        test.push().await;
    }
    let running = test.run();
    delivered(&test, 199).await;
    // It waits for longer and longer, so that a few attempts of its stand against many images.
    assert!(link.connects.load(Relaxed) < 40, "{:?}", link.connects);
    test.delivery.stop();
    end(running).await;
    assert_eq!(test.tally.totals().owed(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_link_that_breaks_every_second_is_used_again_at_once_each_time() {
    let breaking = || {
        let verdict = |wire: &Wire, image: &Owed, number: u32| {
            if number > 30 {
                return Ok(receipt(&image.meta));
            }
            wire.lost.cancel();
            Err(DeliveryError::Lost("reset".to_owned()))
        };
        let answer = Answer::By(Duration::from_millis(900), Box::new(verdict));
        Plan::Connect(Wire::with_places(answer, 1))
    };
    let test = test(TestLink::new((0..40).map(|_| breaking())), 1, patient());
    test.push().await;
    test.outbox.close();
    let begun = tokio::time::Instant::now();
    assert_eq!(end(test.run()).await, End::Drained);
    assert_eq!(test.tally.totals().retries, 30);
    // No more than the first pause of the settings is added to each attempt.
    assert!(
        begun.elapsed() < Duration::from_millis(1_010) * 31,
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_written_down_keeps_its_image_owed_and_holds_up_nobody() {
    let verdict = |_: &Wire, image: &Owed, _: u32| Ok(receipt(&image.meta));
    let wire = Wire::with_places(Answer::By(Duration::ZERO, Box::new(verdict)), 1);
    let test = test(
        TestLink::new([Plan::Connect(Arc::clone(&wire))]),
        1,
        patient(),
    );
    test.ledger.0.store(usize::MAX, Relaxed);
    for _ in 0..100 {
        test.push().await;
    }
    let running = test.run();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(wire.sent.lock().len(), 100, "all of them were sent, once");
    assert_eq!(
        test.outbox.backlog().images,
        100,
        "and all of them are owed"
    );
    assert_eq!(test.tally.totals().delivered, 0);
    // Space returns.
    test.ledger.0.store(0, Relaxed);
    test.outbox.close();
    assert_eq!(end(running).await, End::Drained);
    assert_eq!(test.tally.totals().delivered, 100);
    assert_eq!(wire.sent.lock().len(), 100);
}

#[tokio::test(start_paused = true)]
async fn answers_that_were_not_written_down_are_owed_after_a_stop() {
    let wire = Wire::new(Answer::Receipt);
    let test = test(
        TestLink::new([Plan::Connect(Arc::clone(&wire))]),
        1,
        patient(),
    );
    test.ledger.0.store(usize::MAX, Relaxed);
    test.push().await;
    let running = test.run();
    wire.taken.notified().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    test.delivery.stop();
    assert_eq!(end(running).await, End::Stopped);
    assert_eq!(test.tally.totals().owed(), 1);
    let again = test.outbox.take().await.expect("it is owed");
    assert_eq!(again.meta.sequence, 1);
}

#[tokio::test(start_paused = true)]
async fn bytes_that_changed_since_capture_are_lost_and_those_damaged_on_the_way_are_sent_again() {
    for changed in [true, false] {
        let verdict = |_: &Wire, image: &Owed, number: u32| {
            if number < 3 {
                let reason = RejectReason::DigestMismatch;
                return Err(Reject::new(image.meta.id, reason, "other bytes").into());
            }
            Ok(receipt(&image.meta))
        };
        let wire = Wire::new(Answer::By(Duration::ZERO, Box::new(verdict)));
        let test = test(TestLink::new([Plan::Connect(wire)]), 1, patient());
        let bytes = Bytes::from_static(b"an image");
        let mut meta = ImageMeta::new(ImageId::new(), bytes.len() as u64);
        let captured: &[u8] = if changed { b"AN IMAGE" } else { &bytes };
        meta.digest = Some(DigestAlgorithm::Xxh3.digest(captured));
        test.tally.capture();
        let image = Owed {
            meta,
            payload: Payload::Memory(bytes),
            source_file: None,
            source_mark: None,
            carried: false,
        };
        test.outbox.push(image).await.expect("room");
        test.outbox.close();
        assert_eq!(end(test.run()).await, End::Drained);
        let totals = test.tally.totals();
        let expected = if changed { (0, 1, 0) } else { (1, 0, 2) };
        assert_eq!((totals.delivered, totals.lost, totals.retries), expected);
        let (losses, _) = test.outbox.losses(10).await;
        for loss in losses {
            let reason = &loss.reason;
            assert!(
                reason.starts_with("payload changed since capture: "),
                "{reason}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_image_of_an_earlier_process_is_delivered_whatever_the_receiver_calls_it() {
    let verdict = |_: &Wire, image: &Owed, _: u32| {
        Ok(Receipt {
            status: ReceiptStatus::Duplicate,
            ..receipt(&image.meta)
        })
    };
    let wire = Wire::new(Answer::By(Duration::ZERO, Box::new(verdict)));
    let test = test(TestLink::new([Plan::Connect(wire)]), 1, patient());
    test.push().await;
    for carried in [true, false] {
        let bytes = Bytes::from_static(b"an image");
        let mut meta = ImageMeta::new(ImageId::new(), bytes.len() as u64);
        meta.digest = Some(DigestAlgorithm::Xxh3.digest(&bytes));
        test.tally.capture();
        let image = Owed {
            meta,
            payload: Payload::Memory(bytes),
            source_file: None,
            source_mark: None,
            carried,
        };
        test.outbox.push(image).await.expect("room");
    }
    test.outbox.close();
    assert_eq!(end(test.run()).await, End::Drained);
    let totals = test.tally.totals();
    assert_eq!((totals.delivered, totals.duplicates), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_receipt_with_a_digest_of_another_kind_proves_nothing() {
    let verdict = |_: &Wire, image: &Owed, _: u32| {
        Ok(Receipt {
            digest: DigestAlgorithm::Blake3.digest(b"an image"),
            ..receipt(&image.meta)
        })
    };
    let wire = Wire::new(Answer::By(Duration::ZERO, Box::new(verdict)));
    let test = test(TestLink::new([Plan::Connect(wire)]), 1, patient());
    test.push().await;
    test.outbox.close();
    assert_eq!(end(test.run()).await, End::Drained);
    let totals = test.tally.totals();
    assert_eq!((totals.delivered, totals.lost), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_file_whose_folder_is_away_waits_for_it_and_one_that_is_gone_is_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let (away, here) = (folder.path().join("away"), folder.path().join("here"));
    std::fs::create_dir(&away).expect("a folder");
    std::fs::create_dir(&here).expect("a folder");
    std::fs::write(here.join("other"), "other").expect("a file");
    let (paths, looks) = ([away.join("a"), here.join("b")], AtomicUsize::new(0));
    let back = paths[0].clone();
    let verdict = move |_: &Wire, image: &Owed, attempt: u32| {
        let is_away = image.source_file.as_ref() == Some(&back);
        if is_away && looks.fetch_add(1, Relaxed) == 5 {
            std::fs::write(&back, "an image").expect("a file");
            assert_eq!(attempt, 1, "nothing was sent before");
            return Ok(receipt(&image.meta));
        }
        Err(DeliveryError::Unreadable("no such file".to_owned()))
    };
    let wire = Wire::new(Answer::By(Duration::ZERO, Box::new(verdict)));
    let once = RetryOptions {
        attempts: Some(1),
        ..patient()
    };
    let test = test(TestLink::new([Plan::Connect(wire)]), 1, once);
    for path in paths {
        let mut meta = ImageMeta::new(ImageId::new(), 8);
        meta.digest = Some(DigestAlgorithm::Xxh3.digest(b"an image"));
        test.tally.capture();
        let image = Owed {
            meta,
            payload: Payload::File {
                path: path.clone(),
                size: 8,
            },
            source_file: Some(path),
            source_mark: None,
            carried: false,
        };
        test.outbox.push(image).await.expect("room");
    }
    test.outbox.close();
    assert_eq!(end(test.run()).await, End::Drained);
    let totals = test.tally.totals();
    assert_eq!((totals.delivered, totals.lost), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn whoever_is_not_let_in_loses_nothing_however_few_attempts_there_are() {
    let reasons = [
        RejectReason::Forbidden,
        RejectReason::Rate,
        RejectReason::Quota,
    ];
    for reason in reasons.map(Some).into_iter().chain([None]) {
        let asked = AtomicUsize::new(0);
        let verdict = move |_: &Wire, image: &Owed, attempt: u32| {
            assert_eq!(attempt, 1, "nothing was attempted before");
            if asked.fetch_add(1, Relaxed) == 20 {
                return Ok(receipt(&image.meta));
            }
            if let Some(reason) = reason {
                let words = "cam-1 lacks the scope upload";
                let mut reject = Reject::new(image.meta.id, reason, words);
                // Whatever somebody else makes of it.
                reject.retryable = false;
                return Err(reject.into());
            }
            Err(DeliveryError::Refused("Token expired".to_owned()))
        };
        let wire = Wire::new(Answer::By(Duration::ZERO, Box::new(verdict)));
        let once = RetryOptions {
            attempts: Some(1),
            ..patient()
        };
        let test = test(TestLink::new([Plan::Connect(wire)]), 1, once);
        test.push().await;
        test.outbox.close();
        assert_eq!(end(test.run()).await, End::Drained);
        let totals = test.tally.totals();
        assert_eq!((totals.delivered, totals.lost), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_too_often_leaves_the_connection_alone_for_a_while() {
    const IMAGES: usize = 100;
    let asked = Arc::new(AtomicUsize::new(0));
    let began = tokio::time::Instant::now();
    let verdict = {
        let asked = Arc::clone(&asked);
        move |_: &Wire, image: &Owed, _: u32| {
            asked.fetch_add(1, Relaxed);
            if began.elapsed() < Duration::from_secs(10) {
                return Err(Reject::new(image.meta.id, RejectReason::Rate, "too often").into());
            }
            Ok(receipt(&image.meta))
        }
    };
    let wire = Wire::with_places(Answer::By(Duration::ZERO, Box::new(verdict)), 2);
    let test = test(TestLink::new([Plan::Connect(wire)]), 1, patient());
    for _ in 0..IMAGES {
        test.push().await;
    }
    test.outbox.close();
    assert_eq!(end(test.run()).await, End::Drained);
    let totals = test.tally.totals();
    assert_eq!((totals.delivered, totals.lost), (IMAGES as u64, 0));
    let in_vain = asked.load(Relaxed) - IMAGES;
    assert!(
        (10..=22).contains(&in_vain),
        "{in_vain} requests in ten seconds, over two places"
    );
}

#[tokio::test(start_paused = true)]
async fn an_image_beyond_a_quota_comes_again_when_there_may_be_room() {
    let at = Arc::new(Mutex::new(Vec::new()));
    let began = tokio::time::Instant::now();
    let verdict = {
        let at = Arc::clone(&at);
        move |_: &Wire, image: &Owed, _: u32| {
            at.lock().push(began.elapsed().as_secs());
            if began.elapsed() < Duration::from_secs(1_000) {
                let reject = Reject::new(image.meta.id, RejectReason::Quota, "used up");
                return Err(reject.after(Duration::from_secs(86_400)).into());
            }
            Ok(receipt(&image.meta))
        }
    };
    let wire = Wire::new(Answer::By(Duration::ZERO, Box::new(verdict)));
    let test = test(TestLink::new([Plan::Connect(wire)]), 1, patient());
    test.push().await;
    test.outbox.close();
    assert_eq!(end(test.run()).await, End::Drained);
    let at = at.lock().clone();
    assert!((4..=5).contains(&at.len()), "{at:?}");
    let pauses: Vec<_> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(
        pauses.iter().all(|pause| (299..=451).contains(pause)),
        "an operator may raise it meanwhile: {pauses:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_backlog_beyond_a_quota_is_not_sent_to_be_turned_down() {
    const IMAGES: usize = 200;
    let turned_down = Arc::new(AtomicUsize::new(0));
    let began = tokio::time::Instant::now();
    let verdict = {
        let turned_down = Arc::clone(&turned_down);
        move |_: &Wire, image: &Owed, _: u32| {
            if began.elapsed() < Duration::from_secs(3_000) {
                turned_down.fetch_add(1, Relaxed);
                let reject = Reject::new(image.meta.id, RejectReason::Quota, "used up");
                return Err(reject.after(Duration::from_secs(86_400)).into());
            }
            Ok(receipt(&image.meta))
        }
    };
    let wire = Wire::new(Answer::By(Duration::from_millis(5), Box::new(verdict)));
    let places = wire.parallel;
    let test = test(TestLink::new([Plan::Connect(wire)]), 1, patient());
    for _ in 0..IMAGES {
        test.push().await;
    }
    test.outbox.close();
    assert_eq!(end(test.run()).await, End::Drained);
    // Those that were on their way at first, and one each 300 s.
    let turned_down = turned_down.load(Relaxed);
    assert!((10..=places + 11).contains(&turned_down), "{turned_down}");
    assert!(
        began.elapsed() < Duration::from_secs(4_000),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn whoever_is_not_let_in_asks_less_and_less_often_however_long_the_answer_takes() {
    const ASKED: usize = 6;
    let at = Arc::new(Mutex::new(Vec::new()));
    let refuse = || {
        let at = Arc::clone(&at);
        let verdict = move |wire: &Wire, _: &Owed, _: u32| {
            at.lock().push(tokio::time::Instant::now());
            wire.refused.store(true, Relaxed);
            wire.lost.cancel();
            Err(DeliveryError::Refused("Token expired".to_owned()))
        };
        let after = Duration::from_secs(2);
        Plan::Connect(Wire::with_places(Answer::By(after, Box::new(verdict)), 1))
    };
    let mut plans: Vec<_> = (0..ASKED).map(|_| refuse()).collect();
    plans.push(Plan::Connect(Wire::new(Answer::Receipt)));
    let test = test(TestLink::new(plans), 1, patient());
    // There is always one that was not turned down yet.
    for _ in 0..=ASKED {
        test.push().await;
    }
    test.outbox.close();
    assert_eq!(end(test.run()).await, End::Drained);
    let totals = test.tally.totals();
    assert_eq!((totals.delivered, totals.lost), (ASKED as u64 + 1, 0));
    let at = at.lock();
    let last = at[ASKED - 1] - at[ASKED - 2];
    // Half of the fifth pause is certain.
    assert!(last >= Duration::from_millis(2_800), "{last:?}");
}

#[tokio::test(start_paused = true)]
async fn whoever_is_not_let_in_gives_up_in_time_although_somebody_answers() {
    const HOUR: Duration = Duration::from_secs(3_600);
    let refuse = || {
        let verdict = |wire: &Wire, _: &Owed, _: u32| {
            wire.refused.store(true, Relaxed);
            wire.lost.cancel();
            Err(DeliveryError::Refused("Token expired".to_owned()))
        };
        let after = Duration::from_secs(1);
        Plan::Connect(Wire::with_places(Answer::By(after, Box::new(verdict)), 1))
    };
    let retry = RetryOptions {
        give_up_after: Some(Duration::from_secs(60)),
        ..patient()
    };
    let first = Wire::new(Answer::Receipt);
    let mut plans = vec![Plan::Connect(Arc::clone(&first))];
    plans.extend((0..1_000).map(|_| refuse()));
    let test = test(TestLink::new(plans), 1, retry);
    test.push().await;
    let running = test.run();
    first.taken.notified().await;
    // Until here all is well; a connection that rests counts as a receiver that is there.
    tokio::time::sleep(HOUR).await;
    let began = tokio::time::Instant::now();
    first.refused.store(true, Relaxed);
    first.lost.cancel();
    test.push().await;
    let ended = end(running).await;
    assert!(matches!(ended, End::GaveUp { .. }), "{ended:?}");
    let took = began.elapsed().as_secs();
    assert!((60..=125).contains(&took), "after {took} s");
    let totals = test.tally.totals();
    assert_eq!((totals.delivered, totals.owed()), (1, 1));
    assert!(totals.retries >= 4, "sent in vain: {}", totals.retries);
}

#[tokio::test(start_paused = true)]
async fn whoever_is_let_in_again_has_the_whole_time_once_more() {
    let refused = |words: &'static str| {
        let verdict = move |wire: &Wire, _: &Owed, _: u32| {
            wire.refused.store(true, Relaxed);
            wire.lost.cancel();
            Err(DeliveryError::Refused(words.to_owned()))
        };
        let answer = Answer::By(Duration::from_secs(50), Box::new(verdict));
        Plan::Connect(Wire::with_places(answer, 1))
    };
    let taken = || {
        // Takes one image and is gone.
        let verdict = |wire: &Wire, image: &Owed, _: u32| {
            wire.lost.cancel();
            Ok(receipt(&image.meta))
        };
        let answer = Answer::By(Duration::from_secs(1), Box::new(verdict));
        Plan::Connect(Wire::with_places(answer, 1))
    };
    let plans = [
        refused("Token expired"),
        taken(),
        refused("Token expired"),
        taken(),
    ];
    let retry = RetryOptions {
        give_up_after: Some(Duration::from_secs(60)),
        ..patient()
    };
    let test = test(TestLink::new(plans), 1, retry);
    for _ in 0..2 {
        test.push().await;
    }
    test.outbox.close();
    assert_eq!(end(test.run()).await, End::Drained);
    assert_eq!(test.tally.totals().delivered, 2);
}
