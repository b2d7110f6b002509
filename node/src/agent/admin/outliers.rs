//! Endpoints that clusters of this node do without because they fail.

use super::{Admin, api, rfc3339};
use crate::{clock, snapshot::Standing};

impl Admin {
    /// One row for each caller, cluster and endpoint.
    pub(crate) fn outliers(&self) -> Vec<api::Outlier> {
        // Ejections end by the time since the process started; people read the wall's.
        let (now, uptime) = (self.agent.now(), clock::uptime());
        let row = |standing: Standing| api::Outlier {
            service: standing.called.to_string(),
            endpoint: standing.ejection.endpoint.to_string(),
            state: "ejected".to_owned(),
            reason: standing.ejection.why.field().to_owned(),
            witnesses: standing.witnesses.iter().map(ToString::to_string).collect(),
            until: rfc3339(now.saturating_add(standing.ejection.until.saturating_sub(uptime))),
            caller: standing.caller,
            cluster: standing.cluster,
            times: standing.ejection.times,
        };
        let mut rows: Vec<_> = self.circuits.ejected().into_iter().map(row).collect();
        rows.sort_by(|a, b| (&a.service, &a.endpoint, &a.caller).cmp(&(&b.service, &b.endpoint, &b.caller)));
        rows
    }

    /// Takes endpoints that are ejected from those that an explained request may reach.
    pub(super) fn leave_out(&self, explained: &mut api::Explanation) {
        let outliers = self.outliers();
        for endpoint in explained.endpoints.iter_mut().filter(|endpoint| endpoint.candidate) {
            let same = |outlier: &&api::Outlier| outlier.endpoint == endpoint.id && outlier.cluster == endpoint.cluster;
            if let Some(outlier) = outliers.iter().find(same) {
                endpoint.candidate = false;
                endpoint.reason = format!("ejected: {}, until {}", outlier.reason, outlier.until);
            }
        }
        let Some(cluster) = &explained.cluster else { return };
        let mut members = explained.endpoints.iter().filter(|endpoint| endpoint.cluster == *cluster).peekable();
        if explained.answer.is_none() && members.peek().is_some() && members.all(|endpoint| !endpoint.candidate) {
            let reason = "every endpoint is ejected".to_owned();
            explained.answer = Some(api::Answer { status: 503, flag: "UH".to_owned(), reason });
        }
    }
}
