//! What a push need not say again: documents that stand as they are written.

use std::collections::{BTreeSet, HashMap};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use certs::codec::Millis;
use policy::changeset::{self, Changeset, ChangesetId};
use serde_json::{Value, json};

use crate::{
    agent::admin::api::{Intent, Plan, Pushed},
    cli::{
        client::Client,
        context::Context,
        error::{Result, usage},
        signing::{self, Operator, Outcome, Sending},
    },
};

/// Documents that are set already to what a push would set them to, and which changesets did that.
#[derive(Debug, Default)]
pub(in crate::cli) struct Standing {
    documents: Vec<Value>,
    /// By when they were issued; the last is the newest.
    setters: BTreeSet<(Millis, ChangesetId)>,
}

impl Standing {
    /// Documents of which signatures have shown that they stand as they shall: rows of a push, and the changesets that set them.
    pub(in crate::cli) fn of(documents: Vec<Value>, setters: impl IntoIterator<Item = (Millis, ChangesetId)>) -> Self {
        Self { documents, setters: setters.into_iter().collect() }
    }

    /// Takes out of `intents`, and of `plan` with them, what stands already as asked. The node only says where to look: what a
    /// changeset sets is read in what was signed, and that it counts is for the nodes' receipts to say.
    pub(super) fn take(intents: &mut Vec<Intent>, plan: &mut Plan) -> Self {
        let signed: HashMap<String, Changeset> = plan.standing.iter().filter_map(|text| read(text)).collect();
        let mut standing = Self::default();
        let mut stays = Vec::with_capacity(intents.len());
        for ((intent, live), version) in intents.iter().zip(&plan.live).zip(&plan.versions) {
            let setter = match live.as_slice() {
                [only] => signed.get_key_value(only).filter(|(_, changeset)| sets(changeset, intent)),
                _ => None,
            };
            if let Some((id, changeset)) = setter
                && let Ok(id) = signing::changeset_id(id)
            {
                standing.setters.insert((changeset.issued_at, id));
                standing.documents.push(json!({
                    "kind": intent.kind, "namespace": intent.namespace, "name": intent.name,
                    "version": version.saturating_sub(1), "unchanged": true,
                }));
            }
            stays.push(setter.is_none());
        }
        keep(intents, &stays);
        keep(&mut plan.live, &stays);
        keep(&mut plan.yielded, &stays);
        keep(&mut plan.versions, &stays);
        standing
    }

    /// Who has what stands, as nodes sign it, beside `pushed`, which is what else was pushed.
    ///
    /// # Errors
    /// What the node answers; `unverified_node` if no receipt proves that any node has it.
    pub(in crate::cli) async fn add_to(
        self,
        pushed: Option<Outcome>,
        operator: &Operator,
        client: &mut Client,
        ctx: &Context,
        sending: &Sending,
    ) -> Result<Outcome> {
        let fresh = pushed.is_some();
        let mut all = pushed;
        for (_, id) in self.setters.into_iter().rev() {
            let outcome = if sending.dry_run {
                Outcome::new(&id.to_string(), Vec::new(), None, Vec::new())
            } else {
                let path = format!("/v1/policy/changesets/{id}/receipts?{}", sending.query(ctx));
                let said: Pushed = client.get(&path).await?;
                operator.outcome(said, id, Vec::new(), client.reached(), sending)?
            };
            all = Some(match all {
                Some(known) => known.and(&outcome),
                None => outcome,
            });
        }
        let outcome =
            all.ok_or_else(|| usage("there is nothing to push", "name a file that holds policy documents"))?;
        Ok(outcome.with_standing(self.documents, fresh))
    }
}

fn keep<T>(items: &mut Vec<T>, stays: &[bool]) {
    let mut stays = stays.iter();
    items.retain(|_| stays.next().is_none_or(|stays| *stays));
}

/// A signed changeset, by its id.
fn read(text: &str) -> Option<(String, Changeset)> {
    let packed = changeset::decode(&STANDARD.decode(text).ok()?).ok()?;
    let read = packed.read().ok().filter(|read| read.whole)?;
    Some((ChangesetId(packed.id()).to_string(), read.changeset))
}

fn sets(changeset: &Changeset, intent: &Intent) -> bool {
    changeset.changes.iter().any(|change| {
        let id = &change.document;
        (id.namespace.as_str(), id.name.as_str()) == (&intent.namespace, &intent.name)
            && id.kind.to_string() == intent.kind
            && change.content.iter().zip(&intent.content).any(|(content, asked)| policy::parse::same(content, asked))
    })
}

#[cfg(test)]
mod tests {
    use certs::{id::TrustDomain, sign::SigningKey};
    use policy::{DocumentId, Kind, changeset::Change};

    use super::*;

    fn intent(name: &str, content: &str) -> Intent {
        signing::intent((DocumentId::new(Kind::VirtualService, "shop", name), content.to_owned()))
    }

    #[test]
    fn only_what_was_signed_as_it_is_asked_for_stands() {
        let change = |name: &str, content: &str| Change {
            document: DocumentId::new(Kind::VirtualService, "shop", name),
            content: Some(content.to_owned()),
            replaces: Vec::new(),
        };
        let changeset = Changeset {
            trust_domain: TrustDomain::new("test.example").unwrap(),
            role_set: 1,
            issued_at: 7,
            message: String::new(),
            confirm_by: None,
            nonce: [0; 16],
            changes: vec![change("a", "{\"one\":1}"), change("b", "{\"two\":2}")],
        };
        let signed = changeset.sign(&[&SigningKey::generate()]);
        let id = ChangesetId(signed.id()).to_string();
        let (ours, other) = (vec![id.clone()], vec!["ab".repeat(32)]);
        // `a` as it stands; `b` with another content; `a`'s content under a value of which nothing was shown; two values; none.
        let mut intents = vec![
            intent("a", "{\"one\":1}"),
            intent("b", "{\"two\":3}"),
            intent("b", "{\"two\":2}"),
            intent("a", "{\"one\":1}"),
            intent("c", "{\"one\":1}"),
        ];
        let mut plan = Plan {
            trust_domain: changeset.trust_domain.clone(),
            role_set: 1,
            live: vec![ours.clone(), ours, other.clone(), [vec![id.clone()], other].concat(), Vec::new()],
            yielded: Vec::new(),
            versions: vec![4, 5, 6, 7, 8],
            problems: Vec::new(),
            standing: vec!["no base64".to_owned(), STANDARD.encode(policy::changeset::encode(&signed))],
        };
        let standing = Standing::take(&mut intents, &mut plan);
        assert_eq!(plan.versions, [5, 6, 7, 8]);
        assert_eq!((intents.len(), intents[0].name.as_str(), plan.live.len()), (4, "b", 4));
        assert_eq!(standing.documents.len(), 1);
        assert_eq!((&standing.documents[0]["name"], &standing.documents[0]["version"]), (&json!("a"), &json!(3)));
        assert_eq!(standing.setters.into_iter().map(|(_, setter)| setter.to_string()).collect::<Vec<_>>(), [id]);
    }
}
