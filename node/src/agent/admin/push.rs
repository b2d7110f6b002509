//! Pushing: what a push must know, and the push itself.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Path, Query, State as Shared},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use certs::{codec::Millis, sign::PublicKey};
use policy::{
    DocumentId, Kind, Problem, Registry,
    changeset::{ChangesetId, MAX_CHANGESET},
    history::{History, State, Trial},
    parse,
    parse::Located,
    validate,
};
use serde::Deserialize;
use serde_json::Value;

use super::{Admin, api, documents::find, error::Error, look::value};
use crate::agent::{Pushed, Wait, receipt::Standing};

/// The longest that a push waits for other nodes.
const PATIENCE_LIMIT: Duration = Duration::from_secs(600);
/// The wait of a push that names none.
const PATIENCE: u64 = 10_000;
/// So many changesets are looked at in the place of one that says again what they say.
const MAX_STANDING: usize = 16;

/// What a push waits for.
#[derive(Debug, Deserialize)]
pub(super) struct Waiting {
    /// `default`, `local`, `all` or a number of nodes.
    wait: Option<String>,
    /// Milliseconds.
    timeout_ms: Option<u64>,
}

impl Waiting {
    fn read(&self) -> Result<(Wait, Duration), Error> {
        Ok((wait(self.wait.as_deref().unwrap_or("default"))?, self.patience()))
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.unwrap_or(PATIENCE)).min(PATIENCE_LIMIT)
    }
}

/// Who will sign what is planned.
#[derive(Debug, Deserialize)]
pub(super) struct Signing {
    /// The public key; without one nothing is said of roles.
    signer: Option<String>,
}

impl Signing {
    fn key(&self) -> Result<Option<PublicKey>, Error> {
        let parse = |text: &String| {
            let wrong = |_| Error::new("bad_request", format!("signer={text}")).hint("a public key: ed25519:...");
            text.parse().map_err(wrong)
        };
        self.signer.as_ref().map(parse).transpose()
    }
}

impl Admin {
    /// `POST /v1/policy/plan`: what a push of these documents needs to know. Changes nothing.
    pub(super) async fn plan(
        Shared(admin): Shared<Self>,
        Query(signing): Query<Signing>,
        Json(intents): Json<Vec<api::Intent>>,
    ) -> Result<Json<api::Plan>, Error> {
        let signer = signing.key()?;
        // Lint looks at every document of the mesh; other questions go on meanwhile.
        let planning = admin.clone();
        let plan = tokio::task::spawn_blocking(move || planning.planned(&intents, signer));
        let (mut plan, setters) =
            plan.await.map_err(|error| Error::new("failed", format!("the plan broke off: {error}")))??;
        plan.standing = admin.standing(setters).await;
        Ok(Json(plan))
    }

    /// The plan, and which changesets set documents to what is asked for.
    fn planned(
        &self,
        intents: &[api::Intent],
        signer: Option<PublicKey>,
    ) -> Result<(api::Plan, BTreeSet<ChangesetId>), Error> {
        within_quota(intents)?;
        let snapshot = self.agent.snapshot();
        let state = &snapshot.state;
        let (documents, located) = located_all(intents)?;
        let signers = signer.as_ref().map(std::slice::from_ref);
        let version = |id: &DocumentId| {
            let values = state.documents.get(id).map(|live| live.values.as_slice()).unwrap_or_default();
            values.iter().map(|value| value.version).max().unwrap_or(0) + 1
        };
        let problems = complaints(&located, state, &*snapshot.services, signers, self.agent.now());
        let yielded = |id: &DocumentId| {
            let live = state.documents.get(id);
            live.map(|live| live.yielded.iter().map(ToString::to_string).collect()).unwrap_or_default()
        };
        let live = |id: &DocumentId| {
            let values = state.documents.get(id).map(|live| live.values.as_slice()).unwrap_or_default();
            values.iter().map(|value| value.changeset.to_string()).collect()
        };
        let setters = intents.iter().zip(&documents).filter_map(|(intent, id)| setter(state, intent, id)).collect();
        let plan = api::Plan {
            trust_domain: self.agent.trust_domain().clone(),
            role_set: state.role_set.number,
            live: documents.iter().map(live).collect(),
            yielded: documents.iter().map(yielded).collect(),
            versions: documents.iter().map(version).collect(),
            problems: problems.iter().map(problem).collect::<Result<_, _>>()?,
            standing: Vec::new(),
        };
        Ok((plan, setters))
    }

