//! Tokens of end users (JWT, RFC 7519) by RequestAuthentication: where a request shows one, whether it holds, what of it goes on.
//!
//! The words of a refusal and its status are Envoy's. Time comes in as an argument; keys that no document holds come from [`Keys`].

mod jws;
mod keys;
mod places;

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header, request::Parts};
use serde_json::{Map, Value};

use crate::{
    authorize::Token,
    headers::spelling,
    kinds::{TokenKeys, TokenRule},
};
use jws::Jws;
pub use keys::{KeySet, public_part};
use places::Place;

/// Seconds that clocks may differ, as Envoy has it.
const SKEW: f64 = 60.0;

/// Keys that no document holds. A host may mean another service in another namespace, so what is fetched for one counts in no other.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source {
    /// Of the workloads that believe them.
    pub namespace: String,
    /// Where they are fetched.
    pub site: Site,
}

/// Where keys are fetched.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Site {
    /// A key set at this URL.
    Url(String),
    /// A key set where OpenID discovery at this issuer says.
    Issuer(String),
}

/// Keys that were fetched.
pub trait Keys {
    /// Those of this source; `None` if there are none yet.
    fn of(&self, source: &Source) -> Option<Arc<KeySet>>;

    /// A token names a key that the source's set does not have: the set may be old.
    fn missed(&self, source: &Source);
}

/// Whose tokens a workload believes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tokens {
    rules: Vec<Arc<Believed>>,
}

/// One issuer whose tokens count.
#[derive(Debug, PartialEq)]
pub struct Believed {
    rule: TokenRule,
    keys: Origin,
}

#[derive(Debug, PartialEq)]
enum Origin {
    Inline(Arc<KeySet>),
    Fetched(Source),
}

/// A token that holds.
#[derive(Debug, Clone)]
pub struct Verified {
    /// What it says.
    pub token: Arc<Token>,
    by: Arc<Believed>,
}

/// Why a token does not hold. The texts are Envoy's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A rule requires one, and there is none.
    Missing,
    /// A rule finds two that differ.
    Several,
    /// Not three parts.
    Form,
    /// The header is not base64url.
    HeaderBase64,
    /// The header is no JSON object.
    HeaderJson,
    /// The header names no algorithm.
    HeaderAlg,
    /// An algorithm that is not known.
    UnknownAlg,
    /// The name of the key is no text.
    HeaderKid,
    /// The header demands what is not understood (RFC 7515, 4.1.11).
    Critical,
    /// The payload is not base64url.
    PayloadBase64,
    /// The payload is no JSON object.
    PayloadJson,
    /// `exp` is no time.
    PayloadExp,
    /// `nbf` is no time.
    PayloadNbf,
    /// `aud` is no text and no list of texts.
    PayloadAud,
    /// The signature is not base64url.
    SignatureBase64,
    /// No rule believes its issuer.
    Issuer,
    /// `exp` has passed.
    Expired,
    /// `nbf` has not come.
    NotYet,
    /// It is for somebody else.
    Audience,
    /// The issuer's keys could not be fetched.
    NoKeys,
    /// No key fits its `kid` and `alg`.
    NoSuchKey,
    /// No key made its signature.
    Signature,
}

impl Refusal {
    /// The text of the answer.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Missing => "Jwt is missing",
            Self::Several => "Found multiple Jwt tokens",
            Self::Form => "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
            Self::HeaderBase64 => "Jwt header is an invalid Base64url encoded",
            Self::HeaderJson => "Jwt header is an invalid JSON",
            Self::HeaderAlg => "Jwt header [alg] field is required and must be a string",
            Self::UnknownAlg => "Jwt header [alg] is not supported",
            Self::HeaderKid => "Jwt header [kid] field is not a string",
            Self::Critical => "Jwt header [crit] names what is not understood",
            Self::PayloadBase64 => "Jwt payload is an invalid Base64url encoded",
            Self::PayloadJson => "Jwt payload is an invalid JSON",
            Self::PayloadExp => "Jwt payload [exp] field is not an integer or overflow",
            Self::PayloadNbf => "Jwt payload [nbf] field is not an integer or overflow",
            Self::PayloadAud => "Jwt payload [aud] field is not a string or string list",
            Self::SignatureBase64 => "Jwt signature is an invalid Base64url encoded",
            Self::Issuer => "Jwt issuer is not configured",
            Self::Expired => "Jwt is expired",
            Self::NotYet => "Jwt not yet valid",
            Self::Audience => "Audiences in Jwt are not allowed",
            Self::NoKeys => "Jwks remote fetch is failed",
            Self::NoSuchKey => "Jwks doesn't have key to match kid or alg from Jwt",
            Self::Signature => "Jwt verification fails",
        }
    }
}

