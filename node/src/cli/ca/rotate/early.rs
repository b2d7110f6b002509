//! Which enrollers rest on the new root before it is in use.

use certs::{id::NodeId, trust::Standing};

use super::Change;
use crate::{
    agent::admin::api::{Certificates, Mesh, Status},
    cli::{client, context::Context, error::Result},
};

/// Live enrollers that certify under the new root already, and those of which that cannot be known, with the reason.
pub(super) async fn early(change: &mut Change, ctx: &Context) -> Result<Vec<(NodeId, String)>> {
    let mesh: Mesh = change.client.get("/v1/mesh").await?;
    let mut early = Vec::new();
    for node in mesh.nodes.iter().filter(|node| node.enroller && node.alive) {
        let status: Result<Status> = if node.name == mesh.node {
            change.client.get("/v1/status").await
        } else {
            async { client::connect_to(std::slice::from_ref(node), ctx).await?.get("/v1/status").await }.await
        };
        match status.map(|status| doubt(&status.certificates)) {
            Ok(None) => {}
            Ok(Some(why)) => early.push((node.name.clone(), why.to_owned())),
            Err(error) => early.push((node.name.clone(), error.message)),
        }
    }
    Ok(early)
}

/// Why an enroller may rest on the new root, by what it says of its certificates.
fn doubt(certificates: &Certificates) -> Option<&'static str> {
    match &certificates.enroller_root {
        Some(root) if *root == Standing::Next.to_string() => Some("its enroller CA is under the new root"),
        Some(_) => None,
        // Silence of an earlier version proves nothing.
        None => certificates.enroller_ca_expires.is_some().then_some(
            "it runs a version that does not say under which root its enroller CA is: update it, or go past with --force",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_enroller_that_does_not_say_its_root_is_not_trusted_to_have_the_old_one() {
        let said = |root: Option<&str>, expires: Option<&str>| {
            doubt(&Certificates {
                node_ca_expires: String::new(),
                node_ca_begins: String::new(),
                leaf_expires: String::new(),
                enrollers: 1,
                enroller_ca_expires: expires.map(str::to_owned),
                enroller_root: root.map(str::to_owned),
            })
        };
        let end = Some("2027-01-01T00:00:00Z");
        assert!(said(Some("next"), end).is_some_and(|why| why.contains("new root")));
        assert!(said(None, end).is_some_and(|why| why.contains("version")));
        assert_eq!((said(Some("issuing"), end), said(None, None)), (None, None), "the old root, or no CA at all");
    }
}
