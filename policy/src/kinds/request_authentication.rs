//! `RequestAuthentication`: whose tokens a workload believes. It never requires one: that is AuthorizationPolicy's.

use std::time::Duration;

use http::HeaderName;

use super::target::{Target, refuse_dry_run};
use crate::{
    codes,
    decode::{At, Fields},
    parse::Metadata,
    token::KeySet,
};

/// `RequestAuthentication`.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestAuthentication {
    /// Which workloads.
    pub target: Target,
    /// A token that is presented must satisfy one of them; those of all documents of a workload add up.
    pub rules: Vec<TokenRule>,
}

/// `JWTRule`: one issuer of tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenRule {
    /// The claim `iss`; empty if only the keys count.
    pub issuer: String,
    /// The claim `aud` has one of them; empty is any.
    pub audiences: Vec<String>,
    /// What signs the tokens.
    pub keys: TokenKeys,
    /// Header and what stands before the token in it. If no place at all is named: `Authorization: Bearer `, then the query
    /// parameter `access_token`.
    pub from_headers: Vec<(HeaderName, String)>,
    /// Query parameters.
    pub from_params: Vec<String>,
    /// Cookies.
    pub from_cookies: Vec<String>,
    /// Header that carries the payload on, base64url.
    pub output_payload: Option<HeaderName>,
    /// Header and the claim that it carries on.
    pub output_claims: Vec<(HeaderName, String)>,
    /// The token stays in the request. False: it is taken out.
    pub forward_original: bool,
    /// For fetching keys. 5 s.
    pub timeout: Duration,
    /// Claims whose text is a list separated by spaces, beside `scope` and `permission`.
    pub space_delimited: Vec<String>,
    /// A request without a token for this rule is refused. False.
    pub required: bool,
}

/// What signs the tokens of an issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenKeys {
    /// Found by OpenID discovery at the issuer.
    Discovered,
    /// Fetched from this URL.
    Fetched(String),
    /// A JSON Web Key Set in the document.
    Inline(String),
}

/// Istio's default for fetching keys.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Rules of a document at most, as in Istio.
const MAX_RULES: usize = 4_096;
/// Bytes of a URL at most, as in Istio.
const MAX_URL: usize = 2_048;

impl RequestAuthentication {
    pub(crate) fn decode(spec: &At<'_>, metadata: &Metadata) -> Option<Self> {
        let fields = spec.fields()?;
        let target = Target::decode(&fields);
        let list = fields.get("jwtRules");
        let items = list.as_ref().map(At::items).unwrap_or_default();
        if items.len() > MAX_RULES {
            spec.error(codes::RANGE, format!("jwtRules has at most {MAX_RULES} items"));
        }
        let rules = items.iter().take(MAX_RULES).filter_map(TokenRule::decode).collect();
        fields.finish();
        refuse_dry_run(spec, metadata);
        Some(Self { target, rules })
    }
}

impl TokenRule {
    fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let issuer = text(&fields, "issuer");
        let uri = fields.get("jwksUri");
        let inline = fields.get("jwks");
        let url = uri.as_ref().and_then(At::text).unwrap_or_default();
        if issuer.is_empty() && url.is_empty() {
            at.error_as_istio(codes::TOKEN_RULE, "issuer must be set", "name the issuer of the tokens");
        }
        let keys = decode_keys(at, uri.as_ref(), inline.as_ref());
        if keys == TokenKeys::Discovered && !issuer.is_empty() && !is_url(&issuer) {
            let message =
                format!("`{issuer}` is no URL, so that its keys cannot be discovered: tokens of it are refused");
            at.warn(codes::WITHOUT_EFFECT, message, "give `jwks` or `jwksUri`");
        }
        let rule = Self {
            issuer,
            audiences: filled(&fields, "audiences", "audience must be non-empty string"),
            keys,
            from_headers: decode_headers(&fields),
            from_params: filled(&fields, "fromParams", "location query must be non-empty string"),
            from_cookies: filled(&fields, "fromCookies", "cookie name must be non-empty string"),
            output_payload: fields.get("outputPayloadToHeader").and_then(|at| header(at.filled_text()?, &at)),
            output_claims: decode_claims(&fields),
            forward_original: fields.get("forwardOriginalToken").and_then(|keep| keep.boolean()).unwrap_or(false),
            timeout: fields.get("timeout").and_then(|timeout| timeout.duration()).unwrap_or(FETCH_TIMEOUT),
            space_delimited: filled(&fields, "spaceDelimitedClaims", "a claim must be a non-empty string"),
            required: fields
                .get("presence")
                .and_then(|presence| presence.word(&[("OPTIONAL", false), ("REQUIRED", true)]))
                .unwrap_or(false),
        };
        fields.finish();
        Some(rule)
    }
}

