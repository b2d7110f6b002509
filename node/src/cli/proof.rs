//! What operators signed before, by their signatures: what the next signature rests on is not a node's word.

use std::collections::HashSet;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use policy::{DocumentId, changeset::ChangesetId, history::History};
use rand::seq::SliceRandom as _;

use crate::{
    agent::admin::api::{KnownNode, Mesh, Proof},
    cli::{
        client::{self, Client, segment},
        context::Context,
        directory::{self, Known},
        error::{Error, Result},
        output::remark,
    },
    clock,
};

/// Further nodes that are asked for all that was signed.
const WITNESSES: usize = 4;
/// Nodes that are tried for it.
const TRIED: usize = 8;

/// How a document stands.
///
/// # Errors
/// What the node answers; `unverified_node` if that does not hold.
pub(super) async fn of_document(client: &mut Client, known: &Known, id: &DocumentId) -> Result<History> {
    let path = format!("/v1/policy/proof/{}/{}/{}", id.kind, segment(&id.namespace), segment(&id.name));
    let proof: Proof = client.get(&path).await?;
    believed(known, &proof, client.reached())
}

/// How the documents of a changeset stand, by the beginning of its id.
///
/// # Errors
/// As [`of_document`].
pub(super) async fn of_changeset(client: &mut Client, known: &Known, prefix: &str) -> Result<History> {
    let proof: Proof = client.get(&format!("/v1/policy/changesets/{}/proof", segment(prefix))).await?;
    believed(known, &proof, client.reached())
}

/// All that operators ever signed: what a new RoleSet is to keep can only be said of the whole. One node could keep something back, or
/// lack it still; so others are asked, too: whom it names, and whom the operator knew before, for it could name its accomplices alone.
///
/// # Errors
/// As [`of_document`].
pub(super) async fn of_everything(client: &mut Client, known: &Known, ctx: &Context) -> Result<History> {
    let mut all: Proof = client.get("/v1/policy/history").await?;
    believed(known, &all, client.reached())?;
    let mesh: Mesh = client.get("/v1/mesh").await?;
    let mut others = witnesses(&mesh, known);
    let wanted = WITNESSES.min(others.iter().filter(|node| node.alive).count());
    others.shuffle(&mut rand::rng());
    let mut asked = vec![mesh.node.to_string()];
    for node in others.into_iter().take(TRIED) {
        if asked.len() > WITNESSES {
            break;
        }
        let proof = async {
            let mut client = client::connect_to(std::slice::from_ref(&node), ctx).await?;
            let proof: Proof = client.get("/v1/policy/history").await?;
            believed(known, &proof, client.reached()).map(|_| proof)
        };
        match proof.await {
            Ok(proof) => {
                add(&mut all, proof);
                asked.push(node.name.to_string());
            }
            // Who is dead need not answer.
            Err(_) if !node.alive => {}
            Err(error) => remark(&format!("note: {} does not say what was signed: {}", node.name, error.message)),
        }
    }
    if asked.len() <= wanted {
        let named = asked.join(", ");
        remark(&format!("note: only {named} says what was signed so far; what it does not hold would not be kept"));
    }
    believed(known, &all, &asked.join(", "))
}

/// Who may be asked beside the node that was reached.
fn witnesses(mesh: &Mesh, known: &Known) -> Vec<KnownNode> {
    let mut others: Vec<KnownNode> = mesh.nodes.iter().filter(|node| node.alive).cloned().collect();
    for directory::KnownNode { name, addresses } in &known.nodes {
        if others.iter().all(|node| node.name != *name) {
            let (name, addresses) = (name.clone(), addresses.clone());
            others.push(KnownNode { name, addresses, enroller: false, alive: false });
        }
    }
    others.retain(|node| node.name != mesh.node);
    others
}

/// Adds what is not there yet, after what it may refer to.
fn add(all: &mut Proof, more: Proof) {
    let held: HashSet<String> = all.changesets.iter().cloned().collect();
    all.changesets.extend(more.changesets.into_iter().filter(|changeset| !held.contains(changeset)));
}