    /// These changesets as they were signed, but for those whose time may end; none if they are so many that one more is cheaper.
    async fn standing(&self, setters: BTreeSet<ChangesetId>) -> Vec<String> {
        if setters.len() > MAX_STANDING {
            return Vec::new();
        }
        let now = self.agent.now();
        let signed = move |history: &History| -> Vec<Arc<[u8]>> {
            let lasting = |id: &&ChangesetId| matches!(history.trial(id, now), None | Some(Trial::Confirmed));
            let entries = setters.iter().filter(lasting).filter_map(|id| history.get(id));
            entries.filter(|entry| entry.whole).map(|entry| entry.bytes.clone()).collect()
        };
        let signed = self.agent.history(signed).await;
        if signed.iter().map(|bytes| bytes.len()).sum::<usize>() > MAX_CHANGESET {
            return Vec::new();
        }
        signed.iter().map(|bytes| STANDARD.encode(bytes)).collect()
    }

    /// `GET /v1/policy/changesets/{id}/receipts`: who has a changeset that this node holds, as after its push.
    pub(super) async fn receipts(
        Shared(admin): Shared<Self>,
        Path(prefix): Path<String>,
        Query(waiting): Query<Waiting>,
    ) -> Result<Json<api::Pushed>, Error> {
        let id = admin.agent.history(move |history| find(history, &prefix)).await?;
        let (wait, patience) = waiting.read()?;
        Ok(Json(answer(admin.agent.receipts(id, wait, patience).await?)))
    }

    /// `POST /v1/policy`: a signed changeset. Answers once those that were asked for have it, or the time is over.
    pub(super) async fn push(
        Shared(admin): Shared<Self>,
        Query(waiting): Query<Waiting>,
        body: Bytes,
    ) -> Result<Json<api::Pushed>, Error> {
        let (wait, patience) = waiting.read()?;
        let pushed = admin.agent.push(body.to_vec(), wait, patience).await?;
        let proposal = match &pushed.changeset {
            Some(id) => admin.proposed(id).await,
            None => None,
        };
        Ok(Json(api::Pushed { proposal, ..answer(pushed) }))
    }
}

impl Admin {
    /// `GET /v1/ca/settled`: who follows the RoleSet in force and rests on no root that it retires, as each node signs.
    pub(super) async fn settled(
        Shared(admin): Shared<Self>,
        Query(waiting): Query<Waiting>,
    ) -> Result<Json<api::Pushed>, Error> {
        Ok(Json(answer(admin.agent.settled(waiting.patience()).await?)))
    }
}

/// The changeset that alone set this document, if to what it shall be.
fn setter(state: &State, intent: &api::Intent, id: &DocumentId) -> Option<ChangesetId> {
    let [only] = state.documents.get(id)?.values.as_slice() else { return None };
    let content = intent.content.as_deref()?;
    (only.document.is_ok() && parse::same(content, &only.json)).then_some(only.changeset)
}

/// As many documents as one changeset holds.
pub(super) fn within_quota(intents: &[api::Intent]) -> Result<(), Error> {
    let limit = policy::changeset::MAX_CHANGES;
    if intents.len() > limit {
        let message = format!("{} documents; one changeset holds {limit}", intents.len());
        return Err(Error::new("quota_exceeded", message).hint("push them in parts"));
    }
    Ok(())
}

/// Which documents are meant, and those that are set.
pub(super) fn located_all(intents: &[api::Intent]) -> Result<(Vec<DocumentId>, Vec<Located>), Error> {
    let documents = intents.iter().map(id).collect::<Result<Vec<_>, _>>()?;
    let located = intents.iter().zip(&documents).filter_map(|(intent, id)| located(intent, id).transpose());
    let located = located.collect::<Result<Vec<_>, _>>()?;
    Ok((documents, located))
}

