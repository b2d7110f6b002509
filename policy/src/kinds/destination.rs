//! `Destination`, and how several of them share the traffic of a rule.

use crate::{
    codes,
    decode::{At, Fields},
    hosts,
};

/// `Destination`: where a request or connection goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationHost {
    /// Expanded host, lower case.
    pub host: String,
    /// A subset of the host's DestinationRule.
    pub subset: Option<String>,
    /// `port.number`.
    pub port: Option<u16>,
}

/// `RouteDestination`: where connections go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteDestination {
    /// Where.
    pub destination: DestinationHost,
    /// Share among the route's destinations; absent is 0.
    pub weight: u32,
}

impl DestinationHost {
    pub(super) fn decode(at: &At<'_>, namespace: &str) -> Option<Self> {
        let fields = at.fields()?;
        let host = fields.required("host").and_then(|at| {
            let host = at.filled_text()?;
            if host == "*" || !hosts::is_wildcard_name(host) {
                at.error_as_istio(codes::HOST, format!("invalid destination host {host}"), "name a service");
                return None;
            }
            Some(hosts::expand(host, namespace))
        });
        let subset = fields.get("subset").and_then(|at| {
            let subset = at.text()?;
            if !subset.is_empty() && !hosts::is_dns_label(subset) {
                at.error_as_istio(codes::NAME, format!("subset name is invalid: {subset}"), "write a DNS label");
            }
            Some(subset.to_owned()).filter(|subset| !subset.is_empty())
        });
        let port = fields.get("port").and_then(|at| decode_port(&at));
        fields.finish();
        Some(Self { host: host?, subset, port })
    }
}

/// `PortSelector`.
pub(super) fn decode_port(at: &At<'_>) -> Option<u16> {
    let selector = at.fields()?;
    let number = selector.required("number").and_then(|number| number.port());
    selector.finish();
    number
}

impl RouteDestination {
    pub(super) fn decode_list(at: &At<'_>, namespace: &str) -> Vec<Self> {
        decode_weighted(at, namespace, |_| (), |(), destination, weight| Self { destination, weight })
    }
}

/// The destinations of a rule, with what holds for their weights; `read` reads what a destination has besides.
pub(super) fn decode_weighted<T, M>(
    at: &At<'_>,
    namespace: &str,
    read: impl Fn(&Fields<'_>) -> M,
    make: impl Fn(M, DestinationHost, u32) -> T,
) -> Vec<T> {
    let items = at.items();
    let (mut decoded, mut without_weight, mut sum) = (Vec::new(), Vec::new(), 0_u64);
    for item in &items {
        let Some(fields) = item.fields() else { continue };
        let destination = fields.get("destination");
        if destination.is_none() {
            item.error_as_istio(codes::MISSING, "destination is required", "");
        }
        let destination = destination.and_then(|at| DestinationHost::decode(&at, namespace));
        let weight = fields.get("weight").and_then(|weight| weight.integer(0..=i64::from(i32::MAX)));
        let weight = weight.and_then(|weight| u32::try_from(weight).ok());
        sum += u64::from(weight.unwrap_or_default());
        if weight.is_none() {
            without_weight.push(*item);
        }
        let more = read(&fields);
        decoded.extend(destination.map(|destination| make(more, destination, weight.unwrap_or_default())));
        fields.finish();
    }
    if items.len() > 1 && sum == 0 {
        at.error_as_istio(codes::WEIGHT, "total destination weight = 0", "give each destination a weight");
    } else if items.len() > 1 {
        for item in without_weight {
            let message = "a destination among several without weight gets no traffic";
            item.warn(codes::NO_TRAFFIC, message, "give it a weight");
        }
    }
    decoded
}
