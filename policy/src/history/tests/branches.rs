//! Children of one RoleSet where a key that one of them removes has signed the other.

use proptest::prelude::*;

use super::{arrival::replay, *};
use crate::changeset::{Approval, encode};

/// A RoleSet whose operators are these; a recovery key is named `safe...`.
fn set_of(mesh: &Mesh, operators: &[(&str, &SigningKey)]) -> RoleSet {
    let mut set = (*mesh.history.state(NOW).role_set.set).clone();
    set.trust = None;
    set.keys = operators
        .iter()
        .map(|(name, key)| RoleKey { name: (*name).to_owned(), key: key.public(), recovery: name.starts_with("safe") })
        .collect();
    let names = operators.iter().map(|(name, _)| (*name).to_owned()).filter(|name| !name.starts_with("safe"));
    set.roles[0].keys = names.collect();
    set.threshold = set.roles[0].keys.len() / 2 + 1;
    set.keeps = Some(BTreeSet::new());
    set
}

impl Mesh {
    /// Inserts a RoleSet with these parents.
    fn found(&mut self, set: &RoleSet, parents: &[ChangesetId], keys: &[&SigningKey]) -> Result<ChangesetId, Code> {
        let (document, content) = set.body();
        let mut replaces = parents.to_vec();
        replaces.sort_unstable();
        self.insert(vec![Change { document, content: Some(content), replaces }], keys)
    }

    fn in_force(&self) -> ChangesetId {
        self.history.state(NOW).role_set.changeset
    }

    fn rivals(&self) -> usize {
        match self.history.state(NOW).conflicts.as_slice() {
            [Conflict::RoleSets(rivals)] => rivals.len(),
            _ => 0,
        }
    }
}

/// Ann founded the mesh and let bob in; the recovery key and bob removed her, as her key was stolen.
struct Stolen {
    mesh: Mesh,
    ann: Arc<SigningKey>,
    bob: SigningKey,
    genesis: ChangesetId,
    second: ChangesetId,
    third: ChangesetId,
}

fn stolen() -> Stolen {
    let mut mesh = Mesh::new();
    let (ann, safe, bob) = (mesh.operator.clone(), mesh.recovery.clone(), SigningKey::generate());
    let genesis = mesh.in_force();
    let both = set_of(&mesh, &[("ann", &ann), ("bob", &bob), ("safe", &safe)]);
    let second = mesh.found(&both, &[genesis], &[&ann, &bob]).unwrap();
    let one = set_of(&mesh, &[("bob", &bob), ("safe", &safe)]);
    let third = mesh.found(&one, &[second], &[&safe, &bob]).unwrap();
    assert_eq!(mesh.in_force(), third);
    Stolen { mesh, ann, bob, genesis, second, third }
}

#[test]
fn a_removed_key_does_not_take_the_mesh_back_by_a_sibling() {
    let Stolen { mut mesh, ann, bob, genesis, second, third } = stolen();
    mesh.insert(vec![mesh.change("shop", "a", "a")], &[&bob]).unwrap();
    let safe = mesh.recovery.clone();
    // One that keeps everybody, one that removes everybody else, herself included, and one that claims to settle the split.
    let keeps = set_of(&mesh, &[("ann", &ann), ("safe", &safe)]);
    let sibling = mesh.found(&keeps, &[genesis], &[&ann]).unwrap();
    assert_eq!((mesh.in_force(), mesh.rivals()), (third, 0));
    let eve = SigningKey::generate();
    let takes = set_of(&mesh, &[("eve", &eve)]);
    let other = mesh.found(&takes, &[genesis], &[&ann, &eve]).unwrap();
    assert_eq!((mesh.in_force(), mesh.rivals()), (third, 0));
    for parents in [vec![second, sibling], vec![second, other], vec![second, sibling, other]] {
        mesh.found(&takes, &parents, &[&ann, &eve]).unwrap();
        assert_eq!((mesh.in_force(), mesh.rivals()), (third, 0));
    }
    let state = mesh.history.state(NOW);
    assert!(state.effective().any(|(id, _)| id.namespace == "shop"), "what bob signed counts");
    assert!(!state.may(&ann.public(), Verb::Push, Kind::VirtualService, "shop"));
}