impl Refusal {
    /// 403 where the token holds and is for somebody else, else 401.
    #[must_use]
    pub const fn status(self) -> u16 {
        if matches!(self, Self::Audience) { 403 } else { 401 }
    }

    /// Envoy's `response_code_details`.
    #[must_use]
    pub fn details(self) -> String {
        format!("jwt_authn_access_denied{{{}}}", self.text().replace(' ', "_"))
    }

    /// `WWW-Authenticate` for a request to this URL (RFC 6750, 3).
    #[must_use]
    pub fn challenge(self, url: &str) -> String {
        let error = if self == Self::Missing { "" } else { ", error=\"invalid_token\"" };
        let url: String = url.chars().filter(|letter| !matches!(letter, '"' | '\\') && !letter.is_control()).collect();
        format!("Bearer realm=\"{url}\"{error}")
    }
}

impl Believed {
    /// What a rule says to workloads of `namespace`; `None` if its keys cannot be read, which parsing has complained of.
    #[must_use]
    pub fn new(rule: &TokenRule, namespace: &str) -> Option<Self> {
        let fetched = |site| Origin::Fetched(Source { namespace: namespace.to_owned(), site });
        let keys = match &rule.keys {
            TokenKeys::Inline(text) => Origin::Inline(Arc::new(KeySet::read(text).ok()?)),
            TokenKeys::Fetched(url) => fetched(Site::Url(url.clone())),
            TokenKeys::Discovered => fetched(Site::Issuer(rule.issuer.clone())),
        };
        Some(Self { rule: rule.clone(), keys })
    }

    /// The tokens that the request shows this rule.
    fn shown<'r>(&self, headers: &'r HeaderMap, uri: &'r Uri) -> Vec<Shown<'r>> {
        let rule = &self.rule;
        let mut found: Vec<Shown<'r>> = Vec::new();
        for place in Place::all(rule) {
            place.find(headers, uri, &mut found);
        }
        found
    }

    fn check(&self, shown: &str, keys: &dyn Keys, now: f64) -> Result<Token, Refusal> {
        let jws = Jws::read(shown)?;
        let claims = &jws.claims;
        if !self.rule.issuer.is_empty() && claims.get("iss").and_then(Value::as_str) != Some(&*self.rule.issuer) {
            return Err(Refusal::Issuer);
        }
        if time(claims, "nbf", Refusal::PayloadNbf)?.is_some_and(|nbf| now + SKEW < nbf) {
            return Err(Refusal::NotYet);
        }
        if time(claims, "exp", Refusal::PayloadExp)?.is_some_and(|exp| now > exp + SKEW) {
            return Err(Refusal::Expired);
        }
        if !self.rule.audiences.is_empty() {
            let audiences = audiences(claims)?;
            let wanted = |audience: &&str| self.rule.audiences.iter().any(|known| bare(known) == bare(audience));
            if !audiences.iter().any(wanted) {
                return Err(Refusal::Audience);
            }
        }
        let verified = match &self.keys {
            Origin::Inline(keys) => keys.verify(&jws),
            Origin::Fetched(source) => {
                let verified = keys.of(source).ok_or(Refusal::NoKeys)?.verify(&jws);
                if verified == Err(Refusal::NoSuchKey) {
                    keys.missed(source);
                }
                verified
            }
        };
        verified.map(|()| Token { claims: jws.claims, space_delimited: self.rule.space_delimited.clone() })
    }
}

/// A token in a request.
struct Shown<'r> {
    token: &'r str,
}

