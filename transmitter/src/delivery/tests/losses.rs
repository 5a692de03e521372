//! What is told of losses, and when.

use super::*;

fn lost_image() -> ImageMeta {
    ImageMeta::new(ImageId::new(), 1)
}

async fn told(wire: &Wire, reports: usize) -> Vec<Told> {
    loop {
        let told = wire.told.lock().clone().unwrap_or_default();
        if told.len() >= reports {
            return told;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn losses_from_before_are_told_on_connecting_and_new_ones_as_they_come() {
    let wire = Wire::new(Answer::Receipt);
    let test = test(
        TestLink::new([Plan::Connect(Arc::clone(&wire))]),
        1,
        patient(),
    );
    test.outbox
        .lose(lost_image(), "gone")
        .await
        .expect("memory");
    test.push().await;
    let running = test.run();
    let first = told(&wire, 1).await;
    assert_eq!(first[0].0, [1]);
    test.outbox
        .lose(lost_image(), "gone too")
        .await
        .expect("memory");
    let second = told(&wire, 2).await;
    assert_eq!(second[1].0, [3]);
    assert_eq!(second[1].1.next_sequence, 4);
    assert_eq!(test.outbox.losses(10).await.0, []);
    test.outbox.close();
    assert_eq!(end(running).await, End::Drained);
}

#[tokio::test(start_paused = true)]
async fn the_standing_is_told_now_and_then_when_it_has_changed() {
    let wire = Wire::new(Answer::Receipt);
    let test = test(
        TestLink::new([Plan::Connect(Arc::clone(&wire))]),
        1,
        patient(),
    );
    test.push().await;
    let running = test.run();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let before = told(&wire, 1).await.len();
    assert!(before <= 2, "nothing changed since");
    test.push().await;
    let last = told(&wire, before + 1).await[before].clone();
    assert_eq!((last.0.len(), last.1.next_sequence), (0, 3));
    test.outbox.close();
    assert_eq!(end(running).await, End::Drained);
}

#[tokio::test(start_paused = true)]
async fn losses_that_a_receiver_does_not_keep_are_told_again_until_one_does() {
    let (first, second) = (Wire::new(Answer::Receipt), Wire::new(Answer::Receipt));
    *first.told.lock() = None;
    let link = TestLink::new([
        Plan::Connect(Arc::clone(&first)),
        Plan::Connect(Arc::clone(&second)),
    ]);
    let test = test(link, 1, patient());
    for _ in 0..2_500 {
        test.outbox
            .lose(lost_image(), "gone")
            .await
            .expect("memory");
    }
    test.push().await;
    let running = test.run();
    first.taken.notified().await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(test.outbox.losses(usize::MAX).await.0.len(), 2_500);
    first.lost.cancel();
    let told = told(&second, 3).await;
    let sequences: Vec<u64> = told
        .iter()
        .flat_map(|(sequences, _)| sequences.clone())
        .collect();
    assert_eq!(sequences, (1..=2_500).collect::<Vec<_>>());
    // Until the last portion, the standing does not pass what was not told.
    assert_eq!(told[0].1.first_owed, 1_001);
    assert_eq!(told[2].1.first_owed, 2_502);
    test.outbox.close();
    assert_eq!(end(running).await, End::Drained);
}

#[tokio::test(start_paused = true)]
async fn everything_is_told_before_goodbye_even_a_loss_of_the_last_moment() {
    let wire = Wire::new(Answer::OtherDigest);
    let test = test(
        TestLink::new([Plan::Connect(Arc::clone(&wire))]),
        1,
        patient(),
    );
    test.push().await;
    test.outbox.close();
    assert_eq!(end(test.run()).await, End::Drained);
    let told = wire.told.lock().clone().unwrap_or_default();
    let losses: Vec<u64> = told
        .iter()
        .flat_map(|(sequences, _)| sequences.clone())
        .collect();
    assert_eq!(losses, [1]);
    assert_eq!(test.outbox.losses(1).await.0, []);
    assert_eq!(
        told.last().map(|(_, standing)| standing.first_owed),
        Some(2)
    );
}

#[tokio::test(start_paused = true)]
async fn losses_and_the_last_number_of_an_earlier_process_are_told_although_nothing_is_owed() {
    for (is_lost, connects) in [(true, 3), (false, 1)] {
        let wire = Wire::new(Answer::Receipt);
        // For a loss it is tried again; a number can be told at the next start.
        let plans = [Plan::Hang, Plan::Refuse, Plan::Connect(Arc::clone(&wire))];
        let link = TestLink::new(plans.into_iter().skip(usize::from(!is_lost)));
        let test = test(Arc::clone(&link), 1, patient());
        if is_lost {
            let lost = test.outbox.lose(lost_image(), "gone").await;
            lost.expect("memory");
        }
        test.outbox.close();
        assert_eq!(end(test.run()).await, End::Drained);
        let told = wire.told.lock().clone().unwrap_or_default();
        assert_eq!(
            told.first().map(|told| told.0.clone()),
            is_lost.then(|| vec![1])
        );
        let standing = told.last().map(|(_, standing)| *standing);
        let numbers = standing.map(|standing| (standing.first_owed, standing.next_sequence));
        assert_eq!(numbers, is_lost.then_some((2, 2)));
        assert_eq!(link.connects.load(Relaxed), connects);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_being_told_at_the_end_is_told_to_its_end_and_once() {
    let wire = Arc::new(Wire {
        telling: Duration::from_secs(3),
        ..Wire::plain(Answer::Receipt, 4)
    });
    let link = TestLink::new([Plan::Connect(Arc::clone(&wire))]);
    let test = test(Arc::clone(&link), 1, patient());
    test.push().await;
    test.outbox.close();
    assert_eq!(end(test.run()).await, End::Drained);
    assert!(!wire.lost.is_cancelled(), "nobody cut it off");
    assert_eq!(link.connects.load(Relaxed), 1);
    assert_eq!(wire.accounts.load(Relaxed), 1);
    let told = told(&wire, 1).await;
    assert!(
        told.windows(2).all(|pair| pair[0].1 != pair[1].1),
        "{told:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_left_to_tell_goes_over_another_connection_when_the_last_has_gone_meanwhile() {
    let first = Arc::new(Wire {
        lasts: AtomicUsize::new(1),
        ..Wire::plain(Answer::OtherDigest, 4)
    });
    let second = Wire::new(Answer::Receipt);
    let link = TestLink::new([
        Plan::Connect(Arc::clone(&first)),
        Plan::Refuse,
        Plan::Connect(Arc::clone(&second)),
    ]);
    let test = test(Arc::clone(&link), 1, patient());
    test.push().await;
    test.outbox.close();
    assert_eq!(end(test.run()).await, End::Drained);
    assert_eq!(test.outbox.losses(1).await.0, []);
    assert_eq!(told(&second, 1).await[0].0, [1]);
}
