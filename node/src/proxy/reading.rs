//! What documents name is read beside the data path, with patience: a file system that does not answer holds up one reader and nobody
//! else.

use crate::tasks::Tasks;
use std::{collections::HashMap, time::Duration};
use tokio::{task::JoinHandle, time::timeout};

/// How long a file may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Readers that did not end in time, by what they read: each keeps a thread, so nobody begins again what is under way.
#[derive(Debug)]
pub(super) struct Reading<T> {
    late: HashMap<String, JoinHandle<Result<T, String>>>,
    patience: Duration,
}

impl<T> Default for Reading<T> {
    fn default() -> Self {
        Self { late: HashMap::new(), patience: PATIENCE }
    }
}

impl<T: Send + 'static> Reading<T> {
    /// What `read` gives, which blocks; of a reader that was late before, what it gave. `of` tells what is read.
    ///
    /// # Errors
    /// It cannot be read, or not now; in words.
    pub(super) async fn read(
        &mut self,
        tasks: &Tasks,
        of: &str,
        read: impl FnOnce() -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let (mut reader, patience) = match self.late.remove(of) {
            Some(late) => (late, Duration::ZERO),
            None => (tasks.blocking(read), self.patience),
        };
        match timeout(patience, &mut reader).await {
            Ok(ended) => ended.unwrap_or_else(|error| Err(error.to_string())),
            Err(_) => {
                self.late.insert(of.to_owned(), reader);
                Err("its files cannot be read: their file system does not answer".to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn who_reads_for_long_is_waited_for_once_and_asked_again_later() {
        let (tasks, (answer, answers)) = (Tasks::new(), mpsc::sync_channel(1));
        let mut reading = Reading { patience: Duration::from_millis(20), ..Reading::default() };
        let late = reading.read(&tasks, "a", move || answers.recv().map_err(|error| error.to_string())).await;
        assert!(late.unwrap_err().contains("does not answer"));
        let again = reading.read(&tasks, "a", || panic!("one thread is enough")).await;
        assert!(again.is_err());
        assert_eq!(reading.read(&tasks, "b", || Ok(2)).await, Ok(2), "others are not held up");
        answer.send(1).unwrap();
        let mut read = Err(String::new());
        while read.is_err() {
            read = reading.read(&tasks, "a", || Ok(1)).await;
        }
        assert_eq!(read, Ok(1));
        assert_eq!(reading.read(&tasks, "a", || Ok(3)).await, Ok(3), "and then anew");
    }
}
