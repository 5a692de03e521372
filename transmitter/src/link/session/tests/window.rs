//! How much is on its way.

use super::*;

/// What goes out before the receiver says another word, again and again until the image is
/// complete. The receiver first grants `credit`, and `step` bytes before it is used up grants as
/// much again.
async fn bursts(window: u64, chunks: u64, credit: u64, step: u64) -> Vec<u64> {
    let mut options = options();
    options.window = ByteSize(window);
    let identity = identity();
    let (session, mut messages) = session_of(4, &options, &identity);
    let image = image(chunks);
    let connection = SessionConnection(Arc::clone(&session));
    let delivering = tokio::spawn(async move { connection.deliver(&image, attempt()).await });
    let mut granted = credit;
    session.flow.lock().grant(credit);
    let (mut bursts, mut burst, mut taken) = (Vec::new(), 0, 0);
    let (mut begin, mut pings) = (None, Vec::new());
    loop {
        // The clock moves only when nothing else does.
        let next = tokio::time::timeout(Duration::from_millis(1), messages.recv()).await;
        match next.map(|message| decoded(message.expect("the session lives"))) {
            Ok(ClientMessage::Begin(announced)) => begin = Some(announced),
            Ok(ClientMessage::Chunk(chunk)) => burst += chunk.data.len() as u64,
            Ok(ClientMessage::ClockPing { id, t1 }) => pings.push((id, t1)),
            Ok(ClientMessage::End { .. }) => break,
            Ok(other) => panic!("{other:?}"),
            Err(_) => {
                taken += burst;
                bursts.push(std::mem::take(&mut burst));
                assert!(bursts.len() < 1_000, "nothing moves: {bursts:?}");
                for (id, t1) in pings.drain(..) {
                    let (t2, t3) = (t1, t1);
                    session.take(ServerMessage::ClockPong { id, t1, t2, t3 });
                }
                if granted - taken.min(granted) <= credit - step {
                    granted = taken + credit;
                    session.take(ServerMessage::Credit { total: granted });
                }
            }
        }
    }
    bursts.push(burst);
    let begin = begin.expect("it was announced");
    session.take(stored(&begin));
    let receipt = delivering.await.expect("no panic");
    receipt.expect("stored");
    assert_eq!(bursts.iter().sum::<u64>(), chunks * CHUNK);
    bursts
}