/// The one changeset whose id begins so.
///
/// # Errors
/// `ambiguous`, also for none.
pub(super) fn only(history: &History, prefix: &str) -> Result<ChangesetId> {
    match history.by_prefix(prefix).as_slice() {
        [id] => Ok(*id),
        found => Err(Error::new("ambiguous", format!("{} changesets begin with {prefix}", found.len()))
            .hint("give more of the id; `skein policy log -o json` shows it in full")),
    }
}

fn believed(known: &Known, proof: &Proof, reached: &str) -> Result<History> {
    let refused = |why: String| {
        Error::new("unverified_node", format!("what {reached} shows was not signed by this mesh's operators: {why}"))
            .hint("nothing was signed; ask another node with --node")
    };
    let decoded = proof.changesets.iter().map(|text| STANDARD.decode(text)).collect::<std::result::Result<Vec<_>, _>>();
    let changesets = decoded.map_err(|error| refused(error.to_string()))?;
    let (mut history, now) = (History::new(known.trust_domain.clone()), clock::wall());
    history.insert_all(changesets.iter().map(Vec::as_slice), now).map_err(|error| refused(error.to_string()))?;
    if history.state(now).genesis != known.genesis {
        return Err(refused("it begins with another RoleSet".to_owned()));
    }
    let newest = history.newest_role_set();
    if newest < known.role_set {
        let message =
            format!("{reached} knows RoleSets up to {newest}, and RoleSet {} was seen before", known.role_set);
        return Err(Error::new("unverified_node", message)
            .hint("nothing was signed; wait until the node has caught up, or ask another one with --node"));
    }
    Ok(history)
}

#[cfg(test)]
mod tests {
    use certs::{
        id::{NodeId, TrustDomain},
        sign::Digest,
    };

    use super::*;
    use crate::{agent::admin::api::Out, testing};

    #[test]
    fn only_what_begins_with_the_meshs_own_genesis_is_believed() {
        let now = clock::wall();
        let [mesh, other] = [(); 2].map(|()| testing::Mesh::at(now));
        let shown = |mesh: &testing::Mesh| Proof { changesets: vec![STANDARD.encode(&mesh.genesis)] };
        let (own, foreign) = (shown(&mesh), shown(&other));
        let known = Known {
            trust_domain: testing::trust_domain(),
            genesis: mesh.history.state(now).genesis,
            role_set: 0,
            out: Out::default(),
            nodes: Vec::new(),
        };
        assert!(believed(&known, &own, "x").unwrap().contains(&ChangesetId(known.genesis)));
        let stale = believed(&Known { role_set: 2, ..known.clone() }, &own, "x").err().unwrap();
        assert!(stale.code == "unverified_node" && stale.message.contains("RoleSets up to 1"), "{stale:?}");
        for lie in [foreign, Proof { changesets: Vec::new() }, Proof { changesets: vec!["AAAA".into()] }] {
            assert_eq!(
                believed(&known, &lie, "x").err().map(|error| error.code.to_string()),
                Some("unverified_node".into())
            );
        }
    }

    #[test]
    fn whom_the_operator_knew_is_asked_whatever_the_reached_node_says() {
        let (mesh, node) = (TrustDomain::new("t.example").unwrap(), |name: &str| NodeId::new(name).unwrap());
        let named = |name: &str, alive| KnownNode { name: node(name), addresses: Vec::new(), enroller: false, alive };
        let said = Mesh {
            trust_domain: mesh.clone(),
            node: node("a"),
            genesis: Digest([0; 32]),
            role_set: 1,
            keys: Vec::new(),
            bundle: String::new(),
            nodes: vec![named("a", true), named("accomplice", true), named("b", false)],
            out: Out::default(),
        };
        let nodes = ["a", "b", "c"].map(|name| directory::KnownNode { name: node(name), addresses: Vec::new() });
        let known = Known {
            trust_domain: mesh,
            genesis: Digest([0; 32]),
            role_set: 1,
            out: Out::default(),
            nodes: nodes.to_vec(),
        };
        let asked = witnesses(&said, &known).into_iter().map(|node| (node.name.to_string(), node.alive));
        let expected = [("accomplice", true), ("b", false), ("c", false)].map(|(name, alive)| (name.to_owned(), alive));
        assert_eq!(asked.collect::<Vec<_>>(), expected);
    }
}
