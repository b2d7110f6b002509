//! The process that keeps a capture in force while the node answers: one of its own, so that it outlives the node and the terminal.
//!
//! The kernel ends a capture by itself [`LIFE`] after the guard last renewed it. So it ends whoever dies: the node (the guard removes the
//! table at once), the guard (the kernel, within [`LIFE`]), or both.

use super::{nft, rules};
use crate::clock;
use std::{future::Future, net::SocketAddr, pin::pin, time::Duration};

use tokio::signal::unix::{SignalKind, signal};

/// How long the kernel redirects without a renewal.
pub const LIFE: Duration = Duration::from_secs(15);
/// How often it is renewed.
const RENEWAL: Duration = Duration::from_secs(5);
/// How long the node may take to answer.
const ANSWER: Duration = Duration::from_secs(6);
/// Who is told so much too late that this time is over stood still meanwhile, as in a container that was frozen.
const STOOD_STILL: Duration = Duration::from_millis(500);
/// How often it is looked whether captured connections have ended.
const LOOK: Duration = Duration::from_secs(1);

/// What a guard guards.
#[derive(Debug, Clone)]
pub struct Guard {
    /// By which it knows its table.
    pub token: u32,
    /// Without a confirmation it ends after this time.
    pub confirm_within: Duration,
    /// Where the node takes connections.
    pub listen: Vec<SocketAddr>,
    /// Connections of other machines are captured, too.
    pub inbound: bool,
}

/// What a guard asks the node, or tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// What is new? It keeps the capture in force.
    News,
    /// Is it still there?
    Alive,
    /// It keeps the capture in force no more: somebody wished it so.
    Ended,
}

/// What the node tells a guard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// It stops.
    pub leaving: bool,
    /// The ports of applications whose connections from other machines are meant; nothing, where that is not known at the moment.
    pub targets: Option<Vec<SocketAddr>>,
}

/// Why a capture ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nobody confirmed it.
    Unconfirmed,
    /// Somebody switched it off, or on again under another guard.
    Released,
    /// The node said that it stops, or whoever stops it told this process, too: a service manager tells all that belongs to it.
    Leaving,
    /// The node is gone, or hangs.
    Lost,
}

/// Runs until the capture has ended and its table is gone. `ask` waits for news of the node, or an error.
pub async fn guard<F, E>(guard: Guard, mut ask: impl FnMut(Question) -> F)
where
    F: Future<Output = Result<News, E>>,
{
    let end = watch(&guard, &mut ask).await;
    if end != End::Lost {
        let disarmed = nft::apply(&rules::own_disarming(guard.token));
        // What ends with the node nobody wished to end: the node tells of it when it is back.
        if end != End::Leaving {
            drop(tokio::time::timeout(ANSWER, ask(Question::Ended)).await);
        }
        let mut is_ours = disarmed.is_ok();
        // What was captured goes on: the kernel must know for as long where to.
        while is_ours && nft::connections(&guard.listen) > 0 && alive(&mut ask).await {
            tokio::time::sleep(LOOK).await;
            is_ours = nft::apply(&rules::own_disarming(guard.token)).is_ok();
        }
        if !is_ours {
            // The table is gone, or another guard's.
            return;
        }
    }
    let _ = nft::apply(&rules::own_removal(guard.token));
}

