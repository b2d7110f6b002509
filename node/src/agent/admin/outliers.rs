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

    /// Takes endpoints that are ejected from those that an explained request may reach, unless so few are left that all are used.
    pub(super) fn leave_out(&self, explained: &mut api::Explanation) {
        let (outliers, panicking) = (self.outliers(), self.circuits.panicking());
        for endpoint in &mut explained.endpoints {
            let same = |outlier: &&api::Outlier| outlier.endpoint == endpoint.id && outlier.cluster == endpoint.cluster;
            if let Some(outlier) = outliers.iter().filter(|_| endpoint.candidate).find(same) {
                endpoint.candidate = false;
                endpoint.reason = format!("ejected: {}, until {}", outlier.reason, outlier.until);
            }
            if !endpoint.candidate && panicking.iter().any(|circuit| circuit.cluster == endpoint.cluster) {
                endpoint.candidate = true;
                endpoint.reason.push_str("; used all the same, because too few are healthy (panic)");
            }
        }
        let Some(cluster) = &explained.cluster else { return };
        let members = || explained.endpoints.iter().filter(|endpoint| endpoint.cluster == *cluster);
        let is_any = members().any(|endpoint| endpoint.candidate);
        match &explained.answer {
            None if !is_any && members().next().is_some() => {
                let reason = "every endpoint is ejected".to_owned();
                explained.answer = Some(api::Answer { status: 503, flag: "UH".to_owned(), reason });
            }
            // It was given before anybody knew that all are used.
            Some(answer) if is_any && answer.flag == "UH" => explained.answer = None,
            Some(_) | None => {}
        }
    }
}
