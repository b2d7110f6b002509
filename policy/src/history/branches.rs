//! Which children of a RoleSet prevail. A branch is a child with what follows it; who signed anything in it stands behind all of it.
//!
//! A key that one branch removes cannot block that branch by signing another one: whoever stole it would take the mesh back.
//! So a branch must hold without the keys that its rival removes. If one of two does and the other does not, the first wins.
//! If neither does, the first wins where all keys of the base that signed the other signed it too, and more did: a thief has no
//! second key. Else they are rivals: none counts until a child names them all. A child that names others replaces them by the
//! same rule.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use certs::sign::PublicKey;

use super::roles::Charter;
use crate::{changeset::ChangesetId, kinds::RoleSet};

/// A child of a RoleSet with the line of those that count after it.
struct Branch {
    /// Who signed any RoleSet of the line.
    signers: BTreeSet<PublicKey>,
    /// Who governs in each RoleSet of the line.
    governing: BTreeSet<PublicKey>,
}

/// The children of each RoleSet that no other one overcomes: one prevails, several are rivals.
pub(super) fn settle(charters: &BTreeMap<ChangesetId, Charter>) -> HashMap<ChangesetId, Vec<ChangesetId>> {
    let mut children: HashMap<ChangesetId, Vec<&Charter>> = HashMap::new();
    for charter in charters.values() {
        if let Some(base) = charter.base {
            children.entry(base).or_default().push(charter);
        }
    }
    let mut newest_first: Vec<&Charter> = charters.values().collect();
    newest_first.sort_by_key(|charter| std::cmp::Reverse(charter.roles.number));
    let (mut branches, mut all_heads) = (HashMap::new(), HashMap::new());
    // A child has a higher number than its base, so its own branch is known when the base's turn comes.
    for charter in newest_first {
        let set = &charter.roles.set;
        let children = children.remove(&charter.roles.changeset).unwrap_or_default();
        let heads = heads(set, &children, &branches);
        let mut branch = Branch { signers: charter.signers.clone(), governing: governing(set).collect() };
        if let [only] = heads.as_slice()
            && let Some(after) = branches.get(only)
        {
            branch.signers.extend(&after.signers);
            branch.governing.retain(|key| after.governing.contains(key));
        }
        branches.insert(charter.roles.changeset, branch);
        if !heads.is_empty() {
            all_heads.insert(charter.roles.changeset, heads);
        }
    }
    all_heads
}

fn governing(set: &RoleSet) -> impl Iterator<Item = PublicKey> {
    set.keys.iter().map(|own| own.key).filter(|key| set.governs(key))
}

/// One overcomes another only if it is not overcome itself by one that stands.
fn heads(base: &RoleSet, children: &[&Charter], branches: &HashMap<ChangesetId, Branch>) -> Vec<ChangesetId> {
    let [_, _, ..] = children else {
        return children.iter().map(|charter| charter.roles.changeset).collect();
    };
    let replaced: Vec<BTreeSet<ChangesetId>> = children.iter().map(|child| replaced(child, children)).collect();
    let overcomes = |one: usize, other: usize| {
        let [(a, own), (b, theirs)] = [one, other].map(|at| (children[at].roles.changeset, &replaced[at]));
        let (Some(branch), Some(rival)) = (branches.get(&a), branches.get(&b)) else { return false };
        let names = own.contains(&b) && !theirs.contains(&a);
        match (holds(base, branch, rival), holds(base, rival, branch)) {
            (true, held) => names || !held,
            (false, true) => false,
            (false, false) => {
                let [own, theirs] = [branch, rival]
                    .map(|branch| governing(base).filter(|key| branch.signers.contains(key)).collect::<BTreeSet<_>>());
                own.len() > theirs.len() && own.is_superset(&theirs)
            }
        }
    };
    let mut verdicts: Vec<Option<bool>> = vec![None; children.len()];
    loop {
        let before = verdicts.clone();
        for (child, verdict) in verdicts.iter_mut().enumerate().filter(|(_, verdict)| verdict.is_none()) {
            let mut foes = (0..children.len()).filter(|other| *other != child && overcomes(*other, child));
            let mut standing = foes.by_ref().filter(|foe| before[*foe] != Some(false)).peekable();
            *verdict = match standing.peek() {
                None => Some(true),
                Some(_) => standing.any(|foe| before[foe] == Some(true)).then_some(false),
            };
        }
        if verdicts == before {
            break;
        }
    }
    let stands =
        |(child, verdict): (&&Charter, &Option<bool>)| (*verdict != Some(false)).then_some(child.roles.changeset);
    children.iter().zip(&verdicts).filter_map(stands).collect()
}

/// The siblings that a child names, directly or through others of them.
fn replaced(child: &Charter, siblings: &[&Charter]) -> BTreeSet<ChangesetId> {
    let mut found = BTreeSet::new();
    let mut open = child.parents.clone();
    while let Some(next) = open.pop() {
        let sibling = siblings.iter().find(|sibling| sibling.roles.changeset == next);
        if let Some(sibling) = sibling.filter(|_| found.insert(next)) {
            open.extend(&sibling.parents);
        }
    }
    found
}

/// True if the base approves the branch without the keys that the rival removes.
fn holds(base: &RoleSet, branch: &Branch, rival: &Branch) -> bool {
    let removed: BTreeSet<PublicKey> = governing(base).filter(|key| !rival.governing.contains(key)).collect();
    removed.is_empty() || base.approves(&branch.signers.difference(&removed).copied().collect::<Vec<_>>())
}
