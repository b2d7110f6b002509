//! Whether a condition holds wherever another one holds: then a rule behind it is never reached.

use super::HttpMatch;
use crate::kinds::StringMatch;

impl HttpMatch {
    /// True if every request that meets `other` meets this one. May be false although it is so; gateways are not looked at.
    pub fn covers(&self, other: &Self) -> bool {
        let plain = |own: &Option<StringMatch>, other: &Option<StringMatch>| match (own, other) {
            (None, _) => true,
            (Some(own), Some(other)) => own.covers(other),
            (Some(_), None) => false,
        };
        let named = |own: &[(String, StringMatch)], other: &[(String, StringMatch)]| {
            let covered = |(name, wanted): &(String, StringMatch)| {
                other.iter().any(|(other, given)| other == name && wanted.covers(given))
            };
            own.iter().all(covered)
        };
        self.covers_uri(other)
            && plain(&self.scheme, &other.scheme)
            && plain(&self.method, &other.method)
            && plain(&self.authority, &other.authority)
            && named(&self.headers, &other.headers)
            && named(&self.query_params, &other.query_params)
            && self.without_headers.iter().all(|own| other.without_headers.contains(own))
            && self.claims.iter().all(|own| other.claims.contains(own))
            && self.without_claims.iter().all(|own| other.without_claims.contains(own))
            && self.port.is_none_or(|port| other.port == Some(port))
            && self.covers_source(other)
    }

    fn covers_uri(&self, other: &Self) -> bool {
        let Some(own) = &self.uri else { return true };
        if own.is_everything() || matches!(own, StringMatch::Prefix(prefix) if prefix == "/") {
            return true;
        }
        match (&other.uri, self.ignore_uri_case, other.ignore_uri_case) {
            (Some(other), false, false) => own.covers(other),
            (Some(other), true, _) => own.lower_case().covers(&other.lower_case()),
            // Without a condition, or written in one case and matched in any: only what takes every path takes all of that.
            (None, _, _) | (Some(_), false, true) => false,
        }
    }

    /// Conditions on the caller, which do not count beside gateways.
    fn covers_source(&self, other: &Self) -> bool {
        if self.gateways.is_some() || (self.source_labels.is_empty() && self.source_namespace.is_none()) {
            return true;
        }
        let labels = || self.source_labels.iter().all(|(key, value)| other.source_labels.get(key) == Some(value));
        let namespace = || self.source_namespace.is_none() || self.source_namespace == other.source_namespace;
        other.gateways.is_none() && labels() && namespace()
    }
}

impl StringMatch {
    /// True if every value that matches `other` matches this. May be false although it is so.
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Present, _) => true,
            (Self::Exact(own), Self::Exact(other)) => own == other,
            (Self::Prefix(own), Self::Exact(other) | Self::Prefix(other)) => other.starts_with(own.as_str()),
            (Self::Regex(own), Self::Exact(other)) => own.is_match(other.as_bytes()),
            (Self::Regex(own), Self::Regex(other)) if own == other => true,
            (Self::Prefix(_) | Self::Regex(_), _) => self.is_everything(),
            (Self::Exact(_), _) => false,
        }
    }

    /// True if it matches every value.
    fn is_everything(&self) -> bool {
        match self {
            Self::Present => true,
            Self::Prefix(prefix) => prefix.is_empty(),
            Self::Regex(pattern) => pattern.source() == ".*",
            Self::Exact(_) => false,
        }
    }

    /// For comparison without case. A regular expression stays: it knows of case itself.
    fn lower_case(&self) -> Self {
        match self {
            Self::Exact(text) => Self::Exact(text.to_ascii_lowercase()),
            Self::Prefix(text) => Self::Prefix(text.to_ascii_lowercase()),
            Self::Regex(_) | Self::Present => self.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Spec, testing::spec_of};

    fn condition(text: &str) -> HttpMatch {
        let spec = spec_of(
            "VirtualService",
            &format!("{{hosts: [a], http: [{{match: [{text}], route: [{{destination: {{host: a}}}}]}}]}}"),
        );
        let Spec::VirtualService(service) = spec else { panic!("another kind") };
        service.http[0].matches[0].clone()
    }

    #[test]
    fn wider_conditions_cover_narrower_ones() {
        for (wide, narrow) in [
            ("{uri: {prefix: /api/v1/product}}", "{uri: {prefix: /api/v1/products}, method: {exact: GET}}"),
            ("{uri: {prefix: /}}", "{uri: {exact: /}}"),
            ("{uri: {prefix: /}}", "{headers: {end-user: {exact: jason}}}"),
            ("{uri: {regex: '/a.*'}}", "{uri: {exact: /abc}}"),
            ("{uri: {regex: '.*'}}", "{uri: {prefix: /b}}"),
            ("{uri: {prefix: /A}, ignoreUriCase: true}", "{uri: {exact: /aB}}"),
            ("{uri: {exact: /A}, ignoreUriCase: true}", "{uri: {exact: /a}}"),
            ("{headers: {x: {}}}", "{headers: {x: {exact: '1'}, y: {}}}"),
            ("{queryParams: {q: {prefix: a}}}", "{queryParams: {q: {exact: ab}}}"),
            ("{withoutHeaders: {x: {}}}", "{withoutHeaders: {x: {}, y: {}}}"),
            ("{port: 80}", "{port: 80, uri: {exact: /}}"),
            ("{sourceLabels: {app: a}}", "{sourceLabels: {app: a, v: '1'}, sourceNamespace: b}"),
            ("{gateways: [mesh], sourceNamespace: b}", "{uri: {exact: /}}"),
        ] {
            assert!(condition(wide).covers(&condition(narrow)), "{wide} {narrow}");
            assert!(!condition(narrow).covers(&condition(wide)), "{narrow} {wide}");
        }
    }

    #[test]
    fn conditions_that_differ_do_not_cover_each_other() {
        for (one, other) in [
            ("{uri: {prefix: /a}}", "{uri: {prefix: /b}}"),
            ("{method: {exact: GET}}", "{method: {exact: POST}}"),
            ("{headers: {x: {exact: '1'}}}", "{withoutHeaders: {x: {exact: '1'}}}"),
            ("{uri: {regex: '/a.*'}}", "{uri: {regex: '/ab.*'}}"),
            ("{port: 80}", "{port: 81}"),
            ("{sourceNamespace: b}", "{sourceNamespace: b, gateways: [mesh], uri: {exact: /}}"),
        ] {
            assert!(!condition(one).covers(&condition(other)), "{one} {other}");
            assert!(!condition(other).covers(&condition(one)), "{other} {one}");
        }
    }
}
