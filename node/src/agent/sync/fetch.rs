//! Changesets are asked of a peer, and what it gives is judged.

use std::{collections::BTreeSet, sync::Arc};

use certs::sign::Digest;
use policy::{
    changeset::{self, ChangesetId},
    history::History,
};

use super::{Sync, SyncError, claims::Claimed, pace::Brought};
use crate::{
    agent::{
        event,
        wire::{self, Fetch, Fetched},
    },
    clock::monotonic,
    mesh::peer::PeerLink,
};

/// Rounds of one comparison: references come first, each round a generation deeper.
const ROUNDS: usize = 256;

impl Sync {
    /// Fetches these and what they refer to; what another peer is just giving is left to it.
    pub(super) async fn fetch(self: &Arc<Self>, link: &PeerLink, ids: Vec<Digest>) -> Result<Brought, SyncError> {
        let mut claimed = Claimed::new(self, ids);
        let brought = self.fetch_claimed(link, &mut claimed).await?;
        let came = |history: &History| claimed.ids.iter().all(|id| history.contains(&ChangesetId(*id)));
        // What came from others meanwhile was not asked for in vain.
        Ok(if brought == Brought::InVain && self.book.look(came).await { Brought::Elsewhere } else { brought })
    }

    async fn fetch_claimed(self: &Arc<Self>, link: &PeerLink, claimed: &mut Claimed<'_>) -> Result<Brought, SyncError> {
        let mut wanted: Vec<Digest> = claimed.ids.clone();
        let mut brought = Brought::InVain;
        // What this peer could have given since something new came.
        let mut asked: BTreeSet<Digest> = BTreeSet::new();
        for _ in 0..ROUNDS {
            if wanted.is_empty() {
                return Ok(brought);
            }
            wanted.truncate(wire::FETCH_IDS);
            let fetched: Fetched = self.ask(link, wire::FETCH, &Fetch { ids: wanted.clone() }).await?;
            let (given, arrived) = (asked_for(&wanted, fetched.changesets), monotonic());
            if given.is_empty() {
                return Ok(brought);
            }
            asked.extend(&wanted[..reached(&wanted, &given)]);
            let from = link.peer().node.as_str();
            let learned = self.book.learn(given, from, self.clock.now()).await?;
            // One line, however many a peer makes up.
            if let [(id, why), others @ ..] = learned.refused.as_slice() {
                let more = if others.is_empty() { String::new() } else { format!("; so are {} more", others.len()) };
                let what = format!("{id} from {from} is refused: {why}{more}");
                self.events.note(self.clock.now(), event::Kind::PolicyRefused, id, what);
            }
            if !learned.fresh.is_empty() {
                brought = Brought::Fresh;
                asked.clear();
                claimed.renew();
                self.apply_arrived(arrived).await;
                for id in &learned.fresh {
                    self.note_arrived(id, format!("came from {from}")).await;
                }
            }
            let from = &link.peer().node;
            let references: Vec<Digest> = learned.missing.iter().map(|id| id.0).collect();
            let references = self.lacking(&references, from).await;
            // What refers to what this node refuses, or to what this peer does not give, is not here however often it is asked for. What had
            // no room in the reply is asked for again.
            if learned.fresh.is_empty() && references.iter().all(|id| asked.contains(id)) {
                return Ok(brought);
            }
            // References first, then what referred to them.
            let mut seen = BTreeSet::new();
            wanted = references;
            wanted.extend(self.lacking(&claimed.ids, from).await);
            wanted.retain(|id| seen.insert(*id));
        }
        Ok(brought)
    }

    /// Asks a peer for changesets that are here without their bodies.
    pub(super) async fn fetch_bodies(
        self: &Arc<Self>,
        link: &PeerLink,
        mut wanted: Vec<Digest>,
    ) -> Result<(), SyncError> {
        wanted.truncate(wire::FETCH_IDS);
        let fetched: Fetched = self.ask(link, wire::FETCH, &Fetch { ids: wanted.clone() }).await?;
        let given = asked_for(&wanted, fetched.changesets);
        let learned = self.book.learn(given, link.peer().node.as_str(), self.clock.now()).await?;
        if !learned.fresh.is_empty() {
            self.apply().await;
        }
        Ok(())
    }
}

/// Of what a peer gave, what it was asked for, each once: it costs no more to judge than was wanted.
fn asked_for(wanted: &[Digest], given: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut open: BTreeSet<Digest> = wanted.iter().copied().collect();
    let mut was_asked = |bytes: &Vec<u8>| changeset::decode(bytes).is_ok_and(|packed| open.remove(&packed.id()));
    given.into_iter().take(wanted.len()).filter(|bytes| was_asked(bytes)).collect()
}

/// How many of what was asked for, from the first on, a reply had its chance to hold: a reply has limited room, and is filled in order.
fn reached(wanted: &[Digest], given: &[Vec<u8>]) -> usize {
    let given: BTreeSet<Digest> = given.iter().filter_map(|bytes| Some(changeset::decode(bytes).ok()?.id())).collect();
    wanted.iter().rposition(|id| given.contains(id)).map_or(0, |last| last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_had_no_room_in_a_reply_had_no_chance() {
        let changeset = |text: &str| {
            let signed = certs::sign::Signed::new("x", text.as_bytes().to_vec());
            (signed.id(), changeset::encode(&changeset::Packed { signed, bodies: Vec::new() }))
        };
        let ((one, first), (two, second), (three, _)) = (changeset("1"), changeset("2"), changeset("3"));
        assert_eq!(reached(&[one, two, three], &[first]), 1);
        assert_eq!(reached(&[one, two, three], &[second]), 2, "the first is not there");
        assert_eq!(reached(&[one], &[]), 0);
    }

    #[test]
    fn what_was_not_asked_for_is_not_judged() {
        let changeset = |text: &str| {
            let signed = certs::sign::Signed::new("x", text.as_bytes().to_vec());
            (signed.id(), changeset::encode(&changeset::Packed { signed, bodies: Vec::new() }))
        };
        let ((one, first), (two, _), (_, third)) = (changeset("1"), changeset("2"), changeset("3"));
        assert_eq!(asked_for(&[one, two], vec![first.clone(), first.clone()]).len(), 1);
        assert_eq!(asked_for(&[one, two], vec![third, first]).len(), 1);
        assert_eq!(asked_for(&[one], vec![Vec::new(); 1000]), Vec::<Vec<u8>>::new());
    }
}
