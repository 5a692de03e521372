//! What is told of losses.

use super::*;
use shared::image::OutboxId;
use shared::receipt::RejectReason;
use shared::wire::{Loss, LossReport};

fn loss(sequence: u64) -> Loss {
    Loss {
        sequence,
        image_id: ImageId::new(),
        digest: None,
        reason: "evicted".to_owned(),
        at: UnixNanos(1),
        run: "run".to_owned(),
    }
}

fn standing() -> Standing {
    Standing {
        outbox: OutboxId::new(),
        first_owed: 9,
        next_sequence: 12,
    }
}

fn reports(got: &Got) -> Vec<LossReport> {
    let got = got.0.lock();
    let reports = got.iter().filter_map(|message| match message {
        ClientMessage::Losses(report) => Some(report.clone()),
        _ => None,
    });
    reports.collect()
}

fn kept(message: &ClientMessage) -> Vec<ServerMessage> {
    match message {
        ClientMessage::Losses(report) => vec![ServerMessage::LossesKept { id: report.id }],
        _ => Vec::new(),
    }
}

#[tokio::test(start_paused = true)]
async fn losses_are_told_in_portions_that_the_receiver_takes_one_after_the_other() {
    let (session, messages) = session(4);
    session.max_message.store(1_000, Ordering::Relaxed);
    let got = play(&session, messages, |message, _| kept(message));
    let connection = SessionConnection(session);
    let losses: Vec<Loss> = (1..=8).map(loss).collect();
    let standing = standing();
    let told = connection.losses(losses.clone(), standing).await;
    told.expect("kept");
    let reports = reports(&got);
    assert!(reports.len() > 2, "{reports:?}");
    let mut standings: Vec<_> = reports.iter().map(|report| report.standing).collect();
    assert_eq!(standings.pop(), Some(Some(standing)));
    let unsaid = Some(Standing::unsaid(standing.outbox));
    assert!(standings.iter().all(|said| *said == unsaid));
    let told: Vec<Loss> = reports
        .into_iter()
        .flat_map(|report| report.losses)
        .collect();
    assert_eq!(told, losses);
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_never_says_that_it_keeps_losses_does_not_hold_anybody_up() {
    let (session, messages) = session(4);
    let got = play(&session, messages, |_, _| {
        // An answer to something else.
        vec![ServerMessage::LossesKept { id: 1_000 }]
    });
    let connection = SessionConnection(Arc::clone(&session));
    let telling = connection.losses(vec![loss(1)], standing());
    let told = tokio::time::timeout(GUARD, telling).await;
    let error = told.expect("an end").expect_err("not kept");
    assert!(matches!(error, LinkError::Protocol { .. }), "{error}");
    assert!(!session.lost.is_cancelled(), "images may still be sent");
    assert_eq!(reports(&got).len(), 1);
    assert!(session.told.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_cannot_keep_losses_says_why() {
    for reason in [RejectReason::UnknownMessage, RejectReason::Unavailable] {
        let (session, messages) = session(4);
        play(&session, messages, move |message, _| match message {
            ClientMessage::Losses(_) => {
                let reject = Reject::new(None, reason, "the disk is full");
                vec![ServerMessage::Reject(reject)]
            }
            _ => Vec::new(),
        });
        let connection = SessionConnection(session);
        let told = connection.losses(vec![loss(1)], standing()).await;
        let error = told.expect_err("not kept").to_string();
        assert!(error.contains("the disk is full"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_image_whose_end_was_damaged_does_not_wait_for_an_answer() {
    let (session, messages) = session(4);
    play(&session, messages, |message, _| match message {
        // Not even which image it is of can be read.
        ClientMessage::End { .. } => {
            let reject = Reject::new(None, RejectReason::Invalid, "no protobuf");
            vec![ServerMessage::Reject(reject)]
        }
        _ => Vec::new(),
    });
    let begun = tokio::time::Instant::now();
    let connection = SessionConnection(Arc::clone(&session));
    let delivered = connection.deliver(&image(1), attempt()).await;
    assert!(matches!(delivered, Err(DeliveryError::Lost(_))));
    assert!(session.lost.is_cancelled());
    assert!(begun.elapsed() < Duration::from_secs(1));
    // Where no image waits, it is no reason to break the connection.
    let (session, _messages) = self::session(4);
    let reject = Reject::new(None, RejectReason::Invalid, "an account of nothing");
    session.take(ServerMessage::Reject(reject));
    assert!(!session.lost.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn a_report_of_losses_that_is_refused_does_not_take_the_connection_from_an_image() {
    let (session, messages) = session(4);
    play(&session, messages, |message, _| match message {
        // Whose it is cannot be told: the receiver answers the first of both.
        ClientMessage::Losses(_) => {
            let reject = Reject::new(None, RejectReason::Invalid, "too many");
            vec![ServerMessage::Reject(reject)]
        }
        _ => Vec::new(),
    });
    let connection = SessionConnection(Arc::clone(&session));
    let image = image(1);
    let mut delivering = Box::pin(connection.deliver(&image, attempt()));
    assert!(futures_util::poll!(&mut delivering).is_pending());
    let told = connection.losses(vec![loss(1)], standing()).await;
    assert!(matches!(told, Err(LinkError::Protocol { .. })), "{told:?}");
    assert!(!session.lost.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_an_answer_over_a_lost_connection() {
    let (session, messages) = session(4);
    let lost = Arc::clone(&session);
    play(&session, messages, move |message, _| {
        if matches!(message, ClientMessage::Losses(_)) {
            lost.lose("broken".to_owned());
        }
        Vec::new()
    });
    let connection = SessionConnection(Arc::clone(&session));
    for _ in 0..2 {
        let told = connection.losses(vec![loss(1)], standing()).await;
        assert!(matches!(told, Err(LinkError::Lost(_))), "{told:?}");
    }
    assert!(session.told.is_empty());
}
