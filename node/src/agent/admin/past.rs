//! Looking back: a document as it was, what was pushed, what waits to be settled.

use axum::{
    Json,
    extract::{Path, Query, State},
    response::Response,
};
use certs::codec::Millis;
use policy::{
    DocumentId,
    changeset::ChangesetId,
    history::{Absent, Conflict, History, LiveValue, LogEntry, Moment, Trial, Version, WHEN_BODIES_GO},
};
use serde::Deserialize;

use super::{Admin, answers::encoded, api, documents, error::Error, look::KindName, rfc3339};

/// `GET /v1/policy/{kind}/{namespace}/{name}`: the document in effect, or as it was.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct When {
    /// A time, RFC 3339, or a changeset: what it was then, or what that made of it.
    pub(crate) at: Option<String>,
    /// A changeset: what that replaced.
    pub(crate) before: Option<String>,
}

/// `GET /v1/policy/log`: which entries.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub(crate) struct LogFilter {
    /// At most so many.
    pub(crate) limit: Option<usize>,
    /// `KIND/NAMESPACE/NAME`.
    pub(crate) document: Option<String>,
    /// Name of a key that signed.
    pub(crate) author: Option<String>,
    /// Not before, RFC 3339.
    pub(crate) since: Option<String>,
}

impl Admin {
    /// `GET /v1/policy/{kind}/{namespace}/{name}`: 404 if no such document is in effect; null if none was then.
    pub(crate) async fn document_at(
        State(admin): State<Self>,
        Path((KindName(kind), namespace, name)): Path<(KindName, String, String)>,
        Query(when): Query<When>,
    ) -> Result<Json<Option<api::Content>>, Error> {
        let id = DocumentId::new(kind, &namespace, &name);
        let (word, before) = match (when.at, when.before) {
            (None, None) => return admin.document(&id).map(Some).map(Json),
            (Some(at), None) => (at, false),
            (None, Some(changeset)) => (changeset, true),
            (Some(_), Some(_)) => return Err(Error::new("bad_request", "at and before exclude each other")),
        };
        let asked = id.clone();
        let version = admin.agent.history(move |history| {
            let moment = moment(history, &word, before)?;
            Ok::<_, Error>(history.past(&asked, moment))
        });
        let found = version.await?.and_then(|version| Some((version.content.clone()?, version)));
        let content = |(content, version): (std::sync::Arc<str>, Version)| {
            if content.is_empty() {
                let message = format!("the body that {} gave to {id} is no longer kept", version.changeset);
                return Err(Error::new("not_found", message).hint(WHEN_BODIES_GO));
            }
            Ok(admin.shown(api::Content {
                summary: summary(&id, &version),
                document: documents::json(&content)?,
                problem: None,
                conflicts: Vec::new(),
            }))
        };
        found.map(content).transpose().map(Json)
    }

    /// What was pushed, newest first.
    pub(crate) async fn log(&self, filter: &LogFilter) -> Result<Vec<api::LogEntry>, Error> {
        let (agent, look) = (self.agent.clone(), self.looking_back(filter)?);
        self.aside(move || agent.history_aside(look)).await
    }

    /// `GET /v1/policy/log`.
    pub(super) async fn written_log(&self, filter: &LogFilter) -> Result<Response, Error> {
        let (agent, look) = (self.agent.clone(), self.looking_back(filter)?);
        self.aside(move || encoded(&agent.history_aside(look))).await?
    }

    fn looking_back(
        &self,
        filter: &LogFilter,
    ) -> Result<impl FnOnce(&History) -> Vec<api::LogEntry> + Send + use<>, Error> {
        let since = filter.since.as_deref().map(time).transpose()?;
        let document = filter.document.as_deref().map(document).transpose()?;
        let (author, limit) = (filter.author.clone(), filter.limit.unwrap_or(usize::MAX));
        let wanted = move |entry: &LogEntry| {
            since.is_none_or(|since| entry.time >= since)
                && author.as_ref().is_none_or(|author| entry.authors.contains(author))
                && document.as_ref().is_none_or(|wanted| entry.documents.iter().any(|(id, _)| id == wanted))
        };
        let now = self.agent.now();
        Ok(move |history: &History| {
            let log = history.log().into_iter().filter(wanted).take(limit);
            log.map(|one| entry(history, one, now)).collect()
        })
    }

    /// `GET /v1/policy/conflicts`: what an operator should settle.
    pub(crate) async fn conflicts(State(admin): State<Self>) -> Json<Vec<api::Conflict>> {
        let state = admin.agent.state();
        let rows = move |history: &History| {
            let row = |conflict: &Conflict| match conflict {
                Conflict::Values(id, claims) => {
                    let changesets: Vec<_> = claims.iter().map(|claim| claim.changeset).collect();
                    row(&state, history, "values", id, &changesets)
                }
                Conflict::RoleSets(changesets) => {
                    row(&state, history, "role_sets", &DocumentId::role_set(), changesets)
                }
                Conflict::Unreadable(id, changeset) => row(&state, history, "unreadable", id, &[*changeset]),
            };
            state.conflicts.iter().map(row).collect()
        };
        Json(admin.agent.history(rows).await)
    }
}

/// A time, or a changeset by the beginning of its id.
fn moment(history: &History, word: &str, before: bool) -> Result<Moment, Error> {
    if !before && let Ok(time) = time(word) {
        return Ok(Moment::At(time));
    }
    let id = documents::find(history, word)?;
    Ok(if before { Moment::Before(id) } else { Moment::After(id) })
}

