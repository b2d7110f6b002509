//! Threads of their own for work that another machine can hold up for as long as it likes: names that are looked up, files on file
//! systems of a network. On the threads that a runtime has for the disk it would keep everybody from the disk.

use std::io;

use tokio::sync::{Semaphore, oneshot};

/// So many threads at most, for one kind of work.
#[derive(Debug)]
pub struct Apart {
    name: &'static str,
    places: Semaphore,
}

impl Apart {
    /// Threads of that name.
    #[must_use]
    pub const fn new(name: &'static str, most: usize) -> Self {
        Self { name, places: Semaphore::const_new(most) }
    }

    /// Runs `work` on a thread of its own as soon as there is a place. Who waits no longer leaves the thread running, and its place
    /// taken until it ends; the end of the node does not wait for it.
    ///
    /// # Errors
    /// The machine gives no thread, or `work` panicked.
    pub async fn run<T: Send + 'static>(&'static self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let place = self.places.acquire().await.map_err(io::Error::other)?;
        begin(self.name, place, work)?.await.map_err(|_| io::Error::other("its thread panicked"))
    }
}

/// Begins `work` on a thread of its own, which drops `held` when it ends. Whoever calls bounds how many there are. Of one that panicked
/// nothing comes.
///
/// # Errors
/// The machine gives no thread.
pub fn begin<T: Send + 'static>(
    name: &str,
    held: impl Send + 'static,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<oneshot::Receiver<T>> {
    let (tell, told) = oneshot::channel();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let result = work();
        drop(held);
        // Nobody waits for it any more: it is dropped here.
        drop(tell.send(result));
    })?;
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::mpsc, time::Duration};
    use tokio::time::timeout;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn what_hangs_keeps_its_own_places_and_nobody_from_the_disk() {
        static SLOW: Apart = Apart::new("slow", 2);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let (answer, answers) = mpsc::sync_channel::<()>(2);
            let answers = std::sync::Arc::new(std::sync::Mutex::new(answers));
            let hang = || {
                let answers = answers.clone();
                move || drop(answers.lock().map(|answers| answers.recv()))
            };
            for _ in 0..2 {
                // Whoever goes away does not free the place.
                assert!(timeout(Duration::from_millis(20), SLOW.run(hang())).await.is_err());
            }
            assert!(timeout(Duration::from_millis(20), SLOW.run(|| 7)).await.is_err(), "there is no third place");
            let disk = crate::tasks::Tasks::new().blocking(|| 8);
            assert_eq!(timeout(PATIENCE, disk).await.expect("the disk is free").unwrap(), 8);
            (0..2).for_each(|_| answer.send(()).unwrap());
            assert_eq!(timeout(PATIENCE, SLOW.run(|| 9)).await.expect("places are free again").unwrap(), 9);
        });
    }

    #[tokio::test]
    async fn a_panic_gives_the_place_back() {
        static ONE: Apart = Apart::new("one", 1);
        assert!(ONE.run(|| panic!("out")).await.is_err());
        assert_eq!(timeout(PATIENCE, ONE.run(|| 1)).await.expect("the place is free").unwrap(), 1);
    }
}