fn text(fields: &Fields<'_>, name: &'static str) -> String {
    fields.get(name).and_then(|at| at.text().map(str::to_owned)).unwrap_or_default()
}

/// A list of strings that are not empty.
fn filled(fields: &Fields<'_>, name: &'static str, complaint: &str) -> Vec<String> {
    let list = fields.get(name);
    let items = list.as_ref().map(At::text_list).unwrap_or_default();
    let take = |(text, at): (&str, At<'_>)| {
        if text.is_empty() {
            at.error_as_istio(codes::EMPTY, complaint, "");
        }
        text.to_owned()
    };
    items.into_iter().map(take).collect()
}

fn decode_keys(at: &At<'_>, uri: Option<&At<'_>>, inline: Option<&At<'_>>) -> TokenKeys {
    if uri.is_some() && inline.is_some() {
        at.error_as_istio(codes::EXCLUSIVE, "only one of jwks or jwksUri can be set", "");
    }
    if let Some(text) = inline.and_then(|inline| Some((inline.text()?, inline))) {
        let (text, place) = text;
        if !text.is_empty() {
            match KeySet::read(text) {
                Err(reason) => place.error(codes::TOKEN_RULE, format!("jwks parse error: {reason}")),
                Ok(keys) if keys.unusable() > 0 => {
                    let message = format!("{} of the keys cannot verify a token here", keys.unusable());
                    let hint = "keys are RSA, EC (P-256, P-384, P-521), Ed25519 or oct of 32 bytes or more, and for signatures";
                    place.warn(codes::WITHOUT_EFFECT, message, hint);
                }
                Ok(_) => {}
            }
            return TokenKeys::Inline(text.to_owned());
        }
    }
    let Some((url, place)) = uri.and_then(|uri| Some((uri.text()?, uri))) else { return TokenKeys::Discovered };
    if url.is_empty() {
        return TokenKeys::Discovered;
    }
    if !is_url(url) {
        let message = "jwksUri is not a URL: url must have scheme http:// or https://";
        place.error(codes::URL, message);
    }
    TokenKeys::Fetched(url.to_owned())
}

/// True for what keys can be fetched from.
fn is_url(text: &str) -> bool {
    let parsed = text.parse::<http::Uri>().ok().filter(|_| text.len() <= MAX_URL);
    parsed.is_some_and(|url| {
        matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some_and(|host| !host.is_empty())
    })
}

fn decode_headers(fields: &Fields<'_>) -> Vec<(HeaderName, String)> {
    let list = fields.get("fromHeaders");
    let items = list.as_ref().map(At::items).unwrap_or_default();
    let read = |item: &At<'_>| {
        let fields = item.fields()?;
        let (name, prefix) = (fields.given("name"), text(&fields, "prefix"));
        fields.finish();
        let Some((name, at)) = name? else {
            item.error_as_istio(codes::EMPTY, "location header name must be non-empty string", "");
            return None;
        };
        Some((header(name, &at)?, prefix))
    };
    items.iter().filter_map(read).collect()
}

fn decode_claims(fields: &Fields<'_>) -> Vec<(HeaderName, String)> {
    let list = fields.get("outputClaimToHeaders");
    let items = list.as_ref().map(At::items).unwrap_or_default();
    let read = |item: &At<'_>| {
        let fields = item.fields()?;
        let (name, claim) = (fields.given("header"), text(&fields, "claim"));
        fields.finish();
        let Some((name, at)) = name?.filter(|_| !claim.is_empty()) else {
            let message = "outputClaimToHeaders header and claim value must be non-empty string";
            item.error_as_istio(codes::EMPTY, message, "");
            return None;
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if !name.bytes().all(plain) {
            at.error(codes::HEADER, "the header of a claim has letters, digits, `-` and `_` only");
            return None;
        }
        Some((header(name, &at)?, claim))
    };
    items.iter().filter_map(read).collect()
}

