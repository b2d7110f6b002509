//! Policy: the documents in effect, who pushed what and why, what differs, and which nodes have it.

use axum::{
    Json,
    extract::{Path, Query, State},
};
use maud::{Markup, html};
use policy::{DocumentId, Kind};
use serde_json::Value;

use super::{
    layout::{Page, Tab},
    paging,
    words::{self, segment, short},
};
use crate::{
    agent::admin::{
        Admin, KindName, LogFilter, When,
        api::{Change, ChangesetDetail, Conflict, Content, Document, LogEntry, Proposal, Spread},
    },
    cli::{difference::unified, output::yaml},
    error::Error,
};

/// Changesets of the log that are shown.
pub(super) const SHOWN: usize = 100;

/// What the page shows.
pub(super) struct Seen {
    pub(super) documents: Vec<Document>,
    pub(super) log: Vec<LogEntry>,
    pub(super) conflicts: Vec<Conflict>,
    pub(super) proposals: Vec<Proposal>,
}

pub(super) fn page(seen: &Seen, page: usize) -> Markup {
    let part = paging::part(&seen.documents, page);
    html! {
        h1 { "Policy" }
        section #conflicts data-live { @for conflict in &seen.conflicts { (told(conflict)) } }
        section #proposals data-live { (proposals(&seen.proposals)) }
        section #documents data-live {
            h2 { "Documents" }
            p { (seen.documents.len()) " in effect at this node." }
            table.cards {
                thead { tr {
                    th scope="col" { "Document" } th scope="col" { "Kind" } th.number scope="col" { "Version" }
                    th scope="col" { "Changeset" } th scope="col" { "Authors" } th scope="col" { "When" }
                } }
                tbody {
                    @for document in part.rows {
                        tr {
                            th scope="row" { a href=(path(document)) { (document.namespace) "/" (document.name) } }
                            td data-label="Kind" { (document.kind) }
                            td.number data-label="Version" { (document.version) }
                            td data-label="Changeset" { (changeset_link(&document.changeset)) }
                            td data-label="Authors" { (document.authors.join(", ")) }
                            td data-label="When" { (words::past(&document.time)) }
                        }
                    }
                }
            }
        }
        (part.links("/policy?page="))
        section #log data-live {
            h2 { "History" }
            (history(&seen.log))
            @if seen.log.len() == SHOWN { p.hint { "The newest " (SHOWN) "; " code { "skein policy log" } " has all." } }
        }
    }
}

fn path(document: &Document) -> String {
    format!(
        "/policy/documents/{}/{}/{}",
        segment(&document.kind),
        segment(&document.namespace),
        segment(&document.name)
    )
}

fn changeset_link(id: &str) -> Markup {
    html! { a href={ "/policy/changesets/" (segment(id)) } { code { (short(id)) } } }
}

fn told(conflict: &Conflict) -> Markup {
    let what = match conflict.conflict.as_str() {
        "values" => "has several live values, pushed apart from each other",
        "role_sets" => "has several successors: none of them counts",
        _ => "cannot be read by this build",
    };
    html! {
        div.problem.degraded {
            p { strong { "Conflict: " } (conflict.kind) " " (conflict.namespace) "/" (conflict.name) " " (what) }
            ul {
                @for value in &conflict.values {
                    li {
                        (changeset_link(&value.changeset)) " by " (value.authors.join(", ")) ", " (words::past(&value.time))
                        @if value.in_effect { ", in effect" } @if value.deleted { ", deletes it" }
                        @if let Some(problem) = &value.problem { ": " (problem) }
                    }
                }
            }
            @for command in &conflict.settle { p.hint { code { (command) } } }
        }
    }
}

fn proposals(all: &[Proposal]) -> Markup {
    html! {
        @if !all.is_empty() {
            h2 { "Waiting for signatures" }
            table.cards {
                thead { tr {
                    th scope="col" { "Changeset" } th scope="col" { "Documents" } th scope="col" { "Signed by" }
                    th scope="col" { "Missing" } th scope="col" { "Until" } th scope="col" { "Why" }
                } }
                tbody {
                    @for proposal in all {
                        tr {
                            th scope="row" { (changeset_link(&proposal.changeset)) }
                            td data-label="Documents" { (documents(&proposal.documents)) }
                            td data-label="Signed by" { (proposal.signed.join(", ")) }
                            td data-label="Missing" {
                                @for missing in &proposal.missing { (missing.count) " of " (missing.of.join(", ")) " " }
                            }
                            td data-label="Until" { time datetime=(proposal.until) { (proposal.until) } }
                            td data-label="Why" { (proposal.message) @if let Some(stale) = &proposal.stale { " " strong { (stale) } } }
                        }
                    }
                }
            }
        }
    }
}

