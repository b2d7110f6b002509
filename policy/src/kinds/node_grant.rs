//! `NodeGrant`: what an operator lets a node be. The type is [`certs::grant::NodeGrant`].

use certs::{
    grant::{GrantedService, NodeGrant},
    id::NodeId,
    sign::Digest,
};

use crate::{
    codes,
    decode::At,
    document::{DocumentId, Kind},
};

/// The document that holds a node's grant, and its body.
pub fn node_grant_body(grant: &NodeGrant) -> (DocumentId, String) {
    let id = DocumentId::mesh_wide(Kind::NodeGrant, grant.node.as_str());
    let spec = serde_json::to_value(grant).expect("a grant is plain data");
    let body = super::body(&id, spec);
    (id, body)
}

/// Reads the spec; its name must be the document's.
pub(crate) fn decode(spec: &At<'_>, name: &str) -> Option<NodeGrant> {
    let fields = spec.fields()?;
    let node = fields.required("node").and_then(|at| parsed::<NodeId>(&at));
    let epoch = fields.required("epoch").and_then(|at| at.integer(0..=i64::MAX));
    let services = fields.required("services").map(|list| list.items().iter().filter_map(service).collect());
    let token_hash = fields.get("tokenHash").map(|at| parsed::<Digest>(&at));
    let redeemer = fields.get("redeemer").map(|at| parsed::<NodeId>(&at));
    let token_expires = fields.get("tokenExpires").map(|at| at.integer(0..=i64::MAX));
    let enroller = fields.get("enroller").map_or(Some(false), |at| at.boolean());
    let retired = fields.get("retired").map_or(Some(false), |at| at.boolean());
    fields.finish();
    let node = node?;
    if node.as_str() != name {
        spec.error(codes::GRANT, format!("the grant is for {node} and the document is called {name}"));
        return None;
    }
    // What is there and wrong has been complained of.
    Some(NodeGrant {
        node,
        epoch: unsigned(epoch?)?,
        services: services?,
        token_hash: token_hash.map_or(Some(None), |hash| hash.map(Some))?,
        redeemer: redeemer.map_or(Some(None), |redeemer| redeemer.map(Some))?,
        token_expires: token_expires.map_or(Some(None), |time| time.and_then(unsigned).map(Some))?,
        enroller: enroller?,
        retired: retired?,
    })
}

fn service(at: &At<'_>) -> Option<GrantedService> {
    let fields = at.fields()?;
    let service = fields.required("service").and_then(|at| parsed(&at));
    let account = fields.required("account").and_then(|at| parsed(&at));
    fields.finish();
    Some(GrantedService { service: service?, account: account? })
}

fn unsigned(number: i64) -> Option<u64> {
    u64::try_from(number).ok()
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(at: &At<'_>) -> Option<T> {
    match at.text()?.parse() {
        Ok(value) => Some(value),
        Err(error) => {
            at.error(codes::GRANT, format!("{error}"));
            None
        }
    }
}