/// Complaints between documents, and about those that have ended; what authors silenced is left out, unless a push is refused for it.
pub(super) fn complaints(
    located: &[Located],
    state: &State,
    registry: &dyn Registry,
    signers: Option<&[PublicKey]>,
    now: Millis,
) -> Vec<Problem> {
    let mut problems = validate::ended(located, now);
    problems.extend(validate::between_as(located, state, registry, signers));
    let refuses = |problem: &Problem| validate::refuses_push(problem.code, problem.severity);
    problems.retain(|problem| refuses(problem) || !validate::is_silenced(problem, located));
    problems
}

fn wait(word: &str) -> Result<Wait, Error> {
    match word {
        "default" => Ok(Wait::Two),
        "local" => Ok(Wait::Local),
        "all" => Ok(Wait::All),
        number => number
            .parse()
            .map(Wait::Nodes)
            .map_err(|_| Error::new("bad_request", format!("wait={number}")).hint("local, all or a number of nodes")),
    }
}

fn id(intent: &api::Intent) -> Result<DocumentId, Error> {
    let kind = intent.kind.parse::<Kind>();
    let kind =
        kind.map_err(|error| Error::new("bad_request", error.to_string()).hint("see `skein policy push --help`"))?;
    Ok(DocumentId::new(kind, &intent.namespace, &intent.name))
}

/// The document that an intent sets; none if it deletes one.
fn located(intent: &api::Intent, id: &DocumentId) -> Result<Option<Located>, Error> {
    let Some(json) = &intent.content else { return Ok(None) };
    let document = parse::json(id, json).map_err(|problems| {
        let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
        Error::new("invalid_document", format!("{id}: {}", lines.join("; ")))
            .hint("this node's version of skein cannot read it; is it older than the one that pushes?")
    })?;
    Ok(Some(Located::of_body(document, json.clone(), intent.line, intent.file.clone())))
}

/// A complaint as `policy lint` writes it, with its file.
pub(super) fn problem(problem: &Problem) -> Result<Value, Error> {
    let mut written = value(problem)?;
    written["file"] = Value::String(problem.file.clone());
    written["refuses"] = Value::Bool(validate::refuses_push(problem.code, problem.severity));
    Ok(written)
}

fn answer(pushed: Pushed) -> api::Pushed {
    let who = |is: fn(Standing) -> bool| {
        pushed.receipts.iter().filter(|receipt| is(receipt.standing)).map(|receipt| receipt.node.clone()).collect()
    };
    api::Pushed {
        changeset: pushed.changeset.map(|id| id.to_string()).unwrap_or_default(),
        applied: who(|standing| standing >= Standing::Applied),
        unreadable: who(|standing| standing == Standing::Unreadable),
        durable: pushed.receipts.iter().map(|receipt| receipt.node.clone()).collect(),
        pending: pushed.pending,
        unreachable: pushed.unreachable,
        complete: pushed.complete,
        elapsed_ms: u64::try_from(pushed.elapsed.as_millis()).unwrap_or(u64::MAX),
        receipts: pushed.signed.iter().map(|bytes| STANDARD.encode(bytes)).collect(),
        proposal: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_wait() {
        assert_eq!(wait("default"), Ok(Wait::Two));
        assert_eq!(wait("3"), Ok(Wait::Nodes(3)));
        assert_eq!(wait("most").unwrap_err().code, "bad_request");
    }

    #[test]
    fn a_signer_is_a_public_key() {
        let key = certs::sign::SigningKey::generate().public();
        let signing = |text: &str| Signing { signer: Some(text.to_owned()) }.key();
        assert_eq!(signing(&key.to_string()), Ok(Some(key)));
        assert_eq!(signing("ann").unwrap_err().code, "bad_request");
        assert_eq!(Signing { signer: None }.key(), Ok(None));
    }
}
