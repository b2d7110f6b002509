//! `skein evict`.

use certs::id::NodeId;
use policy::{DocumentId, Kind, history::State, kinds::Revocation};
use serde_json::json;

use crate::{
    agent::admin::api::Mesh,
    cli::{
        client,
        context::Context,
        error::{Result, usage},
        grants,
        output::{Format, remark},
        policy::standing::Standing,
        proof,
        signing::{Operator, Sending, intent},
    },
    clock,
};

/// Shuts a node out: its identities no longer count, and its connections are closed within 5 s of the eviction's
/// arrival. A machine under this name can come back by `invite --replace` only.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  skein evict web-1 --message 'stolen'
  skein evict web-1 --epoch 2 --message 'the machine before this one was stolen'")]
pub struct Args {
    /// The node, also one that has left
    #[arg(value_name = "NODE")]
    out: NodeId,
    /// Only its machines up to this epoch, which each invite of the name raises [default: all until now]
    #[arg(long, value_name = "E", value_parser = clap::value_parser!(u64).range(1..))]
    epoch: Option<u64>,
    /// Also an enroller: whomever it certified is out with it
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    sending: Sending,
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    let operator = Operator::load(ctx)?;
    let mut client = client::connect(ctx).await?;
    let held = grants::fetch_ever(&mut client, &operator.known, &args.out).await?;
    let current = held.grant.epoch;
    let epoch = args.epoch.unwrap_or(current);
    if epoch > current {
        let hint = "an eviction counts for ever, so one of machines to come is refused";
        return Err(usage(format!("{} is at epoch {current}: there is no epoch {epoch} yet", args.out), hint));
    }
    if !args.force {
        grants::refuse_enroller(&mut client, &held.grant).await?;
    }
    // A node that has just been shut out passes nothing on.
    let mesh: Mesh = client.get("/v1/mesh").await?;
    if mesh.node == args.out
        && epoch == current
        && let Some(other) = client::connect_elsewhere(&mut client, ctx, &args.out).await?
    {
        client = other;
    }
    let id = DocumentId::mesh_wide(Kind::Revocation, args.out.as_str());
    let state = proof::of_document(&mut client, &operator.known, &id).await?.state(clock::wall());
    let mut revocation = standing(&state, &id)?;
    if revocation.nodes.get(&args.out).is_some_and(|out| *out >= epoch) {
        if ctx.output.format == Format::Table {
            remark(&format!("note: {} is evicted already: nothing is signed", args.out));
        }
        operator.directory.note_out(|out| out.evict(args.out.clone(), epoch));
        let live = state.documents.get(&id).map(|live| live.values.as_slice()).unwrap_or_default();
        let version = live.first().map_or(0, |value| value.version);
        let row = json!({"kind": id.kind.to_string(), "namespace": id.namespace, "name": id.name, "version": version,
            "unchanged": true});
        let standing = Standing::of(vec![row], live.iter().map(|value| (value.time, value.changeset)));
        let outcome = standing.add_to(None, &operator, &mut client, ctx, &args.sending).await?;
        return outcome.without(&args.out).show(ctx);
    }
    evict(&mut revocation, &args.out, epoch);
    let intents = vec![intent(revocation.body(args.out.as_str()))];
    let mut plan = operator.plan(&mut client, &intents).await?;
    // What the new one was made of is what it replaces: a change in between makes it stale.
    plan.live = vec![state.heads(&id).iter().map(ToString::to_string).collect()];
    let mut sending = args.sending;
    if sending.message.is_empty() {
        sending.message = format!("evict {}", args.out);
    }
    let outcome = operator.send(&mut client, ctx, intents, &plan, &sending).await?;
    if outcome.is_in_force() {
        operator.directory.note_out(|out| out.evict(args.out.clone(), epoch));
    }
    // The evicted node is the one that need not agree.
    let outcome = if epoch == current { outcome.without(&args.out) } else { outcome };
    outcome.show(ctx)
}

/// What the document revokes already: what replaces it must say that, too.
///
/// # Errors
/// This build cannot read what it says.
pub(super) fn standing(state: &State, id: &DocumentId) -> Result<Revocation> {
    let mut revocation = Revocation::default();
    proof::readable(state, id)?;
    if let Some(live) = state.documents.get(id) {
        let values = live.values.iter().filter_map(|value| value.document.as_ref().ok()).map(|document| &document.spec);
        for own in values.chain(&live.counted).filter_map(|spec| spec.revocation()) {
            own.nodes.iter().for_each(|(node, epoch)| evict(&mut revocation, node, *epoch));
        }
        let values = live.values.iter().filter_map(|value| value.document.as_ref().ok());
        for own in values.filter_map(|document| document.spec.revocation()) {
            revocation.accounts.extend(own.accounts.iter().cloned());
            revocation.keys.extend(own.keys.iter().copied());
        }
    }
    Ok(revocation)
}

fn evict(revocation: &mut Revocation, node: &NodeId, epoch: u64) {
    let highest = revocation.nodes.entry(node.clone()).or_insert(epoch);
    *highest = epoch.max(*highest);
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use certs::sign::Digest;

    use super::*;
    use crate::testing;

    #[test]
    fn what_the_document_revokes_already_stays() {
        let mut mesh = testing::Mesh::new();
        let node = |name: &str| NodeId::new(name).unwrap();
        let before = Revocation {
            nodes: BTreeMap::from([(node("web-1"), 1), (node("web-2"), 7)]),
            accounts: BTreeSet::from(["shop/cart".parse().unwrap()]),
            keys: BTreeSet::from([Digest([5; 32])]),
        };
        let (id, body) = before.body("web-1");
        assert_eq!(standing(&mesh.state(), &id).unwrap(), Revocation::default());
        let mut after = standing(&mesh.push(id.clone(), Some(body)), &id).unwrap();
        assert_eq!(after, before);
        evict(&mut after, &node("web-1"), 2);
        assert_eq!(after, Revocation { nodes: BTreeMap::from([(node("web-1"), 2), (node("web-2"), 7)]), ..before });
    }
}
