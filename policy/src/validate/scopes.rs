//! Whom documents are for: selectors that select nobody, and several documents of which one counts for a workload.

use std::collections::BTreeMap;

use super::{Check, Entry, Finding, Overlap};
use crate::{Kind, Spec, codes, document::ROOT_NAMESPACE, kinds::Target};

const NO_WORKLOADS: &str = "No matching workloads for this resource [IST0127 NoMatchingWorkloadsFound]";
const SIDECAR_SELECTORS: &str =
    "The Sidecars select the same workload pod [IST0110 ConflictingSidecarWorkloadSelectors]";
const SIDECAR_DEFAULTS: &str =
    "The Sidecars have no workload selector [IST0111 MultipleSidecarsWithoutWorkloadSelectors]";
const TELEMETRY_SELECTORS: &str =
    "The Telemetries select the same workload pod [IST0159 ConflictingTelemetryWorkloadSelectors]";
const TELEMETRY_DEFAULTS: &str =
    "The Telemetries have no workload selector [IST0160 MultipleTelemetriesWithoutWorkloadSelectors]";

/// Other documents with a selector that are compared with one.
const MAX_COMPARED: usize = 256;

type Labels = BTreeMap<String, String>;

/// The selector of a kind of which one document counts for a workload; `None` inside is one for the whole namespace. `None` outside:
/// the document is of no such kind, or counts for nobody.
fn selector<'w>(entry: &Entry<'w>) -> Option<Option<&'w Labels>> {
    let of_target = |target: &'w Target| {
        let labels = Some(&target.labels).filter(|labels| !labels.is_empty());
        Some(labels).filter(|_| !target.refers)
    };
    match &entry.document.spec {
        Spec::Sidecar(sidecar) => Some(sidecar.selector.as_ref()),
        Spec::Telemetry(telemetry) => of_target(&telemetry.target),
        Spec::PeerAuthentication(policy) if policy.counts(&entry.id().namespace) => of_target(&policy.target),
        Spec::PeerAuthentication(_)
        | Spec::VirtualService(_)
        | Spec::DestinationRule(_)
        | Spec::ServiceEntry(_)
        | Spec::WorkloadEntry(_)
        | Spec::WorkloadGroup(_)
        | Spec::Gateway(_)
        | Spec::AuthorizationPolicy(_)
        | Spec::RequestAuthentication(_)
        | Spec::RateLimit(_)
        | Spec::MeshConfig(_)
        | Spec::RoleSet(_)
        | Spec::NodeGrant(_)
        | Spec::Revocation(_)
        | Spec::Confirmation => None,
    }
}

impl Check<'_> {
    /// A policy that is for no workload.
    pub(super) fn selects_someone(&mut self, target: &Target) {
        if target.refers {
            return;
        }
        let istio = Some(NO_WORKLOADS).filter(|_| self.id().kind == Kind::AuthorizationPolicy);
        self.selector(&target.labels, "spec.selector", istio);
    }

    /// Says so if nobody has the labels. In the root namespace a selector is for every namespace.
    pub(super) fn selector(&mut self, labels: &Labels, field: &str, istio: Option<&'static str>) {
        let own = self.id().namespace.as_str();
        let namespace = Some(own).filter(|own| *own != ROOT_NAMESPACE);
        let workloads = &self.world.workloads;
        if !workloads.are_known() || workloads.selected(namespace, labels).next().is_some() {
            return;
        }
        let message = match (labels.is_empty(), namespace) {
            (true, _) => format!("no workload is in {own}: the document is for nobody"),
            (false, Some(_)) => format!("no workload in {own} has these labels: the document is for nobody"),
            (false, None) => "no workload of the mesh has these labels: the document is for nobody".to_owned(),
        };
        let finding = Finding::warning(codes::SELECTS_NOBODY, field, message);
        let finding = finding.hint("compare with the labels that services register");
        self.say(Finding { istio, ..finding });
    }

    /// Of several documents for the whole namespace, or for one workload, the oldest counts.
    pub(super) fn one_counts(&mut self) {
        let (world, own) = (self.world, self.entry);
        let Some(labels) = selector(own) else { return };
        let id = own.id();
        let others = world.of(id.kind, &id.namespace).filter(|other| other.id() != id);
        let (sidecar, telemetry) = (id.kind == Kind::Sidecar, id.kind == Kind::Telemetry);
        let as_istio = |sidecars, telemetries| {
            let of_telemetry = Some(telemetries).filter(|_| telemetry);
            if sidecar { Some(sidecars) } else { of_telemetry }
        };
        let field = if sidecar { "spec.workloadSelector" } else { "spec.selector" };
        match labels {
            None => {
                let about = Overlap {
                    code: codes::SEVERAL_DEFAULTS,
                    field: "spec".to_owned(),
                    does: format!("is for all workloads of {}", id.namespace),
                    cure: "put it into",
                    istio: as_istio(SIDECAR_DEFAULTS, TELEMETRY_DEFAULTS),
                };
                let rivals = others.filter(|other| selector(other) == Some(None)).take(super::MAX_RIVALS);
                self.overlaps(&about, rivals.map(|other| (other, other.age() < own.age())));
            }
            Some(labels) => {
                let about = Overlap {
                    code: codes::SEVERAL_FOR_WORKLOAD,
                    field: field.to_owned(),
                    does: "selects the same workload".to_owned(),
                    cure: "select others than",
                    istio: as_istio(SIDECAR_SELECTORS, TELEMETRY_SELECTORS),
                };
                let namespace = Some(id.namespace.as_str());
                let same = |other: &Labels| {
                    other == labels || (world.workloads.are_known() && world.workloads.share(namespace, other, labels))
                };
                let selecting = others.filter_map(|other| Some((other, selector(other)??))).take(MAX_COMPARED);
                let rivals = selecting.filter(|(_, other)| same(other));
                self.overlaps(&about, rivals.map(|(other, _)| (other, other.age() < own.age())));
            }
        }
    }
}
