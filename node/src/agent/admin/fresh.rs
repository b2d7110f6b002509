//! An answer that all nodes are asked for, and that is given again for a moment, whoever wants to see it.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::clock::monotonic;

/// How old an answer may be that is given again.
const FRESH: Duration = Duration::from_secs(2);

/// The last answer. One question is under way at a time: who comes meanwhile gets its answer, too.
#[derive(Debug)]
pub(super) struct Fresh<T>(Mutex<Option<(Instant, T)>>);

impl<T> Default for Fresh<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Clone> Fresh<T> {
    /// The last answer if it is fresh, else what `ask` gives.
    pub(super) async fn get(&self, ask: impl Future<Output = T>) -> T {
        self.get_fitting(|_| true, async |_| ask.await).await
    }

    /// The last answer if it is fresh and `fits`, else what `ask` gives; it hears whether there was a fresh one that does not.
    pub(super) async fn get_fitting(&self, fits: impl FnOnce(&T) -> bool, ask: impl AsyncFnOnce(bool) -> T) -> T {
        let mut last = self.0.lock().await;
        let held = last.as_ref().filter(|(at, _)| monotonic().duration_since(*at) < FRESH);
        if let Some((_, answer)) = held
            && fits(answer)
        {
            return answer.clone();
        }
        let answer = ask(held.is_some()).await;
        *last = Some((monotonic(), answer.clone()));
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    #[tokio::test]
    async fn many_who_ask_at_once_get_one_answer() {
        let (fresh, asked) = (Fresh::default(), AtomicU32::new(0));
        let ask = async || {
            fresh
                .get(async {
                    tokio::task::yield_now().await;
                    asked.fetch_add(1, Relaxed)
                })
                .await
        };
        assert_eq!(tokio::join!(ask(), ask(), ask()), (0, 0, 0));
        assert_eq!(asked.load(Relaxed), 1);
    }
    #[tokio::test]
    async fn a_fresh_answer_that_does_not_fit_is_asked_for_once_more() {
        let (fresh, asked) = (Fresh::default(), AtomicU32::new(0));
        // As what happened since: who asks again is given all.
        let since = async |wanted: u32| {
            let ask = async |again: bool| {
                asked.fetch_add(1, Relaxed);
                if again { 0 } else { wanted }
            };
            fresh.get_fitting(|held| *held <= wanted, ask).await
        };
        let mut given = Vec::new();
        for wanted in [50, 60, 40, 30, 20, 10] {
            given.push(since(wanted).await);
        }
        assert_eq!((given, asked.load(Relaxed)), (vec![50, 50, 0, 0, 0, 0], 2));
    }
}
