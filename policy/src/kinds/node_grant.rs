//! `NodeGrant`: what an operator lets a node be. The type is [`certs::grant::NodeGrant`].

use certs::grant::NodeGrant;

use crate::{
    codes,
    decode::At,
    document::{DocumentId, Kind},
    tree,
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
    match serde_json::from_str::<NodeGrant>(&tree::write(spec.node, false)) {
        Ok(grant) if grant.node.as_str() == name => Some(grant),
        Ok(grant) => {
            spec.error(codes::GRANT, format!("the grant is for {} and the document is called {name}", grant.node));
            None
        }
        Err(error) => {
            // serde_json's place is one in our compact text: meaningless to the reader.
            let message = error.to_string();
            spec.error(codes::GRANT, message.split(" at line ").next().unwrap_or_default());
            None
        }
    }
}
