//! What of a node needs attention, as it tells others who ask: its problems, the endpoints that it does without, what ends.

use certs::codec::Millis;
use serde::{Deserialize, Serialize};

/// Most problems of a node that count.
const PROBLEMS: usize = 32;
/// Most ejections of a node that count.
const EJECTED: usize = 64;
/// Most bytes of a text.
const TEXT: usize = 512;

/// What one node says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Concerns {
    /// The worst first.
    pub problems: Vec<Concern>,
    /// What its clusters do without.
    pub ejected: Vec<Ejected>,
    /// When its own CA ends.
    pub node_ca_ends: Millis,
    /// When its enroller CA ends, if it has one.
    pub enroller_ca_ends: Option<Millis>,
}

/// One problem of `status`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Concern {
    /// Traffic or policy suffers now.
    pub critical: bool,
    /// Its stable code.
    pub code: String,
    /// In words.
    pub message: String,
    /// What to do.
    pub hint: String,
}

/// One row of `outliers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ejected {
    /// Of which service.
    pub service: String,
    /// Which.
    pub endpoint: String,
    /// Whose requests do without it.
    pub caller: String,
    /// What it met.
    pub reason: String,
    /// Until when.
    pub until: Millis,
}

impl Concerns {
    /// As much of it as an honest node says: a member may claim what it likes, not as much as it likes.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        self.problems.truncate(PROBLEMS);
        self.ejected.truncate(EJECTED);
        for problem in &mut self.problems {
            [&mut problem.code, &mut problem.message, &mut problem.hint].into_iter().for_each(cut);
        }
        for ejected in &mut self.ejected {
            let texts = [&mut ejected.service, &mut ejected.endpoint, &mut ejected.caller, &mut ejected.reason];
            texts.into_iter().for_each(cut);
        }
        self
    }
}

fn cut(text: &mut String) {
    text.truncate(text.floor_char_boundary(TEXT));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_fills_nobodys_page() {
        let long = || "ä".repeat(TEXT);
        let concern = Concern { critical: true, code: long(), message: long(), hint: long() };
        let row = Ejected { service: long(), endpoint: long(), caller: long(), reason: long(), until: 7 };
        let flood =
            Concerns { problems: vec![concern; PROBLEMS * 9], ejected: vec![row; EJECTED * 9], ..Concerns::default() };
        let bounded = flood.bounded();
        assert_eq!((bounded.problems.len(), bounded.ejected.len()), (PROBLEMS, EJECTED));
        assert!(bounded.problems.iter().all(|one| one.message.len() == TEXT && one.hint.len() == TEXT));
        assert!(bounded.ejected.iter().all(|one| one.endpoint.len() == TEXT && one.reason.len() == TEXT));
    }
}
