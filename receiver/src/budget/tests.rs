use std::task::{Context, Poll, Waker};

use super::*;

/// A budget with 3,000 bytes to lease.
fn budget() -> Arc<Budget> {
    Budget::new(4_000)
}

fn leased(budget: &Budget) -> u64 {
    let usage = budget.usage();
    let free = budget.free.available();
    assert_eq!(usage.leased + free, usage.capacity, "nothing gets lost");
    usage.leased
}

fn is_pending(future: std::pin::Pin<&mut impl Future>) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    matches!(future.poll(&mut context), Poll::Pending)
}

#[tokio::test]
async fn what_is_leased_comes_back_however_it_ends() {
    let budget = budget();
    let one = budget.holder();
    one.lease(1_000).await.unwrap();
    assert!(one.keep(400));
    assert_eq!(leased(&budget), 400);
    let part = one.part(300);
    assert_eq!(leased(&budget), 400);
    drop(one.clone());
    drop(one);
    assert_eq!(leased(&budget), 300);
    drop(part);
    assert_eq!(leased(&budget), 0);
    assert_eq!(budget.usage().peak, 1_000);
    assert!(budget.holders.lock().is_empty());
}

#[tokio::test]
async fn a_message_larger_than_all_there_is_gets_all_there_is() {
    let budget = budget();
    let one = budget.holder();
    one.lease(2_000).await.unwrap();
    one.lease(1_000_000).await.unwrap();
    one.lease(1).await.unwrap();
    assert_eq!(leased(&budget), 3_000);
    assert!(one.keep(9_000), "there is nobody who would have less");
    assert_eq!(leased(&budget), 3_000);
    one.clear();
    assert_eq!(leased(&budget), 0);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_given_up_takes_nothing() {
    let budget = budget();
    let (one, two) = (budget.holder(), budget.holder());
    one.lease(2_500).await.unwrap();
    {
        let waiting = two.lease(1_000);
        tokio::pin!(waiting);
        assert!(is_pending(waiting.as_mut()));
    }
    one.clear();
    assert_eq!(leased(&budget), 0);
    two.lease(3_000).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_makes_no_progress_gives_way_and_who_does_is_left_alone() {
    let budget = budget();
    let (stalled, busy, good) = (budget.holder(), budget.holder(), budget.holder());
    stalled.lease(1_500).await.unwrap();
    busy.lease(1_500).await.unwrap();
    busy.serve();
    let ending = async {
        stalled.revoked().await;
        drop(stalled);
    };
    let (lease, ()) = tokio::join!(good.lease(1_000), ending);
    lease.unwrap();
    let still = budget.usage();
    assert_eq!((still.revoked, still.leased), (1, 2_500));
    assert!(!busy.inner.state.revoked.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn no_more_give_way_than_are_in_the_way_and_the_heaviest_first() {
    let budget = budget();
    let small: Vec<Holder> = (0..10).map(|_| budget.holder()).collect();
    for holder in &small {
        holder.lease(100).await.unwrap();
    }
    let large = budget.holder();
    large.lease(2_000).await.unwrap();
    let good = budget.holder();
    let ending = async {
        large.revoked().await;
        drop(large);
    };
    let (lease, ()) = tokio::join!(good.lease(500), ending);
    lease.unwrap();
    assert_eq!(budget.usage().revoked, 1);
}

#[tokio::test]
async fn what_finds_no_room_is_not_kept() {
    let budget = budget();
    let (one, two) = (budget.holder(), budget.holder());
    one.lease(2_500).await.unwrap();
    assert!(two.keep(400));
    assert!(!two.keep(600), "100 are left");
    assert_eq!(leased(&budget), 2_900);
    assert!(two.keep(500));
    two.clear();
    assert_eq!(leased(&budget), 2_500);
}

#[tokio::test(start_paused = true)]
async fn who_has_to_wait_with_bytes_in_memory_is_told_to_write_them() {
    let budget = budget();
    let (one, two) = (budget.holder(), budget.holder());
    assert!(one.keep(1_500) && two.keep(1_500));
    let both = [&one, &two].map(|holder| async move {
        let writing = async {
            holder.pressed().await;
            holder.clear();
        };
        let (lease, ()) = tokio::join!(holder.lease(1_400), writing);
        lease
    });
    let both = futures_util::future::join_all(both).await;
    assert_eq!(both, [Ok(()), Ok(())]);
    assert_eq!(budget.usage().revoked, 0);
}

#[tokio::test(start_paused = true)]
async fn nobody_gives_way_while_there_is_enough() {
    let budget = budget();
    let idle = budget.holder();
    idle.lease(2_000).await.unwrap();
    tokio::time::advance(PATIENCE * 1_000).await;
    let good = budget.holder();
    for _ in 0..100 {
        good.lease(1_000).await.unwrap();
        good.clear();
    }
    assert_eq!(budget.usage().revoked, 0);
}

#[test]
fn windows_shrink_with_their_number_and_come_back() {
    let budget = Budget::new(64 << 20);
    let (least, most) = (64 << 10, 8 << 20);
    let many: Vec<Window> = (0..1_000).map(|_| budget.window(least, most)).collect();
    assert_eq!(many[0].bytes(), 2 << 20, "an eighth of a quarter");
    assert!(many.windows(2).all(|two| two[0].bytes() >= two[1].bytes()));
    assert_eq!(many[999].bytes(), least);
    let more_than_least: u64 = many
        .iter()
        .map(Window::bytes)
        .filter(|bytes| *bytes > least)
        .sum();
    assert!(more_than_least <= 16 << 20);
    drop(many);
    assert_eq!(budget.window(least, most).bytes(), 2 << 20);
}

#[tokio::test]
async fn credit_shrinks_with_the_number_of_sessions_but_not_to_nothing() {
    let budget = Budget::new(4_000_000);
    let mut sessions = vec![budget.holder()];
    assert_eq!(budget.credit(8_000, 10), 8_000);
    assert_eq!(budget.credit(9_000_000, 10), 3_000_000);
    sessions.extend((0..2_999).map(|_| budget.holder()));
    assert_eq!(budget.credit(8_000, 10), 1_000);
    assert_eq!(budget.credit(8_000, 5_000), 5_000);
    assert_eq!(budget.credit(8_000, 9_000), 9_000);
}

#[tokio::test]
async fn what_is_leased_for_a_message_on_its_way_stays_when_the_one_before_is_done() {
    let budget = budget();
    let one = budget.holder();
    one.lease(100).await.unwrap();
    one.lease(2_000).await.unwrap();
    one.set_arriving(2_000);
    one.serve();
    assert!(one.keep(0));
    assert_eq!(leased(&budget), 2_000);
    one.set_arriving(0);
    one.clear();
    assert_eq!(leased(&budget), 0);
    // More cannot stay than was leased.
    one.lease(3_000).await.unwrap();
    one.set_arriving(9_000);
    assert!(one.keep(500));
    assert_eq!(leased(&budget), 3_000);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_gives_way_though_the_receiver_works_on_what_it_sent() {
    let budget = budget();
    let (unread, good) = (budget.holder(), budget.holder());
    unread.lease(3_000).await.unwrap();
    unread.serve();
    let reading = async {
        let read = unread.for_client(std::future::pending::<()>()).await;
        assert_eq!(read, Err(Revoked));
        assert!(unread.inner.state.is_served.load(Ordering::Acquire));
        drop(unread);
    };
    let begun = Instant::now();
    let (lease, ()) = tokio::join!(good.lease(1_000), reading);
    lease.unwrap();
    assert!(begun.elapsed() >= PATIENCE && begun.elapsed() <= PATIENCE * 3);
    assert_eq!(budget.usage().revoked, 1);
}

#[tokio::test(start_paused = true)]
async fn who_needs_little_does_not_wait_for_those_who_need_much() {
    let budget = Budget::new(64 << 20);
    let large: Vec<Holder> = (0..100).map(|_| budget.holder()).collect();
    let mut waiting: Vec<_> = large
        .iter()
        .map(|holder| Box::pin(holder.lease(16 << 20)))
        .collect();
    let mut got = 0;
    for lease in &mut waiting {
        got += u32::from(!is_pending(lease.as_mut()));
    }
    assert_eq!(got, 2, "two fit, and a part is left");
    let small = budget.holder();
    for _ in 0..100 {
        assert!(small.try_lease(64 << 10));
    }
    small.clear();
    drop(waiting);
    drop(large);
    // All of it is there again.
    let all = budget.holder();
    assert!(all.try_lease(48 << 20));
    all.clear();
    assert_eq!(budget.bulk.available(), 36 << 20);
}

#[tokio::test(start_paused = true)]
async fn those_who_hold_much_give_way_to_others_who_need_much() {
    let budget = Budget::new(64 << 20);
    let (one, two, good) = (budget.holder(), budget.holder(), budget.holder());
    one.lease(16 << 20).await.unwrap();
    two.lease(16 << 20).await.unwrap();
    let ending = async {
        tokio::select! {
            () = one.revoked() => one.clear(),
            () = two.revoked() => two.clear(),
        }
    };
    let (lease, ()) = tokio::join!(good.lease(16 << 20), ending);
    lease.unwrap();
    assert_eq!(budget.usage().revoked, 1);
}

#[tokio::test(start_paused = true)]
async fn signs_of_life_are_no_progress() {
    let budget = budget();
    let (pinging, busy, good) = (budget.holder(), budget.holder(), budget.holder());
    pinging.lease(1_500).await.unwrap();
    busy.lease(1_500).await.unwrap();
    let ending = async {
        let mut ticks = tokio::time::interval(PATIENCE / 5);
        while !pinging.is_revoked() {
            for one in [&pinging, &busy] {
                one.serve();
                assert!(one.keep(1_500));
            }
            busy.progressed();
            ticks.tick().await;
        }
        drop(pinging);
    };
    let (lease, ()) = tokio::join!(good.lease(1_000), ending);
    lease.unwrap();
    assert!(!busy.is_revoked());
    // It was told that others wait.
    busy.pressed().await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_and_has_little_does_not_give_way_to_others_who_wait() {
    let budget = budget();
    let (good, crowd) = (budget.holder(), budget.holder());
    good.lease(100).await.unwrap();
    let others: Vec<Holder> = (0..10).map(|_| budget.holder()).collect();
    for other in &others {
        other.lease(250).await.unwrap();
    }
    crowd.lease(400).await.unwrap();
    let mut waits = Vec::new();
    for other in others {
        waits.push(async move {
            // Ends when it has to give way, or gets what it waits for and ends then.
            let _ = other.lease(300).await;
            drop(other);
        });
    }
    let ending = async {
        crowd.revoked().await;
        drop(crowd);
    };
    let mine = async {
        good.lease(300).await.unwrap();
        good.clear();
    };
    tokio::join!(mine, ending, futures_util::future::join_all(waits));
    assert!(!good.is_revoked());
}

#[tokio::test(start_paused = true)]
async fn seats_take_from_what_can_be_leased_and_leave_a_part() {
    let budget = Budget::new(64 << 20);
    let one = budget.holder();
    one.lease(40 << 20).await.unwrap();
    // The 12 MiB that are free, and the rest of what comes back.
    let seats: Vec<Seat> = (0..128).map(|_| budget.seat()).collect();
    assert_eq!(budget.leasable(), 32 << 20);
    assert_eq!(budget.free.available(), 0);
    one.clear();
    assert_eq!(budget.free.available(), 32 << 20);
    assert_eq!(budget.bulk.available(), 24 << 20);
    let more: Vec<Seat> = (0..1_000).map(|_| budget.seat()).collect();
    assert_eq!(budget.leasable(), LEFT);
    assert!(one.try_lease(1 << 20));
    // One larger than all there is still counts as all there is.
    one.lease(1 << 30).await.unwrap();
    assert_eq!(
        budget.usage().leased,
        12 << 20,
        "they leave a part to small ones"
    );
    assert!(budget.holder().try_lease(1 << 20));
    drop(more);
    drop(seats);
    one.clear();
    assert_eq!(leased(&budget), 0);
    assert_eq!(budget.bulk.available(), 36 << 20);
    // A third, where that is more.
    let budget = Budget::new(256 << 20);
    let seats: Vec<Seat> = (0..2_000).map(|_| budget.seat()).collect();
    assert_eq!(budget.leasable(), 64 << 20);
    drop(seats);
    assert_eq!(budget.leasable(), budget.capacity);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_more_than_seats_leave_gets_what_they_leave() {
    let budget = Budget::new(64 << 20);
    let (one, two) = (budget.holder(), budget.holder());
    one.lease(30 << 20).await.unwrap();
    one.serve();
    let waiting = two.lease(48 << 20);
    tokio::pin!(waiting);
    assert!(is_pending(waiting.as_mut()));
    let seats: Vec<Seat> = (0..1_000).map(|_| budget.seat()).collect();
    let ending = async {
        tokio::time::sleep(PATIENCE * 3).await;
        one.clear();
    };
    let (lease, ()) = tokio::join!(waiting, ending);
    lease.unwrap();
    assert!(two.inner.state.held.load(Ordering::Acquire) <= LEFT);
    drop(seats);
    two.clear();
    assert_eq!(leased(&budget), 0);
}

#[test]
fn the_program_and_its_allocator_are_part_of_the_setting() {
    let capacity = |setting: u64| Budget::of_program(setting).usage().capacity;
    // Seven tenths of what the program leaves, but for a quarter of windows.
    assert_eq!(capacity(256 << 20), (168 << 20) / 4 * 3);
    assert_eq!(capacity(40 << 20), (21 << 20) / 4 * 3);
}

#[tokio::test(start_paused = true)]
async fn somebody_gives_way_also_when_all_wait_and_have_the_same() {
    let budget = budget();
    let holders: Vec<Holder> = (0..5).map(|_| budget.holder()).collect();
    for holder in &holders {
        holder.lease(500).await.unwrap();
    }
    // The first in line is given the rest, and needs more.
    let all = holders.into_iter().map(|holder| async move {
        let lease = holder.lease(600).await;
        holder.clear();
        lease
    });
    let all = futures_util::future::join_all(all);
    let all = tokio::time::timeout(PATIENCE * 20, all).await.unwrap();
    assert!(all.contains(&Ok(())) && all.contains(&Err(Revoked)));
    assert_eq!(leased(&budget), 0);
}

#[tokio::test(start_paused = true)]
async fn what_seats_take_comes_back_though_nobody_waits() {
    let budget = Budget::new(64 << 20);
    let (writes, stays) = (budget.holder(), budget.holder());
    assert!(writes.try_lease(16 << 20) && stays.try_lease(16 << 20));
    let seats: Vec<Seat> = (0..192).map(|_| budget.seat()).collect();
    let begun = Instant::now();
    let writing = async {
        writes.pressed().await;
        writes.clear();
    };
    tokio::select! {
        () = writing => {}
        () = budget.settle() => {}
    }
    assert!(!stays.is_revoked() && budget.free.owed() == 0);
    let more: Vec<Seat> = (0..192).map(|_| budget.seat()).collect();
    assert!(budget.free.owed() == 0 && budget.bulk.owed() > 0);
    tokio::select! {
        () = stays.revoked() => drop(stays),
        () = budget.settle() => {}
        () = tokio::time::sleep(PATIENCE * 20) => panic!("nobody gave way"),
    }
    assert!(begun.elapsed() <= PATIENCE * 3);
    assert_eq!([budget.free.owed(), budget.bulk.owed()], [0, 0]);
    drop((seats, more));
    assert_eq!(leased(&budget), 0);
    assert_eq!(budget.bulk.available(), 36 << 20);
}

#[test]
fn seats_take_first_what_a_line_cannot_count() {
    let budget = Budget::new(16 << 30);
    let seats: Vec<Seat> = (0..1_000).map(|_| budget.seat()).collect();
    assert_eq!(budget.leasable(), budget.capacity);
    drop(seats);
}
