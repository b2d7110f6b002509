//! What operators let nodes be: reading and changing a node's grant.

use certs::{grant::NodeGrant, id::NodeId};
use policy::{DocumentId, Kind, kinds::node_grant_body};

use crate::{
    agent::admin::api::{Content, Intent},
    cli::{
        client::Client,
        context::Context,
        error::{Error, Result},
        signing::{Operator, Outcome, Sending, intent},
    },
};

/// A grant as it is in effect.
#[derive(Debug, Clone)]
pub(super) struct Held {
    /// What it says.
    pub grant: NodeGrant,
    /// The changesets whose values are live: what a change replaces.
    pub live: Vec<String>,
}

/// A node's grant; `None` if it never had one.
///
/// # Errors
/// What the node answers.
pub(super) async fn fetch(client: &mut Client, node: &NodeId) -> Result<Option<Held>> {
    let id = DocumentId::mesh_wide(Kind::NodeGrant, node.as_str());
    let content: Content = match client.get(&format!("/v1/policy/{}/{}/{}", id.kind, id.namespace, id.name)).await {
        Ok(content) => content,
        Err(error) if error.code == "not_found" => return Ok(None),
        Err(error) => return Err(error),
    };
    let grant = serde_json::from_value(content.document["spec"].clone()).map_err(|error| {
        Error::new("failed", format!("the grant of {node} cannot be read: {error}"))
            .hint("use the version of skein that the mesh runs")
    })?;
    let live = std::iter::once(content.summary.changeset).chain(content.conflicts).collect();
    Ok(Some(Held { grant, live }))
}

/// The grant of a node that must have one and must not be retired.
///
/// # Errors
/// `not_found`.
pub(super) async fn fetch_active(client: &mut Client, node: &NodeId) -> Result<Held> {
    match fetch(client, node).await? {
        Some(held) if !held.grant.retired => Ok(held),
        Some(_) => Err(Error::new("not_found", format!("{node} was retired"))
            .hint(format!("let it in again with `skein invite {node} --replace ...`"))),
        None => Err(Error::new("not_found", format!("no node {node} was ever invited"))
            .hint(format!("`skein members --all` lists nodes; `skein invite {node} --service NS/NAME` lets one in"))),
    }
}

/// Signs and sends a grant in place of the one that was held.
///
/// # Errors
/// What the node answers.
pub(super) async fn put(
    operator: &Operator,
    client: &mut Client,
    ctx: &Context,
    (grant, held): (&NodeGrant, Option<&Held>),
    sending: &Sending,
) -> Result<Outcome> {
    let intents: Vec<Intent> = vec![intent(node_grant_body(grant))];
    let mut plan = operator.plan(client, &intents).await?;
    // What the new grant was made of is what it replaces: a change in between makes it stale.
    plan.live = vec![held.map(|held| held.live.clone()).unwrap_or_default()];
    operator.send(client, ctx, intents, &plan, sending).await
}