impl Tokens {
    /// Those of these rules, for a workload of `namespace`.
    #[must_use]
    pub fn new<'r>(rules: impl IntoIterator<Item = &'r TokenRule>, namespace: &str) -> Self {
        let believed = rules.into_iter().filter_map(|rule| Believed::new(rule, namespace));
        Self { rules: believed.map(Arc::new).collect() }
    }

    /// True if no token is looked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Where keys are fetched, and how long a fetch may take.
    pub fn sources(&self) -> impl Iterator<Item = (&Source, std::time::Duration)> {
        self.rules.iter().filter_map(|believed| match &believed.keys {
            Origin::Fetched(source) => Some((source, believed.rule.timeout)),
            Origin::Inline(_) => None,
        })
    }

    /// True if what verified this token is believed still.
    #[must_use]
    pub fn believe(&self, verified: &Verified) -> bool {
        self.rules.contains(&verified.by)
    }

    /// Looks at the token that a request shows, and makes of its head what goes on: headers that carry claims are the proxy's
    /// alone, and a token goes on only if its rule says so. `now`: seconds since 1970.
    ///
    /// # Errors
    /// The token does not hold for any rule, or a rule requires one and there is none.
    pub fn check(&self, parts: &mut Parts, keys: &dyn Keys, now: u64) -> Result<Option<Verified>, Refusal> {
        if self.rules.is_empty() {
            return Ok(None);
        }
        for header in self.rules.iter().flat_map(|believed| believed.written()) {
            spelling::remove(&mut parts.headers, header);
        }
        if is_preflight(parts) {
            return Ok(None);
        }
        // Half of a second matters to no token.
        #[expect(clippy::cast_precision_loss, reason = "seconds are far below 2^53")]
        let now = now as f64;
        let mut refusal = None;
        for believed in &self.rules {
            let shown = believed.shown(&parts.headers, &parts.uri);
            let Some(first) = shown.first() else { continue };
            let result = if shown.iter().any(|other| other.token != first.token) {
                Err(Refusal::Several)
            } else {
                believed.check(first.token, keys, now)
            };
            match result {
                Ok(token) => {
                    let payload = first.token.split('.').nth(1).unwrap_or_default().to_owned();
                    let verified = Verified { token: Arc::new(token), by: Arc::clone(believed) };
                    verified.carry(parts, &payload);
                    return Ok(Some(verified));
                }
                // What is wrong with a token of an issuer that is known says more.
                Err(Refusal::Issuer) => refusal = refusal.or(Some(Refusal::Issuer)),
                Err(other) if matches!(refusal, None | Some(Refusal::Issuer)) => refusal = Some(other),
                Err(_) => {}
            }
        }
        match refusal {
            Some(refusal) => Err(refusal),
            None if self.rules.iter().any(|believed| believed.rule.required) => Err(Refusal::Missing),
            None => Ok(None),
        }
    }
}

impl Believed {
    /// The headers that carry claims on.
    fn written(&self) -> impl Iterator<Item = &HeaderName> {
        self.rule.output_payload.iter().chain(self.rule.output_claims.iter().map(|(header, _)| header))
    }
}

impl Verified {
    fn carry(&self, parts: &mut Parts, payload: &str) {
        let rule = &self.by.rule;
        if !rule.forward_original {
            for place in Place::all(rule) {
                place.clear(parts);
            }
        }
        if let Some((header, value)) = rule.output_payload.as_ref().zip(HeaderValue::from_str(payload).ok()) {
            parts.headers.insert(header, value);
        }
        for (header, claim) in &rule.output_claims {
            if let Some(value) = claim_at(&self.token.claims, claim).and_then(as_header) {
                parts.headers.insert(header, value);
            }
        }
    }
}

/// A claim, or one within claims: `a.b`.
fn claim_at<'c>(claims: &'c Map<String, Value>, path: &str) -> Option<&'c Value> {
    if let Some(found) = claims.get(path) {
        return Some(found);
    }
    let mut steps = path.split('.');
    let first = claims.get(steps.next()?)?;
    steps.try_fold(first, |at, step| at.get(step))
}

/// Text, numbers and truth as they are, lists and objects as base64url of their JSON.
fn as_header(value: &Value) -> Option<HeaderValue> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(truth) => truth.to_string(),
        Value::Array(_) | Value::Object(_) => keys::encode(value.to_string().as_bytes()),
        Value::Null => return None,
    };
    HeaderValue::from_str(&text).ok()
}

/// A claim that is a time, seconds since 1970.
fn time(claims: &Map<String, Value>, name: &str, wrong: Refusal) -> Result<Option<f64>, Refusal> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_f64().filter(|seconds| (0.0..9.0e15).contains(seconds));
    seconds.map(Some).ok_or(wrong)
}

fn audiences(claims: &Map<String, Value>) -> Result<Vec<&str>, Refusal> {
    match claims.get("aud") {
        None => Ok(Vec::new()),
        Some(Value::String(one)) => Ok(vec![one]),
        Some(Value::Array(many)) => many.iter().map(Value::as_str).collect::<Option<_>>().ok_or(Refusal::PayloadAud),
        Some(_) => Err(Refusal::PayloadAud),
    }
}

/// Audiences are compared without scheme and slash at the end, as Envoy does.
fn bare(audience: &str) -> &str {
    let rest = audience.strip_prefix("https://").or_else(|| audience.strip_prefix("http://")).unwrap_or(audience);
    rest.strip_suffix('/').unwrap_or(rest)
}

/// A browser asks whether it may send the request; it never sends a token with that.
fn is_preflight(parts: &Parts) -> bool {
    parts.method == Method::OPTIONS
        && parts.headers.contains_key(header::ORIGIN)
        && parts.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

#[cfg(test)]
mod tests;
