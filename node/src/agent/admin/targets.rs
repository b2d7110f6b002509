//! Whom Prometheus should scrape: its HTTP service discovery, answered by every node for all.

use std::collections::BTreeMap;

use super::{Admin, api};
use crate::agent::admin::members::word;

impl Admin {
    /// `GET /v1/prometheus-targets`: one group for each node that has a port for scrapers, the dead among them, so that their absence
    /// is seen.
    pub(super) async fn targets(&self) -> Vec<api::Targets> {
        let addresses = self.targets.get(self.agent.scraped_addresses()).await;
        let (view, mesh) = (self.agent.view(), self.agent.trust_domain().to_string());
        let group = |(node, address): (&certs::id::NodeId, &std::net::SocketAddr)| {
            let member = view.member(node)?;
            let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
            let labels = BTreeMap::from([
                label("node", node.as_str()),
                label("mesh", &mesh),
                label("__meta_skein_locality", &member.locality),
                label("__meta_skein_version", &member.version),
                label("__meta_skein_state", word(member.state)),
            ]);
            Some(api::Targets { targets: vec![address.to_string()], labels })
        };
        addresses.iter().filter_map(group).collect()
    }
}
