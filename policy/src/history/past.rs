//! What a document was, and what became of a trial: looking back, changes nothing.

use std::sync::Arc;

use certs::codec::Millis;

use super::{Entry, History, log::authors};
use crate::{
    changeset::{ChangesetId, confirmation},
    document::DocumentId,
};

/// A moment in a document's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// What was in effect at this time, by what was issued until then.
    At(Millis),
    /// What this changeset made of it; where it does not speak of the document, what was in effect when it was issued.
    After(ChangesetId),
    /// What this changeset replaced, in the same way.
    Before(ChangesetId),
}

/// One value of a document, in effect or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The changeset that set it.
    pub changeset: ChangesetId,
    /// The signed body; none if it was deleted.
    pub content: Option<Arc<str>>,
    /// Names of the signers' keys.
    pub authors: Vec<String>,
    /// When it was issued.
    pub time: Millis,
    /// Depth along `replaces`, from 1; for display.
    pub version: u64,
}

/// How a changeset with `confirm_by` stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trial {
    /// It counts until this time, unless confirmed before.
    Open(Millis),
    /// It was confirmed in time: it counts for ever.
    Confirmed,
    /// It was not confirmed until this time: it counts no more.
    Over(Millis),
}

impl History {
    /// The document as it was; `None` if it did not exist then.
    pub fn past(&self, document: &DocumentId, moment: Moment) -> Option<Version> {
        match moment {
            Moment::At(time) => self.in_effect(document, time),
            Moment::After(id) => {
                let issued = self.get(&id)?.changeset.issued_at;
                self.version(&id, document).or_else(|| self.in_effect(document, issued))
            }
            Moment::Before(id) => {
                let entry = self.get(&id)?;
                let Some(change) = entry.changeset.change(document) else {
                    return self.in_effect(document, entry.changeset.issued_at.saturating_sub(1));
                };
                let mut replaced = change.replaces.clone();
                replaced.sort_by_key(|id| (std::cmp::Reverse(self.kept.depth(id, document)), *id));
                self.version(replaced.first()?, document)
            }
        }
    }

    /// The value that a changeset set; `None` if it does not speak of the document.
    pub fn version(&self, id: &ChangesetId, document: &DocumentId) -> Option<Version> {
        let (entry, change, value) = self.kept.value(id, document)?;
        Some(Version {
            changeset: *id,
            content: change.content.as_deref().map(Into::into),
            authors: authors(&self.chain, &entry.signers),
            time: entry.changeset.issued_at,
            version: value.depth,
        })
    }

    /// Folds what had been issued by then, as a node that had it all would have.
    fn in_effect(&self, document: &DocumentId, time: Millis) -> Option<Version> {
        let proof = self.proof([document].into_iter());
        let mut known: Vec<&Entry> = proof
            .iter()
            .filter_map(|bytes| Some(ChangesetId(crate::changeset::decode(bytes).ok()?.id())))
            .filter_map(|id| self.get(&id))
            .filter(|entry| entry.changeset.issued_at <= time)
            .collect();
        // In the order of their dates nearly everything finds what it refers to.
        known.sort_by_key(|entry| entry.changeset.issued_at);
        let mut then = History::new(self.trust_domain.clone());
        // What refers to something that bears a later date cannot be kept: by these dates it was not there.
        let _ = then.insert_all(known.iter().map(|entry| &*entry.bytes), time);
        let state = then.state(time);
        let value = state.documents.get(document)?.effective.as_ref()?;
        self.version(&value.changeset, document)
    }

    /// How a changeset's trial stands; `None` if it is on none.
    pub fn trial(&self, id: &ChangesetId, now: Millis) -> Option<Trial> {
        let until = self.get(id)?.changeset.confirm_by?;
        // A confirmation that no role allows is no live value.
        let live = self.state(now).heads(&confirmation(id).document);
        let in_time = |by: &ChangesetId| self.get(by).is_some_and(|entry| entry.changeset.issued_at < until);
        Some(match live.iter().any(in_time) {
            true => Trial::Confirmed,
            false if now < until => Trial::Open(until),
            false => Trial::Over(until),
        })
    }
}

#[cfg(test)]
mod tests {
    use certs::{
        id::TrustDomain,
        sign::{Digest, SigningKey},
    };

    use super::*;
    use crate::{
        changeset::{Change, Changeset},
        document::Kind,
        history::{genesis, signed},
        testing::NOW,
    };

    struct Mesh {
        history: History,
        key: SigningKey,
        nonce: u8,
    }

    impl Mesh {
        fn new() -> Self {
            let (trust_domain, key) = (TrustDomain::new("prod.example").unwrap(), SigningKey::generate());
            let first = genesis(&trust_domain, &[vec![1]], &[("ann".to_owned(), key.public(), false)], NOW);
            let mut history = History::new(trust_domain);
            history.insert(&signed(&first, &[&key]), NOW).unwrap();
            Self { history, key, nonce: 0 }
        }

