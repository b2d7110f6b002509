//! What documents name is read beside the data path, with patience: a file system that does not answer holds up one reader and nobody
//! else.

use crate::tasks::apart;
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{sync::oneshot, time::timeout};

/// How long a file may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Readers that may be late at once. A namespace has no more of them than stay free: whatever one of them names, others find a place.
const LATE: usize = 8;

/// Readers that did not end in time, by what they read: each keeps a thread of its own, so nobody begins again what is under way.
#[derive(Debug)]
pub(super) struct Reading<T> {
    late: HashMap<String, Late<T>>,
    /// What was read since the last [`Reading::settle`].
    wanted: HashSet<String>,
    patience: Duration,
}

#[derive(Debug)]
struct Late<T> {
    /// Whose documents name it.
    namespace: String,
    /// Gone once its thread has ended.
    running: Weak<()>,
    /// `None` if nobody wants it any more: what it gives is dropped at once, for it may be a key.
    answer: Option<oneshot::Receiver<Result<T, String>>>,
}

impl<T> Default for Reading<T> {
    fn default() -> Self {
        Self { late: HashMap::new(), wanted: HashSet::new(), patience: PATIENCE }
    }
}

impl<T: Send + 'static> Reading<T> {
    /// What `read` gives, which blocks; of a reader that was late before, what it gave. `of` tells what is read for the namespace.
    ///
    /// # Errors
    /// It cannot be read, or not now; in words.
    pub(super) async fn read(
        &mut self,
        namespace: &str,
        of: &str,
        read: impl FnOnce() -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        self.late.retain(|_, late| late.answer.is_some() || late.running.strong_count() > 0);
        self.wanted.insert(of.to_owned());
        let (mut reader, patience) = match self.late.remove(of) {
            Some(late) => (late, Duration::ZERO),
            None => (self.begin(namespace, read)?, self.patience),
        };
        let ended = match &mut reader.answer {
            Some(answer) => timeout(patience, answer).await.ok(),
            None => None,
        };
        match ended {
            Some(read) => read.unwrap_or_else(|_| Err("whoever read its files panicked: see the log".to_owned())),
            None => {
                self.late.insert(of.to_owned(), reader);
                Err("its files cannot be read: their file system does not answer".to_owned())
            }
        }
    }

    fn begin(
        &self,
        namespace: &str,
        read: impl FnOnce() -> Result<T, String> + Send + 'static,
    ) -> Result<Late<T>, String> {
        let own = self.late.values().filter(|late| late.namespace == namespace).count();
        if own >= LATE.saturating_sub(self.late.len()) {
            return Err(format!(
                "its files are not read now: of {} others, {own} of {namespace}, the file system does not answer, and no more are \
                 waited for at once",
                self.late.len()
            ));
        }
        let running = Arc::new(());
        let (namespace, known) = (namespace.to_owned(), Arc::downgrade(&running));
        let answer = apart::begin("files", running, read)
            .map_err(|error| format!("its files cannot be read: this machine gives no thread for that: {error}"))?;
        Ok(Late { namespace, running: known, answer: Some(answer) })
    }

    /// All that is wanted was read, or waited for: what was not is given up.
    pub(super) fn settle(&mut self) {
        for (_, late) in self.late.iter_mut().filter(|(of, _)| !self.wanted.contains(*of)) {
            late.answer = None;
        }
        self.wanted.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Mutex, mpsc};

    type Files = Reading<Arc<()>>;

    fn impatient() -> Files {
        Reading { patience: Duration::from_millis(20), ..Reading::default() }
    }

    /// A file system that does not answer until it is told to, once for each reader.
    fn hung() -> (mpsc::SyncSender<()>, impl Fn() -> Result<(), String> + Clone + Send + 'static) {
        let (answer, answers) = mpsc::sync_channel(100);
        let answers = Arc::new(Mutex::new(answers));
        let read = move || answers.lock().map_err(|_| "poisoned")?.recv().map_err(|error| error.to_string());
        (answer, read)
    }

    #[tokio::test]
    async fn who_reads_for_long_is_waited_for_once_and_asked_again_later() {
        let (answer, hangs) = hung();
        let mut reading = Reading { patience: Duration::from_millis(20), ..Reading::default() };
        let late = reading.read("shop", "a", move || hangs().map(|()| 1)).await;
        assert!(late.unwrap_err().contains("does not answer"));
        let again = reading.read("shop", "a", || panic!("one thread is enough")).await;
        assert!(again.is_err());
        assert_eq!(reading.read("shop", "b", || Ok(2)).await, Ok(2), "others are not held up");
        answer.send(()).unwrap();
        let mut read = Err(String::new());
        while read.is_err() {
            read = reading.read("shop", "a", || Ok(1)).await;
        }
        assert_eq!(read, Ok(1));
        assert_eq!(reading.read("shop", "a", || Ok(3)).await, Ok(3), "and then anew");
    }

    #[test]
    fn files_that_hang_keep_nobody_from_the_disk() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
        let (answer, hangs) = hung();
        runtime.block_on(async {
            let mut reading = impatient();
            assert!(reading.read("shop", "a", move || hangs().map(Arc::new)).await.is_err());
            let disk = crate::tasks::Tasks::new().blocking(|| 8);
            assert_eq!(timeout(Duration::from_secs(20), disk).await.expect("the disk is free").unwrap(), 8);
        });
        answer.send(()).unwrap();
    }

    #[tokio::test]
    async fn so_many_are_late_and_one_namespace_leaves_places_to_others() {
        let ((answer, hangs), mut reading) = (hung(), impatient());
        let mut refused = Vec::new();
        for (namespace, count) in [("shop", 8), ("bank", 8), ("post", 8), ("farm", 8), ("mill", 8)] {
            for number in 0..count {
                let (hangs, of) = (hangs.clone(), format!("{namespace} {number}"));
                let read = reading.read(namespace, &of, move || hangs().map(Arc::new)).await;
                refused.extend(read.err().filter(|why| why.contains("not read now")).map(|_| namespace));
            }
        }
        let begun = |namespace| 8 - refused.iter().filter(|one| **one == namespace).count();
        assert_eq!(["shop", "bank", "post", "farm", "mill"].map(begun), [4, 2, 1, 1, 0]);
        let healthy = reading.read("shop", "another", || Ok(Arc::default())).await;
        assert!(healthy.unwrap_err().contains("of 8 others, 4 of shop"), "it says why");
        (0..LATE).for_each(|_| answer.send(()).unwrap());
        let mut read = Err(String::new());
        while read.is_err() {
            // What is not wanted any more makes room when it ends.
            reading.settle();
            read = reading.read("mill", "another", || Ok(Arc::default())).await;
        }
    }

    #[tokio::test]
    async fn what_nobody_wants_any_more_is_not_kept() {
        let ((answer, hangs), mut reading) = (hung(), impatient());
        let key = Arc::new(());
        let read = key.clone();
        assert!(reading.read("shop", "a", move || hangs().map(|()| read)).await.is_err());
        reading.settle();
        assert!(reading.read("shop", "a", || panic!("it is under way")).await.is_err(), "it was wanted just now");
        reading.settle();
        reading.settle();
        answer.send(()).unwrap();
        let gone = async {
            while Arc::strong_count(&key) > 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(20), gone).await.expect("nobody keeps what it read");
        let mut read = Err(String::new());
        while read.is_err() {
            read = reading.read("shop", "a", || Ok(Arc::default())).await;
        }
    }
}
