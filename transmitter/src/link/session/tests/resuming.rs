//! From which byte images are sent.

use super::*;
use shared::receipt::RejectReason;

/// A welcomed session, whose receiver answers by `script`.
async fn welcomed(
    identity: &Identity,
    script: impl FnMut(&ClientMessage, &Got) -> Vec<ServerMessage> + Send + 'static,
) -> (SessionConnection, Got) {
    let (session, messages) = session_of(4, &options(), identity);
    let got = play(&session, messages, script);
    session.greet().await.expect("welcomed");
    (SessionConnection(session), got)
}

#[tokio::test(start_paused = true)]
async fn an_unfinished_image_is_gone_on_with_where_the_receiver_holds_it() {
    let (identity, image) = (identity(), image(8));
    let id = image.meta.id;
    identity.unfinished.begin(id);
    identity.unfinished.sent(id, 0, 5 * CHUNK);
    let script = orderly(move |_| vec![(id, 3 * CHUNK)]);
    let (connection, got) = welcomed(&identity, script).await;
    assert_eq!(got.hellos()[0].unfinished, [id]);
    delivered(&connection, &image).await.expect("stored");
    assert_eq!(got.offsets(), [3 * CHUNK]);
    let expected: Vec<_> = (3..8).map(|chunk| (id, chunk * CHUNK)).collect();
    assert_eq!(got.chunks(), expected);
    assert_eq!(identity.wire.image_bytes_sent(), 5 * CHUNK);
    assert_eq!(identity.wire.image_bytes_resent(), 2 * CHUNK);
    assert_eq!(identity.unfinished.list(), []);
}

#[tokio::test(start_paused = true)]
async fn an_image_of_which_all_is_held_needs_only_its_end() {
    let (identity, image) = (identity(), image(8));
    let id = image.meta.id;
    identity.unfinished.begin(id);
    let (connection, got) = welcomed(&identity, orderly(move |_| vec![(id, 8 * CHUNK)])).await;
    delivered(&connection, &image).await.expect("stored");
    assert_eq!((got.offsets(), got.chunks()), (vec![8 * CHUNK], vec![]));
}

#[tokio::test(start_paused = true)]
async fn what_is_held_beyond_the_size_or_of_strangers_is_not_believed() {
    let (identity, image) = (identity(), image(8));
    let id = image.meta.id;
    identity.unfinished.begin(id);
    let other = super::image(2);
    let stranger = other.meta.id;
    let held = move |_: &Hello| vec![(stranger, CHUNK), (id, 8 * CHUNK + 1)];
    let (connection, got) = welcomed(&identity, orderly(held)).await;
    delivered(&connection, &image).await.expect("stored");
    delivered(&connection, &other).await.expect("stored");
    assert_eq!(got.offsets(), [0, 0]);
}

fn offset_reject(id: ImageId, held: Option<u64>) -> ServerMessage {
    let mut reject = Reject::new(id, RejectReason::Offset, "something else is held");
    reject.held = held;
    ServerMessage::Reject(reject)
}

/// A receiver that holds `held` of every image, and at `Begin` with another offset than `wanted`
/// says `says`.
fn changed(
    held: u64,
    wanted: u64,
    says: Option<u64>,
) -> impl FnMut(&ClientMessage, &Got) -> Vec<ServerMessage> + Send + 'static {
    let mut orderly = orderly(move |hello| {
        let unfinished = hello.unfinished.iter();
        unfinished.map(|id| (*id, held)).collect()
    });
    let mut refused = false;
    move |message, got| match message {
        ClientMessage::Begin(begin) => {
            refused = begin.offset != wanted;
            let reject = refused.then(|| offset_reject(begin.meta.id, says));
            reject.into_iter().collect()
        }
        ClientMessage::End { .. } if refused => Vec::new(),
        other => orderly(other, got),
    }
}

