//! What operators signed before, by their signatures: what the next signature rests on is not a node's word.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use policy::{
    DocumentId,
    changeset::ChangesetId,
    history::{History, State},
};
use rand::seq::SliceRandom as _;

use crate::{
    agent::admin::api::{KnownNode, Mesh, Proof, Signed},
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
/// What the node answers; `unverified_node` if that does not hold, `not_supported` if operators signed what this build cannot read.
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
    let (mut all, _) = signed(client, known).await?;
    let mesh: Mesh = client.get("/v1/mesh").await?;
    let mut others = witnesses(&mesh, known);
    let wanted = WITNESSES.min(others.iter().filter(|node| node.alive).count());
    others.shuffle(&mut rand::rng());
    let mut asked = vec![mesh.node.to_string()];
    for node in others.into_iter().take(TRIED) {
        if asked.len() > WITNESSES {
            break;
        }
        let told = async {
            let mut client = client::connect_to(std::slice::from_ref(&node), ctx).await?;
            signed(&mut client, known).await
        };
        match told.await {
            Ok((_, changesets)) => {
                insert(&mut all, &changesets, node.name.as_str())?;
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
    Ok(all)
}

/// What one node holds of what was signed, verified page by page: what nobody of this mesh signed is not even kept in memory.
async fn signed(client: &mut Client, known: &Known) -> Result<(History, Vec<Vec<u8>>)> {
    let (mut history, mut all) = (History::new(known.trust_domain.clone()), Vec::new());
    let mut from = 0;
    loop {
        let page: Signed = client.get(&format!("/v1/policy/history?from={from}")).await?;
        let changesets = decoded(&page.changesets, client.reached())?;
        insert(&mut history, &changesets, client.reached())?;
        all.extend(changesets);
        match page.next {
            None => break,
            // Pages without an end are none.
            Some(next) if next <= from || page.changesets.is_empty() => {
                return Err(refused(client.reached(), "its pages have no end"));
            }
            Some(next) => from = next,
        }
    }
    checked(history, known, client.reached()).map(|history| (history, all))
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

/// Sees that this build can read what stands: what it would sign in its place would take back the rest.
///
/// # Errors
/// `not_supported`.
pub(super) fn readable(state: &State, id: &DocumentId) -> Result<()> {
    let unread = state.unread(id).map(|changeset| format!("this build cannot read what {changeset} made of {id}"));
    unread.map_or(Ok(()), |message| Err(later(message)))
}

fn later(message: String) -> Error {
    Error::new("not_supported", message).hint("use the newest `skein` that the mesh runs")
}

fn believed(known: &Known, proof: &Proof, reached: &str) -> Result<History> {
    let mut history = History::new(known.trust_domain.clone());
    insert(&mut history, &decoded(&proof.changesets, reached)?, reached)?;
    checked(history, known, reached)
}

fn refused(reached: &str, why: &str) -> Error {
    Error::new("unverified_node", format!("what {reached} shows was not signed by this mesh's operators: {why}"))
        .hint("nothing was signed; ask another node with --node")
}

fn decoded(changesets: &[String], reached: &str) -> Result<Vec<Vec<u8>>> {
    let decoded = changesets.iter().map(|text| STANDARD.decode(text)).collect::<std::result::Result<_, _>>();
    decoded.map_err(|error| refused(reached, &error.to_string()))
}

fn insert(history: &mut History, changesets: &[Vec<u8>], reached: &str) -> Result<()> {
    let now = clock::wall();
    let Err(error) = history.insert_all(changesets.iter().map(Vec::as_slice), now) else { return Ok(()) };
    // What refers to it is refused, too, and may be the last.
    let later_build =
        |bytes: &Vec<u8>| history.insert(bytes, now).is_err_and(|refused| history.is_of_later_build(bytes, &refused));
    if changesets.iter().any(later_build) {
        return Err(later(format!("this build cannot read what operators signed and {reached} shows: {error}")));
    }
    Err(refused(reached, &error.to_string()))
}

/// Sees that it is of this mesh, and not older than what was seen before.
fn checked(history: History, known: &Known, reached: &str) -> Result<History> {
    if history.state(clock::wall()).genesis != known.genesis {
        return Err(refused(reached, "it begins with another RoleSet"));
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
        sign::{self, Digest, SigningKey},
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
            later: toml::Table::new(),
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
    fn what_operators_signed_and_this_build_cannot_read_is_no_forgery() {
        let now = clock::wall();
        let mesh = testing::Mesh::at(now);
        let known = Known {
            trust_domain: testing::trust_domain(),
            genesis: mesh.history.state(now).genesis,
            role_set: 0,
            out: Out::default(),
            later: toml::Table::default(),
            nodes: Vec::new(),
        };
        let code = |key: &SigningKey| {
            let mut packed = policy::changeset::decode(&mesh.genesis).unwrap();
            packed.signed = sign::Signed::new(policy::changeset::KIND, [&packed.signed.payload[..], &[0]].concat());
            packed.signed.add(key);
            let all = [mesh.genesis.clone(), policy::changeset::encode(&packed)];
            let proof = Proof { changesets: all.iter().map(|bytes| STANDARD.encode(bytes)).collect() };
            believed(&known, &proof, "x").err().map(|error| error.code.to_string())
        };
        assert_eq!(code(&mesh.operator).as_deref(), Some("not_supported"));
        assert_eq!(code(&SigningKey::generate()).as_deref(), Some("unverified_node"));
    }

    #[test]
    fn what_would_be_written_over_must_be_readable() {
        let mut mesh = testing::Mesh::new();
        let (id, body) = policy::kinds::Revocation::default().body("leak");
        readable(&mesh.push(id.clone(), Some(body.clone())), &id).unwrap();
        let unread = body.replace("\"spec\":{", "\"spec\":{\"fromTheFuture\":1,");
        let error = readable(&mesh.push(id.clone(), Some(unread)), &id).unwrap_err();
        assert!(error.code == "not_supported" && error.hint.contains("newest"), "{error:?}");
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
            joined: Vec::new(),
            out: Out::default(),
        };
        let nodes = ["a", "b", "c"].map(|name| directory::KnownNode { name: node(name), addresses: Vec::new() });
        let known = Known {
            trust_domain: mesh,
            genesis: Digest([0; 32]),
            role_set: 1,
            out: Out::default(),
            nodes: nodes.to_vec(),
            later: toml::Table::new(),
        };
        let asked = witnesses(&said, &known).into_iter().map(|node| (node.name.to_string(), node.alive));
        let expected = [("accomplice", true), ("b", false), ("c", false)].map(|(name, alive)| (name.to_owned(), alive));
        assert_eq!(asked.collect::<Vec<_>>(), expected);
    }
}
