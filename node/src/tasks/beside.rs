//! A thread with a runtime of its own, beside control's: what lives on it waits for nothing that control does, and its tasks follow each
//! other without waking another thread.

use std::{io, time::Duration};

use tokio::{
    runtime::{Builder, EnterGuard, Handle},
    sync::oneshot,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{IDLE_THREADS, apart};

/// Threads for the disk.
const BLOCKING_THREADS: usize = 2;
/// How long work on these threads has at the end.
const LAST_WORK: Duration = Duration::from_secs(1);

/// The thread; it ends with [`Beside::end`], or when this is dropped.
#[derive(Debug)]
pub struct Beside {
    handle: Handle,
    over: DropGuard,
    ended: oneshot::Receiver<()>,
}

impl Beside {
    /// A thread of that name.
    ///
    /// # Errors
    /// The machine gives no thread or no runtime.
    pub(super) fn start(name: &'static str) -> io::Result<Beside> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .thread_name(name)
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_keep_alive(IDLE_THREADS)
            .build()?;
        let (handle, over) = (runtime.handle().clone(), CancellationToken::new());
        let until = over.clone();
        let ended = apart::begin(name, (), move || {
            runtime.block_on(until.cancelled());
            runtime.shutdown_timeout(LAST_WORK);
        })?;
        Ok(Beside { handle, over: over.drop_guard(), ended })
    }

    /// Until the guard is dropped what this thread spawns and opens belongs to the other one. Not to be held over an `await`.
    pub fn enter(&self) -> EnterGuard<'_> {
        self.handle.enter()
    }

    /// Ends its tasks where they wait, and gives what they have on the disk's threads the time to end.
    pub async fn end(self) {
        drop(self.over);
        // One that hangs is not waited for.
        drop(tokio::time::timeout(2 * LAST_WORK, self.ended).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::Tasks;
    use std::thread;

    #[tokio::test]
    async fn its_tasks_run_on_its_thread_until_its_end() {
        let (beside, tasks) = (Tasks::new().beside("beside").unwrap(), Tasks::new());
        let (tell, told) = oneshot::channel();
        let (hold, held) = oneshot::channel::<()>();
        let guard = beside.enter();
        tasks.detach("there", async move {
            let _hold = hold;
            drop(tell.send(thread::current().name().map(str::to_owned)));
            std::future::pending::<()>().await;
        });
        drop(guard);
        assert_eq!(told.await.unwrap().as_deref(), Some("beside"));
        beside.end().await;
        assert!(held.await.is_err(), "its end drops its tasks");
    }
}
