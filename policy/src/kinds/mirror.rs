//! `HTTPMirrorPolicy`: copies of requests whose answers nobody waits for.

use super::DestinationHost;
use crate::{
    codes,
    decode::{At, Fields},
};

/// `HTTPMirrorPolicy`: a share of the requests is also sent there, with `-shadow` added to the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Where.
    pub destination: DestinationHost,
    /// Share, in parts of a million; drawn for each request and mirror.
    pub per_million: u32,
}

/// `mirror`, `mirrorPercentage`, `mirrorPercent` and `mirrors` as they are written: a delegate inherits them one by one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mirroring {
    /// `mirror`.
    pub mirror: Option<DestinationHost>,
    /// Share of `mirror`, in parts of a million; absent is all.
    pub per_million: Option<u32>,
    /// `mirrors`.
    pub mirrors: Option<Vec<Mirror>>,
}

/// All requests.
const ALL: u32 = 1_000_000;

impl Mirroring {
    /// Where copies go; what has a share of nothing is left out.
    pub fn effective(&self) -> Vec<Mirror> {
        let one = self.mirror.iter().map(|destination| Mirror {
            destination: destination.clone(),
            per_million: self.per_million.unwrap_or(ALL),
        });
        let all = one.chain(self.mirrors.iter().flatten().cloned());
        all.filter(|mirror| mirror.per_million > 0).collect()
    }

    /// What is not set here as it is there.
    pub fn or(self, other: &Self) -> Self {
        Self {
            mirror: self.mirror.or_else(|| other.mirror.clone()),
            per_million: self.per_million.or(other.per_million),
            mirrors: self.mirrors.or_else(|| other.mirrors.clone()),
        }
    }

    pub(super) fn decode(fields: &Fields<'_>, namespace: &str) -> Self {
        let mirror = fields.get("mirror").and_then(|at| DestinationHost::decode(&at, namespace));
        let percentage = fields.get("mirrorPercentage").and_then(|at| at.percent());
        let percent = fields.get("mirrorPercent").and_then(|at| {
            let hint = "write mirrorPercentage: {value: ...}";
            at.warn(codes::DEPRECATED, "mirrorPercent is deprecated", hint);
            u32::try_from(at.integer(0..=100)?).ok()
        });
        let mirrors = fields
            .get("mirrors")
            .map(|list| list.items().iter().filter_map(|item| Mirror::decode(item, namespace)).collect::<Vec<_>>());
        let mirrors = mirrors.filter(|mirrors| !mirrors.is_empty());
        if mirror.is_some() && mirrors.is_some() {
            let hint = "write all of them in `mirrors`, each as {destination: {host: ...}}";
            fields.at.error_as_istio(codes::EXCLUSIVE, "HTTP route cannot contain both mirror and mirrors", hint);
        }
        Self { mirror, per_million: percentage.or(percent.map(|percent| percent * 10_000)), mirrors }
    }
}

impl Mirror {
    fn decode(at: &At<'_>, namespace: &str) -> Option<Self> {
        let fields = at.fields()?;
        let destination = fields.get("destination");
        if destination.is_none() {
            at.error_as_istio(codes::MISSING, "destination is required for mirrors", "write destination: {host: ...}");
        }
        let destination = destination.and_then(|at| DestinationHost::decode(&at, namespace));
        let per_million = fields.get("percentage").map_or(Some(ALL), |at| at.percent());
        fields.finish();
        Some(Self { destination: destination?, per_million: per_million? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{complaints, spec_of};

    fn rule(text: &str) -> String {
        format!("{{hosts: [a], http: [{{route: [{{destination: {{host: a}}}}], {text}}}]}}")
    }

    #[test]
    fn shares() {
        let shares = |text: &str| -> Vec<(String, u32)> {
            let spec = spec_of("VirtualService", &rule(text));
            let mirrors = spec.virtual_service().unwrap().http[0].mirroring.effective();
            mirrors.into_iter().map(|mirror| (mirror.destination.host, mirror.per_million)).collect()
        };
        let b = |share| vec![("b.shop.svc.cluster.local".to_owned(), share)];
        assert_eq!(shares("mirror: {host: b}"), b(1_000_000));
        assert_eq!(shares("mirror: {host: b}, mirrorPercentage: {value: 12.5}"), b(125_000));
        assert_eq!(shares("mirror: {host: b}, mirrorPercent: 5"), b(50_000));
        assert_eq!(shares("mirror: {host: b}, mirrorPercent: 5, mirrorPercentage: {value: 6}"), b(60_000));
        assert_eq!(shares("mirror: {host: b}, mirrorPercentage: {value: 0}"), []);
        assert_eq!(shares("mirrorPercentage: {value: 1}"), []);
        assert_eq!(
            shares("mirrors: [{destination: {host: b}}, {destination: {host: c}, percentage: {value: 0}}]"),
            b(1_000_000)
        );
    }

    #[test]
    fn what_a_mirror_cannot_be() {
        for (text, code) in [
            ("mirror: {host: b}, mirrors: [{destination: {host: c}}]", codes::EXCLUSIVE),
            ("mirror: {host: '*'}", codes::HOST),
            ("mirrors: [{percentage: {value: 1}}]", codes::MISSING),
            ("mirrors: [{destination: {host: b}, percentage: {value: 100.5}}]", codes::RANGE),
            ("mirrorPercent: 101", codes::RANGE),
            ("mirrorPercent: 1", codes::DEPRECATED),
        ] {
            let found = complaints("VirtualService", &rule(text));
            assert!(found.iter().any(|(found, _)| *found == code), "{text}: {found:?}");
        }
    }
}