fn documents(names: &[String]) -> Markup {
    html! {
        ul.plain {
            @for name in names {
                li { @if name.starts_with('-') { "deletes " } (words::link(words::document_path(name), name.trim_start_matches('-'))) }
            }
        }
    }
}

fn history(log: &[LogEntry]) -> Markup {
    html! {
        table.cards {
            thead { tr {
                th scope="col" { "Changeset" } th scope="col" { "When" } th scope="col" { "Authors" }
                th scope="col" { "Documents" } th scope="col" { "Why" }
            } }
            tbody {
                @for entry in log {
                    tr {
                        th scope="row" { (changeset_link(&entry.changeset)) }
                        td data-label="When" { (words::past(&entry.time)) }
                        td data-label="Authors" { (entry.authors.join(", ")) }
                        td data-label="Documents" { (documents(&entry.documents)) }
                        td data-label="Why" { (entry.message) (trial(entry)) }
                    }
                }
            }
        }
    }
}

fn trial(entry: &LogEntry) -> Markup {
    let until = entry.confirm_by.as_deref().unwrap_or_default();
    html! {
        @match entry.trial.as_deref() {
            Some("open") => { " " (words::state("open")) " on trial until " (until) }
            Some("over") => { " " (words::state("left")) " taken back: not confirmed by " (until) }
            Some(word) => { " (" (word) ")" }
            None => {}
        }
    }
}

/// One changeset: what it changed, and who has it.
///
/// # Errors
/// `not_found`, `ambiguous`, `usage`.
pub(super) async fn changeset(admin: &Admin, id: &str) -> Result<Page, Error> {
    let Json(detail) = Admin::changeset(State(admin.clone()), Path(id.to_owned())).await?;
    let Json(spread) = Admin::spread(State(admin.clone()), Path(detail.entry.changeset.clone())).await?;
    let mut sides = Vec::with_capacity(detail.changes.len());
    for change in &detail.changes {
        sides.push(sides_of(admin, &detail.entry.changeset, change).await);
    }
    let differences = move || sides.into_iter().map(difference).collect::<Vec<_>>();
    let changes: Vec<_> = detail.changes.iter().zip(admin.aside(differences).await?).collect();
    let title = format!("Changeset {}", short(&detail.entry.changeset));
    Ok(Page::new(&title, Tab::Policy, changed(&detail, &spread, &changes)))
}

/// What a document was before a change and what it made of it; either is nothing where there was no document.
type Sides = Result<(Option<Value>, Option<Value>), Error>;

async fn sides_of(admin: &Admin, changeset: &str, change: &Change) -> Sides {
    Ok((before(admin, changeset, change).await?, change.document.clone()))
}

/// What a change made of its document, line by line; or why that is not known.
fn difference(sides: Sides) -> String {
    let text = |value: Option<Value>| value.map_or_else(|| Ok(String::new()), |value| yaml(&value));
    match sides.and_then(|(before, after)| Ok((text(before)?, text(after)?))) {
        Ok((before, after)) => unified(("before", "after"), &before, &after),
        Err(error) => format!("{error}\n"),
    }
}

async fn before(admin: &Admin, changeset: &str, change: &Change) -> Result<Option<Value>, Error> {
    let kind: Kind = change.kind.parse().map_err(|_| Error::new("not_found", "this build does not know the kind"))?;
    let when = When { before: Some(changeset.to_owned()), ..When::default() };
    let names = (KindName(kind), change.namespace.clone(), change.name.clone());
    let Json(content) = Admin::document_at(State(admin.clone()), Path(names), Query(when)).await?;
    Ok(content.map(|content| content.document))
}

fn changed(detail: &ChangesetDetail, spread: &Spread, changes: &[(&Change, String)]) -> Markup {
    let entry = &detail.entry;
    html! {
        h1 { "Changeset " code { (short(&entry.changeset)) } }
        dl {
            dt { "Id" } dd { code.id { (entry.changeset) } }
            dt { "When" } dd { time datetime=(entry.time) { (entry.time) } ", " (words::past(&entry.time)) }
            dt { "Authors" } dd { (entry.authors.join(", ")) " under RoleSet " (detail.role_set) }
            @if !entry.message.is_empty() || entry.trial.is_some() { dt { "Why" } dd { (entry.message) (trial(entry)) } }
            dt { "Replaces" } dd { @for id in &entry.replaces { (changeset_link(id)) " " } @if entry.replaces.is_empty() { "nothing" } }
        }
        section #spread data-live {
            h2 { "Who has it" }
            p { (spread.there.len()) " of " (spread.there.len() + spread.missing.len()) " nodes that are alive" }
            ul.chips {
                @for node in &spread.there { li { (words::state("applied")) " " a href={ "/nodes/" (segment(node.as_str())) } { (node) } } }
                @for node in &spread.missing { li { (words::state("silent")) " " a href={ "/nodes/" (segment(node.as_str())) } { (node) } } }
            }
        }
        @for (change, text) in changes {
            section {
                h2 {
                    @if change.document.is_some() { "Sets " } @else { "Deletes " }
                    (words::link(words::document_path(&format!("{} {}/{}", change.kind, change.namespace, change.name)),
                        &format!("{} {}/{}", change.kind, change.namespace, change.name)))
                }
                (diff(text))
            }
        }
    }
}

