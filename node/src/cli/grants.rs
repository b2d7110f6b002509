//! What operators let nodes be: reading and changing a node's grant.

use certs::{grant::NodeGrant, id::NodeId};
use policy::{DocumentId, Kind, kinds::node_grant_body};

use crate::{
    agent::admin::api::{Intent, Mesh},
    cli::{
        client::Client,
        context::Context,
        directory::Known,
        error::{Error, Result, usage},
        proof,
        signing::{Operator, Outcome, Sending, intent},
    },
    clock,
};

/// What to do where a certificate cannot hold a grant.
const TOO_MANY: &str = "let several services share an account (NS/NAME=SA), or run some of them on another node";

/// A grant as it is in effect.
#[derive(Debug, Clone)]
pub(super) struct Held {
    /// What it says.
    pub grant: NodeGrant,
    /// The changesets whose values are live: what a change replaces.
    pub live: Vec<String>,
}

/// A node's grant, as operators signed it; `None` if it never had one. With it the number of the RoleSet in force, proven as well.
///
/// # Errors
/// What the node answers; `unverified_node` if that does not hold.
pub(super) async fn fetch(client: &mut Client, known: &Known, node: &NodeId) -> Result<(Option<Held>, u64)> {
    let id = DocumentId::mesh_wide(Kind::NodeGrant, node.as_str());
    let state = proof::of_document(client, known, &id).await?.state(clock::wall());
    let live = state.heads(&id).iter().map(ToString::to_string).collect();
    let held = state.grants().get(node).map(|grant| Held { grant: NodeGrant::clone(grant), live });
    Ok((held, state.role_set.number))
}

/// The grant of a node that must have one, retired or not.
///
/// # Errors
/// `not_found`.
pub(super) async fn fetch_ever(client: &mut Client, known: &Known, node: &NodeId) -> Result<Held> {
    fetch(client, known, node).await?.0.ok_or_else(|| {
        Error::new("not_found", format!("no node {node} was ever invited"))
            .hint(format!("`skein members --all` lists nodes; `skein invite {node} --service NS/NAME` lets one in"))
    })
}

/// The grant of a node that must have one and must not be retired.
///
/// # Errors
/// `not_found`.
pub(super) async fn fetch_active(client: &mut Client, known: &Known, node: &NodeId) -> Result<Held> {
    let held = fetch_ever(client, known, node).await?;
    if held.grant.retired {
        return Err(Error::new("not_found", format!("{node} was retired"))
            .hint(format!("let it in again with `skein invite {node} --replace ...`")));
    }
    Ok(held)
}

/// Signs and sends a grant in place of the one that was held.
///
/// # Errors
/// No certificate can hold it; or what the node answers.
pub(super) async fn put(
    operator: &Operator,
    client: &mut Client,
    ctx: &Context,
    (grant, held): (&NodeGrant, Option<&Held>),
    sending: &Sending,
) -> Result<Outcome> {
    let fits = grant.fits(&operator.known.trust_domain);
    fits.map_err(|error| {
        usage(format!("{} services are too many for {}: {error}", grant.services.len(), grant.node), TOO_MANY)
    })?;
    let intents: Vec<Intent> = vec![intent(node_grant_body(grant))];
    let mut plan = operator.plan(client, &intents).await?;
    // What the new grant was made of is what it replaces: a change in between makes it stale.
    plan.live = vec![held.map(|held| held.live.clone()).unwrap_or_default()];
    let outcome = operator.send(client, ctx, intents, &plan, sending).await?;
    if outcome.is_in_force() {
        operator.directory.note_out(|out| out.grant(grant));
    }
    Ok(outcome)
}

/// Keeps an enroller whose loss would be everybody's: certificates hold only under an enroller that counts.
///
/// # Errors
/// `enroller_needed`: it is one, and there are other nodes.
pub(super) async fn refuse_enroller(client: &mut Client, grant: &NodeGrant) -> Result<()> {
    let mesh: Mesh = client.get("/v1/mesh").await?;
    if !grant.enroller || mesh.nodes.iter().all(|node| node.name == grant.node) {
        return Ok(());
    }
    let message = format!("{} is an enroller: every node that it certified would be out with it", grant.node);
    let hint =
        "stop it instead, or, where losing those nodes is meant, add --force; each then needs `skein invite --replace`";
    Err(Error::new("enroller_needed", message).hint(hint))
}
