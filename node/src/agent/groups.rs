//! WorkloadGroups: what services beside this node that name one take from it, where their own tables say nothing. Pure.

use std::time::Duration;

use certs::id::ServiceAccount;
use policy::{
    DocumentId, Kind, Spec,
    history::State,
    kinds::{ProbeMethod, WorkloadGroup},
};

use crate::{
    config::{Check, Config, Probe, Service},
    snapshot::Trouble,
};

/// The configuration with what groups say of its services, and what they lack.
pub fn all_filled(config: &Config, state: &State) -> (Config, Vec<Trouble>) {
    let mut filled = config.clone();
    let mut troubles = Vec::new();
    for service in &mut filled.services {
        let (one, trouble) = self::filled(service, state);
        *service = one;
        troubles.extend(trouble);
    }
    (filled, troubles)
}

/// One service with what its group says of it, if it names one: labels that it has not itself, account and check if it writes none,
/// weight.
pub fn filled(service: &Service, state: &State) -> (Service, Option<Trouble>) {
    let Some(named) = &service.group else { return (service.clone(), None) };
    let id = DocumentId::new(Kind::WorkloadGroup, service.name.namespace(), &named.name);
    let Some(Spec::WorkloadGroup(group)) = state.document(&id).map(|document| &document.spec) else {
        let message = format!("{} names {id}, which nobody has pushed", service.name);
        let hint = "push the document, or take `group` out of the [[service]]";
        return (service.clone(), Some(Trouble { code: "group_unknown", message, hint }));
    };
    let mut filled = service.clone();
    for (key, value) in group.template.labels.iter().chain(&group.labels) {
        filled.labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    filled.weight = group.template.weight;
    let mut trouble = None;
    if named.account {
        match ServiceAccount::new(service.name.namespace(), &group.template.service_account) {
            Ok(account) => filled.account = account,
            Err(error) => {
                let message = format!("{id}, which {} names: {error}", service.name);
                let hint = "correct `serviceAccount`, or write `account` in the [[service]]";
                trouble = Some(Trouble { code: "group_account", message, hint });
            }
        }
    }
    if named.check
        && let (Some(_), Some(first)) = (&group.probe, service.check.as_ref())
    {
        match check(service, group, first) {
            Some(check) => filled.check = Some(check),
            None => {
                let message = format!("{id} has a probe at a port that {} does not have", service.name);
                let hint = "the probe's port is a port of the [[service]], or the one of its target";
                trouble = Some(Trouble { code: "group_probe", message, hint });
            }
        }
    }
    (filled, trouble)
}

/// The check that a probe means; `None` if the service has no such port. `first` is what is done without a group.
fn check(service: &Service, group: &WorkloadGroup, first: &Check) -> Option<Check> {
    let probe = group.probe.as_ref()?;
    let (number, method) = match &probe.method {
        ProbeMethod::Http { path, port, .. } => (*port, Probe::Http(path.clone())),
        ProbeMethod::Tcp { port, .. } => (*port, Probe::Tcp),
        ProbeMethod::Grpc { port, service } => (*port, Probe::Grpc(service.clone())),
        // No push lets it in.
        ProbeMethod::Exec { .. } => return Some(first.clone()),
    };
    let by_number = service.ports.iter().find(|port| port.number == number);
    let port = by_number.or_else(|| service.ports.iter().find(|port| port.target.port() == number))?;
    Some(Check {
        probe: method,
        target: port.target,
        protocol: port.protocol,
        interval: probe.period.max(Duration::from_secs(1)),
        rise: probe.success_threshold.max(1),
        fall: probe.failure_threshold.max(1),
        delay: probe.initial_delay,
        timeout: Some(probe.timeout),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{config::service_from_toml, testing};

    const TABLE: &str = "[[service]]\nname = \"cart\"\nnamespace = \"shop\"\ngroup = \"cart\"\n";
    const PORTS: &str =
        "ports = [{ port = 80, target = \"127.0.0.1:8080\" }, { port = 90, target = \"127.0.0.1:9090\" }]\n";

    fn service(more: &str) -> Service {
        service_from_toml(std::path::Path::new("f"), &format!("{TABLE}{PORTS}{more}")).unwrap()
    }

    fn state(spec: Option<&str>) -> Arc<State> {
        let text = spec.map(|spec| {
            format!(
                "apiVersion: networking.istio.io/v1\nkind: WorkloadGroup\nmetadata: {{name: cart, namespace: shop}}\nspec: {spec}\n"
            )
        });
        testing::state(&text.unwrap_or_default())
    }

    #[test]
    fn a_group_says_what_a_table_does_not() {
        let group = state(Some(
            "{metadata: {labels: {app: cart, tier: back}}, template: {labels: {version: v1, tier: front}, serviceAccount: cart, weight: 7},
              probe: {httpGet: {port: 9090, path: /ready}, periodSeconds: 3, timeoutSeconds: 2, initialDelaySeconds: 4, failureThreshold: 5}}",
        ));
        let (filled, trouble) = filled(&service("labels = { app = \"own\" }\n"), &group);
        let labels: Vec<_> = filled.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(
            labels,
            ["app=own", "tier=front", "version=v1"],
            "one's own label, then the template's, then the group's"
        );
        assert_eq!((filled.account.to_string().as_str(), filled.weight, trouble), ("shop/cart", 7, None));
        let check = filled.check.unwrap();
        assert_eq!((check.probe.clone(), check.target), (Probe::Http("/ready".into()), ([127, 0, 0, 1], 9090).into()));
        let seconds = [check.interval, check.timeout.unwrap(), check.delay].map(|time| time.as_secs());
        assert_eq!((seconds, check.rise, check.fall), ([3, 2, 4], 1, 5));
    }

    #[test]
    fn a_tables_own_word_stays() {
        let group = state(Some("{template: {serviceAccount: cart}, probe: {tcpSocket: {port: 90}}}"));
        let own = service("account = \"web\"\ncheck = { http = \"/health\" }\n");
        let (filled, trouble) = filled(&own, &group);
        assert_eq!((&filled.account, &filled.check, trouble), (&own.account, &own.check, None));
        let mut alone = own.clone();
        alone.group = None;
        assert_eq!(super::filled(&alone, &group), (alone.clone(), None));
    }

    #[test]
    fn what_a_group_lacks_is_told() {
        let code = |spec: Option<&str>| {
            let (own, state) = (service(""), state(spec));
            let (filled, trouble) = filled(&own, &state);
            assert_eq!(filled.check, own.check);
            trouble.map(|trouble| trouble.code)
        };
        assert_eq!(code(None), Some("group_unknown"));
        assert_eq!(code(Some("{template: {}, probe: {tcpSocket: {port: 91}}}")), Some("group_probe"));
        assert_eq!(code(Some("{template: {serviceAccount: 'a b'}}")), Some("group_account"));
        assert_eq!(code(Some("{template: {}}")), None);
    }
}
