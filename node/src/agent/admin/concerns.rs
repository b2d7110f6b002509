//! What needs attention anywhere in the mesh, as each node says of itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use certs::id::NodeId;

use super::{
    Admin,
    api::{self, Health},
    rfc3339,
};
use crate::{
    agent::{
        Unheard,
        concerns::{Concern, Concerns, Ejected},
    },
    clock,
};

impl Admin {
    /// `GET /v1/concerns`: what needs attention at all nodes that answer.
    pub(crate) async fn concerns(&self) -> Arc<api::Concerns> {
        self.concerns.get(async { Arc::new(self.asked_concerns().await) }).await
    }

    /// Lets other nodes learn what of this one needs attention, from now on.
    pub fn tell_concerns(&self) {
        let admin = self.clone();
        self.agent.set_concerns(move || admin.own_concerns());
    }

    async fn asked_concerns(&self) -> api::Concerns {
        let (mut said, unheard) = self.agent.concerns().await;
        said.push((self.agent.node().clone(), self.own_concerns()));
        merged(said, unheard)
    }

    /// What this node says to others who ask.
    pub(super) fn own_concerns(&self) -> Concerns {
        let identity = self.agent.identity();
        let concern = |problem: api::Problem| Concern {
            critical: problem.severity == Health::Critical,
            code: problem.code,
            message: problem.message,
            hint: problem.hint,
        };
        // Ejections end by the time since the process started.
        let (now, uptime) = (self.agent.now(), clock::uptime());
        let mut ejected: Vec<Ejected> = self
            .circuits
            .ejected()
            .into_iter()
            .map(|standing| Ejected {
                service: standing.called.to_string(),
                endpoint: standing.ejection.endpoint.to_string(),
                caller: standing.caller,
                reason: standing.ejection.why.field().to_owned(),
                until: now.saturating_add(standing.ejection.until.saturating_sub(uptime)),
            })
            .collect();
        ejected.sort_by(|a, b| (&a.service, &a.endpoint, &a.caller).cmp(&(&b.service, &b.endpoint, &b.caller)));
        let concerns = Concerns {
            problems: self.status().problems.into_iter().map(concern).collect(),
            ejected,
            node_ca_ends: identity.ca_not_after,
            enroller_ca_ends: identity.enroller,
        };
        concerns.bounded()
    }
}

/// One row for what several nodes say in the same words, the worst first; of certificates the first to end first.
fn merged(said: Vec<(NodeId, Concerns)>, unheard: Unheard) -> api::Concerns {
    let mut problems: BTreeMap<Concern, BTreeSet<NodeId>> = BTreeMap::new();
    let (mut ejected, mut certificates) = (Vec::new(), Vec::new());
    let mut heard: Vec<NodeId> = said.iter().map(|(node, _)| node.clone()).collect();
    for (node, concerns) in said {
        for problem in concerns.problems {
            problems.entry(problem).or_default().insert(node.clone());
        }
        let row = |row: Ejected| api::EjectedBy {
            node: node.clone(),
            service: row.service,
            endpoint: row.endpoint,
            caller: row.caller,
            reason: row.reason,
            until: rfc3339(row.until),
        };
        ejected.extend(concerns.ejected.into_iter().map(row));
        certificates.push((concerns.enroller_ca_ends.unwrap_or(concerns.node_ca_ends).min(concerns.node_ca_ends), {
            api::CertificatesOf {
                node,
                node_ca_expires: rfc3339(concerns.node_ca_ends),
                enroller_ca_expires: concerns.enroller_ca_ends.map(rfc3339),
            }
        }));
    }
    let row = |(problem, nodes): (Concern, BTreeSet<NodeId>)| api::ProblemAt {
        severity: if problem.critical { Health::Critical } else { Health::Degraded },
        code: problem.code,
        message: problem.message,
        hint: problem.hint,
        nodes: nodes.into_iter().collect(),
    };
    let mut problems: Vec<_> = problems.into_iter().map(row).collect();
    problems.sort_by_key(|problem| std::cmp::Reverse((problem.severity, problem.nodes.len())));
    ejected.sort_by(|a, b| (&a.service, &a.endpoint, &a.node).cmp(&(&b.service, &b.endpoint, &b.node)));
    certificates.sort_by_key(|(ends, _)| *ends);
    heard.sort();
    let certificates = certificates.into_iter().map(|(_, row)| row).collect();
    let Unheard { silent, other_version, unasked } = unheard;
    api::Concerns { heard, silent, other_version, unasked, problems, ejected, certificates }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_say_is_one_row_and_the_worst_comes_first() {
        let node = |name: &str| NodeId::new(name).unwrap();
        let concern = |critical, code: &str| Concern {
            critical,
            code: code.into(),
            message: format!("{code} is amiss"),
            hint: String::new(),
        };
        let concerns = |problems, ends| Concerns { problems, node_ca_ends: ends, ..Concerns::default() };
        let said = vec![
            (node("b"), concerns(vec![concern(false, "slow"), concern(false, "alone")], 9)),
            (node("a"), concerns(vec![concern(true, "disk"), concern(false, "slow")], 5)),
            (node("c"), Concerns { enroller_ca_ends: Some(3), ..concerns(Vec::new(), 7) }),
        ];
        let merged =
            merged(said, Unheard { silent: vec![node("y"), node("z")], other_version: vec![node("x")], unasked: 7 });
        let rows: Vec<_> = merged.problems.iter().map(|row| (&*row.code, row.nodes.len())).collect();
        assert_eq!(rows, [("disk", 1), ("slow", 2), ("alone", 1)]);
        assert_eq!(merged.other_version, [node("x")]);
        assert_eq!(merged.problems[1].nodes, [node("a"), node("b")]);
        let ends: Vec<_> = merged.certificates.iter().map(|row| row.node.as_str()).collect();
        assert_eq!(ends, ["c", "a", "b"]);
        assert_eq!((merged.heard.len(), merged.silent, merged.unasked), (3, vec![node("y"), node("z")], 7));
    }
}
