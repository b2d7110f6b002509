//! Endpoints that fail for clusters of this node: those that are left out, and those that stay in because too few may be out.

use super::{Admin, api, rfc3339, status::problem};
use crate::{
    clock,
    snapshot::{Standing, StaysIn},
};

/// The state of one that is left out.
pub(crate) const EJECTED: &str = "ejected";
/// The state of one that fails and is used all the same.
pub(crate) const SPARED: &str = "spared";

impl Admin {
    /// One row for each caller, cluster and endpoint.
    pub(crate) fn outliers(&self) -> Vec<api::Outlier> {
        // Ejections end by the time since the process started; people read the wall's.
        let (now, uptime) = (self.agent.now(), clock::uptime());
        let ends = |until: u64| rfc3339(now.saturating_add(until.saturating_sub(uptime)));
        let out = |standing: Standing| api::Outlier {
            service: standing.called.to_string(),
            endpoint: standing.ejection.endpoint.to_string(),
            state: EJECTED.to_owned(),
            reason: standing.ejection.why.field().to_owned(),
            spared_by: None,
            witnesses: standing.witnesses.iter().map(ToString::to_string).collect(),
            until: ends(standing.ejection.until),
            caller: standing.caller,
            cluster: standing.cluster,
            times: standing.ejection.times,
        };
        let stays = |one: StaysIn| api::Outlier {
            service: one.called.to_string(),
            endpoint: one.spared.endpoint.to_string(),
            state: SPARED.to_owned(),
            reason: one.spared.why.field().to_owned(),
            spared_by: Some(one.spared.reason()),
            witnesses: one.witnesses.iter().map(ToString::to_string).collect(),
            until: ends(one.spared.until),
            caller: one.caller,
            cluster: one.cluster,
            times: one.spared.times,
        };
        let mut rows: Vec<_> = self.circuits.ejected().into_iter().map(out).collect();
        rows.extend(self.circuits.spared().into_iter().map(stays));
        rows.sort_by(|a, b| (&a.service, &a.endpoint, &a.caller).cmp(&(&b.service, &b.endpoint, &b.caller)));
        rows
    }

    /// One problem for all that fail and stay in.
    pub(super) fn spared(&self) -> Option<api::Problem> {
        let spared = self.circuits.spared();
        let first = spared.first()?;
        let more = if spared.len() > 1 { format!("; {} more like it", spared.len() - 1) } else { String::new() };
        let (endpoint, caller, field) = (&first.spared.endpoint, &first.caller, first.spared.why.field());
        let message = format!(
            "{endpoint} fails for {caller} ({field}) and is used all the same: {}{more}",
            first.spared.reason()
        );
        let hint = "give outlierDetection a `maxEjectionPercent` by which one can go out, e.g. 100; `skein outliers` shows all";
        Some(problem("endpoint_spared", message, hint))
    }

    /// Takes endpoints that are ejected from those that an explained request may reach, unless so few are left that all are used.
    pub(super) fn leave_out(&self, explained: &mut api::Explanation) {
        let (outliers, panicking) = (self.outliers(), self.circuits.panicking());
        for endpoint in &mut explained.endpoints {
            let same = |outlier: &&api::Outlier| outlier.endpoint == endpoint.id && outlier.cluster == endpoint.cluster;
            let found = outliers.iter().filter(|_| endpoint.candidate).filter(same);
            // What one caller spares another one may do without.
            match found.min_by_key(|outlier| outlier.spared_by.is_some()) {
                None => {}
                Some(api::Outlier { reason, spared_by: Some(why), .. }) => {
                    endpoint.reason = format!("spared: {reason}, {why}");
                }
                Some(outlier) => {
                    endpoint.candidate = false;
                    endpoint.reason = format!("ejected: {}, until {}", outlier.reason, outlier.until);
                }
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