#[tokio::test(start_paused = true)]
async fn no_more_than_the_window_goes_out_before_the_receiver_has_taken_some() {
    let window = 8 * CHUNK;
    // A receiver that grants by quarters of the window, an old one that grants by half of its
    // credit, which is eight windows, and one that grants nothing else.
    for (credit, step) in [
        (64 * CHUNK, 2 * CHUNK),
        (128 * CHUNK, 64 * CHUNK),
        (1 << 40, 1 << 39),
    ] {
        let bursts = bursts(window, 300, credit, step).await;
        let most = bursts.iter().max().copied();
        assert!(most <= Some(window), "{bursts:?}");
        assert!(most >= Some(window / 2), "{bursts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_credit_smaller_than_the_window_holds() {
    let bursts = bursts(64 * CHUNK, 100, 4 * CHUNK, 2 * CHUNK).await;
    assert!(bursts.iter().all(|burst| *burst <= 4 * CHUNK), "{bursts:?}");
}

#[tokio::test(start_paused = true)]
async fn chunks_larger_than_the_window_go_one_by_one() {
    let bursts = bursts(CHUNK / 2, 10, 64 * CHUNK, 32 * CHUNK).await;
    assert!(bursts.iter().all(|burst| *burst <= CHUNK), "{bursts:?}");
}

#[tokio::test(start_paused = true)]
async fn attempts_that_are_dropped_while_they_wait_use_up_nothing() {
    let mut options = options();
    options.window = ByteSize(2 * CHUNK);
    let identity = identity();
    let (session, mut messages) = session_of(1, &options, &identity);
    session.flow.lock().grant(4 * CHUNK);
    let connection = SessionConnection(Arc::clone(&session));
    for _ in 0..100 {
        // The transport is stuck, so the attempt waits with bytes reserved.
        let image = image(3);
        let delivering = connection.deliver(&image, attempt());
        let waited = tokio::time::timeout(Duration::from_secs(1), delivering).await;
        assert!(waited.is_err());
    }
    while let Ok(message) = messages.try_recv() {
        drop(message);
    }
    let script = orderly(|_| Vec::new());
    play(&session, messages, script);
    session.take(ServerMessage::Credit { total: 1 << 30 });
    delivered(&connection, &image(3)).await.expect("stored");
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_falls_silent_is_lost_even_if_the_transport_is_alive() {
    let identity = identity();
    let (session, messages) = session_of(4, &options(), &identity);
    let mut welcoming = orderly(|_| Vec::new());
    let (session2, silent) = (Arc::clone(&session), Arc::new(Mutex::new(false)));
    let now_silent = Arc::clone(&silent);
    tokio::spawn(async move {
        let mut messages = messages;
        while let Some(message) = messages.recv().await {
            let message = decoded(message);
            if *now_silent.lock() {
                continue;
            }
            if let ClientMessage::ClockPing { id, t1 } = message {
                let (t2, t3) = (t1, t1);
                session2.take(ServerMessage::ClockPong { id, t1, t2, t3 });
            }
            for answer in welcoming(&message, &Got::default()) {
                session2.take(answer);
            }
        }
    });
    session.greet().await.expect("welcomed");
    let connection = SessionConnection(Arc::clone(&session));
    let idle = tokio::time::timeout(GUARD, connection.closed()).await;
    assert!(idle.is_err(), "every ping is answered");
    *silent.lock() = true;
    let begin = Instant::now();
    let reason = tokio::time::timeout(GUARD, connection.closed()).await;
    assert!(reason.expect("lost").contains("no sign"));
    assert!(begin.elapsed() <= 2 * options().idle_timeout);
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_answers_pings_and_no_image_does_not_keep_it_for_ever() {
    let identity = identity();
    let (session, messages) = session_of(4, &options(), &identity);
    let script = |message: &ClientMessage, _: &Got| match message {
        ClientMessage::Hello(_) => vec![welcome(Vec::new())],
        _ => Vec::new(),
    };
    play(&session, messages, script);
    session.greet().await.expect("welcomed");
    session.take(ServerMessage::Credit { total: 1 << 30 });
    let connection = SessionConnection(Arc::clone(&session));
    let begin = Instant::now();
    let sent = delivered(&connection, &image(3)).await;
    assert!(matches!(sent, Err(DeliveryError::Lost(_))), "{sent:?}");
    let idle = options().idle_timeout;
    assert!(begin.elapsed() >= 10 * idle && begin.elapsed() <= 11 * idle);
    assert!(!session.lost.is_cancelled(), "others go on");
}

#[tokio::test(start_paused = true)]
async fn an_image_waits_as_long_as_others_are_answered_for_its_own_answer() {
    let identity = identity();
    let (session, messages) = session_of(4, &options(), &identity);
    let script = |message: &ClientMessage, _: &Got| match message {
        ClientMessage::Hello(_) => vec![welcome(Vec::new())],
        _ => Vec::new(),
    };
    play(&session, messages, script);
    session.greet().await.expect("welcomed");
    session.take(ServerMessage::Credit { total: 1 << 30 });
    let slow = image(3);
    let answers = async {
        for minute in 1..60 {
            tokio::time::sleep(Duration::from_secs(60)).await;
            let other = minute < 50;
            let id = if other { ImageId::new() } else { slow.meta.id };
            let receipt = Receipt {
                image_id: id,
                ..duplicate(&slow.meta)
            };
            session.take(ServerMessage::Receipt(receipt));
        }
    };
    let connection = SessionConnection(Arc::clone(&session));
    let sent = tokio::join!(delivered(&connection, &slow), answers).0;
    sent.expect("it came after fifty minutes");
}
