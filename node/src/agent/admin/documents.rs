//! Policy as this node holds it: documents in effect, history, single changesets.

use axum::{
    Json,
    extract::{Path, State},
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use policy::{
    DocumentId, Kind,
    changeset::ChangesetId,
    history::{Absent, Entry, History, Live, LiveValue},
};
use serde_json::Value;

use super::{
    Admin,
    answers::encoded,
    api,
    error::Error,
    look::{Documents, KindName},
    past, rfc3339,
    withheld::withhold,
};

impl Admin {
    /// The documents in effect, or some of them.
    pub(crate) fn documents(&self, of: &Documents) -> Vec<api::Document> {
        let state = self.agent.state();
        state.effective().filter(|(id, _)| of.include(id)).map(|(id, value)| summary(id, value)).collect()
    }

    /// A document in effect.
    pub(crate) fn document(&self, id: &DocumentId) -> Result<api::Content, Error> {
        let state = self.agent.state();
        let missing = || {
            Error::new("not_found", format!("there is no {id}"))
                .hint("`skein policy list` shows all; the namespace is given with -n")
        };
        let live = state.documents.get(id).ok_or_else(missing)?;
        let value = live.effective.as_ref().ok_or_else(missing)?;
        content(id, live, value).map(|content| self.shown(content))
    }

    /// A document as whoever comes by this door may see it.
    pub(super) fn shown(&self, content: api::Content) -> api::Content {
        if !self.places.is_public {
            return content;
        }
        api::Content { document: withhold(content.document), ..content }
    }

    /// `GET /v1/policy/export`: every document in effect that a user may push.
    pub(super) async fn export(&self) -> Result<Response, Error> {
        let (state, admin) = (self.agent.state(), self.clone());
        let written = move || {
            let documents = state.documents.iter();
            let documents = documents.filter(|(id, _)| !id.kind.is_mesh_wide() || id.kind == Kind::MeshConfig);
            let contents = documents.filter_map(|(id, live)| Some(content(id, live, live.effective.as_ref()?)));
            let contents = contents.map(|content| content.map(|content| admin.shown(content)));
            encoded(&contents.collect::<Result<Vec<_>, _>>()?)
        };
        self.aside(written).await?
    }

    /// `GET /v1/policy/changesets/{id}`.
    pub(crate) async fn changeset(
        State(admin): State<Self>,
        Path(prefix): Path<String>,
    ) -> Result<Json<api::ChangesetDetail>, Error> {
        let now = admin.agent.now();
        let detail = admin.agent.history(move |history| {
            let id = find(history, &prefix)?;
            let held = history.get(&id).ok_or_else(|| absent(&prefix))?;
            let entry = history.log().into_iter().find(|entry| entry.changeset == id).ok_or_else(|| absent(&prefix))?;
            Ok::<_, Error>(detail(held, past::entry(history, entry, now)))
        });
        let mut detail = detail.await?;
        if admin.places.is_public {
            for change in &mut detail.changes {
                change.document = change.document.take().map(withhold);
            }
        }
        Ok(Json(detail))
    }

    /// `GET /v1/policy/changesets/{id}/proof`: how the documents of a changeset stand, as operators signed it.
    pub(super) async fn changeset_proof(
        State(admin): State<Self>,
        Path(prefix): Path<String>,
    ) -> Result<Json<api::Proof>, Error> {
        let proof = admin.agent.history(move |history| {
            let id = find(history, &prefix)?;
            let held = history.get(&id).ok_or_else(|| absent(&prefix))?;
            let documents: Vec<_> = held.changeset.changes.iter().map(|change| &change.document).collect();
            Ok(proof(history, &documents))
        });
        proof.await.map(Json)
    }

    /// `GET /v1/policy/proof/{kind}/{namespace}/{name}`: how a document stands, as operators signed it.
    pub(super) async fn document_proof(
        State(admin): State<Self>,
        Path((KindName(kind), namespace, name)): Path<(KindName, String, String)>,
    ) -> Json<api::Proof> {
        let id = DocumentId::new(kind, &namespace, &name);
        Json(admin.agent.history(move |history| proof(history, &[&id])).await)
    }

    /// `GET /v1/policy/changesets/{id}/spread`: asks every linked node for its receipt, without waiting for more.
    pub(crate) async fn spread(
        State(admin): State<Self>,
        Path(prefix): Path<String>,
    ) -> Result<Json<api::Spread>, Error> {
        let id = admin.agent.history(move |history| find(history, &prefix)).await?;
        let patience = std::time::Duration::from_millis(500);
        let pushed = admin.agent.receipts(id, crate::agent::Wait::All, patience).await?;
        let there = pushed.receipts.into_iter().map(|receipt| receipt.node).collect();
        Ok(Json(api::Spread { changeset: id.to_string(), there, missing: pushed.pending }))
    }
}

/// A changeset by the beginning of its id.
pub(super) fn find(history: &History, prefix: &str) -> Result<ChangesetId, Error> {
    const SHORTEST: usize = 4;
    if prefix.len() < SHORTEST || !prefix.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Error::new("usage", format!("`{prefix}` is not the beginning of a changeset's id"))
            .hint(format!("give at least {SHORTEST} hexadecimal digits; `skein policy log` shows ids")));
    }
    match history.by_prefix(&prefix.to_ascii_lowercase()).as_slice() {
        [only] => Ok(*only),
        [] => Err(absent(prefix)),
        several => Err(Error::new("ambiguous", format!("{} changesets begin with {prefix}", several.len()))
            .hint("give more of the id; `skein policy log -o json` shows it in full")),
    }
}

