//! Tasks, threads and CPU work of a client.
//!
//! By default a client owns one thread with a runtime of its own: a handler that blocks the user's runtime for a minute costs
//! neither the group membership nor other records. `.runtime(handle)` shares the user's runtime instead, which is also what a
//! simulation does; there, CPU work and stream workers run inline, so that a paused clock sees them.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::task::{Context, Poll};
use std::thread;

use futures_util::future::{AbortHandle, Abortable};
use pin_project_lite::pin_project;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::{Error, ErrorKind};

/// A piece of CPU work.
pub type Work = Box<dyn FnOnce() + Send>;

/// Where a client's tasks and CPU work run.
#[derive(Clone)]
pub struct Spawner {
    handle: Handle,
    cpu: Cpu,
    live: Arc<Live>,
}

/// What of a client, or of one owner in it, is still running.
#[derive(Debug, Default)]
struct Live {
    tasks: AtomicUsize,
    threads: AtomicUsize,
    ended: Notify,
    next: AtomicUsize,
    /// How to end each task; in the order they were started, so that an end is the same in every run.
    aborts: Mutex<BTreeMap<usize, AbortHandle>>,
    /// All tasks have been ended; written under the lock of `aborts`, so that none that starts at the same moment is left out.
    is_over: AtomicBool,
    parent: Option<Arc<Self>>,
}

#[derive(Clone)]
enum Cpu {
    Inline,
    /// One thread, started with the first piece of work.
    Thread(Arc<Mutex<Option<mpsc::Sender<Work>>>>),
}

impl Spawner {
    pub(crate) fn new(handle: Handle, inline: bool) -> Self {
        let cpu = if inline { Cpu::Inline } else { Cpu::Thread(Arc::default()) };
        Self { handle, cpu, live: Arc::default() }
    }

    /// The same runtime and CPU thread, with tasks and threads counted for an owner of their own as well.
    pub(crate) fn for_owner(&self) -> Self {
        let live = Live { parent: Some(self.live.clone()), ..Live::default() };
        Self { live: Arc::new(live), ..self.clone() }
    }

    /// The runtime that the tasks run on.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Whether CPU work and workers run inline, on the runtime (a simulation), rather than on threads of their own.
    pub fn is_inline(&self) -> bool {
        matches!(self.cpu, Cpu::Inline)
    }

    /// Runs `work` on the client's CPU thread, or at once where work runs inline.
    pub fn cpu(&self, work: Work) {
        let Cpu::Thread(sender) = &self.cpu else { return work() };
        let mut sender = sender.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = match &*sender {
            Some(sender) => match sender.send(work) {
                Ok(()) => return,
                Err(mpsc::SendError(work)) => work,
            },
            None => work,
        };
        let (fresh, queue) = mpsc::channel::<Work>();
        // The thread is the client's, also where an owner has the first work for it: an owner that closes waits for its own threads, and
        // this one lives on for the others.
        let live = self.live.parent.as_ref().unwrap_or(&self.live).clone();
        let started = Self { live, ..self.clone() }.thread("milena-cpu", move || {
            while let Ok(work) = queue.recv() {
                work();
            }
        });
        match started {
            Ok(()) => {
                // The queue's other end lives in the thread that has just been started.
                let _ = fresh.send(failed);
                *sender = Some(fresh);
            }
            // No thread to be had: slower, and correct.
            Err(_) => failed(),
        }
    }

    /// Ends the CPU thread once it has done what it was given.
    pub(crate) fn stop_cpu(&self) {
        if let Cpu::Thread(sender) = &self.cpu {
            *sender.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// Starts a thread of the client's, counted until it ends.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    #[expect(clippy::disallowed_methods, reason = "the seam itself: the one place where threads start")]
    pub fn thread(&self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let guard = Ending::thread(&self.live);
        let started = thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _guard = guard;
            work();
        });
        started.map(drop).map_err(|error| {
            Error::new(
                ErrorKind::Limit,
                format!("no thread could be started for {name}: {error}. Raise the limit of threads."),
            )
        })
    }

