//! Threads for work with the files of images. Each keeps memory of its own, about a megabyte after
//! some ten thousand images, so they are few; tokio's own pool makes one for every image that is in
//! flight, and does not give them up while there is work.

use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};

/// Threads that work at a time, unless some hang. A disk gains nothing from more than it has queues
/// for, and files that were just captured are read from memory.
const WORKERS: usize = 4;

/// Work that takes longer does not count any more: a file on a disk that hangs must not hold up the
/// others.
const PATIENCE: Duration = Duration::from_secs(1);

/// Of the whole process, as memory is.
static WORK: LazyLock<Workers> = LazyLock::new(|| Workers::new(WORKERS));

/// Does work where it may block. Work that has begun is done to its end, also when nobody waits for
/// it any more.
///
/// # Errors
/// What the work ended with; that it panicked; that no thread can be had.
pub(crate) async fn work<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    WORK.work(work).await
}

/// What a thread does; it says when it is done, before anybody learns of the result.
type Job = Box<dyn FnOnce(&dyn Fn()) + Send>;

struct Workers {
    places: Semaphore,
    most_idle: usize,
    idle: Arc<Mutex<Idle>>,
}

/// Threads that wait for work. The one that began to wait last goes first: what it used is still in
/// the processor's cache.
type Idle = Vec<oneshot::Sender<Job>>;

impl Workers {
    fn new(count: usize) -> Self {
        Self {
            places: Semaphore::new(count),
            most_idle: count,
            idle: Arc::default(),
        }
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        // It is never closed.
        let place = self.places.acquire().await.map_err(io::Error::other)?;
        let (reply, mut answer) = oneshot::channel();
        self.give(Box::new(move |done| {
            let result = catch_unwind(AssertUnwindSafe(work));
            // Whoever is answered gives up the place; the thread for the next is there by then.
            done();
            let _ = reply.send(result);
        }))?;
        let answered = match tokio::time::timeout(PATIENCE, &mut answer).await {
            Ok(answered) => answered,
            Err(_) => {
                drop(place);
                answer.await
            }
        };
        let panicked = |_| io::Error::other("work with a file panicked");
        answered.map_err(io::Error::other)?.map_err(panicked)?
    }

    /// Gives the job to a thread that waits, or to a new one.
    fn give(&self, mut job: Job) -> io::Result<()> {
        loop {
            let Some(worker) = self.idle.lock().pop() else {
                break;
            };
            match worker.send(job) {
                Ok(()) => return Ok(()),
                Err(unsent) => job = unsent,
            }
        }
        let idle = Arc::downgrade(&self.idle);
        let most = self.most_idle;
        let thread = std::thread::Builder::new().name("file-worker".to_owned());
        thread.spawn(move || serve(job, &idle, most)).map(drop)
    }
}

/// Does one job after the other, until there are enough other threads.
fn serve(first: Job, idle: &Weak<Mutex<Idle>>, most_idle: usize) {
    let mut next = Some(first);
    while let Some(job) = next {
        let given = Cell::new(None);
        job(&|| {
            let Some(idle) = idle.upgrade() else {
                return;
            };
            let mut idle = idle.lock();
            if idle.len() < most_idle {
                let (sender, receiver) = oneshot::channel();
                idle.push(sender);
                given.set(Some(receiver));
            }
        });
        next = given.take().and_then(|given| given.blocking_recv().ok());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::sync::mpsc::channel;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_few_threads_do_the_work_of_many() {
        let workers = Arc::new(Workers::new(2));
        let (busy, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..256 {
            let (workers, busy, most) = (workers.clone(), busy.clone(), most.clone());
            all.spawn(async move {
                let work = move || {
                    most.fetch_max(busy.fetch_add(1, SeqCst) + 1, SeqCst);
                    std::thread::yield_now();
                    busy.fetch_sub(1, SeqCst);
                    Ok(std::thread::current().id())
                };
                workers.work(work).await.expect("the work is done")
            });
        }
        let threads: HashSet<_> = all.join_all().await.into_iter().collect();
        assert!((1..=2).contains(&most.load(SeqCst)), "{most:?} at a time");
        assert!(
            (1..=2).contains(&threads.len()),
            "{} threads",
            threads.len()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_hangs_holds_up_nobody_for_long() {
        let workers = Arc::new(Workers::new(2));
        let (end, ends) = channel::<()>();
        let ends = Arc::new(Mutex::new(ends));
        let mut hanging = Vec::new();
        for _ in 0..3 {
            let (workers, ends) = (Arc::clone(&workers), Arc::clone(&ends));
            let work = async move { workers.work(move || Ok(ends.lock().recv().is_ok())).await };
            hanging.push(tokio::spawn(work));
        }
        let other = {
            let workers = Arc::clone(&workers);
            tokio::spawn(async move { workers.work(|| Ok(())).await })
        };
        // Two hang, and the third when they are given up; the other one has the second place then.
        // The paused clock knows nothing of these threads, and may be ahead of them.
        let begun = tokio::time::Instant::now();
        other.await.expect("ended").expect("done");
        assert!(begun.elapsed() >= PATIENCE, "it waited for a place");
        assert!(hanging.iter().all(|hung| !hung.is_finished()));
        for _ in &hanging {
            end.send(()).expect("they wait still");
        }
        for hung in hanging {
            let told = hung.await.expect("ended").expect("done");
            assert!(told, "it ended only when it was told");
        }
        assert_eq!(
            workers.places.available_permits(),
            2,
            "none is given back twice"
        );
        assert!(
            workers.idle.lock().len() <= 2,
            "threads that were made for it end"
        );
    }

    #[tokio::test]
    async fn who_panics_holds_up_nobody() {
        let workers = Workers::new(1);
        let failed = workers.work::<()>(|| panic!("on purpose")).await;
        assert!(failed.is_err());
        workers.work(|| Ok(())).await.expect("there is a place");
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_is_done_all_the_same() {
        let workers = Workers::new(1);
        let (done, is_done) = oneshot::channel();
        let mut work = Box::pin(workers.work(move || {
            let _ = done.send(());
            Ok(())
        }));
        futures_util::FutureExt::now_or_never(&mut work);
        drop(work);
        is_done.await.expect("it was done");
        workers.work(|| Ok(())).await.expect("there is a place");
    }
}
