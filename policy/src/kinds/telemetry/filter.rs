//! Which requests the access log tells of, and what labels of metrics say: expressions in CEL over what Envoy calls attributes, typed
//! when they are read, so that nothing can go wrong when they are asked but that a fact is missing.
//!
//! Every attribute's type is known, and an expression that does not fit together would never be true: it is refused at push, as are
//! attributes and functions that are not known here. Reading and asking take steps in proportion to the text, which is short.

mod build;
mod operand;

use std::borrow::Cow;

use super::expression::{self, Expression};
use crate::{decode::At, kinds::string_match::Pattern};

/// An expression that is true for what is logged.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    source: String,
    root: Node,
}

/// An expression that gives a text.
#[derive(Debug, Clone, PartialEq)]
pub struct TagValue {
    source: String,
    root: Node,
}

/// Attributes that are texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextFact {
    /// `request.path`, with its query.
    Path,
    /// `request.url_path`, without.
    UrlPath,
    /// `request.query`, without `?`.
    Query,
    /// `request.host`: the authority, as sent.
    Host,
    /// `request.scheme`.
    Scheme,
    /// `request.method`.
    Method,
    /// `request.protocol`, e.g. `HTTP/1.1`.
    Protocol,
    /// `response.code_details`.
    CodeDetails,
    /// `connection.requested_server_name`.
    ServerName,
    /// `connection.uri_san_peer_certificate`.
    PeerUri,
    /// `source.address`: the caller's.
    SourceAddress,
    /// `destination.address`: where the caller came in.
    DestinationAddress,
    /// `upstream.address`: where the request went.
    UpstreamAddress,
    /// `upstream.transport_failure_reason`: what the transport said where no connection came about.
    TransportFailure,
    /// `xds.cluster_name`.
    Cluster,
    /// `xds.route_name`.
    Route,
}

/// Attributes that are whole numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumberFact {
    /// `response.code`.
    Code,
    /// `response.grpc_status`.
    GrpcStatus,
    /// `request.size`: bytes of the body.
    RequestSize,
    /// `response.size`: bytes of the body.
    ResponseSize,
    /// `upstream.port`.
    UpstreamPort,
    /// `destination.port`: the port that was called.
    DestinationPort,
    /// `source.port`: the caller's.
    SourcePort,
    /// `request.duration`, nanoseconds.
    Duration,
}

/// Whose headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// `request.headers`.
    Request,
    /// `response.headers`.
    Response,
}

/// What is known of a request when it is over. `None` is what is missing.
pub trait Facts {
    /// A text.
    fn text(&self, fact: TextFact) -> Option<Cow<'_, str>>;
    /// A number.
    fn number(&self, fact: NumberFact) -> Option<i64>;
    /// A label of the endpoint that was called, `filter_state.upstream_peer.labels['NAME']`: of what a caller's node tells.
    fn upstream_label(&self, name: &str) -> Option<Cow<'_, str>>;
    /// A header, by its name in lower case; several lines are joined by commas.
    fn header(&self, message: Message, name: &str) -> Option<Cow<'_, str>>;
    /// `connection.mtls`: true if the caller came by mutual TLS.
    fn is_mutual_tls(&self) -> bool;
}

