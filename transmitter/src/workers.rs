//! Threads for work with files. Each keeps memory of its own, so they are few. tokio's pool was seen
//! with 88 threads for 32 images in flight, and with 53 when four worked at a time: presumably as it
//! makes another one whenever those that it has woken do not run yet.

use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};

/// Threads for the files of images. Files that were just captured are in memory, and a disk of one's
/// own is busy with these; one far away would do more at a time.
const FILE_THREADS: usize = 4;

/// Work that takes longer has its thread for itself, and others have its place: a file on a disk
/// that hangs must not hold them up.
const PATIENCE: Duration = Duration::from_millis(100);

/// Threads at most, with those that hang. Then others wait for one of them.
const MOST_THREADS: usize = 128;

/// For the files of images, wherever they are.
pub(crate) static FILES: LazyLock<Workers> = LazyLock::new(|| Workers::new(FILE_THREADS));

/// For the file of receipts, which is written by one at a time, and often on another disk.
pub(crate) static RECEIPTS: LazyLock<Workers> = LazyLock::new(|| Workers::new(1));

/// A few threads, of the whole process as memory is.
pub(crate) struct Workers {
    places: Semaphore,
    patience: Duration,
    most_idle: usize,
    most_threads: usize,
    threads: Arc<Mutex<Threads>>,
    /// There is no thread for work that waits.
    is_short: AtomicBool,
}

#[derive(Default)]
struct Threads {
    count: usize,
    /// Those that wait for work. The one that began to wait last goes first: what it used is still
    /// in the processor's cache.
    idle: Vec<oneshot::Sender<Job>>,
}

/// What a thread does; it says when it is done, before anybody learns of the result.
type Job = Box<dyn FnOnce(&dyn Fn()) + Send>;

impl Workers {
    fn new(count: usize) -> Self {
        Self {
            places: Semaphore::new(count),
            patience: PATIENCE,
            most_idle: count,
            most_threads: MOST_THREADS,
            threads: Arc::default(),
            is_short: AtomicBool::new(false),
        }
    }

    /// Work that is being done, without that which has its thread for itself.
    pub(crate) fn busy(&self) -> usize {
        self.size().saturating_sub(self.places.available_permits())
    }

    /// Work that may be done at a time, without that which has its thread for itself.
    pub(crate) fn size(&self) -> usize {
        self.most_idle
    }

    /// Threads, those that wait or hang included.
    pub(crate) fn threads(&self) -> usize {
        self.threads.lock().count
    }

    /// Does work where it may block. Work that has begun is done to its end, also when nobody waits
    /// for it any more.
    ///
    /// # Errors
    /// What the work ended with, or that it panicked. A thread that cannot be had is waited for: it
    /// says nothing about the file.
    pub(crate) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        // It is never closed.
        let place = self.places.acquire().await.map_err(io::Error::other)?;
        let (reply, mut answer) = oneshot::channel();
        let mut job: Job = Box::new(move |done| {
            let result = catch_unwind(AssertUnwindSafe(work));
            // Whoever is answered gives up the place; the thread for the next is there by then.
            done();
            let _ = reply.send(result);
        });
        while let Err((unbegun, problem)) = self.give(job) {
            job = unbegun;
            if !self.is_short.swap(true, Relaxed) {
                tracing::warn!("files wait for a thread: {problem}");
            }
            tokio::time::sleep(self.patience).await;
        }
        if self.is_short.swap(false, Relaxed) {
            tracing::info!("there are threads for files again");
        }
        let answered = match tokio::time::timeout(self.patience, &mut answer).await {
            Ok(answered) => answered,
            Err(_) => {
                drop(place);
                answer.await
            }
        };
        let panicked = |_| io::Error::other("work with a file panicked");
        answered.map_err(io::Error::other)?.map_err(panicked)?
    }

    /// Gives the job to a thread that waits, or to a new one; or back, with the reason.
    fn give(&self, mut job: Job) -> Result<(), (Job, String)> {
        let mut threads = self.threads.lock();
        while let Some(thread) = threads.idle.pop() {
            match thread.send(job) {
                Ok(()) => return Ok(()),
                Err(unsent) => job = unsent,
            }
        }
        if threads.count >= self.most_threads {
            let problem = format!("{} hang, which is as many as may", threads.count);
            return Err((job, problem));
        }
        let (sender, first) = oneshot::channel();
        let (others, most_idle) = (Arc::downgrade(&self.threads), self.most_idle);
        let thread = std::thread::Builder::new().name("files".to_owned());
        if let Err(error) = thread.spawn(move || serve(first, &others, most_idle)) {
            return Err((job, format!("the system gives no other one: {error}")));
        }
        threads.count += 1;
        sender
            .send(job)
            .map_err(|job| (job, "a thread has ended".to_owned()))
    }
}

