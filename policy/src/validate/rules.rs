//! DestinationRules: hosts, subsets, what others of the namespace say of them, and what switches the mesh's own TLS off.

use super::{Check, Entry, Finding, MAX_RIVALS, Overlap};
use crate::{
    Kind, Spec, codes,
    document::ROOT_NAMESPACE,
    hosts,
    kinds::{
        ClientTls, ClientTlsMode, DestinationRule, MutualTls, PortProtocol, ServiceEntry, ServiceEntryPort,
        ServiceLocation, TrafficPolicy,
    },
};
use std::collections::BTreeSet;

const NO_HOST: &str = "Unknown destination rule host [IST0174 UnknownDestinationRuleHost]";
const NO_PODS: &str =
    "The DestinationRule subset does not select any pods [IST0173 DestinationRuleSubsetNotSelectPods]";
const NO_AUTHORITIES: &str =
    "TLS mode set but no caCertificates are set [IST0128 NoServerCertificateVerificationDestinationLevel]";
const NO_AUTHORITIES_OF_PORT: &str =
    "TLS mode set but no caCertificates are set at port [IST0129 NoServerCertificateVerificationPortLevel]";
const MTLS_CONFLICT: &str =
    "A DestinationRule and Policy are in conflict with regards to mTLS [IST0113 MTLSPolicyConflict]";
const NO_CREDENTIAL: &str = "Referenced credentialName not found [IST0101 ReferencedResourceNotFound]";