fn header(text: &str, at: &At<'_>) -> Option<HeaderName> {
    let name = HeaderName::from_bytes(text.as_bytes()).ok();
    if name.is_none() {
        at.error(codes::HEADER, format!("`{text}` is not a header name"));
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Severity, Spec, parse};

    fn read(rule: &str) -> parse::Parsed {
        let head = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: a}\n";
        parse::yaml("f", &format!("{head}spec: {{jwtRules: [{rule}]}}\n"), "default")
    }

    fn rule(text: &str) -> TokenRule {
        let parsed = read(text);
        let document = parsed.documents.first().unwrap_or_else(|| panic!("{text}: {:#?}", parsed.problems));
        let Spec::RequestAuthentication(authentication) = &document.document.spec else { panic!() };
        authentication.rules[0].clone()
    }

    #[test]
    fn rules_have_istios_defaults() {
        let plain = rule("{issuer: 'https://a.example'}");
        assert_eq!((plain.keys, plain.timeout), (TokenKeys::Discovered, Duration::from_secs(5)));
        // The token is taken out, and none is required.
        assert!(!plain.forward_original && !plain.required && plain.from_headers.is_empty());
        let full = rule(
            "{issuer: a, audiences: [b], jwksUri: 'https://a.example/keys', fromHeaders: [{name: x-a, prefix: 'Bearer '}], \
             fromParams: [p], fromCookies: [c], outputPayloadToHeader: x-p, outputClaimToHeaders: [{header: x-c, claim: sub}], \
             forwardOriginalToken: true, timeout: 2s, spaceDelimitedClaims: [groups], presence: REQUIRED}",
        );
        assert_eq!(full.keys, TokenKeys::Fetched("https://a.example/keys".into()));
        assert_eq!(full.from_headers, [(HeaderName::from_static("x-a"), "Bearer ".to_owned())]);
        assert_eq!(full.output_claims, [(HeaderName::from_static("x-c"), "sub".to_owned())]);
        assert!(full.forward_original && full.required);
        assert!(matches!(rule(r#"{issuer: a, jwks: '{"keys": [{"kty": "RSA"}]}'}"#).keys, TokenKeys::Inline(_)));
    }

    #[test]
    fn what_is_not_valid_says_so() {
        for (code, text) in [
            (codes::TOKEN_RULE, "{}"),
            (codes::TOKEN_RULE, "{issuer: ''}"),
            (codes::EMPTY, "{issuer: a, audiences: ['']}"),
            (codes::URL, "{issuer: a, jwksUri: 'ftp://a'}"),
            (codes::URL, "{issuer: a, jwksUri: 'keys'}"),
            (codes::TOKEN_RULE, "{issuer: a, jwks: foo}"),
            (codes::TOKEN_RULE, r#"{issuer: a, jwks: '{"keys": [{}]}'}"#),
            (codes::EXCLUSIVE, r#"{issuer: a, jwksUri: 'https://a', jwks: '{"keys": []}'}"#),
            (codes::EMPTY, "{issuer: a, fromHeaders: [{prefix: x}]}"),
            (codes::HEADER, "{issuer: a, fromHeaders: [{name: 'a b'}]}"),
            (codes::EMPTY, "{issuer: a, fromParams: ['']}"),
            (codes::EMPTY, "{issuer: a, outputClaimToHeaders: [{header: a}]}"),
            (codes::HEADER, "{issuer: a, outputClaimToHeaders: [{header: 'a%b', claim: c}]}"),
            (codes::DURATION, "{issuer: a, timeout: apple}"),
            (codes::WRONG_TYPE, "null"),
            (codes::UNKNOWN_FIELD, "{issuer: a, jwksURI: b}"),
        ] {
            let parsed = read(text);
            let error = |problem: &&crate::Problem| problem.severity == Severity::Error;
            let found: Vec<&str> = parsed.problems.iter().filter(error).map(|problem| problem.code).collect();
            assert_eq!(found, [code], "{text}: {:#?}", parsed.problems);
        }
    }
}
