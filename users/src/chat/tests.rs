use std::collections::BTreeMap;

use super::*;
use crate::refusal::Code;

fn saying(text: &str) -> Saying {
    Saying::check("Ada".to_owned(), text.to_owned()).unwrap()
}

fn room(messages: usize, patience: Duration) -> Arc<Room> {
    Arc::new(Room::new(RoomOptions {
        max_readers: 600,
        messages,
        patience,
        ..RoomOptions::default()
    }))
}

async fn hear(seat: &mut Seat, count: usize) -> Result<Vec<u64>, Refusal> {
    let mut heard = Vec::new();
    while heard.len() < count {
        heard.extend(seat.next().await?.iter().map(|message| message.sequence));
    }
    Ok(heard)
}

#[tokio::test]
async fn what_is_said_reaches_those_who_are_there() {
    let room = room(64, Duration::from_secs(5));
    room.say(saying("to nobody")).await;
    let mut first = room.join().unwrap();
    room.say(saying("to one")).await;
    let mut second = room.join().unwrap();
    room.say(saying("to two")).await;
    assert_eq!(hear(&mut first, 2).await.unwrap(), [2, 3]);
    assert_eq!(hear(&mut second, 1).await.unwrap(), [3]);
    assert_eq!(room.readers(), 2);
    drop(first);
    assert_eq!(room.readers(), 1);
}

#[tokio::test]
async fn seats_are_limited() {
    let room = Arc::new(Room::new(RoomOptions {
        max_readers: 1,
        ..RoomOptions::default()
    }));
    let seat = room.join().unwrap();
    let refusal = room.join().unwrap_err();
    assert_eq!(refusal.code(), Code::ResourceExhausted);
    assert!(refusal.to_string().contains("--max-chat-clients"));
    drop(seat);
    assert!(room.join().is_ok());
}

#[tokio::test]
async fn texts_and_names_have_bounds() {
    let check = |user: &str, text: &str| Saying::check(user.to_owned(), text.to_owned());
    assert!(check("Ada", &"ä".repeat(MAX_TEXT)).is_ok());
    assert!(check("Ada", "").is_err());
    assert!(check("Ada", &"ä".repeat(MAX_TEXT + 1)).is_err());
    let violations = check("", "").unwrap_err();
    assert_eq!(violations.all().len(), 2);
}

/// Far more messages than the room holds, from many to many: nobody who reads misses one.
#[tokio::test(flavor = "multi_thread")]
async fn everybody_hears_everything_once_however_small_the_room() {
    const READERS: usize = 100;
    const TALKERS: usize = 50;
    const EACH: usize = 40;
    // Nobody is stalled here, but the machine may be.
    let room = room(16, Duration::from_secs(600));
    let readers: Vec<_> = (0..READERS)
        .map(|_| {
            let mut seat = room.join().unwrap();
            tokio::spawn(async move { hear(&mut seat, TALKERS * EACH).await })
        })
        .collect();
    for _ in 0..TALKERS {
        let room = Arc::clone(&room);
        tokio::spawn(async move {
            for _ in 0..EACH {
                room.say(saying("x")).await;
            }
        });
    }
    let mut results = BTreeMap::new();
    for reader in readers {
        let heard = reader.await.unwrap();
        // Of a hundred in so small a room, one that is not scheduled is a straggler.
        let kind = match heard {
            Ok(heard) => heard.iter().copied().eq(1..=(TALKERS * EACH) as u64),
            Err(refusal) => panic!("{refusal}"),
        };
        *results.entry(kind).or_insert(0) += 1;
    }
    assert_eq!(results, BTreeMap::from([(true, READERS)]));
}

#[tokio::test(start_paused = true)]
async fn a_straggler_is_cut_off_while_the_others_keep_up() {
    let room = room(8, Duration::from_secs(5));
    let mut straggler = room.join().unwrap();
    let mut reader = room.join().unwrap();
    let begin = Instant::now();
    for number in 1..=20 {
        room.say(saying("x")).await;
        assert_eq!(hear(&mut reader, 1).await.unwrap(), [number]);
    }
    let once = Duration::from_secs(1);
    assert_eq!(begin.elapsed(), once, "it was waited for once");
    let state = room.state();
    assert_eq!((state.said, state.cut_off, state.unread), (20, 1, 0));
    let refusal = straggler.next().await.unwrap_err();
    assert_eq!(refusal.code(), Code::ResourceExhausted);
    assert_eq!(room.readers(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_is_far_behind_for_a_moment_is_not_cut_off() {
    let room = room(8, Duration::from_secs(5));
    let mut late = room.join().unwrap();
    let mut reader = room.join().unwrap();
    for round in 0..10 {
        for _ in 0..8 {
            room.say(saying("x")).await;
            hear(&mut reader, 1).await.unwrap();
        }
        let (said, heard) = tokio::join!(room.say(saying("x")), async {
            tokio::time::sleep(Duration::from_millis(900)).await;
            hear(&mut late, 8).await
        });
        assert_eq!((said, heard.unwrap().len()), ((round + 1) * 9, 8));
        hear(&mut reader, 1).await.unwrap();
        hear(&mut late, 1).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn who_reads_a_little_now_and_then_does_not_hold_the_others_up() {
    let room = room(1_024, Duration::from_secs(5));
    let mut trickle = room.join().unwrap();
    let mut readers = [room.join().unwrap(), room.join().unwrap()];
    let begin = Instant::now();
    // Sixty-four messages every half second, far less than the others say.
    let slow = async {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            if trickle.next().await.is_err() {
                return;
            }
        }
    };
    let others = async {
        for _ in 0..5_000 {
            room.say(saying("x")).await;
            for reader in &mut readers {
                hear(reader, 1).await.unwrap();
            }
        }
        begin.elapsed()
    };
    let ((), took) = tokio::join!(slow, others);
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn readers_that_are_slow_together_hold_the_room_up_until_patience_ends() {
    let patience = Duration::from_secs(5);
    let room = room(8, patience);
    let mut slow = [
        room.join().unwrap(),
        room.join().unwrap(),
        room.join().unwrap(),
    ];
    for _ in 0..8 {
        room.say(saying("x")).await;
    }
    let begin = Instant::now();
    // One of them reads after two seconds, which makes no room yet.
    let (said, heard) = tokio::join!(room.say(saying("x")), async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        hear(&mut slow[0], 8).await
    });
    assert_eq!((said, heard.unwrap().len()), (9, 8));
    assert_eq!(
        begin.elapsed(),
        patience,
        "the other two were waited for, and no longer"
    );
    assert_eq!(hear(&mut slow[0], 1).await.unwrap(), [9]);
    assert!(slow[1].next().await.is_err());
    assert!(slow[2].next().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn who_waits_to_speak_goes_on_when_there_is_room() {
    let room = room(8, Duration::from_secs(3_600));
    let mut only = room.join().unwrap();
    let mut other = room.join().unwrap();
    for _ in 0..8 {
        room.say(saying("x")).await;
    }
    let begin = Instant::now();
    assert!(!room.state().full, "nobody waits yet");
    let (said, _) = tokio::join!(room.say(saying("last")), async {
        hear(&mut only, 8).await.unwrap();
        let state = room.state();
        assert!(state.full && state.unread == 8, "{state:?}");
        hear(&mut other, 8).await.unwrap();
    });
    assert_eq!(said, 9);
    assert!(!room.state().full);
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn an_empty_room_never_fills() {
    let room = room(8, Duration::from_secs(5));
    for number in 1..=100 {
        assert_eq!(room.say(saying("x")).await, number);
    }
}
