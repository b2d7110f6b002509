//! Whether a capture of this machine is kept in force: its guard asks this node again and again, and says so when it ends by somebody's
//! wish. One that asks no more without a word is gone, found this node hanging, or saw it stop: nothing is captured then, and
//! applications speak past the mesh. A file keeps over the node's end that a capture was wished for.

use super::state_dir::write_private;
use crate::{capture::LIFE, clock, lock::lock, snapshot::Trouble};
use certs::codec::Millis;
use std::{
    fs, io,
    path::PathBuf,
    sync::{Mutex, MutexGuard},
};

/// Guards that are remembered: at most one is in force.
const GUARDS: usize = 8;

/// The guards that have asked.
#[derive(Debug)]
pub(super) struct Guarded {
    guards: Mutex<Vec<Guard>>,
    /// It is there while some guard has asked and not said that it ends.
    file: PathBuf,
}

#[derive(Debug)]
struct Guard {
    /// None is that of a former run of this node.
    token: Option<u32>,
    /// Its questions that are being answered.
    asking: usize,
    /// When the last one ended, by the node's uptime.
    heard: Millis,
    /// Its end was noted.
    is_noted: bool,
}

impl Guard {
    /// True if the kernel redirects nothing more by its word.
    fn is_gone(&self, now: Millis) -> bool {
        let silent = u128::from(now.saturating_sub(self.heard));
        self.asking == 0 && silent >= LIFE.as_millis()
    }
}

/// A question of a guard, until it is answered.
#[derive(Debug)]
pub(super) struct Asking<'a> {
    guarded: &'a Guarded,
    token: u32,
    /// It is the guard's first.
    pub(super) is_first: bool,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut guards = self.guarded.guards();
        if let Some(guard) = guards.iter_mut().find(|guard| guard.token == Some(self.token)) {
            guard.asking = guard.asking.saturating_sub(1);
            guard.heard = clock::uptime();
        }
    }
}

impl Guarded {
    /// As a former run of the node left it in this file.
    pub(super) fn new(file: PathBuf) -> Self {
        let former = Guard { token: None, asking: 0, heard: clock::uptime(), is_noted: true };
        let guards = if file.exists() { vec![former] } else { Vec::new() };
        Self { guards: Mutex::new(guards), file }
    }

    /// A guard asks. One that is new takes the place of those that do not.
    pub(super) fn ask(&self, token: u32) -> Asking<'_> {
        let mut guards = self.guards();
        let known = guards.iter_mut().find(|guard| guard.token == Some(token));
        let is_first = known.is_none();
        match known {
            Some(guard) => guard.asking += 1,
            None => {
                guards.retain(|guard| guard.asking > 0);
                guards.truncate(GUARDS - 1);
                guards.push(Guard { token: Some(token), asking: 1, heard: clock::uptime(), is_noted: false });
                if let Err(error) = write_private(&self.file, &[]) {
                    tracing::warn!(file = %self.file.display(), %error, "cannot keep that connections are captured");
                }
            }
        }
        drop(guards);
        Asking { guarded: self, token, is_first }
    }

    /// A capture ended as somebody wished: that of this guard, or whichever there was.
    pub(super) fn release(&self, token: Option<u32>) {
        let mut guards = self.guards();
        guards.retain(|guard| token.is_some() && guard.token != token);
        if guards.is_empty()
            && let Err(error) = fs::remove_file(&self.file)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(file = %self.file.display(), %error, "cannot forget that connections were captured");
        }
    }

    /// True once if this guard is gone without a word; `None` when there is nothing more to wait for.
    pub(super) fn has_ended(&self, token: u32, now: Millis) -> Option<bool> {
        let mut guards = self.guards();
        let guard = guards.iter_mut().find(|guard| guard.token == Some(token) && !guard.is_noted)?;
        guard.is_noted = guard.is_gone(now);
        Some(guard.is_noted)
    }

    /// What there is to say of it.
    pub(super) fn trouble(&self, now: Millis) -> Option<Trouble> {
        let guards = self.guards();
        let is_lost = !guards.is_empty() && guards.iter().all(|guard| guard.is_gone(now));
        is_lost.then(|| Trouble {
            code: "capture_ended",
            message: "connections are captured no more, though nobody switched that off: applications speak past the mesh"
                .to_owned(),
            hint: "`skein capture on`, or `skein capture off` if that is meant; this node was stopped, did not answer for 6 s, or the guard was killed",
        })
    }

    fn guards(&self) -> MutexGuard<'_, Vec<Guard>> {
        lock(&self.guards)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_that_asks_no_more_is_told_until_somebody_says_what_is_meant() {
        let dir = tempfile::tempdir().unwrap();
        let guarded = || Guarded::new(dir.path().join("captured"));
        let late = || clock::uptime() + u64::try_from(LIFE.as_millis()).unwrap() + 1_000;
        let is_told = |guarded: &Guarded| guarded.trouble(late()).is_some();
        let first = guarded();
        assert!(!is_told(&first), "nothing was captured");
        let asking = first.ask(1);
        assert!(asking.is_first && !first.ask(1).is_first);
        assert!(!is_told(&first), "it waits for its answer");
        drop(asking);
        assert!(first.trouble(clock::uptime()).is_none() && is_told(&first));
        assert_eq!([1, 1, 2].map(|token| first.has_ended(token, late())), [Some(true), None, None]);
        // It is switched on again: the old guard notices a moment later.
        let asking = first.ask(2);
        assert!(!is_told(&first));
        first.release(Some(1));
        drop(asking);
        assert!(is_told(&first), "the new one, too");
        first.release(Some(2));
        assert!(!is_told(&first), "it said that it ends");
        assert!(!is_told(&guarded()), "so nothing is kept");
        drop(first.ask(3));
        // The node is started again.
        let second = guarded();
        assert!(second.trouble(clock::uptime()).is_none(), "it may be switched on at the start");
        assert!(is_told(&second));
        let _asking = second.ask(4);
        assert!(!is_told(&second));
        second.release(None);
        assert!(!is_told(&second) && !is_told(&guarded()), "it was switched off");
    }
}