impl Check<'_> {
    pub(super) fn destination_rule(&mut self, rule: &DestinationRule) {
        self.host_of_document(&rule.host, "spec.host".to_owned(), NO_HOST);
        self.subsets(rule);
        if rule.policy.is_some() {
            let field = "spec.trafficPolicy".to_owned();
            let does = format!("sets the trafficPolicy of `{}`", rule.host);
            self.merged(rule, codes::OVERRULED_POLICY, field, does, |other| other.policy.is_some());
        }
        if let Some(selector) = rule.workload_selector.as_ref().filter(|selector| !selector.is_empty()) {
            self.selector(selector, "spec.workloadSelector", None);
        }
        self.shadowed(rule);
        let subsets = rule.subsets.iter().enumerate();
        let subsets =
            subsets.filter_map(|(index, subset)| Some((format!("spec.subsets[{index}]"), subset.policy.as_ref()?)));
        let top = rule.policy.as_ref().map(|policy| ("spec".to_owned(), policy));
        for (field, policy) in top.into_iter().chain(subsets) {
            self.tls_of_policy(rule, policy, &format!("{field}.trafficPolicy"));
            self.ahead_of_requests(rule, policy, &format!("{field}.trafficPolicy"));
        }
        self.ejections(rule);
    }

    fn subsets(&mut self, rule: &DestinationRule) {
        let registry = self.world.registry;
        let service = hosts::service_of(&rule.host).filter(|service| registry.ports(service).is_some());
        for (index, subset) in rule.subsets.iter().enumerate() {
            let without = |service| !subset.labels.is_empty() && !registry.labels_exist(service, &subset.labels);
            if service.as_ref().is_some_and(without) {
                let message = format!("no endpoint of `{}` has the labels of subset `{}`", rule.host, subset.name);
                let field = format!("spec.subsets[{index}].labels");
                let finding = Finding::warning(codes::SUBSET_WITHOUT_ENDPOINTS, field, message);
                self.say(finding.hint("requests would get 503").said_by_istio(NO_PODS));
            }
            let field = format!("spec.subsets[{index}].name");
            let does = format!("defines the subset `{}`", subset.name);
            self.merged(rule, codes::REPEATED_SUBSET, field, does, |other| other.subset(&subset.name).is_some());
        }
    }

    /// Of DestinationRules of one namespace and host for the same callers, which are merged, the oldest counts.
    fn merged(
        &mut self,
        rule: &DestinationRule,
        code: &'static str,
        field: String,
        does: String,
        has: impl Fn(&DestinationRule) -> bool,
    ) {
        let (world, own) = (self.world, self.entry);
        let about = Overlap { code, field, does, cure: "change it in", istio: None };
        let beside = world
            .claiming(Kind::DestinationRule, &rule.host)
            .filter(|other| other.id() != own.id() && other.id().namespace == own.id().namespace);
        let rivals = beside.take(MAX_RIVALS).filter(|other| {
            let other = other.document.spec.destination_rule();
            other.is_some_and(|other| other.workload_selector == rule.workload_selector && has(other))
        });
        self.overlaps(&about, rivals.map(|other| (other, other.age() < own.age())));
    }

    /// A rule of the root namespace is looked at last: where the service's own namespace has one for all callers, never.
    fn shadowed(&mut self, rule: &DestinationRule) {
        if self.id().namespace != ROOT_NAMESPACE {
            return;
        }
        let Some(winner) = self.world.before_root(&rule.host).map(Entry::name) else { return };
        let message = format!(
            "{winner} is for `{}` too, and rules of the service's own namespace go before those of {ROOT_NAMESPACE}: this one \
             applies to nobody",
            rule.host
        );
        let finding = Finding::warning(codes::SHADOWED_RULE, "spec.host", message);
        self.say(finding.hint("nothing is merged across namespaces: put it into that one"));
    }

    fn tls_of_policy(&mut self, rule: &DestinationRule, policy: &TrafficPolicy, field: &str) {
        if let Some(tls) = &policy.blocks.tls {
            self.tls(rule, tls, &format!("{field}.tls"), NO_AUTHORITIES);
        }
        for (index, (_, blocks)) in policy.ports.iter().enumerate() {
            if let Some(tls) = &blocks.tls {
                self.tls(rule, tls, &format!("{field}.portLevelSettings[{index}].tls"), NO_AUTHORITIES_OF_PORT);
            }
        }
    }

    /// What goes ahead of a connection's bytes goes ahead of no requests: these share their connections.
    fn ahead_of_requests(&mut self, rule: &DestinationRule, policy: &TrafficPolicy, field: &str) {
        let host = &rule.host;
        if policy.tunnel.is_some() {
            let ports = self.ports_of_requests(host, |_| true);
            self.bytes_only(ports, format!("{field}.tunnel"), "a `tunnel`", host);
        }
        if policy.proxy_protocol.is_some() {
            // To endpoints outside it goes ahead of requests, too.
            let ports = self.ports_of_requests(host, |entry| entry.selector.is_some());
            self.bytes_only(ports, format!("{field}.proxyProtocol"), "`proxyProtocol`", host);
        }
    }

    fn bytes_only(&mut self, ports: BTreeSet<u16>, field: String, what: &str, host: &str) {
        if ports.is_empty() {
            return;
        }
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        let message = format!(
            "{what} is for connections of bytes: requests to `{host}` go without it (port {})",
            ports.join(", ")
        );
        let finding = Finding::warning(codes::BYTES_ONLY, field, message);
        self.say(finding.hint("declare the port `tcp` if its requests are to be carried as bytes"));
    }

    /// Ports of the host that carry requests: of a registered service, and of ServiceEntries of this kind.
    fn ports_of_requests(&self, host: &str, is_meant: impl Fn(&ServiceEntry) -> bool) -> BTreeSet<u16> {
        let registered = hosts::service_of(host).and_then(|service| self.world.registry.ports(&service));
        let registered = registered.iter().flat_map(|ports| ports.iter());
        let mut found: BTreeSet<u16> =
            registered.filter(|port| port.protocol.is_http()).map(|port| port.number).collect();
        for entry in self.world.claiming(Kind::ServiceEntry, host) {
            if let Spec::ServiceEntry(content) = &entry.document.spec
                && is_meant(content)
            {
                let http = |port: &&ServiceEntryPort| port.protocol.is_some_and(PortProtocol::carries_requests);
                found.extend(content.ports.iter().filter(http).map(|port| port.number));
            }
        }
        found
    }

    fn tls(&mut self, rule: &DestinationRule, tls: &ClientTls, field: &str, istio: &'static str) {
        let host = &rule.host;
        if let Some(name) = &tls.credential_name {
            self.credential(name, format!("{field}.credentialName"), NO_CREDENTIAL);
        }
        let verifies = matches!(tls.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual) && !tls.insecure_skip_verify;
        if verifies && tls.ca_certificates.is_none() && tls.credential_name.is_none() {
            let message = format!("no caCertificates: servers of `{host}` are verified with the system's roots");
            let finding = Finding::note(codes::SYSTEM_ROOTS, field, message);
            self.say(finding.hint("name the file with the roots if they are others").said_by_istio(istio));
        }
        if tls.mode == ClientTlsMode::IstioMutual {
            return self.mesh_tls_outside(host, field);
        }
        if !self.is_of_mesh(host) {
            return;
        }
        let what = format!("`tls` switches the mesh's own mutual TLS off for `{host}`");
        let finding = match self.strict(host) {
            Some(policy) => {
                let message = format!("{what}, and {policy} takes nothing else: requests would get 503");
                Finding::warning(codes::MESH_TLS_OFF, field, message).said_by_istio(MTLS_CONFLICT)
            }
            None => Finding::note(codes::MESH_TLS_OFF, field, what),
        };
        self.say(finding.hint("leave `tls` out, or write mode: ISTIO_MUTUAL"));
    }

    /// Endpoints of services outside have no identity of the mesh.
    fn mesh_tls_outside(&mut self, host: &str, field: &str) {
        let external = |entry: &&Entry<'_>| matches!(&entry.document.spec, Spec::ServiceEntry(content) if content.location == ServiceLocation::External);
        let Some(entry) = self.world.claiming(Kind::ServiceEntry, host).find(external) else { return };
        let message = format!(
            "{} makes `{host}` outside the mesh, where nobody has an identity of it: connections would fail",
            entry.name()
        );
        let finding = Finding::warning(codes::MESH_TLS_OUTSIDE, field, message);
        self.say(
            finding.hint("write mode: SIMPLE or MUTUAL, or location: MESH_INTERNAL if nodes of the mesh serve it"),
        );
    }

    /// True if the host is a service of the mesh.
    fn is_of_mesh(&self, host: &str) -> bool {
        let internal = |entry: &Entry<'_>| matches!(&entry.document.spec, Spec::ServiceEntry(content) if content.location == ServiceLocation::Internal);
        self.world.meets_service(host) || self.world.claiming(Kind::ServiceEntry, host).any(internal)
    }

    /// The PeerAuthentication of the service's namespace, or of the mesh, that takes mutual TLS only.
    fn strict(&self, host: &str) -> Option<String> {
        let namespaces = hosts::service_of(host).map(|service| service.namespace().to_owned());
        let levels = namespaces.iter().map(String::as_str).chain([ROOT_NAMESPACE]);
        let mode = |entry: &Entry<'_>| {
            let Spec::PeerAuthentication(policy) = &entry.document.spec else { return None };
            policy.mode.filter(|_| policy.target.labels.is_empty())
        };
        let set = |namespace| {
            let mut all = self.world.of(Kind::PeerAuthentication, namespace);
            all.find_map(|entry| Some((entry.id(), mode(entry)?)))
        };
        let (id, mode) = { levels }.find_map(set)?;
        (mode == MutualTls::Strict).then(|| id.to_string())
    }
}