/// A difference with its lines in colours; the signs say the same.
fn diff(text: &str) -> Markup {
    let class = |line: &str| match line.as_bytes().first() {
        Some(b'+') => "added",
        Some(b'-') => "dropped",
        Some(b'@') => "place",
        _ => "kept",
    };
    html! {
        @if text.is_empty() { p { "Nothing differs." } } @else {
            pre.diff tabindex="0" { @for line in text.lines() { span class=(class(line)) { (line) } "\n" } }
        }
    }
}

/// One document: what is in effect, and its life.
///
/// # Errors
/// `not_found`.
pub(super) async fn document(admin: &Admin, (kind, namespace, name): (String, String, String)) -> Result<Page, Error> {
    let known: Kind = kind.parse().map_err(|_| Error::new("not_found", format!("{kind} is no kind of document")))?;
    let id = DocumentId::new(known, &namespace, &name);
    let of = format!("{}/{}/{}", id.kind, id.namespace, id.name);
    let log = admin.log(&LogFilter { limit: Some(SHOWN), document: Some(of), ..LogFilter::default() }).await?;
    let content = match admin.document(&id) {
        Err(error) if error.code == "not_found" && !log.is_empty() => None,
        content => Some(content?),
    };
    let text = content.as_ref().map(|content| yaml(&content.document)).transpose()?;
    Ok(Page::new(&id.to_string(), Tab::Policy, shown(&id, content.as_ref(), text.as_deref(), &log)))
}

fn shown(id: &DocumentId, content: Option<&Content>, text: Option<&str>, log: &[LogEntry]) -> Markup {
    html! {
        h1 { (id.kind.to_string()) " " (id.namespace) "/" (id.name) }
        section #document data-live {
            @match content {
                None => { p { "It was deleted; no value is in effect." } }
                Some(content) => {
                    p {
                        "Version " (content.summary.version) " of " (changeset_link(&content.summary.changeset)) ", by "
                        (content.summary.authors.join(", ")) ", " (words::past(&content.summary.time))
                    }
                    @if let Some(problem) = &content.problem {
                        div.problem.degraded { p { "It cannot be applied: " (problem) } }
                    }
                    @for other in &content.conflicts {
                        div.problem.degraded { p { "Another value is live: " (changeset_link(other)) } }
                    }
                    pre.yaml tabindex="0" { (text.unwrap_or_default()) }
                }
            }
        }
        section #log data-live { h2 { "Its life" } (history(log)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_difference_have_their_colours_and_nothing_else() {
        let text = diff("--- before\n+++ after\n@@ -1,1 +1,1 @@\n-a: <b>\n+a: c\n d\n").into_string();
        assert!(
            text.contains("<span class=\"dropped\">-a: &lt;b&gt;</span>\n<span class=\"added\">+a: c</span>\n"),
            "{text}"
        );
        assert!(diff("").into_string().contains("Nothing differs"));
    }

    #[test]
    fn what_operators_wrote_is_escaped() {
        let entry = LogEntry {
            changeset: "0123456789abcdef".into(),
            replaces: Vec::new(),
            authors: vec!["ann".into()],
            time: "2030-01-01T00:00:00Z".into(),
            message: "<img src=x onerror=alert(1)>".into(),
            documents: vec!["VirtualService shop/cart".into(), "-RateLimit shop/<i>".into()],
            confirm_by: Some("2030-01-01T00:05:00Z".into()),
            trial: Some("open".into()),
        };
        let seen = Seen { documents: Vec::new(), log: vec![entry], conflicts: Vec::new(), proposals: Vec::new() };
        let text = page(&seen, 0).into_string();
        assert!(text.contains("&lt;img src=x") && !text.contains("<img") && !text.contains("<i>"));
        assert!(
            text.contains("/policy/documents/VirtualService/shop/cart")
                && text.contains("deletes ")
                && text.contains("on trial")
        );
    }
}