/// Does one job after the other, until there are enough other threads.
fn serve(first: oneshot::Receiver<Job>, threads: &Weak<Mutex<Threads>>, most_idle: usize) {
    let mut next = Some(first);
    while let Some(job) = next.and_then(|next| next.blocking_recv().ok()) {
        let given = Cell::new(None);
        job(&|| {
            let Some(threads) = threads.upgrade() else {
                return;
            };
            let mut threads = threads.lock();
            if threads.idle.len() < most_idle {
                let (sender, receiver) = oneshot::channel();
                threads.idle.push(sender);
                given.set(Some(receiver));
            } else {
                threads.count -= 1;
            }
        });
        next = given.take();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::sync::mpsc::{Receiver, Sender, channel};

    use tokio::task::JoinHandle;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);
    const SHORT: Duration = Duration::from_millis(1);

    fn workers(count: usize, patience: Duration, most_threads: usize) -> Arc<Workers> {
        Arc::new(Workers {
            patience,
            most_threads,
            ..Workers::new(count)
        })
    }

    /// What is waited for must come; a test that hangs would tell nobody.
    async fn soon<T>(awaited: impl Future<Output = T>) -> T {
        let limit = tokio::time::timeout(Duration::from_secs(60), awaited);
        limit.await.expect("it comes within a minute")
    }

    /// Work that hangs until it is told not to.
    struct Hanging {
        end: Sender<()>,
        ends: Arc<Mutex<Receiver<()>>>,
        all: Vec<JoinHandle<io::Result<bool>>>,
    }

    impl Hanging {
        fn new() -> Self {
            let (end, ends) = channel();
            let (ends, all) = (Arc::new(Mutex::new(ends)), Vec::new());
            Self { end, ends, all }
        }

        /// One more, which has begun.
        async fn hang(&mut self, workers: &Arc<Workers>) {
            let (begun, has_begun) = oneshot::channel();
            let (workers, ends) = (Arc::clone(workers), Arc::clone(&self.ends));
            let work = move || {
                let _ = begun.send(());
                Ok(ends.lock().recv().is_ok())
            };
            self.all
                .push(tokio::spawn(async move { workers.work(work).await }));
            soon(has_begun).await.expect("it begins");
        }

        async fn end(self) {
            for hung in &self.all {
                assert!(!hung.is_finished(), "it hangs until it is told not to");
                self.end.send(()).expect("it waits still");
            }
            for hung in self.all {
                assert!(soon(hung).await.expect("ended").expect("done"));
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_few_threads_do_the_work_of_many() {
        let workers = workers(2, LONG, MOST_THREADS);
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
        let threads: HashSet<_> = soon(all.join_all()).await.into_iter().collect();
        let most = most.load(SeqCst);
        assert!((1..=2).contains(&most), "{most} at a time");
        assert!(
            (1..=2).contains(&threads.len()),
            "{} threads",
            threads.len()
        );
    }

    #[tokio::test]
    async fn work_that_hangs_holds_up_nobody() {
        let workers = workers(1, SHORT, MOST_THREADS);
        let mut hanging = Hanging::new();
        for _ in 0..3 {
            hanging.hang(&workers).await;
        }
        soon(workers.work(|| Ok(()))).await.expect("done");
        assert_eq!(workers.threads.lock().count, 4);
        hanging.end().await;
        soon(workers.work(|| Ok(()))).await.expect("done");
        let threads = workers.threads.lock();
        assert_eq!(
            (threads.count, threads.idle.len()),
            (1, 1),
            "the others end"
        );
    }

    #[tokio::test]
    async fn a_thread_that_cannot_be_had_is_waited_for() {
        let workers = workers(1, SHORT, 1);
        let mut hanging = Hanging::new();
        hanging.hang(&workers).await;
        let other = {
            let workers = Arc::clone(&workers);
            tokio::spawn(async move { workers.work(|| Ok(())).await })
        };
        let is_short = async {
            while !workers.is_short.load(Relaxed) {
                tokio::task::yield_now().await;
            }
        };
        soon(is_short).await;
        assert!(!other.is_finished());
        hanging.end().await;
        soon(other).await.expect("ended").expect("done");
        assert_eq!(workers.threads.lock().count, 1);
    }

    #[tokio::test]
    async fn who_panics_holds_up_nobody() {
        let workers = workers(1, LONG, 1);
        let failed = soon(workers.work::<()>(|| panic!("on purpose"))).await;
        assert!(failed.is_err());
        soon(workers.work(|| Ok(()))).await.expect("done");
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_is_done_all_the_same() {
        let workers = workers(1, LONG, MOST_THREADS);
        let (done, is_done) = oneshot::channel();
        let mut work = Box::pin(workers.work(move || {
            let _ = done.send(());
            Ok(())
        }));
        futures_util::FutureExt::now_or_never(&mut work);
        drop(work);
        soon(is_done).await.expect("it was done");
        soon(workers.work(|| Ok(()))).await.expect("done");
    }
}
