//! What somebody who waits at a terminal is shown meanwhile: one line of standard error, which is gone when the wait is over. Nothing is
//! shown where standard error is no terminal.

use std::{
    io::{self, IsTerminal as _, Write},
    time::Duration,
};

use certs::codec::Millis;
use policy::changeset::ChangesetId;

use super::{client, context::Context, output::plain};
use crate::{agent::admin::api::Spread, clock};

/// A wait below this needs no line.
const SHORT: Duration = Duration::from_secs(1);
/// How often is looked again.
const AGAIN: Duration = Duration::from_millis(500);

/// The line; it is gone when this is dropped.
pub(super) struct Line<W: Write>(W);

impl Line<io::Stderr> {
    /// On standard error, if that is a terminal.
    pub(super) fn here() -> Option<Self> {
        io::stderr().is_terminal().then(|| Self(io::stderr()))
    }
}

impl<W: Write> Line<W> {
    /// Shows this in the place of what was shown. Nothing can be said if the terminal is gone.
    pub(super) fn show(&mut self, text: &str) {
        let _ = write!(self.0, "\r\x1b[K{}", plain(text).replace('\n', " ")).and_then(|()| self.0.flush());
    }
}

impl<W: Write> Drop for Line<W> {
    fn drop(&mut self) {
        let _ = write!(self.0, "\r\x1b[K").and_then(|()| self.0.flush());
    }
}

/// Waits for `work`, and shows meanwhile how many nodes have the changeset.
pub(super) async fn of_changeset<T>(work: impl Future<Output = T>, id: &ChangesetId, ctx: &Context) -> T {
    let Some(line) = Line::here() else { return work.await };
    tokio::select! {
        done = work => done,
        never = spread(line, id, ctx) => match never {},
    }
}

/// Waits for `work`, and says meanwhile what is waited for, and for how long.
pub(super) async fn of<T>(work: impl Future<Output = T>, what: &str) -> T {
    let Some(line) = Line::here() else { return work.await };
    tokio::select! {
        done = work => done,
        never = counting(line, what) => match never {},
    }
}

async fn counting(mut line: Line<io::Stderr>, what: &str) -> std::convert::Infallible {
    let begun = clock::monotonic();
    tokio::time::sleep(SHORT).await;
    loop {
        line.show(&format!("{what}: {} s", begun.elapsed().as_secs()));
        tokio::time::sleep(AGAIN).await;
    }
}

/// Shows how far a scenario is that is played: virtual time that has passed, and all of it.
pub(super) fn of_play() -> impl FnMut(Millis, Millis) {
    let (mut line, mut shown) = (Line::here(), clock::monotonic());
    move |played, all| {
        let Some(line) = line.as_mut().filter(|_| shown.elapsed() >= AGAIN) else { return };
        shown = clock::monotonic();
        line.show(&far(played, all));
    }
}

fn far(played: Millis, all: Millis) -> String {
    format!("{} s of {} s played, {} %", played / 1_000, all / 1_000, played * 100 / all.max(1))
}

async fn spread(mut line: Line<io::Stderr>, id: &ChangesetId, ctx: &Context) -> std::convert::Infallible {
    tokio::time::sleep(SHORT).await;
    // The work's own connection waits for its answer. Who cannot be asked a second time is not: the answer will come.
    let mut asked = client::connect(ctx).await.ok();
    loop {
        if let Some(client) = &mut asked
            && let Ok(spread) = client.get::<Spread>(&format!("/v1/policy/changesets/{id}/spread")).await
        {
            line.show(&words(&spread));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn words(spread: &Spread) -> String {
    let (there, all) = (spread.there.len(), spread.there.len() + spread.missing.len());
    match spread.missing.as_slice() {
        [] => format!("{there} of {all} nodes have it"),
        [node] => format!("{there} of {all} nodes have it; not yet {node}"),
        [node, others @ ..] => format!("{there} of {all} nodes have it; not yet {node} and {} more", others.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use certs::id::NodeId;

    #[test]
    fn nodes_are_counted_and_one_that_lacks_it_is_named() {
        let nodes = |names: &[&str]| names.iter().map(|name| NodeId::new(name).unwrap()).collect();
        let words = |there: &[&str], missing: &[&str]| {
            words(&Spread { changeset: String::new(), there: nodes(there), missing: nodes(missing) })
        };
        assert_eq!(words(&["a", "b"], &[]), "2 of 2 nodes have it");
        assert_eq!(words(&["a"], &["b"]), "1 of 2 nodes have it; not yet b");
        assert_eq!(words(&["a"], &["b", "c", "d"]), "1 of 4 nodes have it; not yet b and 2 more");
    }

    #[test]
    fn what_is_played_is_told_in_virtual_time() {
        assert_eq!(far(12_340, 60_000), "12 s of 60 s played, 20 %");
        assert_eq!(far(0, 0), "0 s of 0 s played, 0 %");
    }

    #[test]
    fn the_line_is_written_over_and_gone_at_the_end() {
        let mut written = Vec::new();
        let mut line = Line(&mut written);
        line.show("one");
        line.show("two\nthree\u{7}");
        drop(line);
        let text = String::from_utf8(written).unwrap();
        assert!(text.starts_with("\r\x1b[Kone\r\x1b[Ktwo three") && text.ends_with("\r\x1b[K"), "{text:?}");
        assert!(!text.contains('\u{7}'));
    }
}
