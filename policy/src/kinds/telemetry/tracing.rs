//! `Tracing`: which requests are traced, and what their spans say.

use std::collections::BTreeMap;

use http::HeaderName;

use super::{Side, check_variable, decode_match, decode_providers};
use crate::{codes, decode::At, kinds::LogFormat, tree::Value};

/// `Tracing`. `None` keeps what is inherited.
#[derive(Debug, Clone, PartialEq)]
pub struct Tracing {
    /// Whose requests.
    pub side: Side,
    /// Names of providers; none keeps the inherited ones.
    pub providers: Vec<String>,
    /// Of requests on which nobody has decided before, 0 to 100. The mesh's default is 1.
    pub sampling_percent: Option<f64>,
    /// No spans go out; contexts are passed on.
    pub disable_spans: Option<bool>,
    /// Tags of every span; replaces the inherited ones as a whole.
    pub custom_tags: Option<BTreeMap<String, CustomTag>>,
    /// Tags that say of the mesh where a span comes from. True.
    pub istio_tags: Option<bool>,
    /// The decision is also read from and written into `x-request-id`. True.
    pub request_id_sampling: Option<bool>,
    /// Headers of traces are not passed on. False.
    pub disable_propagation: Option<bool>,
}

/// What a tag of a span says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CustomTag {
    /// A text.
    Literal(String),
    /// A variable of the node's environment.
    Environment {
        /// The variable.
        name: String,
        /// Where it is not set; empty leaves the tag out.
        default: String,
    },
    /// A header of the request.
    Header {
        /// The header.
        name: HeaderName,
        /// Where it is missing; empty leaves the tag out.
        default: String,
    },
    /// A text with Envoy's format words.
    Formatter(LogFormat),
}

impl Tracing {
    pub(super) fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let boolean = |name| fields.get(name).and_then(|at| at.boolean());
        let providers = decode_providers(&fields);
        if providers.len() > 1 {
            at.warn(codes::ONLY_FIRST, "multiple providers is not currently supported", "only the first counts");
        }
        let tracing = Self {
            side: fields.get("match").map(|matched| decode_match(&matched)).unwrap_or_default(),
            providers,
            sampling_percent: fields.get("randomSamplingPercentage").and_then(|percent| decode_percent(&percent)),
            disable_spans: boolean("disableSpanReporting"),
            custom_tags: fields.get("customTags").map(|tags| decode_tags(&tags)),
            istio_tags: boolean("enableIstioTags"),
            request_id_sampling: boolean("useRequestIdForTraceSampling"),
            disable_propagation: boolean("disableContextPropagation"),
        };
        fields.finish();
        Some(tracing)
    }
}

fn decode_percent(at: &At<'_>) -> Option<f64> {
    let percent = at.number()?;
    if !(0.0..=100.0).contains(&percent) {
        at.error_as_istio(codes::RANGE, "randomSamplingPercentage must be in range [0.0, 100.0]", "");
    }
    Some(percent)
}

fn decode_tags(at: &At<'_>) -> BTreeMap<String, CustomTag> {
    let mut tags = BTreeMap::new();
    for (name, tag) in at.entries() {
        if name.is_empty() {
            tag.error_as_istio(codes::EMPTY, "tag name may not be empty", "");
        }
        if tag.node.value == Value::Null {
            tag.error_as_istio(codes::WRONG_TYPE, format!("tag '{name}' may not have a nil value"), "");
            continue;
        }
        if let Some(tag) = decode_tag(&tag) {
            tags.insert(name.to_owned(), tag);
        }
    }
    tags
}

fn decode_tag(at: &At<'_>) -> Option<CustomTag> {
    let fields = at.fields()?;
    let kinds = ["literal", "environment", "header", "formatter"];
    let given: Vec<(&str, At<'_>)> = kinds.into_iter().filter_map(|kind| Some((kind, fields.get(kind)?))).collect();
    fields.finish();
    let [(kind, inner)] = given.as_slice() else {
        if given.is_empty() {
            at.warn(codes::WITHOUT_EFFECT, "a tag without a value has no effect", "");
        } else {
            at.error(codes::EXCLUSIVE, format!("only one of {} may be set", kinds.join(", ")));
        }
        return None;
    };
    let fields = inner.fields()?;
    let text = |name| fields.get(name).and_then(|at| at.text().map(str::to_owned)).unwrap_or_default();
    let needs = |text: &str, what: &str| {
        if text.is_empty() {
            inner.error_as_istio(codes::EMPTY, format!("{what} may not be empty"), "");
        }
    };
    let tag = match *kind {
        "literal" => {
            let value = text("value");
            needs(&value, "literal tag value");
            Some(CustomTag::Literal(value))
        }
        "formatter" => {
            needs(&text("value"), "formatter tag value");
            fields.get("value").and_then(|at| LogFormat::decode(&at)).map(CustomTag::Formatter)
        }
        _ => {
            let (name, default) = (text("name"), text("defaultValue"));
            needs(&name, &format!("{kind} tag name"));
            if *kind == "header" {
                let header = HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes());
                if header.is_err() && !name.is_empty() {
                    inner.error(codes::HEADER, format!("`{name}` is not the name of a header"));
                }
                header.ok().map(|name| CustomTag::Header { name, default })
            } else {
                check_variable(inner, &name);
                Some(CustomTag::Environment { name, default })
            }
        }
    };
    fields.finish();
    tag
}