        fn push(&mut self, at: Millis, confirm_by: Option<Millis>, changes: Vec<Change>) -> ChangesetId {
            self.nonce += 1;
            let changeset = Changeset {
                trust_domain: TrustDomain::new("prod.example").unwrap(),
                role_set: 1,
                issued_at: at,
                message: String::new(),
                confirm_by,
                nonce: [self.nonce; 16],
                changes,
            };
            self.history.insert(&signed(&changeset, &[&self.key]), at).unwrap().id
        }

        fn said(&self, document: &DocumentId, moment: Moment) -> Option<String> {
            let version = self.history.past(document, moment)?;
            let word = |text: Arc<str>| text.rsplit("\"name\":\"").next().unwrap()[..2].to_owned();
            Some(version.content.map_or("deleted".into(), word))
        }
    }

    fn document(name: &str) -> DocumentId {
        DocumentId::new(Kind::VirtualService, "default", name)
    }

    fn set(document: &DocumentId, to: &str, replaces: &[ChangesetId]) -> Change {
        let name = &document.name;
        let content = format!(
            r#"{{"apiVersion":"networking.istio.io/v1","kind":"VirtualService","metadata":{{"name":"{name}","namespace":"default"}},"spec":{{"hosts":["{name}"],"http":[{{"directResponse":{{"status":200}},"name":"{to}"}}]}}}}"#
        );
        Change { document: document.clone(), content: Some(content), replaces: replaces.to_vec() }
    }

    #[test]
    fn a_document_is_what_it_was() {
        let (mut mesh, a, b) = (Mesh::new(), document("a"), document("b"));
        let first = mesh.push(NOW + 10, None, vec![set(&a, "v1", &[])]);
        let second = mesh.push(NOW + 20, None, vec![set(&a, "v2", &[first]), set(&b, "w1", &[])]);
        let gone = Change { document: a.clone(), content: None, replaces: vec![second] };
        let third = mesh.push(NOW + 30, None, vec![gone]);
        let other = mesh.push(NOW + 40, None, vec![set(&b, "w2", &[second])]);
        for (moment, a_was, b_was) in [
            (Moment::At(NOW + 9), None, None),
            (Moment::At(NOW + 10), Some("v1"), None),
            (Moment::After(first), Some("v1"), None),
            (Moment::Before(second), Some("v1"), None),
            (Moment::At(NOW + 29), Some("v2"), Some("w1")),
            (Moment::After(third), Some("deleted"), Some("w1")),
            (Moment::Before(third), Some("v2"), Some("w1")),
            (Moment::At(NOW + 30), None, Some("w1")),
            (Moment::After(other), None, Some("w2")),
            (Moment::Before(other), None, Some("w1")),
            (Moment::After(ChangesetId(Digest([9; 32]))), None, None),
        ] {
            assert_eq!(mesh.said(&a, moment).as_deref(), a_was, "a {moment:?}");
            assert_eq!(mesh.said(&b, moment).as_deref(), b_was, "b {moment:?}");
        }
        assert_eq!(mesh.history.past(&a, Moment::After(second)).unwrap().version, 2);
        assert_eq!(mesh.history.past(&a, Moment::After(second)).unwrap().authors, ["ann"]);
    }

    #[test]
    fn a_trial_ends_by_itself_or_by_a_confirmation_in_time() {
        let (mut mesh, a) = (Mesh::new(), document("a"));
        let first = mesh.push(NOW, None, vec![set(&a, "v1", &[])]);
        let trial = mesh.push(NOW + 10, Some(NOW + 100), vec![set(&a, "v2", &[first])]);
        assert_eq!(mesh.history.trial(&first, NOW), None);
        assert_eq!(mesh.history.trial(&trial, NOW + 50), Some(Trial::Open(NOW + 100)));
        assert_eq!(mesh.history.trial(&trial, NOW + 100), Some(Trial::Over(NOW + 100)));
        assert_eq!(mesh.said(&a, Moment::At(NOW + 99)).as_deref(), Some("v2"));
        assert_eq!(mesh.said(&a, Moment::At(NOW + 100)).as_deref(), Some("v1"));
        mesh.push(NOW + 100, None, vec![confirmation(&trial)]);
        assert_eq!(mesh.history.trial(&trial, NOW + 200), Some(Trial::Over(NOW + 100)), "too late");
        let other = mesh.push(NOW + 20, Some(NOW + 100), vec![set(&document("b"), "w1", &[])]);
        mesh.push(NOW + 99, None, vec![confirmation(&other)]);
        assert_eq!(mesh.history.trial(&other, NOW + 200), Some(Trial::Confirmed));
        assert_eq!(mesh.said(&document("b"), Moment::At(NOW + 300)).as_deref(), Some("w1"));
    }
}
