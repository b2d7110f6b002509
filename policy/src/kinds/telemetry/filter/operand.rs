//! What stands in an expression, with its type, before it is used.

use super::{super::expression::unquoted, Message, Node};

/// The types of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Truth,
    Number,
    Duration,
    Text,
}

/// What an operand is before it is used.
pub(super) enum Operand {
    Value(Node, Type),
    Headers(Message),
    /// Of the endpoint that was called.
    UpstreamLabels,
    List(Vec<(Node, Type)>),
}

impl Operand {
    pub(super) fn value(self) -> Result<(Node, Type), String> {
        match self {
            Self::Value(node, found) => Ok((node, found)),
            Self::Headers(_) => Err("a map of headers as a value (write headers['name'])".to_owned()),
            Self::UpstreamLabels => Err("a map of labels as a value (write labels['name'])".to_owned()),
            Self::List(_) => Err("a list other than after `in`".to_owned()),
        }
    }

    pub(super) fn of(self, wanted: Type) -> Result<Node, String> {
        let (node, found) = self.value()?;
        if found == wanted { Ok(node) } else { Err(format!("{} where {} is needed", found.name(), wanted.name())) }
    }
}

impl Type {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Truth => "a truth value",
            Self::Number => "a number",
            Self::Duration => "a duration",
            Self::Text => "a text",
        }
    }
}

/// `has`: of an attribute or a header. Whatever else there is, there always is.
pub(super) fn has(operand: Operand) -> Result<Operand, String> {
    match operand.value()? {
        (
            node @ (Node::TextFact(_)
            | Node::NumberFact(_)
            | Node::Header(..)
            | Node::UpstreamLabel(_)
            | Node::MutualTls),
            _,
        ) => Ok(Operand::Value(Node::Has(Box::new(node)), Type::Truth)),
        _ => Err("`has` of anything but an attribute, a header or a label".to_owned()),
    }
}

/// A header or a label by its name after a dot; a label's `value` is itself, as Istio wrote it before `filter_state`.
pub(super) fn field(operand: Operand, name: &str) -> Result<Operand, String> {
    match operand {
        Operand::Headers(message) => {
            Ok(Operand::Value(Node::Header(message, Box::new(Node::Text(name.to_owned()))), Type::Text))
        }
        Operand::UpstreamLabels => {
            Ok(Operand::Value(Node::UpstreamLabel(Box::new(Node::Text(name.to_owned()))), Type::Text))
        }
        Operand::Value(node @ Node::UpstreamLabel(_), found) if name == "value" => Ok(Operand::Value(node, found)),
        Operand::Value(..) | Operand::List(_) => Err(format!("the field `{name}` in an expression")),
    }
}

pub(super) fn is_in(left: Operand, right: Operand) -> Result<Node, String> {
    match right {
        Operand::Headers(message) => Ok(Node::Has(Box::new(Node::Header(message, Box::new(left.of(Type::Text)?))))),
        Operand::UpstreamLabels => Ok(Node::Has(Box::new(Node::UpstreamLabel(Box::new(left.of(Type::Text)?))))),
        Operand::List(items) => {
            let (node, found) = left.value()?;
            if items.iter().any(|(_, own)| *own != found) {
                return Err(format!("`in` with another type than {}", found.name()));
            }
            Ok(Node::In(Box::new(node), items.into_iter().map(|(item, _)| item).collect()))
        }
        Operand::Value(..) => Err("`in` with anything but headers, labels or a list".to_owned()),
    }
}

pub(super) fn literal(text: &str) -> Result<Operand, String> {
    if text.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        let number = match text.strip_prefix("0x") {
            Some(digits) => i64::from_str_radix(digits, 16).ok(),
            None => text.parse::<i64>().ok(),
        };
        let number = number.ok_or_else(|| format!("the number `{text}` (only whole ones of 64 bits)"))?;
        return Ok(Operand::Value(Node::Number(number), Type::Number));
    }
    let text = unquoted(text).ok_or_else(|| format!("the literal {text}"))?;
    Ok(Operand::Value(Node::Text(text), Type::Text))
}
