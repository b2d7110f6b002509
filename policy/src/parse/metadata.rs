//! `metadata` of a document: names, labels, annotations, and what Kubernetes writes there.

use std::collections::BTreeMap;

use crate::{
    DocumentId, Kind, codes,
    decode::{At, Fields, parse_time},
    document::{EXPIRES, LB, LINT_IGNORE, ROOT_NAMESPACE, ignored_codes},
    hosts,
};

/// `metadata` of a document.
pub(crate) struct Metadata {
    pub(crate) id: DocumentId,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) created: Option<u64>,
    pub(crate) expires: Option<u64>,
}

pub(super) fn read(metadata: &At<'_>, kind: Kind, default_namespace: &str) -> Option<Metadata> {
    let fields = metadata.fields()?;
    let name = fields.required("name");
    let name = name
        .as_ref()
        .and_then(|name| checked_name(name, hosts::is_document_name, "a name is DNS labels joined by dots"));
    let namespace = match fields.get("namespace") {
        Some(namespace) => {
            checked_name(&namespace, hosts::is_dns_label, "a namespace is one DNS label").map(|text| (text, true))
        }
        None => Some((default_namespace.to_owned(), false)),
    };
    if let (Some((namespace, true)), true) = (&namespace, kind.is_mesh_wide())
        && namespace != ROOT_NAMESPACE
    {
        let hint = format!("leave the namespace out, or write {ROOT_NAMESPACE}");
        metadata.error_hint(codes::NAME, format!("{kind} concerns the whole mesh"), hint);
    }
    if kind == Kind::RoleSet && name.as_deref().is_some_and(|name| name != DocumentId::role_set().name) {
        metadata.error(codes::NAME, "there is one RoleSet; it is called `default`");
    }
    let labels = fields.get("labels").map(|labels| labels.texts()).unwrap_or_default();
    let annotations = fields.get("annotations").map(|annotations| annotations.texts()).unwrap_or_default();
    let expires = annotations.get(EXPIRES).and_then(|text| {
        let time = parse_time(text);
        if time.is_none() {
            let message = format!("{EXPIRES}: `{text}` is not a time");
            metadata.error_hint(codes::ANNOTATION, message, "write it like 2030-01-31T12:00:00Z");
        }
        time
    });
    for code in ignored_codes(&annotations).filter(|code| codes::TABLE.iter().all(|(known, _)| known != code)) {
        metadata.warn(codes::ANNOTATION, format!("{LINT_IGNORE}: no complaint has the code `{code}`"), "");
    }
    if kind != Kind::DestinationRule && annotations.contains_key(LB) {
        let message = format!("{LB} says nothing on a {kind}: it is for a DestinationRule");
        metadata.warn(codes::WITHOUT_EFFECT, message, "leave it out");
    }
    let created = fields.get("creationTimestamp").and_then(|created| created.time());
    foreign_metadata(&fields);
    fields.finish();
    let (namespace, _) = namespace?;
    Some(Metadata { id: DocumentId::new(kind, &namespace, &name?), labels, annotations, created, expires })
}

/// What Kubernetes writes into metadata when a document is exported from it: read and left alone.
fn foreign_metadata(fields: &Fields<'_>) {
    fields.left_alone(&[
        "uid",
        "resourceVersion",
        "generation",
        "selfLink",
        "managedFields",
        "ownerReferences",
        "finalizers",
        "generateName",
    ]);
}

fn checked_name(at: &At<'_>, rule: fn(&str) -> bool, says: &str) -> Option<String> {
    let text = at.text()?;
    if !rule(text) {
        at.error_hint(codes::NAME, format!("`{text}` is not valid"), says);
        return None;
    }
    Some(text.to_owned())
}
