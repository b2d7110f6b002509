//! The order in which changesets arrive does not matter.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::changeset::{Approval, encode};

/// Inserts everything, retrying what waits for others, in the order of a permutation.
pub(super) fn replay(all: &[Vec<u8>], order: &[usize]) -> History {
    let mut history = History::new(trust_domain());
    let mut waiting: Vec<usize> = order.to_vec();
    while !waiting.is_empty() {
        let before = waiting.len();
        waiting.retain(|index| match history.insert(&all[*index], NOW) {
            Ok(_) => false,
            Err(refused) => {
                assert!(refused.may_pass_later(), "{refused}");
                true
            }
        });
        // A state in between must not change what comes out.
        let _ = history.state(NOW);
        assert!(waiting.len() < before, "no progress");
    }
    history
}

/// One step of a random history: which document, which values it replaces, whether it deletes, who signs, and whether what bob
/// alone has signed is approved.
type Step = (u8, u8, bool, bool, bool);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec((0..5_u8, any::<u8>(), any::<bool>(), any::<bool>(), any::<bool>()), 1..14)
}

/// Builds changesets with arbitrary references, those of `bank` as proposals where bob signs, a RoleSet that adds bob in the
/// beginning, as a proposal too, and one that removes him in the middle.
fn build(steps: &[Step]) -> Vec<Vec<u8>> {
    let mut mesh = Mesh::new();
    let bob = SigningKey::generate();
    let operator = mesh.operator.clone();
    let added = mesh.role_set(|set| {
        shop_role(set, &bob);
        set.roles.push(Role { name: "bank".into(), threshold: 2, ..set.roles[1].clone() });
        set.roles[2].namespaces = BTreeSet::from(["bank".to_owned()]);
        set.roles[2].keys.insert("ann".into());
        set.roles[0].keys.insert("bob".into());
        set.threshold = 2;
    });
    let added = mesh.insert(vec![added], &[&operator]).unwrap();
    mesh.history.insert(&encode(&Approval::sign(&trust_domain(), added, &bob)), NOW).unwrap();
    let mut by_document: BTreeMap<u8, Vec<ChangesetId>> = BTreeMap::new();
    for (index, (document, pick, delete, by_bob, approved)) in steps.iter().enumerate() {
        if index == steps.len() / 2 {
            let stays = mesh.history.ids().step_by(2).map(|id| id.0).collect();
            let removed = mesh.role_set(|set| {
                set.keys.retain(|key| key.name != "bob");
                set.roles.retain(|role| role.name == "admin");
                set.roles[0].keys.remove("bob");
                set.threshold = 1;
                set.keeps = Some(stays);
            });
            mesh.insert(vec![removed], &[&operator, &bob]).unwrap();
        }
        let mut change =
            mesh.change(if *document < 3 { "shop" } else { "bank" }, &format!("d{document}"), &format!("h{index}"));
        let known = by_document.entry(*document).or_default();
        change.replaces =
            known.iter().enumerate().filter(|(bit, _)| pick & (1 << (bit % 8)) != 0).map(|(_, id)| *id).collect();
        change.content = change.content.filter(|_| !delete);
        let mut changeset = mesh.changeset(vec![change]);
        changeset.role_set = 2;
        let key = if *by_bob { &bob } else { &operator };
        let id = mesh.history.insert(&signed(&changeset, &[key]), NOW).unwrap().id;
        known.push(id);
        if *by_bob && *approved {
            mesh.history.insert(&encode(&Approval::sign(&trust_domain(), id, &operator)), NOW).unwrap();
        }
    }
    mesh.history.ids().map(|id| mesh.history.bytes(id).unwrap().to_vec()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_order_of_arrival_does_not_matter(steps in steps(), seed in any::<u64>()) {
        let all = build(&steps);
        let forward: Vec<usize> = (0..all.len()).collect();
        let mut shuffled = forward.clone();
        let mut random = seed | 1;
        for index in (1..shuffled.len()).rev() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            shuffled.swap(index, usize::try_from(random >> 33).unwrap() % (index + 1));
        }
        let (a, b) = (replay(&all, &forward), replay(&all, &shuffled));
        prop_assert_eq!(a.digest(), b.digest());
        prop_assert_eq!(a.state(NOW).digest, b.state(NOW).digest);
        prop_assert_eq!(&a.state(NOW).conflicts, &b.state(NOW).conflicts);
        // Offering everything again changes nothing.
        let digest = a.state(NOW).digest;
        let mut a = a;
        for bytes in &all {
            prop_assert!(!a.insert(bytes, NOW).unwrap().fresh);
        }
        prop_assert_eq!(a.state(NOW).digest, digest);
    }
}
