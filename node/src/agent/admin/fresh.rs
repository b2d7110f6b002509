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
        let mut last = self.0.lock().await;
        if let Some((at, answer)) = &*last
            && monotonic().duration_since(*at) < FRESH
        {
            return answer.clone();
        }
        let answer = ask.await;
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
}
