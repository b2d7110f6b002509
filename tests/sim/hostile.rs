//! What members that are not honest do with what they are asked for, and what they bring up themselves, with the key of an
//! operator who helps them.

use std::collections::BTreeMap;

use policy::{
    DocumentId, Kind,
    changeset::{self, Approval, Change, ChangesetId, confirmation},
    history::History,
};

use crate::{
    operators::{Operators, body, id_of, route, trust_domain},
    random::Random,
};

/// Things that hostile members made: each offers them to whomever it likes.
#[derive(Default)]
pub(crate) struct Forgeries(pub(crate) BTreeMap<ChangesetId, Vec<u8>>);

impl Forgeries {
    /// Makes something that should not count, or counts and disturbs.
    pub(crate) fn make(&mut self, random: &mut Random, operators: &mut Operators, history: &History, now: u64) {
        let known: Vec<ChangesetId> = history.ids().copied().collect();
        let number = history.state(now).role_set.number;
        let name = format!("d{}", random.below(6));
        let past = now.saturating_sub(random.next() % 10_000_000);
        let made = match random.below(9) {
            // Signed by nobody who may.
            0 => {
                operators.sign(number, now, None, vec![route(history, now, "shop", &name, Some("stolen"))], &["nobody"])
            }
            // With a role, yet elsewhere.
            1 => operators.sign(
                number,
                now,
                None,
                vec![route(history, now, "vault", &name, Some("stolen"))],
                &["mallory"],
            ),
            // Under the first RoleSet, whatever came since, at a date of the past.
            2 => operators.sign(1, past, None, vec![route(history, now, "shop", &name, Some("old"))], &["mallory"]),
            // On top of nothing, as if it were the first version.
            3 => {
                let change = Change { replaces: vec![], ..route(history, now, "shop", &name, Some("rootless")) };
                operators.sign(number.min(2), past, None, vec![change], &["mallory"])
            }
            // On top of whatever ever was.
            4 => {
                let document = DocumentId::new(Kind::VirtualService, "shop", &name);
                let speaks =
                    |id: &&ChangesetId| history.get(id).is_some_and(|e| e.changeset.change(&document).is_some());
                let replaces = known.iter().filter(speaks).take(64).copied().collect();
                let content = Some(body(&document, "greedy", random.percent(50)));
                operators.sign(1, past, None, vec![Change { document, content, replaces }], &["mallory"])
            }
            // Proposals without end.
            5 => operators.sign(1, now, None, vec![route(history, now, "bank", &name, Some("please"))], &["mallory"]),
            // A RoleSet by one who governs nothing.
            6 => {
                let change = operators.next_role_set(history, now, false, random.next());
                operators.sign(number, now, None, vec![change], &["mallory"])
            }
            // A yes to anything at all.
            7 => {
                let Some(id) = random.pick(&known) else { return };
                changeset::encode(&Approval::sign(&trust_domain(), *id, operators.key("mallory")))
            }
            // A confirmation of anything at all.
            _ => {
                let Some(id) = random.pick(&known) else { return };
                operators.sign(1, past, None, vec![confirmation(id)], &["mallory"])
            }
        };
        self.0.insert(id_of(&made), made);
    }
}

/// What a hostile member answers to somebody who asked for these.
pub(crate) fn answer(random: &mut Random, asked: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut given = Vec::new();
    for bytes in asked {
        let mut packed = changeset::decode(&bytes).expect("kept bytes decode");
        match random.below(8) {
            0 => {}
            1 => given.push(changeset::encode(&packed.stub())),
            2 => {
                if let Some((_, signature)) = packed.signed.signatures.first_mut() {
                    signature.0[40] ^= 1;
                }
                given.push(changeset::encode(&packed));
            }
            3 => {
                packed.signed.signatures.pop();
                given.push(changeset::encode(&packed));
            }
            4 => {
                packed.bodies.iter_mut().for_each(|body| body.push(' '));
                given.push(changeset::encode(&packed));
            }
            5 => given.push(bytes[..random.below(bytes.len())].to_vec()),
            6 => given.extend([bytes.clone(), bytes]),
            _ => given.push(bytes),
        }
    }
    random.shuffle(&mut given);
    given
}
