//! A state as it would be: for those who want to know before they sign.

use std::sync::Arc;

use certs::{codec::Millis, sign::Digest};

use super::{Conflict, Live, LiveValue, State};
use crate::{Document, DocumentId, changeset::ChangesetId};

impl State {
    /// The documents as a push of these at this time would leave them; `None` deletes one. Authority (roles, grants,
    /// revocations) and digest stay as they are: this is for looking at routes, never for deciding. What has ended already is refused,
    /// and changes nothing.
    pub fn with(&self, changes: Vec<(DocumentId, Option<Document>)>, now: Millis) -> State {
        let mut state = self.clone();
        for (id, document) in changes {
            if document.as_ref().is_some_and(|document| document.has_ended(now)) {
                continue;
            }
            let before = state.documents.remove(&id);
            state.conflicts.retain(|conflict| !matches!(conflict, Conflict::Values(own, _) if *own == id));
            let Some(mut document) = document else { continue };
            let value = before.as_ref().and_then(|live| live.effective.as_ref());
            let created = value.and_then(|value| value.document.as_ref().ok()?.created);
            document.created = document.created.or(created).or(Some(now));
            let value = LiveValue {
                changeset: ChangesetId(Digest([u8::MAX; 32])),
                document: Ok(Arc::new(document)),
                json: "".into(),
                authors: Vec::new(),
                time: now,
                version: value.map_or(0, |value| value.version) + 1,
                // Who signs is not known; whoever was confined before is taken to be it again.
                confined: value.is_some_and(|value| value.confined),
            };
            state.documents.insert(id, Arc::new(Live::new(vec![value.clone()], vec![value], Vec::new())));
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use crate::{parse, testing::state_of};

    const RULE: &str =
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec: {host: a}\n";

    #[test]
    fn documents_are_set_and_deleted_in_a_copy() {
        let state = state_of(RULE);
        let (id, effective) = state.effective().find(|(id, _)| id.name == "a").unwrap();
        let created = effective.document.as_ref().unwrap().created;
        let other = parse::yaml("f", &RULE.replace("name: a", "name: b"), "default").documents.remove(0).document;
        let same = parse::yaml("f", RULE, "default").documents.remove(0).document;
        let after = state.with(vec![(id.clone(), Some(same)), (other.id.clone(), Some(other.clone()))], 7);
        assert_eq!(after.document(id).unwrap().created, created, "the age stays");
        assert_eq!(after.document(&other.id).unwrap().created, Some(7));
        let ends = RULE.replace("name: a", "name: a, annotations: {skein.dev/expires: '2023-01-01T00:00:00Z'}");
        let ends = parse::yaml("f", &ends, "default").documents.remove(0).document;
        let end = ends.expires.unwrap();
        let (sooner, later) = (
            state.with(vec![(id.clone(), Some(ends.clone()))], end - 1),
            state.with(vec![(id.clone(), Some(ends))], end),
        );
        assert!(sooner.document(id).unwrap().expires.is_some() && later.document(id).unwrap().expires.is_none());
        assert!(state.with(vec![(id.clone(), None)], 7).document(id).is_none());
        assert!(state.document(id).is_some() && state.document(&other.id).is_none());
    }
}