/// A part of an expression. What stands side by side is flat, so that only brackets nest.
#[derive(Debug, Clone, PartialEq)]
enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    /// The first whose condition is true, else the last.
    Choose(Vec<(Node, Node)>, Box<Node>),
    Compare(Comparison, Box<[Node; 2]>),
    Calculate(Operation, Box<[Node; 2]>),
    Truth(bool),
    /// Also a duration, in nanoseconds.
    Number(i64),
    Text(String),
    MutualTls,
    TextFact(TextFact),
    NumberFact(NumberFact),
    Header(Message, Box<Node>),
    /// A label of the endpoint that was called.
    UpstreamLabel(Box<Node>),
    /// True if there is a value.
    Has(Box<Node>),
    In(Box<Node>, Vec<Node>),
    Find(Search, Box<[Node; 2]>),
    Matches(Box<Node>, Pattern),
    Size(Box<Node>),
    /// One behind the other.
    Join(Box<[Node; 2]>),
    /// As a text.
    Shown(Box<Node>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Search {
    Contains,
    Starts,
    Ends,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Value<'v> {
    Truth(bool),
    Number(i64),
    Text(Cow<'v, str>),
}

impl Filter {
    /// The text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// True if the request is logged. What cannot be told, for lack of a fact, is not, as with Envoy; `&&` and `||` need one side only
    /// where that decides.
    pub fn is_match(&self, facts: &dyn Facts) -> bool {
        self.root.value(facts) == Some(Value::Truth(true))
    }

    /// What a document says.
    pub(super) fn decode(at: &At<'_>) -> Option<Self> {
        let expression = Expression::decode(at)?;
        match Self::new(expression.source()) {
            Ok(filter) => Some(filter),
            Err(what) => {
                at.unbuilt(what);
                None
            }
        }
    }

    /// From an expression whose grammar has been checked.
    fn new(source: &str) -> Result<Self, String> {
        let tokens = expression::tokens(source)?;
        Ok(Self { source: source.to_owned(), root: build::filter(&tokens)? })
    }
}

impl TagValue {
    /// The text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What it gives; `None` for lack of a fact.
    pub fn text(&self, facts: &dyn Facts) -> Option<String> {
        Some(self.root.value(facts)?.shown().into_owned())
    }

    /// What a document says.
    pub(super) fn decode(at: &At<'_>) -> Option<Self> {
        let expression = Expression::decode(at)?;
        let source = expression.source();
        match expression::tokens(source).and_then(|tokens| build::scalar(&tokens)) {
            Ok(root) => Some(Self { source: source.to_owned(), root }),
            Err(what) => {
                at.unbuilt(what);
                None
            }
        }
    }
}

impl<'v> Value<'v> {
    fn shown(self) -> Cow<'v, str> {
        match self {
            Self::Truth(truth) => truth.to_string().into(),
            Self::Number(number) => number.to_string().into(),
            Self::Text(text) => text,
        }
    }
}

impl Node {
    /// `None` if a fact is missing, or a number is out of bounds.
    fn value<'v>(&'v self, facts: &'v dyn Facts) -> Option<Value<'v>> {
        Some(match self {
            Self::All(parts) => Value::Truth(decided(parts, facts, false)?),
            Self::Any(parts) => Value::Truth(decided(parts, facts, true)?),
            Self::Not(part) => Value::Truth(!part.truth(facts)?),
            Self::Choose(cases, last) => {
                for (condition, then) in cases {
                    if condition.truth(facts)? {
                        return then.value(facts);
                    }
                }
                return last.value(facts);
            }
            Self::Compare(comparison, sides) => {
                let [one, other] = &**sides;
                Value::Truth(comparison.holds(&one.value(facts)?, &other.value(facts)?))
            }
            Self::Calculate(operation, sides) => {
                let [one, other] = &**sides;
                Value::Number(operation.of(one.number(facts)?, other.number(facts)?)?)
            }
            Self::Truth(truth) => Value::Truth(*truth),
            Self::Number(number) => Value::Number(*number),
            Self::Text(text) => Value::Text(text.into()),
            Self::MutualTls => Value::Truth(facts.is_mutual_tls()),
            Self::TextFact(fact) => Value::Text(facts.text(*fact)?),
            Self::NumberFact(fact) => Value::Number(facts.number(*fact)?),
            Self::Header(message, name) => {
                let name = name.text(facts)?.to_ascii_lowercase();
                Value::Text(facts.header(*message, &name)?.into_owned().into())
            }
            Self::UpstreamLabel(name) => Value::Text(facts.upstream_label(&name.text(facts)?)?.into_owned().into()),
            Self::Has(part) => Value::Truth(part.value(facts).is_some()),
            Self::In(part, list) => {
                let (value, mut unknown) = (part.value(facts)?, false);
                let mut is_it = |item: &Node| {
                    item.value(facts).map(|item| item == value).unwrap_or_else(|| {
                        unknown = true;
                        false
                    })
                };
                match list.iter().any(&mut is_it) {
                    false if unknown => return None,
                    found => Value::Truth(found),
                }
            }
            Self::Find(search, sides) => {
                let [one, other] = &**sides;
                Value::Truth(search.finds(&one.text(facts)?, &other.text(facts)?))
            }
            Self::Matches(part, pattern) => Value::Truth(pattern.is_match(part.text(facts)?.as_bytes())),
            Self::Join(sides) => {
                let [one, other] = &**sides;
                Value::Text(format!("{}{}", one.text(facts)?, other.text(facts)?).into())
            }
            Self::Shown(part) => Value::Text(part.value(facts)?.shown()),
            // CEL counts characters.
            Self::Size(part) => Value::Number(i64::try_from(part.text(facts)?.chars().count()).ok()?),
        })
    }

    fn truth(&self, facts: &dyn Facts) -> Option<bool> {
        match self.value(facts)? {
            Value::Truth(truth) => Some(truth),
            Value::Number(_) | Value::Text(_) => None,
        }
    }

    fn number(&self, facts: &dyn Facts) -> Option<i64> {
        match self.value(facts)? {
            Value::Number(number) => Some(number),
            Value::Truth(_) | Value::Text(_) => None,
        }
    }

    fn text<'v>(&'v self, facts: &'v dyn Facts) -> Option<Cow<'v, str>> {
        match self.value(facts)? {
            Value::Text(text) => Some(text),
            Value::Truth(_) | Value::Number(_) => None,
        }
    }
}

/// `deciding` if any part is that; else the opposite if all are known.
fn decided(parts: &[Node], facts: &dyn Facts, deciding: bool) -> Option<bool> {
    let mut known = true;
    for part in parts {
        match part.truth(facts) {
            Some(truth) if truth == deciding => return Some(deciding),
            Some(_) => {}
            None => known = false,
        }
    }
    known.then_some(!deciding)
}

impl Comparison {
    fn holds(self, one: &Value<'_>, other: &Value<'_>) -> bool {
        match self {
            Self::Equal => one == other,
            Self::Unequal => one != other,
            Self::Less => one < other,
            Self::LessOrEqual => one <= other,
            Self::More => one > other,
            Self::MoreOrEqual => one >= other,
        }
    }
}

impl Operation {
    fn of(self, one: i64, other: i64) -> Option<i64> {
        match self {
            Self::Add => one.checked_add(other),
            Self::Subtract => one.checked_sub(other),
            Self::Multiply => one.checked_mul(other),
            Self::Divide => one.checked_div(other),
            Self::Remainder => one.checked_rem(other),
        }
    }
}

impl Search {
    fn finds(self, text: &str, part: &str) -> bool {
        match self {
            Self::Contains => text.contains(part),
            Self::Starts => text.starts_with(part),
            Self::Ends => text.ends_with(part),
        }
    }
}

impl std::fmt::Display for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.source)
    }
}

#[cfg(test)]
mod tests;