#[test]
fn a_removed_recovery_key_does_not_take_the_mesh_back_either() {
    let mut mesh = Mesh::new();
    let (ann, safe, fresh) = (mesh.operator.clone(), mesh.recovery.clone(), SigningKey::generate());
    let genesis = mesh.in_force();
    let renewed = set_of(&mesh, &[("ann", &ann), ("safe2", &fresh)]);
    let renewed = mesh.found(&renewed, &[genesis], &[&ann]).unwrap();
    // Eve holds the old recovery key.
    let eve = SigningKey::generate();
    let mut takes = set_of(&mesh, &[("ann", &ann), ("eve", &eve), ("safe", &safe)]);
    takes.trust = Some(certs::trust::Trust::of(vec![vec![9]]));
    mesh.found(&takes, &[genesis], &[&safe]).unwrap();
    assert_eq!((mesh.in_force(), mesh.rivals()), (renewed, 0));
    assert_eq!(mesh.history.state(NOW).trust().roots, [vec![1, 2, 3]]);
}

#[test]
fn where_both_remove_the_others_signer_one_more_key_decides_whenever_it_signs() {
    let mut mesh = Mesh::new();
    let (ann, safe, bob, eve) =
        (mesh.operator.clone(), mesh.recovery.clone(), SigningKey::generate(), SigningKey::generate());
    let genesis = mesh.in_force();
    let ours = set_of(&mesh, &[("bob", &bob), ("safe", &safe)]);
    let ours = mesh.found(&ours, &[genesis], &[&ann, &bob]).unwrap();
    let theirs = set_of(&mesh, &[("eve", &eve)]);
    mesh.found(&theirs, &[genesis], &[&ann, &eve]).unwrap();
    assert_eq!((mesh.in_force(), mesh.rivals()), (genesis, 2));
    let vote = |key: &SigningKey| encode(&Approval::sign(&trust_domain(), ours, key));
    // Whenever: the RoleSet has had all the signatures that it needs for long.
    let later = NOW + 2 * crate::changeset::PROPOSAL_LIFE;
    assert_eq!(mesh.history.check_push(&vote(&SigningKey::generate()), later).unwrap_err().code(), Code::RoleMissing);
    mesh.history.check_push(&vote(&safe), later).unwrap();
    mesh.history.insert(&vote(&safe), later).unwrap();
    assert_eq!((mesh.in_force(), mesh.rivals()), (ours, 0));
}

/// Who stays an operator, whose keys sign, which kept RoleSets it replaces, and whether the recovery key approves it later.
type Step = (u8, u8, u8, bool);

fn build(steps: &[Step]) -> Vec<Vec<u8>> {
    let mut mesh = Mesh::new();
    let (ann, safe) = (mesh.operator.clone(), mesh.recovery.clone());
    let (bob, carl) = (SigningKey::generate(), SigningKey::generate());
    let people = [("ann", &*ann), ("bob", &bob), ("carl", &carl)];
    let mut sets = vec![mesh.in_force()];
    for (members, signers, parents, approved) in steps {
        let chosen = |bits: u8| people.iter().enumerate().filter(move |(at, _)| bits & (1 << at) != 0);
        let mut operators: Vec<(&str, &SigningKey)> = chosen(*members).map(|(_, person)| *person).collect();
        operators.push(("safe", &safe));
        let set = set_of(&mesh, &operators);
        let keys: Vec<&SigningKey> = chosen(*signers).map(|(_, (_, key))| *key).collect();
        let pick = |by: u8| sets[usize::from(by) % sets.len()];
        let mut replaces = vec![pick(parents & 15)];
        if parents & 128 != 0 && pick(parents >> 4) != replaces[0] {
            replaces.push(pick(parents >> 4));
        }
        if let Ok(id) = mesh.found(&set, &replaces, &keys) {
            if *approved {
                mesh.history.insert(&encode(&Approval::sign(&trust_domain(), id, &safe)), NOW).unwrap();
            }
            sets.push(id);
        }
    }
    mesh.history.ids().filter_map(|id| mesh.history.bytes(id)).map(|bytes| bytes.to_vec()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn which_branch_prevails_does_not_hang_on_the_order(
        steps in proptest::collection::vec((1..8_u8, 1..8_u8, any::<u8>(), any::<bool>()), 2..12),
        seed in any::<u64>(),
    ) {
        let all = build(&steps);
        let forwards: Vec<usize> = (0..all.len()).collect();
        let mut mixed = forwards.clone();
        mixed.sort_by_key(|index| seed.rotate_left(u32::try_from(*index % 64).unwrap()).wrapping_mul(*index as u64 + 1));
        let (a, b) = (replay(&all, &forwards).state(NOW), replay(&all, &mixed).state(NOW));
        prop_assert_eq!(a.role_set.changeset, b.role_set.changeset);
        prop_assert_eq!(&a.conflicts, &b.conflicts);
        prop_assert_eq!(a.digest, b.digest);
    }
}