fn proof(history: &History, documents: &[&DocumentId]) -> api::Proof {
    let changesets = history.proof(documents.iter().copied());
    api::Proof { changesets: changesets.iter().map(|bytes| STANDARD.encode(bytes)).collect() }
}

fn absent(prefix: &str) -> Error {
    Error::new("not_found", format!("no changeset {prefix} is here")).hint("`skein policy log` shows those that are")
}

fn summary(id: &DocumentId, value: &LiveValue) -> api::Document {
    api::Document {
        kind: id.kind.to_string(),
        namespace: id.namespace.clone(),
        name: id.name.clone(),
        version: value.version,
        changeset: value.changeset.to_string(),
        authors: value.authors.clone(),
        time: rfc3339(value.time),
    }
}

fn content(id: &DocumentId, live: &Live, value: &LiveValue) -> Result<api::Content, Error> {
    let document = json(&value.json)?;
    let problem = match &value.document {
        Ok(_) => None,
        Err(Absent::Unreadable(problems)) => {
            Some(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        }
        Err(Absent::Deleted) => Some("it was deleted".to_owned()),
        Err(Absent::Expired) => Some("it has expired".to_owned()),
        Err(Absent::Forgotten) => Some("its body is not here; it is being asked for".to_owned()),
    };
    let others = live.values.iter().filter(|other| other.changeset != value.changeset);
    let conflicts = others.map(|other| other.changeset.to_string()).collect();
    Ok(api::Content { summary: summary(id, value), document, problem, conflicts })
}

fn detail(held: &Entry, entry: api::LogEntry) -> api::ChangesetDetail {
    let change = |change: &policy::changeset::Change| api::Change {
        kind: change.document.kind.to_string(),
        namespace: change.document.namespace.clone(),
        name: change.document.name.clone(),
        // What this build cannot read as JSON is shown as text.
        document: change.content.as_ref().map(|text| json(text).unwrap_or_else(|_| Value::String(text.clone()))),
        replaces: ids(&change.replaces),
    };
    api::ChangesetDetail {
        entry,
        role_set: held.changeset.role_set,
        changes: held.changeset.changes.iter().map(change).collect(),
    }
}

fn ids(ids: &[ChangesetId]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

/// A stored body as it was written, without what only nodes read in it.
pub(super) fn json(text: &str) -> Result<Value, Error> {
    let text = policy::parse::compact(text).unwrap_or_else(|| text.to_owned());
    serde_json::from_str(&text).map_err(|error| Error::new("failed", format!("a stored document is no JSON: {error}")))
}