async fn watch<F, E>(guard: &Guard, ask: &mut impl FnMut(Question) -> F) -> End
where
    F: Future<Output = Result<News, E>>,
{
    let begun = clock::monotonic();
    let mut renewed = begun;
    let mut confirmed = false;
    let mut known: Option<Vec<SocketAddr>> = None;
    let mut told = signal(SignalKind::terminate()).ok();
    let mut told = pin!(async move {
        match &mut told {
            Some(told) => drop(told.recv().await),
            None => std::future::pending().await,
        }
    });
    loop {
        let unconfirmed = guard.confirm_within.saturating_sub(clock::monotonic().duration_since(begun));
        let news = async {
            match answered(ANSWER, || ask(Question::News)).await {
                Some(News { leaving: false, targets }) => Ok(targets),
                Some(News { leaving: true, .. }) => Err(End::Leaving),
                None => Err(End::Lost),
            }
        };
        let news = tokio::select! {
            news = news => Some(news),
            () = told.as_mut() => Some(Err(End::Leaving)),
            () = tokio::time::sleep(unconfirmed), if !confirmed => None,
        };
        let moved = match news {
            Some(Err(end)) => return end,
            Some(Ok(targets)) if guard.inbound => learn(&mut known, targets),
            Some(Ok(_)) | None => false,
        };
        if !confirmed && clock::monotonic().duration_since(begun) >= guard.confirm_within {
            match nft::state() {
                Ok(state) if state.confirmed => confirmed = true,
                Ok(_) | Err(_) => return End::Unconfirmed,
            }
        }
        if moved || clock::monotonic().duration_since(renewed) >= RENEWAL {
            if nft::apply(&rules::renewal(guard.token, LIFE, known.as_deref())).is_err() {
                return End::Released;
            }
            renewed = clock::monotonic();
        }
    }
}

/// Asks, and waits so long for the answer; asks again if this process itself stood still: the node may have, too, and answers now.
async fn answered<F, T, E>(patience: Duration, mut ask: impl FnMut() -> F) -> Option<T>
where
    F: Future<Output = Result<T, E>>,
{
    loop {
        let asked = clock::monotonic();
        if let Ok(Ok(answer)) = tokio::time::timeout(patience, ask()).await {
            return Some(answer);
        }
        if clock::monotonic().duration_since(asked) < patience + STOOD_STILL {
            return None;
        }
    }
}

/// Takes news, if there are some: what is not known leaves what was.
fn learn(known: &mut Option<Vec<SocketAddr>>, news: Option<Vec<SocketAddr>>) -> bool {
    let is_new = news.is_some() && *known != news;
    if is_new {
        *known = news;
    }
    is_new
}

/// Whether there is still a node that has connections.
async fn alive<F, E>(ask: &mut impl FnMut(Question) -> F) -> bool
where
    F: Future<Output = Result<News, E>>,
{
    answered(ANSWER, || ask(Question::Alive)).await.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(20);

    /// The first two times everything stands still for longer than the node has to answer; then the client gives up, too.
    #[tokio::test]
    async fn a_node_that_stood_still_with_the_guard_is_asked_again() {
        let mut asked = 0;
        let answer = answered(PATIENCE, || {
            asked += 1;
            let time = asked;
            async move {
                if time < 3 {
                    std::thread::sleep(PATIENCE + 2 * STOOD_STILL);
                }
                match time {
                    1 => std::future::pending().await,
                    2 => Err("given up"),
                    _ => Ok("news"),
                }
            }
        });
        assert_eq!(answer.await, Some("news"));
        assert_eq!(asked, 3);
    }

    #[tokio::test]
    async fn a_node_that_hangs_or_is_gone_is_lost_at_once() {
        assert_eq!(answered(PATIENCE, std::future::pending::<Result<(), ()>>).await, None);
        assert_eq!(answered(PATIENCE, || async { Err::<(), _>("gone") }).await, None);
    }

    #[test]
    fn a_guard_that_cannot_learn_who_listens_keeps_what_it_knew() {
        let targets: Vec<SocketAddr> = vec!["0.0.0.0:80".parse().unwrap()];
        let mut known = None;
        assert!(!learn(&mut known, None) && learn(&mut known, Some(targets.clone())));
        assert!(!learn(&mut known, None) && !learn(&mut known, Some(targets.clone())));
        assert_eq!(known, Some(targets));
        assert!(learn(&mut known, Some(Vec::new())), "nothing is news, too");
    }
}