pub(super) fn time(word: &str) -> Result<Millis, Error> {
    let time = word.parse::<jiff::Timestamp>().ok().and_then(|time| Millis::try_from(time.as_millisecond()).ok());
    time.ok_or_else(|| {
        Error::new("bad_request", format!("`{word}` is not a time")).hint("write it like 2030-01-31T12:00:00Z")
    })
}

fn document(word: &str) -> Result<DocumentId, Error> {
    let wrong = || Error::new("bad_request", format!("`{word}` is not KIND/NAMESPACE/NAME")).hint("see `policy list`");
    let mut parts = word.splitn(3, '/');
    let (Some(kind), Some(namespace), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(wrong());
    };
    Ok(DocumentId::new(kind.parse().map_err(|_| wrong())?, namespace, name))
}

/// An entry of the log.
pub(super) fn entry(history: &History, entry: LogEntry, now: Millis) -> api::LogEntry {
    let document = |(id, deleted): &(DocumentId, bool)| if *deleted { format!("-{id}") } else { id.to_string() };
    let trial = history.trial(&entry.changeset, now);
    let confirm_by = history.get(&entry.changeset).and_then(|kept| kept.changeset.confirm_by);
    api::LogEntry {
        changeset: entry.changeset.to_string(),
        replaces: entry.replaces.iter().map(ToString::to_string).collect(),
        authors: entry.authors,
        time: rfc3339(entry.time),
        message: entry.message,
        documents: entry.documents.iter().map(document).collect(),
        confirm_by: confirm_by.map(rfc3339),
        trial: trial.map(|trial| trial_word(trial).to_owned()),
    }
}

fn trial_word(trial: Trial) -> &'static str {
    match trial {
        Trial::Open(_) => "open",
        Trial::Confirmed => "confirmed",
        Trial::Over(_) => "over",
    }
}

fn summary(id: &DocumentId, version: &Version) -> api::Document {
    api::Document {
        kind: id.kind.to_string(),
        namespace: id.namespace.clone(),
        name: id.name.clone(),
        version: version.version,
        changeset: version.changeset.to_string(),
        authors: version.authors.clone(),
        time: rfc3339(version.time),
    }
}

fn row(
    state: &policy::history::State,
    history: &History,
    what: &str,
    id: &DocumentId,
    changesets: &[ChangesetId],
) -> api::Conflict {
    let live = state.documents.get(id);
    let in_effect = live.and_then(|live| live.effective.as_ref()).map(|value| value.changeset);
    let of = |changeset: &&ChangesetId| live.and_then(|live| live.values.iter().find(|v| v.changeset == **changeset));
    let value = |value: &LiveValue| api::ConflictValue {
        changeset: value.changeset.to_string(),
        authors: value.authors.clone(),
        time: rfc3339(value.time),
        message: history.get(&value.changeset).map(|kept| kept.changeset.message.clone()).unwrap_or_default(),
        version: value.version,
        deleted: value.document == Err(Absent::Deleted),
        problem: match &value.document {
            Err(Absent::Unreadable(problems)) => problems.first().map(ToString::to_string),
            Err(Absent::Forgotten) => Some("its body is not here; it is being asked for".to_owned()),
            Ok(_) | Err(Absent::Deleted | Absent::Expired) => None,
        },
        in_effect: id.kind.heeds_all() || Some(value.changeset) == in_effect,
    };
    api::Conflict {
        conflict: what.to_owned(),
        kind: id.kind.to_string(),
        namespace: id.namespace.clone(),
        name: id.name.clone(),
        in_effect: in_effect.map(|changeset| changeset.to_string()),
        values: changesets.iter().filter_map(|changeset| of(&changeset)).map(value).collect(),
        settle: settle(what, id, live.is_some_and(|live| live.effective.is_some())),
    }
}

/// The command that settles a conflict as it is now in effect; another value is chosen by its changeset.
fn settle(what: &str, id: &DocumentId, exists: bool) -> Vec<String> {
    let document = format!("{} {} -n {}", id.kind, id.name, id.namespace);
    let show = |rest: &str| format!("skein policy show {document}{rest} | skein policy push -");
    match what {
        "unreadable" => vec![show(" --at CHANGESET")],
        "role_sets" => {
            vec![format!("skein policy show {document} > roles.yaml"), "skein policy push roles.yaml".into()]
        }
        _ if exists => vec![show(""), show(" --at CHANGESET")],
        _ => vec![format!("skein policy delete {document}"), show(" --at CHANGESET")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::Kind;

    #[test]
    fn words_of_documents_and_times() {
        assert_eq!(document("vs/a/b").unwrap_err().code, "bad_request");
        let id = document("VirtualService/shop/cart").unwrap();
        assert_eq!(id, DocumentId::new(Kind::VirtualService, "shop", "cart"));
        assert_eq!(time("1970-01-01T00:00:01Z"), Ok(1_000));
        assert_eq!(time("yesterday").unwrap_err().code, "bad_request");
    }

    #[test]
    fn a_conflict_names_the_command_that_settles_it() {
        let id = DocumentId::new(Kind::VirtualService, "shop", "cart");
        let keep = "skein policy show VirtualService cart -n shop | skein policy push -";
        assert_eq!(settle("values", &id, true)[0], keep);
        assert_eq!(settle("values", &id, false)[0], "skein policy delete VirtualService cart -n shop");
    }
}