#[tokio::test(start_paused = true)]
async fn an_image_of_which_something_else_is_held_is_begun_again_there_at_once() {
    for (says, wanted) in [
        (Some(6 * CHUNK), 6 * CHUNK),
        (Some(CHUNK), CHUNK),
        (Some(0), 0),
        // An old receiver does not say; this one talks nonsense.
        (None, 0),
        (Some(9 * CHUNK), 0),
        (Some(5 * CHUNK), 0),
    ] {
        let (identity, image) = (identity(), image(8));
        identity.unfinished.begin(image.meta.id);
        let script = changed(5 * CHUNK, wanted, says);
        let (connection, got) = welcomed(&identity, script).await;
        delivered(&connection, &image).await.expect("stored");
        assert_eq!(got.offsets(), [5 * CHUNK, wanted], "{says:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_refuses_every_offset_gets_a_new_attempt_later() {
    let (identity, image) = (identity(), image(8));
    identity.unfinished.begin(image.meta.id);
    let script = changed(5 * CHUNK, u64::MAX, None);
    let (connection, got) = welcomed(&identity, script).await;
    let refused = delivered(&connection, &image).await;
    assert!(
        matches!(&refused, Err(DeliveryError::Rejected(reject)) if reject.retryable),
        "{refused:?}"
    );
    assert_eq!(got.offsets(), [5 * CHUNK, 0]);
}

#[tokio::test(start_paused = true)]
async fn of_an_image_begun_elsewhere_after_the_welcome_the_receiver_is_asked() {
    let (identity, image, small) = (identity(), image(8), image(1));
    let script = orderly(|hello| {
        let unfinished = hello.unfinished.iter();
        unfinished.map(|id| (*id, 3 * CHUNK)).collect()
    });
    let (connection, got) = welcomed(&identity, script).await;
    // By another connection, which broke.
    identity.unfinished.begin(image.meta.id);
    identity.unfinished.begin(small.meta.id);
    delivered(&connection, &image).await.expect("stored");
    assert_eq!(got.hellos().len(), 2);
    // The answer was for both, and no one can hold three chunks of one.
    delivered(&connection, &small).await.expect("stored");
    assert_eq!(got.hellos().len(), 2);
    assert_eq!(got.offsets(), [3 * CHUNK, 0]);
}

#[tokio::test(start_paused = true)]
async fn what_the_welcome_said_is_out_of_date_when_another_connection_sent_more() {
    let (identity, image) = (identity(), image(8));
    identity.unfinished.begin(image.meta.id);
    let mut answers = [6 * CHUNK, 3 * CHUNK].to_vec();
    let answers = Mutex::new(std::mem::take(&mut answers));
    let script = orderly(move |hello| {
        let held = answers.lock().pop().expect("two questions at most");
        hello.unfinished.iter().map(|id| (*id, held)).collect()
    });
    let (connection, got) = welcomed(&identity, script).await;
    identity.unfinished.begin(image.meta.id);
    delivered(&connection, &image).await.expect("stored");
    assert_eq!(got.offsets(), [6 * CHUNK]);
}

#[tokio::test(start_paused = true)]
async fn of_a_large_image_of_an_earlier_process_the_receiver_is_asked() {
    let mut options = options();
    options.window = ByteSize(4 * CHUNK);
    let identity = identity();
    let (session, messages) = session_of(4, &options, &identity);
    let script = orderly(|hello| {
        let unfinished = hello.unfinished.iter();
        unfinished.map(|id| (*id, 2 * CHUNK)).collect()
    });
    let got = play(&session, messages, script);
    session.greet().await.expect("welcomed");
    let connection = SessionConnection(session);
    for (chunks, carried, offset) in [(5, true, 2 * CHUNK), (4, true, 0), (5, false, 0)] {
        let image = Owed {
            carried,
            ..image(chunks)
        };
        delivered(&connection, &image).await.expect("stored");
        assert_eq!(got.offsets().last(), Some(&offset), "{chunks} {carried}");
    }
    assert_eq!(got.hellos().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_is_dropped_is_aborted_and_the_next_goes_on_from_there() {
    let (identity, image) = (identity(), image(8));
    let (session, messages) = session_of(4, &options(), &identity);
    let mut welcoming = orderly(|_| Vec::new());
    let got = play(&session, messages, move |message, got| {
        match welcoming(message, got).pop() {
            // Three chunks may come, then none.
            Some(ServerMessage::Welcome(mut welcome)) => {
                welcome.credit = 3 * CHUNK;
                vec![ServerMessage::Welcome(welcome)]
            }
            other => other.into_iter().collect(),
        }
    });
    session.greet().await.expect("welcomed");
    let connection = SessionConnection(Arc::clone(&session));
    let delivering = connection.deliver(&image, attempt());
    let waited = tokio::time::timeout(Duration::from_secs(1), delivering).await;
    assert!(waited.is_err(), "there is no credit for the rest");
    tokio::task::yield_now().await;
    let aborted = |message: &ClientMessage| matches!(message, ClientMessage::Abort { .. });
    assert!(got.0.lock().iter().any(aborted));
    session.take(ServerMessage::Credit { total: 8 * CHUNK });
    delivered(&connection, &image).await.expect("stored");
    assert_eq!(got.offsets(), [0, 3 * CHUNK]);
    let expected: Vec<_> = (0..8).map(|chunk| (image.meta.id, chunk * CHUNK)).collect();
    assert_eq!(got.chunks(), expected);
}

#[tokio::test(start_paused = true)]
async fn what_the_receiver_turned_down_is_sent_from_the_first_byte() {
    let (identity, image) = (identity(), image(8));
    let mut orderly = orderly(|_| Vec::new());
    let mut damaged = true;
    let (connection, got) = welcomed(&identity, move |message, got| match message {
        ClientMessage::Chunk(chunk) if chunk.offset == 4 * CHUNK && damaged => {
            damaged = false;
            let reject = Reject::new(chunk.image_id, RejectReason::ChunkChecksum, "damaged");
            vec![ServerMessage::Reject(reject)]
        }
        other => orderly(other, got),
    })
    .await;
    delivered(&connection, &image).await.expect_err("damaged");
    delivered(&connection, &image).await.expect("stored");
    assert_eq!(got.offsets(), [0, 0]);
    assert_eq!(got.hellos().len(), 1, "nothing to ask");
}
