//! `CorsPolicy`: what browsers are told of other origins.

use std::time::Duration;

use super::StringMatch;
use crate::{codes, decode::At};

/// `CorsPolicy`. A preflight from an origin that is allowed is answered by the proxy, whatever method it asks for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CorsPolicy {
    /// Any of them allows; see [`CorsPolicy::allows`].
    pub allow_origins: Vec<StringMatch>,
    /// `Access-Control-Allow-Methods`; absent from the answer if there are none.
    pub allow_methods: Vec<String>,
    /// `Access-Control-Allow-Headers`.
    pub allow_headers: Vec<String>,
    /// `Access-Control-Expose-Headers`.
    pub expose_headers: Vec<String>,
    /// `Access-Control-Max-Age`, in whole seconds.
    pub max_age: Option<Duration>,
    /// `Access-Control-Allow-Credentials: true`.
    pub allow_credentials: bool,
    /// What happens to preflights from other origins.
    pub unmatched_preflights: UnmatchedPreflights,
}

/// What happens to a preflight whose origin is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnmatchedPreflights {
    /// It is forwarded as any other request.
    #[default]
    Forward,
    /// It is answered without a word of CORS.
    Ignore,
}

/// Methods that a policy may name.
const METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*"];

impl CorsPolicy {
    /// True if pages of this origin (the value of the header) may read the answers. `exact: "*"` allows all, as in Envoy.
    pub fn allows(&self, origin: &str) -> bool {
        self.allow_origins.iter().any(|allowed| allowed.is_match(b"*") || allowed.is_match(origin.as_bytes()))
    }

    pub(super) fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let listed = fields.get("allowOrigins");
        let listed = listed.as_ref().map(|list| list.items().iter().filter_map(decode_origin).collect::<Vec<_>>());
        let exact = fields.get("allowOrigin").map(|list| {
            list.warn(codes::DEPRECATED, "allowOrigin is deprecated", "write allowOrigins: [{exact: ...}]");
            list.text_list().iter().map(|(text, _)| StringMatch::Exact((*text).to_owned())).collect::<Vec<_>>()
        });
        let texts = |name, check: fn(&str, &At<'_>)| -> Vec<String> {
            let Some(list) = fields.get(name) else { return Vec::new() };
            let items = list.text_list();
            items.iter().for_each(|(text, at)| check(text, at));
            items.iter().map(|(text, _)| (*text).to_owned()).collect()
        };
        let allow_methods = texts("allowMethods", check_method);
        let (allow_headers, expose_headers) =
            (texts("allowHeaders", check_header), texts("exposeHeaders", check_header));
        let max_age = fields.get("maxAge").and_then(|at| {
            let age = at.duration()?;
            if age.subsec_nanos() > 0 {
                let message = "max_age duration is accurate only to seconds precision";
                at.error_as_istio(codes::DURATION, message, "write whole seconds");
            }
            Some(age)
        });
        let allow_credentials = fields.get("allowCredentials").and_then(|at| at.boolean()).unwrap_or(false);
        let unmatched_preflights = fields.get("unmatchedPreflights").and_then(|at| {
            at.word(&[
                ("UNSPECIFIED", UnmatchedPreflights::Forward),
                ("FORWARD", UnmatchedPreflights::Forward),
                ("IGNORE", UnmatchedPreflights::Ignore),
            ])
        });
        fields.finish();
        Some(Self {
            allow_origins: listed.or(exact).unwrap_or_default(),
            allow_methods,
            allow_headers,
            expose_headers,
            max_age,
            allow_credentials,
            unmatched_preflights: unmatched_preflights.unwrap_or_default(),
        })
    }
}

fn decode_origin(at: &At<'_>) -> Option<StringMatch> {
    let origin = StringMatch::decode(at, super::string_match::In::Value, false)?;
    let empty = match &origin {
        StringMatch::Exact(text) | StringMatch::Prefix(text) => text.is_empty(),
        StringMatch::Regex(_) => false,
        StringMatch::Present => true,
    };
    if empty {
        let message = "'' is not a valid match type for CORS allow origins";
        at.error_as_istio(codes::EMPTY, message, "write exact, prefix or regex");
        return None;
    }
    Some(origin)
}

fn check_method(method: &str, at: &At<'_>) {
    if !METHODS.contains(&method) {
        at.error_as_istio(codes::WORD, format!("\"{method}\" is not a supported HTTP method"), "write it in capitals");
    }
}

fn check_header(name: &str, at: &At<'_>) {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if name.is_empty() {
        at.error_as_istio(codes::HEADER, "header name cannot be empty", "");
    } else if name != "*" && !name.bytes().all(valid) {
        at.error_as_istio(codes::HEADER, format!("header name {name} is not a valid header name"), "");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{complaints, spec_of};

    fn rule(text: &str) -> String {
        format!("{{hosts: [a], http: [{{route: [{{destination: {{host: a}}}}], corsPolicy: {text}}}]}}")
    }

    fn policy(text: &str) -> CorsPolicy {
        let spec = spec_of("VirtualService", &rule(text));
        CorsPolicy::clone(spec.virtual_service().unwrap().http[0].cors.as_ref().unwrap())
    }

    #[test]
    fn origins() {
        for (text, origin, allowed) in [
            ("{allowOrigins: [{exact: 'https://a.example'}]}", "https://a.example", true),
            ("{allowOrigins: [{exact: 'https://a.example'}]}", "https://a.example.evil", false),
            ("{allowOrigins: [{prefix: 'https://a'}]}", "https://a.example", true),
            ("{allowOrigins: [{regex: 'https://[a-z]+[.]example'}]}", "https://abc.example", true),
            ("{allowOrigins: [{regex: 'https://[a-z]+[.]example'}]}", "https://abc.example.evil", false),
            ("{allowOrigins: [{exact: '*'}]}", "https://anybody", true),
            ("{allowOrigin: ['https://a.example']}", "https://a.example", true),
            ("{allowOrigin: ['https://a.example'], allowOrigins: []}", "https://a.example", false),
            ("{}", "https://a.example", false),
        ] {
            assert_eq!(policy(text).allows(origin), allowed, "{text} {origin}");
        }
    }

    #[test]
    fn the_rest() {
        let whole = policy(
            "{allowMethods: [GET, '*'], allowHeaders: [x-a], exposeHeaders: ['*'], maxAge: 24h, allowCredentials: true, unmatchedPreflights: IGNORE}",
        );
        assert_eq!((whole.max_age, whole.allow_credentials), (Some(Duration::from_secs(86_400)), true));
        assert_eq!((whole.unmatched_preflights, whole.allow_methods.len()), (UnmatchedPreflights::Ignore, 2));
        assert_eq!(policy("{}").unmatched_preflights, UnmatchedPreflights::Forward);
    }

    #[test]
    fn what_a_policy_cannot_be() {
        for (text, code) in [
            ("{allowOrigins: [{}]}", codes::EMPTY),
            ("{allowOrigins: [{exact: ''}]}", codes::EMPTY),
            ("{allowOrigins: [{regex: '('}]}", codes::REGEX),
            ("{allowMethods: [get]}", codes::WORD),
            ("{allowHeaders: ['a b']}", codes::HEADER),
            ("{exposeHeaders: ['']}", codes::HEADER),
            ("{maxAge: 1500ms}", codes::DURATION),
            ("{allowOrigin: [a]}", codes::DEPRECATED),
        ] {
            let found = complaints("VirtualService", &rule(text));
            assert!(found.iter().any(|(found, _)| *found == code), "{text}: {found:?}");
        }
    }
}
