//! NodeGrants that two sides of a split mesh changed.

use certs::{
    grant::{GrantedService, NodeGrant},
    id::NodeId,
};

use super::*;

pub(super) fn grant(services: &[&str]) -> NodeGrant {
    NodeGrant {
        node: NodeId::new("web-1").unwrap(),
        epoch: 1,
        services: services.iter().map(|name| name.parse().unwrap()).collect(),
        token_hash: None,
        redeemer: None,
        token_expires: None,
        enroller: false,
        retired: false,
    }
}

impl Mesh {
    fn grants(&mut self, grant: &NodeGrant, replaces: &[ChangesetId]) -> ChangesetId {
        let (document, content) = kinds::node_grant_body(grant);
        let operator = self.operator.clone();
        let mut replaces = replaces.to_vec();
        replaces.sort_unstable();
        let change = Change { document, content: Some(content), replaces };
        self.insert(vec![change], &[&operator]).unwrap()
    }

    fn granted(&self) -> NodeGrant {
        NodeGrant::clone(&self.history.state(NOW).grants()[&NodeId::new("web-1").unwrap()])
    }
}

fn services(names: &[&str]) -> Vec<GrantedService> {
    grant(names).services
}

#[test]
fn what_one_side_took_away_the_other_does_not_bring_back() {
    let mut mesh = Mesh::new();
    let base = mesh.grants(&grant(&["shop/x", "shop/y"]), &[]);
    let narrow = mesh.grants(&grant(&["shop/y"]), &[base]);
    let wide = mesh.grants(&grant(&["shop/x", "shop/y", "shop/z"]), &[base]);
    let deeper = mesh.grants(&grant(&["shop/x", "shop/y", "shop/z", "shop/w"]), &[wide]);
    assert_eq!(mesh.granted().services, services(&["shop/y"]));
    let state = mesh.history.state(NOW);
    let [Conflict::Values(_, claims)] = state.conflicts.as_slice() else { panic!("{:?}", state.conflicts) };
    assert!(claims.len() == 2 && claims.iter().all(|claim| claim.in_effect), "{claims:?}");
    // A push that names both settles it.
    mesh.grants(&grant(&["shop/y", "shop/z"]), &[narrow, deeper]);
    assert_eq!(mesh.granted().services, services(&["shop/y", "shop/z"]));
    assert!(mesh.history.state(NOW).conflicts.is_empty());
}

#[test]
fn one_that_is_retired_on_one_side_is_retired() {
    let mut mesh = Mesh::new();
    let base = mesh.grants(&grant(&["shop/x"]), &[]);
    mesh.grants(&NodeGrant { retired: true, ..grant(&["shop/x"]) }, &[base]);
    let wide = mesh.grants(&grant(&["shop/x", "shop/y"]), &[base]);
    mesh.grants(&grant(&["shop/x", "shop/z"]), &[wide]);
    assert!(mesh.granted().retired);
}

#[test]
fn a_higher_epoch_is_no_rival() {
    let mut mesh = Mesh::new();
    let base = mesh.grants(&grant(&["shop/x"]), &[]);
    mesh.grants(&NodeGrant { retired: true, ..grant(&[]) }, &[base]);
    mesh.grants(&NodeGrant { epoch: 2, ..grant(&["shop/z"]) }, &[base]);
    assert_eq!(mesh.granted(), NodeGrant { epoch: 2, ..grant(&["shop/z"]) });
}

#[test]
fn a_promotion_beside_a_change_stands_and_a_demotion_too() {
    let mut mesh = Mesh::new();
    let base = mesh.grants(&grant(&["shop/x", "shop/y"]), &[]);
    let enroller = |services: &[&str]| NodeGrant { enroller: true, ..grant(services) };
    // Whoever narrowed it knew of no promotion.
    let promoted = mesh.grants(&enroller(&["shop/x", "shop/y"]), &[base]);
    let narrowed = mesh.grants(&grant(&["shop/y"]), &[base]);
    assert_eq!(mesh.granted(), enroller(&["shop/y"]));
    // Whoever knew and says no meant it, whatever the other side widens.
    let joined = mesh.grants(&enroller(&["shop/y"]), &[promoted, narrowed]);
    mesh.grants(&grant(&["shop/y"]), &[joined]);
    let wide = mesh.grants(&enroller(&["shop/y", "shop/z"]), &[joined]);
    mesh.grants(&enroller(&["shop/y", "shop/z", "shop/w"]), &[wide]);
    assert_eq!(mesh.granted(), grant(&["shop/y"]));
}