    /// Starts a task; it is counted until it ends, and ends when the handle's `abort` is called.
    #[expect(clippy::disallowed_methods, reason = "the seam itself: the one place where tasks start")]
    pub(crate) fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) -> TaskHandle {
        let (abort, registration) = AbortHandle::new_pair();
        let guard = Ending::task(&self.live, abort.clone());
        if self.live.any(|live| live.is_over.load(Ordering::Acquire)) {
            abort.abort(); // whoever closes has counted on no more tasks
        }
        let task = Abortable::new(task, registration);
        self.handle.spawn(async move {
            let _guard = guard;
            if task.await.is_err() {
                tracing::trace!(task = name, "ended");
            }
        });
        TaskHandle { abort }
    }

    /// The number of tasks alive.
    pub fn tasks(&self) -> usize {
        self.live.tasks.load(Ordering::Acquire)
    }

    /// The number of threads alive, without the I/O thread.
    pub fn threads(&self) -> usize {
        self.live.threads.load(Ordering::Acquire)
    }

    /// Ends all tasks at their next await, and those that are started from now on before their first.
    pub(crate) fn abort_tasks(&self) {
        let aborts = {
            let aborts = self.live.aborts.lock().unwrap_or_else(PoisonError::into_inner);
            self.live.is_over.store(true, Ordering::Release);
            aborts.clone()
        };
        for abort in aborts.values() {
            abort.abort();
        }
    }

    /// Waits until no tasks and no threads are alive.
    pub(crate) async fn drained(&self) {
        loop {
            let mut ended = std::pin::pin!(self.live.ended.notified());
            // Registered before the look, or an end between the two would be missed.
            ended.as_mut().enable();
            if self.tasks() == 0 && self.threads() == 0 {
                return;
            }
            ended.await;
        }
    }

    /// Waits until `deadline`, also for a caller who is not on a tokio runtime.
    #[expect(clippy::disallowed_methods, reason = "the seam itself: the timer belongs to the client's runtime")]
    pub fn sleep_until(&self, deadline: Instant) -> Pin<Box<Sleep>> {
        let _context = self.handle.enter();
        Box::pin(Sleep { timer: tokio::time::sleep_until(deadline), client: self.client().clone(), has_yielded: false })
    }

    /// Whether the client has been closed. (An owner that is closed goes on waiting for its own end.)
    pub fn is_over(&self) -> bool {
        self.client().is_over.load(Ordering::Acquire)
    }

    fn client(&self) -> &Arc<Live> {
        self.live.parent.as_ref().unwrap_or(&self.live)
    }

    /// The time as the client's runtime has it.
    #[expect(clippy::disallowed_methods, reason = "the seam itself: what drivers pass to machines as `now`")]
    pub fn now(&self) -> Instant {
        let _context = self.handle.enter();
        Instant::now()
    }
}

impl fmt::Debug for Spawner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spawner").field("inline", &self.is_inline()).field("live", &self.live).finish()
    }
}

pin_project! {
    /// A timer of the client's runtime. Once the client is closed it is over at once: its runtime may be gone, and tokio's own timer panics
    /// when it is asked then.
    ///
    /// # Cancel safety
    /// Polled again after a pause, it is over at the same moment.
    #[derive(Debug)]
    #[must_use = "a timer does nothing unless it is polled"]
    pub struct Sleep {
        #[pin]
        timer: tokio::time::Sleep,
        client: Arc<Live>,
        has_yielded: bool,
    }
}

impl Sleep {
    /// When it ends.
    pub fn deadline(&self) -> Instant {
        self.timer.deadline()
    }

