//! The annotation `skein.dev/lb`: PEAK_EWMA for all traffic of a DestinationRule.

use super::{
    super::{Algorithm, Balance, PolicyBlocks, TrafficPolicy},
    SubsetRule,
};
use crate::{
    codes,
    decode::{At, Fields},
    document::LB,
    parse::Metadata,
};

const PEAK_EWMA: &str = "PEAK_EWMA";

/// True if the annotation is there and asks for PEAK_EWMA.
pub(super) fn is_asked(spec: &At<'_>, metadata: &Metadata) -> bool {
    let Some(word) = metadata.annotations.get(LB) else { return false };
    if word != PEAK_EWMA {
        let message = format!("{LB}: `{word}` is not an algorithm of Skein's own");
        let hint = "write PEAK_EWMA; Istio's algorithms stand in trafficPolicy.loadBalancer";
        spec.error_hint(codes::ANNOTATION, message, hint);
    }
    word == PEAK_EWMA
}

/// Complains of each place of the rule that names another algorithm.
pub(super) fn refuse_others(rule: &Fields<'_>) {
    if let Some(policy) = rule.get("trafficPolicy") {
        of_policy(&policy);
    }
    let subsets = rule.get("subsets");
    for subset in subsets.as_ref().map(At::items).unwrap_or_default() {
        let Some(fields) = subset.fields() else { continue };
        if let Some(policy) = fields.get("trafficPolicy") {
            of_policy(&policy);
        }
    }
}

fn of_policy(policy: &At<'_>) {
    let Some(fields) = policy.fields() else { return };
    of_blocks(&fields);
    let ports = fields.get("portLevelSettings");
    for port in ports.as_ref().map(At::items).unwrap_or_default() {
        if let Some(fields) = port.fields() {
            of_blocks(&fields);
        }
    }
}

fn of_blocks(blocks: &Fields<'_>) {
    let Some(balancer) = blocks.get("loadBalancer") else { return };
    let Some(fields) = balancer.fields() else { return };
    let refuse = |at: &At<'_>, what: &str| {
        let message = format!("{LB} asks for {PEAK_EWMA}, and `{what}` for something else");
        at.error_hint(codes::EXCLUSIVE, message, "keep one of them");
    };
    if let Some(hash) = fields.get("consistentHash") {
        refuse(&hash, "consistentHash");
    }
    if let Some(simple) = fields.get("simple").filter(|at| !at.is_word(PEAK_EWMA) && !at.is_word("UNSPECIFIED")) {
        refuse(&simple, "simple");
    }
}

/// Sets the algorithm wherever the rule decides it: a subset without a balancer of its own takes the rule's.
pub(super) fn apply(policy: &mut Option<TrafficPolicy>, subsets: &mut [SubsetRule]) {
    let top = policy.get_or_insert_default();
    set(&mut top.blocks);
    top.ports.iter_mut().for_each(|(_, blocks)| set(blocks));
    for own in subsets.iter_mut().filter_map(|subset| subset.policy.as_mut()) {
        if own.blocks.load_balancer.is_some() {
            set(&mut own.blocks);
        }
        own.ports.iter_mut().for_each(|(_, blocks)| set(blocks));
    }
}

fn set(blocks: &mut PolicyBlocks) {
    blocks.load_balancer.get_or_insert_default().algorithm = Algorithm::Simple(Balance::PeakEwma);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{compile::Compiled, parse, testing::state_of};

    fn rule(annotation: &str, spec: &str) -> String {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
             metadata: {{name: d, namespace: default, annotations: {{skein.dev/lb: {annotation}}}}}\nspec: {spec}\n"
        )
    }

    fn algorithm(spec: &str, subset: &str, port: u16) -> Algorithm {
        let route = format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: r}}\nspec: {{hosts: [reviews], http: [{{route: [{{destination: {{host: reviews{subset}}}}}]}}]}}\n"
        );
        let compiled = Compiled::build(&state_of(&(rule(PEAK_EWMA, spec) + &route)), None);
        let service = "default/reviews".parse().unwrap();
        let found = crate::route::survey::rules(&compiled, &service, "default");
        found[0].route.choose(|| 0).unwrap().common.policy(port).load_balancer.algorithm.clone()
    }

    #[test]
    fn it_holds_for_the_whole_rule() {
        let (v1, peak) = (", subset: v1", Algorithm::Simple(Balance::PeakEwma));
        for (spec, subset, port) in [
            ("{host: reviews}", "", 80),
            ("{host: reviews, trafficPolicy: {outlierDetection: {}}}", "", 80),
            ("{host: reviews, trafficPolicy: {loadBalancer: {simple: PEAK_EWMA}}}", "", 80),
            ("{host: reviews, trafficPolicy: {loadBalancer: {warmup: {duration: 1s}}}}", "", 80),
            (
                "{host: reviews, trafficPolicy: {portLevelSettings: [{port: {number: 80}, outlierDetection: {}}]}}",
                "",
                80,
            ),
            ("{host: reviews, subsets: [{name: v1}]}", v1, 80),
            ("{host: reviews, subsets: [{name: v1, trafficPolicy: {outlierDetection: {}}}]}", v1, 80),
            ("{host: reviews, subsets: [{name: v1, trafficPolicy: {loadBalancer: {warmup: {duration: 1s}}}}]}", v1, 80),
        ] {
            assert_eq!(algorithm(spec, subset, port), peak, "{spec}");
        }
    }

    #[test]
    fn what_contradicts_it_is_refused() {
        let complaints = |text: &str| {
            let parsed = parse::yaml("f.yaml", text, "default");
            let told = parsed.problems.into_iter().map(|problem| (problem.code, problem.field));
            (parsed.documents.len(), told.collect::<Vec<_>>())
        };
        for (spec, field) in [
            ("{host: a, trafficPolicy: {loadBalancer: {simple: RANDOM}}}", "spec.trafficPolicy.loadBalancer.simple"),
            (
                "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true}}}}",
                "spec.trafficPolicy.loadBalancer.consistentHash",
            ),
            (
                "{host: a, subsets: [{name: v1, trafficPolicy: {portLevelSettings: [{port: {number: 1}, loadBalancer: {simple: RANDOM}}]}}]}",
                "spec.subsets[0].trafficPolicy.portLevelSettings[0].loadBalancer.simple",
            ),
        ] {
            assert_eq!(complaints(&rule(PEAK_EWMA, spec)), (0, vec![(codes::EXCLUSIVE, field.to_owned())]), "{spec}");
        }
        let (documents, told) = complaints(&rule("FASTEST", "{host: a}"));
        assert_eq!((documents, told[0].0), (0, codes::ANNOTATION));
        let elsewhere = rule(PEAK_EWMA, "{hosts: [a], http: [{route: [{destination: {host: a}}]}]}")
            .replace("DestinationRule", "VirtualService");
        let (documents, told) = complaints(&elsewhere);
        assert_eq!((documents, told[0].0), (1, codes::WITHOUT_EFFECT));
    }
}
