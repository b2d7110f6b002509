//! `WorkloadEntry`: one endpoint, which services of its namespace select by its labels.

use super::{Endpoint, endpoint::Within};
use crate::decode::At;

/// `WorkloadEntry`. It has no host name: it is reached through a service whose selector matches its labels.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkloadEntry {
    /// The endpoint.
    pub endpoint: Endpoint,
}

impl WorkloadEntry {
    pub(crate) fn decode(spec: &At<'_>) -> Option<Self> {
        Endpoint::decode(spec, Within::WorkloadEntry).map(|endpoint| Self { endpoint })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        Spec, codes,
        kinds::{EndpointAddress, Locality},
        testing::{found, spec_of},
    };

    fn entry(spec: &str) -> Arc<WorkloadEntry> {
        let Spec::WorkloadEntry(entry) = spec_of("WorkloadEntry", spec) else { panic!("another kind") };
        entry
    }

    #[test]
    fn an_entry_has_defaults() {
        let plain = entry("{address: 10.0.0.7}");
        assert_eq!(plain.endpoint.address, Some(EndpointAddress::Ip("10.0.0.7".parse().unwrap())));
        assert_eq!((plain.endpoint.weight, plain.endpoint.service_account.as_str()), (1, "default"));
        let full = entry(
            "{address: DB.Example.com., ports: {mysql: '3306'}, labels: {app: db}, network: dc1,
              locality: eu/eu-1/a, weight: 7, service_account: db}",
        );
        assert_eq!(full.endpoint.address, Some(EndpointAddress::Name("db.example.com".into())));
        assert_eq!(full.endpoint.ports["mysql"], 3_306);
        let locality = Locality { region: "eu".into(), zone: "eu-1".into(), subzone: "a".into() };
        assert_eq!((&full.endpoint.locality, full.endpoint.weight), (&locality, 7));
        assert_eq!(full.endpoint.service_account, "db");
        assert_eq!(entry("{address: a.b, weight: 0}").endpoint.weight, 1);
    }

    #[test]
    fn addresses_are_ips_names_or_sockets() {
        for (spec, codes) in [
            ("{address: '2001:db8::1'}", &[][..]),
            ("{address: 'unix:///run/app.sock'}", &[]),
            ("{address: 'unix://@app'}", &[]),
            ("{address: host}", &[]),
            ("{network: dc1}", &[codes::IGNORED]),
            ("{address: a, locality: r/z/s/more}", &[codes::IGNORED]),
            ("{address: ''}", &[codes::MISSING]),
            ("{address: '*.example.com'}", &[codes::ADDRESS]),
            ("{address: 10.0.0.300}", &[codes::ADDRESS]),
            ("{address: 'http://a.b'}", &[codes::ADDRESS]),
            ("{address: 'unix://run/app.sock'}", &[codes::ADDRESS]),
            ("{address: 'unix:///run/'}", &[codes::ADDRESS]),
            ("{address: 'unix://'}", &[codes::ADDRESS]),
            ("{address: 'unix:///a', ports: {http: 80}}", &[codes::EXCLUSIVE]),
            ("{address: 'unix:///a', ports: {}}", &[]),
            ("{address: a, ports: {http_1: 80}}", &[codes::NAME]),
            ("{address: a, ports: {http: 0}}", &[codes::RANGE]),
            ("{address: a, labels: {a: '-'}}", &[codes::LABEL]),
            ("{address: a, weight: -1}", &[codes::RANGE]),
            ("{adress: a, network: dc1}", &[codes::IGNORED, codes::UNKNOWN_FIELD]),
        ] {
            let found = found("WorkloadEntry", spec);
            let found = found.iter().map(|one| one.code).filter(|code| *code != codes::NOT_SUPPORTED);
            let found: Vec<&str> = found.collect();
            assert_eq!(found, codes, "{spec}");
        }
        let long = format!("{{address: 'unix:///{}'}}", "x".repeat(200));
        assert_eq!(found("WorkloadEntry", &long)[0].code, codes::ADDRESS);
    }

    #[test]
    fn complaints_have_their_place() {
        let found = found("WorkloadEntry", "\n  address: 10.0.0.7\n  ports:\n    http: 70000");
        let one = &found[0];
        assert_eq!((one.line, one.column, one.field.as_str()), (7, 11, "spec.ports[http]"));
    }
}
