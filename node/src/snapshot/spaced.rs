//! Changes for whoever looks at all services with each: the first at once, those that follow it together. Where many nodes restart there
//! are hundreds a second, and control has links to keep.

use std::{pin::Pin, time::Duration};

use tokio::{
    sync::watch,
    time::{Sleep, sleep},
};

use super::Current;

/// The least time between two looks.
const SPACING: Duration = Duration::from_millis(100);

/// See [`Current::spaced`].
#[derive(Debug)]
pub struct Spaced {
    changes: watch::Receiver<u64>,
    /// No earlier than at its end.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Current {
    /// [`Current::subscribe`] for whoever looks at much with each change.
    #[must_use]
    pub fn spaced(&self) -> Spaced {
        Spaced::new(self.subscribe())
    }
}

impl Spaced {
    fn new(changes: watch::Receiver<u64>) -> Self {
        Self { changes, pause: None }
    }

    /// Whoever calls it looks now: at all changes so far.
    pub fn mark_unchanged(&mut self) {
        self.changes.mark_unchanged();
        self.pause = Some(Box::pin(sleep(SPACING)));
    }

    /// Waits for a change after that. Nothing is lost if it is given up.
    ///
    /// # Errors
    /// Nothing changes any more.
    pub async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        self.changes.changed().await?;
        // Until somebody looks, even if not now.
        self.changes.mark_changed();
        if let Some(pause) = &mut self.pause {
            pause.await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_thousand_changes_a_second_are_looked_at_ten_times() {
        let changes = watch::Sender::new(0);
        let mut spaced = Spaced::new(changes.subscribe());
        assert!(spaced.changed().now_or_never().is_none());
        changes.send_modify(|count| *count += 1);
        assert!(spaced.changed().now_or_never().is_some(), "the first at once");
        spaced.mark_unchanged();
        let mut looks = 0;
        for _ in 0..1_000 {
            tokio::time::advance(Duration::from_millis(1)).await;
            changes.send_modify(|count| *count += 1);
            // Given up and asked again each time, as beside other things to wait for.
            if spaced.changed().now_or_never().is_some() {
                spaced.mark_unchanged();
                looks += 1;
            }
        }
        assert_eq!(looks, 10);
        changes.send_modify(|count| *count += 1);
        spaced.changed().await.unwrap();
        spaced.mark_unchanged();
        assert!(spaced.changed().now_or_never().is_none(), "the last was looked at, too");
    }
}
