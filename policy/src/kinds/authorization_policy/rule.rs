//! A rule of an AuthorizationPolicy: OR over `from`, OR over `to`, AND over `when`.

use super::{Attribute, Condition, condition};
use crate::{
    codes,
    decode::{At, Fields},
};

/// A rule: some source, some operation, every condition.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Line in the pushed file, from 1; 0 if unknown.
    pub line: usize,
    /// Any of them, each of conditions that all hold; empty is anybody.
    pub from: Vec<Vec<Condition>>,
    /// Any of them, each of conditions that all hold; empty is anything.
    pub to: Vec<Vec<Condition>>,
    /// All of them.
    pub when: Vec<Condition>,
}

/// A field, its negation, and what both look at.
type Field = (&'static str, &'static str, Attribute);

const SOURCE: [Field; 7] = [
    ("principals", "notPrincipals", Attribute::Principal),
    ("requestPrincipals", "notRequestPrincipals", Attribute::RequestPrincipal),
    ("namespaces", "notNamespaces", Attribute::Namespace),
    ("serviceAccounts", "notServiceAccounts", Attribute::ServiceAccount),
    ("trustDomains", "notTrustDomains", Attribute::TrustDomain),
    ("ipBlocks", "notIpBlocks", Attribute::SourceIp),
    ("remoteIpBlocks", "notRemoteIpBlocks", Attribute::RemoteIp),
];

const OPERATION: [Field; 4] = [
    ("hosts", "notHosts", Attribute::Host),
    ("ports", "notPorts", Attribute::DestinationPort),
    ("methods", "notMethods", Attribute::Method),
    ("paths", "notPaths", Attribute::Path),
];

impl Rule {
    pub(super) fn decode(at: &At<'_>, own_namespace: &str) -> Option<Self> {
        let fields = at.fields()?;
        let from = alternatives(&fields, "from", "source", &SOURCE, own_namespace);
        let to = alternatives(&fields, "to", "operation", &OPERATION, own_namespace);
        let list = fields.get("when");
        let items = list.as_ref().map(At::items).unwrap_or_default();
        let when = items.iter().filter_map(|item| decode_when(item, own_namespace)).collect();
        fields.finish();
        Some(Self { line: at.line(), from, to, when })
    }

    /// Every condition of the rule.
    pub fn conditions(&self) -> impl Iterator<Item = &Condition> {
        self.from.iter().chain(&self.to).flatten().chain(&self.when)
    }

    /// True if, as Istio warns, the sources or the operations look at HTTP alone: as DENY it denies every TCP connection.
    pub(super) fn is_only_http(&self) -> bool {
        let looks_at_tcp = |list: &[Vec<Condition>], attribute: fn(&Attribute) -> bool| {
            list.iter().flatten().any(|condition| attribute(&condition.attribute))
        };
        let from = !self.from.is_empty() && self.to.is_empty() && !looks_at_tcp(&self.from, |own| !own.is_http());
        let to = !self.to.is_empty() && !looks_at_tcp(&self.to, |own| *own == Attribute::DestinationPort);
        from || to
    }
}

/// `from` or `to`: a list of objects with one object inside each.
fn alternatives(
    fields: &Fields<'_>,
    name: &'static str,
    inner: &'static str,
    known: &[Field],
    own_namespace: &str,
) -> Vec<Vec<Condition>> {
    let list = fields.get(name);
    let items = list.as_ref().map(At::items).unwrap_or_default();
    let decode = |item: &At<'_>| {
        let outer = item.fields()?;
        let object = outer.get(inner);
        outer.finish();
        let Some(object) = object else {
            item.error_as_istio(codes::MISSING, format!("`{name}.{inner}` must not be nil"), &way_out(name, inner));
            return None;
        };
        let fields = object.fields()?;
        let before = object.out.errors();
        let mut conditions = Vec::new();
        for (field, not_field, attribute) in known {
            let (values, not_values) = (fields.get(field), fields.get(not_field));
            let key = format!("{}{}", field[..1].to_ascii_uppercase(), &field[1..]);
            conditions.extend(condition::decode(attribute, values.as_ref(), not_values.as_ref(), &key, own_namespace));
        }
        fields.finish();
        if conditions.is_empty() && object.out.errors() == before {
            object.error_as_istio(codes::EMPTY, format!("`{name}.{inner}` must not be empty"), &way_out(name, inner));
        }
        check_accounts(&object, &conditions);
        Some(conditions)
    };
    items.iter().filter_map(decode).collect()
}

fn way_out(name: &str, inner: &str) -> String {
    format!("write a field in `{inner}`, or leave `{name}` out to mean any")
}

/// Service accounts stand for principal and namespace together.
fn check_accounts(at: &At<'_>, conditions: &[Condition]) {
    let has = |attribute: Attribute| conditions.iter().any(|condition| condition.attribute == attribute);
    if has(Attribute::ServiceAccount) && (has(Attribute::Principal) || has(Attribute::Namespace)) {
        let message = "Cannot set serviceAccounts with namespaces or principals";
        at.error_as_istio(codes::EXCLUSIVE, message, "a service account says both");
    }
}

fn decode_when(at: &At<'_>, own_namespace: &str) -> Option<Condition> {
    let fields = at.fields()?;
    let (key, values, not_values) = (fields.get("key"), fields.get("values"), fields.get("notValues"));
    fields.finish();
    let Some((key, place)) = key.as_ref().and_then(|key| Some((key.text()?, key))).filter(|(key, _)| !key.is_empty())
    else {
        at.error_as_istio(codes::MISSING, "`key` must not be empty", "write what is looked at, e.g. source.ip");
        return None;
    };
    let count = |list: &Option<At<'_>>| list.as_ref().map_or(0, |list| list.items().len());
    if count(&values) + count(&not_values) == 0 {
        let message = format!("at least one of `values` or `notValues` must be set for key {key}");
        at.error_as_istio(codes::MISSING, message, "write a value in one of them, or leave the condition out");
        return None;
    }
    let unknown = |error| place.error_as_istio(codes::ATTRIBUTE, error, &Attribute::hint(key));
    let attribute = Attribute::of_key(key).map_err(unknown).ok()?;
    if let Attribute::EnvoyFilter(_) = attribute {
        place.unbuilt(format!("`{key}` (there is no Envoy whose filters could say it)"));
    }
    condition::decode(&attribute, values.as_ref(), not_values.as_ref(), key, own_namespace)
}