    /// It ends then instead.
    pub fn reset(self: Pin<&mut Self>, deadline: Instant) {
        if !self.client.is_over.load(Ordering::Acquire) {
            self.project().timer.reset(deadline);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.project();
        if !timer.client.is_over.load(Ordering::Acquire) {
            return timer.timer.poll(cx);
        }
        // A task that begins to wait again and again is ended by its abort, which it meets only between two polls.
        if !std::mem::replace(timer.has_yielded, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

/// A task of a client's. Dropping the handle leaves the task running.
#[derive(Debug, Clone)]
pub struct TaskHandle {
    abort: AbortHandle,
}

impl TaskHandle {
    /// Ends the task at its next await.
    pub fn abort(&self) {
        self.abort.abort();
    }
}

/// Counts down when the task or thread ends, also when it panics.
struct Ending {
    live: Arc<Live>,
    task: Option<usize>,
}

impl Ending {
    fn task(live: &Arc<Live>, abort: AbortHandle) -> Self {
        // Numbered by the client, and known to it: closing the client ends its owners' tasks, too.
        let id = live.parent.as_ref().unwrap_or(live).next.fetch_add(1, Ordering::Relaxed);
        live.each(|live| live.aborts.lock().unwrap_or_else(PoisonError::into_inner).insert(id, abort.clone()));
        Self::count(live, Some(id))
    }

    fn thread(live: &Arc<Live>) -> Self {
        Self::count(live, None)
    }

    fn count(live: &Arc<Live>, task: Option<usize>) -> Self {
        live.each(|live| live.counter(task.is_some()).fetch_add(1, Ordering::AcqRel));
        Self { live: live.clone(), task }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(id) = self.task {
            self.live.each(|live| live.aborts.lock().unwrap_or_else(PoisonError::into_inner).remove(&id));
        }
        self.live.each(|live| {
            live.counter(self.task.is_some()).fetch_sub(1, Ordering::AcqRel);
            live.ended.notify_waiters();
        });
    }
}

impl Live {
    fn counter(&self, task: bool) -> &AtomicUsize {
        if task { &self.tasks } else { &self.threads }
    }

    /// Whether it is so of the owner, or of the client.
    fn any(&self, look: impl Fn(&Self) -> bool) -> bool {
        look(self) || self.parent.as_deref().is_some_and(look)
    }

    /// Visits the owner's count and the client's.
    fn each<T>(&self, visit: impl Fn(&Self) -> T) {
        visit(self);
        if let Some(parent) = &self.parent {
            visit(parent);
        }
    }
}

/// The client's own thread with its own current-thread runtime. Dropping this ends both, without waiting.
pub(crate) struct IoThread {
    stop: Arc<Notify>,
    stopped: Option<tokio::sync::oneshot::Receiver<()>>,
}

impl IoThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the operating system gives no thread or no poller.
    #[expect(clippy::disallowed_methods, reason = "the seam itself: the one place where the I/O thread starts")]
    pub(crate) fn start() -> Result<(Self, Handle), Error> {
        let fail = |error: std::io::Error| {
            Error::new(ErrorKind::Limit, format!("the client's I/O thread could not be started: {error}"))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(fail)?;
        let handle = runtime.handle().clone();
        let stop = Arc::new(Notify::new());
        let (ended, stopped) = tokio::sync::oneshot::channel();
        let until = stop.clone();
        thread::Builder::new()
            .name("milena-io".to_owned())
            .spawn(move || {
                runtime.block_on(until.notified());
                // Drops whatever a task still holds before anybody is told that the thread is gone.
                drop(runtime);
                let _ = ended.send(());
            })
            .map_err(fail)?;
        Ok((Self { stop, stopped: Some(stopped) }, handle))
    }

    /// Ends the thread and waits for it.
    pub(crate) fn stop(mut self) -> impl Future<Output = ()> + Send {
        self.stop.notify_one();
        let stopped = self.stopped.take();
        async move {
            if let Some(stopped) = stopped {
                let _ = stopped.await;
            }
        }
    }
}

impl Drop for IoThread {
    fn drop(&mut self) {
        self.stop.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_io_thread_runs_tasks_and_ends_with_its_owner() {
        let (io, handle) = IoThread::start().unwrap();
        let spawner = Spawner::new(handle, false);
        let (told, hears) = mpsc::channel();
        spawner.spawn("test", async move { told.send(thread::current().name().map(str::to_owned)).unwrap() });
        assert_eq!(hears.recv().unwrap().as_deref(), Some("milena-io"));
        futures_util_block_on(spawner.drained());
        futures_util_block_on(io.stop());
        assert_eq!(spawner.tasks(), 0);
    }

    #[test]
    fn cpu_work_runs_on_one_thread_that_ends_when_told() {
        let (io, handle) = IoThread::start().unwrap();
        let spawner = Spawner::new(handle, false);
        let (told, hears) = mpsc::channel();
        for n in 0..3 {
            let told = told.clone();
            spawner.cpu(Box::new(move || told.send((n, thread::current().name().map(str::to_owned))).unwrap()));
        }
        for n in 0..3 {
            assert_eq!(hears.recv().unwrap(), (n, Some("milena-cpu".to_owned())));
        }
        assert_eq!(spawner.threads(), 1);
        spawner.stop_cpu();
        futures_util_block_on(spawner.drained());
        assert_eq!(spawner.threads(), 0);
        drop(io);
    }

    #[test]
    fn an_owner_that_closes_does_not_wait_for_the_cpu_thread_it_has_started() {
        let (io, handle) = IoThread::start().unwrap();
        let client = Spawner::new(handle, false);
        let owner = client.for_owner();
        let (told, hears) = mpsc::channel();
        owner.cpu(Box::new(move || told.send(()).unwrap()));
        hears.recv().unwrap();
        assert_eq!((owner.threads(), client.threads()), (0, 1));
        futures_util_block_on(owner.drained());
        client.stop_cpu();
        futures_util_block_on(client.drained());
        assert_eq!(client.threads(), 0);
        drop(io);
    }

    fn futures_util_block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }
}
