//! `NodeGrant`: what an operator lets a node be. The type is [`certs::grant::NodeGrant`].

use certs::grant::NodeGrant;

use crate::document::{DocumentId, Kind};

/// The document that holds a node's grant, and its body.
pub fn node_grant_body(grant: &NodeGrant) -> (DocumentId, String) {
    let id = DocumentId::mesh_wide(Kind::NodeGrant, grant.node.as_str());
    let spec = serde_json::to_value(grant).expect("a grant is plain data");
    let body = super::body(&id, spec);
    (id, body)
}
