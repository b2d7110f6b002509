//! Rules for requests that none reaches, because rules before them take all that they would take: within a VirtualService, and
//! where several are joined at a Gateway.

use std::collections::BTreeSet;

use super::{Check, Entry, Finding, MAX_RIVALS, world::gateway_id};
use crate::{
    DocumentId, codes,
    kinds::{GatewayName, HttpAction, HttpMatch, HttpRoute, VirtualService},
};

const UNREACHABLE: &str = "VirtualService rule not used [IST0130 VirtualServiceUnreachableRule]";
const DUPLICATE: &str = "VirtualService rule match is not used [IST0131 VirtualServiceIneffectiveMatch]";

/// Comparisons of conditions for one document at most; what is beyond is taken to be reached.
const MAX_COMPARED: usize = 1_000_000;

/// A condition that takes requests, and where it counts.
struct Taken<'r> {
    condition: &'r HttpMatch,
    gateways: &'r [GatewayName],
}

/// Conditions of rules that come first.
#[derive(Default)]
struct Before<'r> {
    taken: Vec<Taken<'r>>,
    compared: usize,
}

impl<'r> Before<'r> {
    fn add(&mut self, rule: &'r HttpRoute, own: &'r [GatewayName]) {
        // What a delegate does not take goes on to the next rule.
        if matches!(rule.action, HttpAction::Delegate { .. }) {
            return;
        }
        self.taken.extend(rule.matches.iter().map(|condition| Taken { condition, gateways: gateways(condition, own) }));
    }

    /// A condition that takes all that this one would, wherever this one counts.
    fn taking(&mut self, condition: &HttpMatch, own: &[GatewayName]) -> Option<&'r HttpMatch> {
        let wanted = gateways(condition, own);
        if self.compared > MAX_COMPARED {
            return None;
        }
        self.compared += self.taken.len();
        let takes = |taken: &&Taken<'_>| {
            taken.condition.covers(condition) && wanted.iter().all(|gateway| taken.gateways.contains(gateway))
        };
        self.taken.iter().find(takes).map(|taken| taken.condition)
    }
}

/// Where a condition counts: its own gateways stand in place of the document's.
fn gateways<'g>(condition: &'g HttpMatch, own: &'g [GatewayName]) -> &'g [GatewayName] {
    condition.gateways.as_deref().unwrap_or(own)
}

/// True if the rule takes every request that gets to it: it ends the list.
fn takes_all(rule: &HttpRoute) -> bool {
    rule.matches.is_empty() || rule.matches.iter().any(HttpMatch::is_catch_all)
}

impl Check<'_> {
    pub(super) fn reach(&mut self, service: &VirtualService) {
        let mut before = Before::default();
        for (index, rule) in service.http.iter().enumerate() {
            // Behind the first that takes all, the decoder has said it.
            if takes_all(rule) {
                break;
            }
            let hidden: Vec<Option<&HttpMatch>> =
                rule.matches.iter().map(|condition| before.taking(condition, &service.gateways)).collect();
            if hidden.iter().all(Option::is_some) {
                let message = "no request reaches this rule: rules before it take all that it would take";
                let finding = Finding::warning(codes::UNREACHABLE_RULE, format!("spec.http[{index}]"), message);
                self.say(finding.hint("move it up, or delete it").said_by_istio(UNREACHABLE));
            } else {
                self.hidden_conditions(index, &rule.matches, &hidden);
            }
            before.add(rule, &service.gateways);
        }
        let gateways: BTreeSet<DocumentId> = service.gateways.iter().filter_map(gateway_id).collect();
        for gateway in &gateways {
            self.joined(service, gateway);
        }
    }

    /// Conditions of a rule that others reach; equal ones the decoder has named.
    fn hidden_conditions(&mut self, index: usize, matches: &[HttpMatch], hidden: &[Option<&HttpMatch>]) {
        for (part, (condition, taking)) in matches.iter().zip(hidden).enumerate() {
            let Some(taking) = taking else { continue };
            if (HttpMatch { name: condition.name.clone(), ..(*taking).clone() }) != *condition {
                let message = "a rule before takes all that this condition would take";
                let field = format!("spec.http[{index}].match[{part}]");
                self.say(Finding::note(codes::DUPLICATE_MATCH, field, message).said_by_istio(DUPLICATE));
            }
        }
    }

    /// Rules of older VirtualServices with the same host at the same Gateway come first, but those that take all come last.
    fn joined(&mut self, service: &VirtualService, gateway: &DocumentId) {
        let world = self.world;
        let hosts: BTreeSet<&String> = service.hosts.iter().collect();
        let Some(host) = service.hosts.first() else { return };
        let older = world.attached(gateway, host).take_while(|other| other.id() != self.id()).take(MAX_RIVALS);
        let joined: Vec<(&Entry<'_>, &VirtualService)> = older
            .filter_map(|other| Some((other, &**other.document.spec.virtual_service()?)))
            // Only where every host of this one is taken there is the rule reached nowhere.
            .filter(|(_, other)| hosts.iter().all(|host| other.hosts.contains(host)))
            .collect();
        let mut before = Before::default();
        let name = GatewayName::Gateway { namespace: gateway.namespace.clone(), name: gateway.name.clone() };
        let here = std::slice::from_ref(&name);
        for (_, other) in &joined {
            other.http.iter().for_each(|rule| before.add(rule, &other.gateways));
        }
        let first_to_take_all = joined.iter().find(|(_, other)| other.http.iter().any(takes_all));
        for (index, rule) in service.http.iter().enumerate() {
            let taken_by = if takes_all(rule) {
                first_to_take_all.map(|(other, _)| other.id().to_string())
            } else {
                let hidden = rule.matches.iter().all(|condition| {
                    let counts_here = condition.gateways.as_ref().is_none_or(|own| own.contains(&name));
                    !counts_here || before.taking(&HttpMatch { gateways: None, ..condition.clone() }, here).is_some()
                });
                hidden.then(|| "older VirtualServices".to_owned())
            };
            if let Some(other) = taken_by {
                let message = format!(
                    "at {gateway}, where rules of several VirtualServices for a host are joined, no request reaches this rule: \
                     {other} come first and take all that it would take"
                );
                let finding = Finding::warning(codes::TAKEN_AT_GATEWAY, format!("spec.http[{index}]"), message);
                self.say(finding.hint("put the rules into one VirtualService").said_by_istio(UNREACHABLE));
            }
            if takes_all(rule) {
                break;
            }
        }
    }
}
