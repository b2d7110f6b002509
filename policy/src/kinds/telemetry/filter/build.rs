//! Tokens whose grammar has been checked -> a filter's parts, with the type of each.

use super::{
    super::expression::Token,
    Comparison, Message, Node, NumberFact, Operation, Search, TextFact,
    operand::{Operand, Type, field, has, is_in, literal},
};
use crate::{decode::duration, kinds::string_match::Pattern};

/// Operators of one strength in a row at most, e.g. `a + b + c`; `&&` and `||` have no limit but the text's.
const MAX_CHAIN: usize = 32;

const TEXTS: [(&str, TextFact); 16] = [
    ("request.path", TextFact::Path),
    ("request.url_path", TextFact::UrlPath),
    ("request.query", TextFact::Query),
    ("request.host", TextFact::Host),
    ("request.scheme", TextFact::Scheme),
    ("request.method", TextFact::Method),
    ("request.protocol", TextFact::Protocol),
    ("response.code_details", TextFact::CodeDetails),
    ("connection.requested_server_name", TextFact::ServerName),
    ("connection.uri_san_peer_certificate", TextFact::PeerUri),
    ("source.address", TextFact::SourceAddress),
    ("destination.address", TextFact::DestinationAddress),
    ("upstream.address", TextFact::UpstreamAddress),
    ("upstream.transport_failure_reason", TextFact::TransportFailure),
    ("xds.cluster_name", TextFact::Cluster),
    ("xds.route_name", TextFact::Route),
];

const NUMBERS: [(&str, NumberFact); 7] = [
    ("response.code", NumberFact::Code),
    ("response.grpc_status", NumberFact::GrpcStatus),
    ("request.size", NumberFact::RequestSize),
    ("response.size", NumberFact::ResponseSize),
    ("upstream.port", NumberFact::UpstreamPort),
    ("destination.port", NumberFact::DestinationPort),
    ("source.port", NumberFact::SourcePort),
];

/// Attributes that are a request's header.
const HEADERS: [(&str, &str); 3] =
    [("request.useragent", "user-agent"), ("request.referer", "referer"), ("request.id", "x-request-id")];

const COMPARISONS: [(&str, Comparison); 6] = [
    ("==", Comparison::Equal),
    ("!=", Comparison::Unequal),
    ("<=", Comparison::LessOrEqual),
    (">=", Comparison::MoreOrEqual),
    ("<", Comparison::Less),
    (">", Comparison::More),
];

const SUMS: [(&str, Operation); 2] = [("+", Operation::Add), ("-", Operation::Subtract)];
const PRODUCTS: [(&str, Operation); 3] =
    [("*", Operation::Multiply), ("/", Operation::Divide), ("%", Operation::Remainder)];

const SEARCHES: [(&str, Search); 3] =
    [("contains", Search::Contains), ("startsWith", Search::Starts), ("endsWith", Search::Ends)];

/// The whole expression: something that is true or false.
///
/// # Errors
/// What of it is not known here, for a sentence.
pub(super) fn filter(tokens: &[(usize, Token<'_>)]) -> Result<Node, String> {
    let mut builder = Builder { tokens, next: 0 };
    let (node, found) = builder.expression()?.value()?;
    match (found, builder.peek()) {
        (Type::Truth, None) => Ok(node),
        (_, None) => Err("a filter that is not true or false".to_owned()),
        (_, Some(_)) => Err(builder.here("what stands")),
    }
}

/// The whole expression: a text, a number or a truth.
///
/// # Errors
/// What of it is not known here, for a sentence.
pub(super) fn scalar(tokens: &[(usize, Token<'_>)]) -> Result<Node, String> {
    let mut builder = Builder { tokens, next: 0 };
    let (node, found) = builder.expression()?.value()?;
    match (found, builder.peek()) {
        (Type::Duration, None) => Err("a duration as a label".to_owned()),
        (Type::Truth | Type::Number | Type::Text, None) => Ok(node),
        (_, Some(_)) => Err(builder.here("what stands")),
    }
}

struct Builder<'t> {
    tokens: &'t [(usize, Token<'t>)],
    next: usize,
}

impl<'t> Builder<'t> {
    fn peek(&self) -> Option<Token<'t>> {
        self.tokens.get(self.next).map(|(_, token)| *token)
    }

    fn takes(&mut self, sign: &str) -> bool {
        let found = self.peek() == Some(Token::Sign(sign));
        self.next += usize::from(found);
        found
    }

    fn expects(&mut self, sign: &str) -> Result<(), String> {
        if self.takes(sign) { Ok(()) } else { Err(self.here(&format!("another sign than `{sign}`"))) }
    }

    /// What stands here, for a sentence.
    fn here(&self, what: &str) -> String {
        match self.tokens.get(self.next) {
            Some((at, _)) => format!("{what} at byte {at} of the expression"),
            None => format!("{what} at the end of the expression"),
        }
    }

    fn one_of<T: Copy>(&mut self, signs: &[(&str, T)]) -> Option<T> {
        let Some(Token::Sign(sign)) = self.peek() else { return None };
        let (_, found) = signs.iter().find(|(own, _)| *own == sign)?;
        self.next += 1;
        Some(*found)
    }

    /// `a ? b : c`, any number of them.
    fn expression(&mut self) -> Result<Operand, String> {
        let mut cases = Vec::new();
        loop {
            let condition = self.any()?;
            if !self.takes("?") {
                return match cases.as_slice() {
                    [] => Ok(condition),
                    [(_, (_, found)), ..] => {
                        let found: Type = *found;
                        let last = condition.of(found)?;
                        let same = cases.iter().all(|(_, (_, own))| *own == found);
                        let cases = cases.into_iter().map(|(condition, (then, _))| (condition, then)).collect();
                        let node = Node::Choose(cases, Box::new(last));
                        if same {
                            Ok(Operand::Value(node, found))
                        } else {
                            Err("`?` between different types".to_owned())
                        }
                    }
                };
            }
            let condition = condition.of(Type::Truth)?;
            let then = self.any()?.value()?;
            self.expects(":")?;
            cases.push((condition, then));
        }
    }

    fn any(&mut self) -> Result<Operand, String> {
        self.joined("||", Self::all, Node::Any)
    }

    fn all(&mut self) -> Result<Operand, String> {
        self.joined("&&", Self::relation, Node::All)
    }

    fn joined(
        &mut self,
        sign: &str,
        part: fn(&mut Self) -> Result<Operand, String>,
        join: fn(Vec<Node>) -> Node,
    ) -> Result<Operand, String> {
        let first = part(self)?;
        if self.peek() != Some(Token::Sign(sign)) {
            return Ok(first);
        }
        let mut parts = vec![first.of(Type::Truth)?];
        while self.takes(sign) {
            parts.push(part(self)?.of(Type::Truth)?);
        }
        Ok(Operand::Value(join(parts), Type::Truth))
    }

    fn relation(&mut self) -> Result<Operand, String> {
        let mut left = self.chain(&SUMS, Self::product)?;
        for _ in 0..MAX_CHAIN {
            if self.peek() == Some(Token::Name("in")) {
                self.next += 1;
                let right = self.chain(&SUMS, Self::product)?;
                left = Operand::Value(is_in(left, right)?, Type::Truth);
            } else if let Some(comparison) = self.one_of(&COMPARISONS) {
                let (node, found) = left.value()?;
                let right = self.chain(&SUMS, Self::product)?.of(found)?;
                left = Operand::Value(Node::Compare(comparison, Box::new([node, right])), Type::Truth);
            } else {
                return Ok(left);
            }
        }
        Err(format!("more than {MAX_CHAIN} operators in a row"))
    }

    fn product(&mut self) -> Result<Operand, String> {
        self.chain(&PRODUCTS, Self::unary)
    }

    /// Numbers, and sums of durations.
    fn chain(
        &mut self,
        signs: &[(&str, Operation)],
        part: fn(&mut Self) -> Result<Operand, String>,
    ) -> Result<Operand, String> {
        let mut left = part(self)?;
        for _ in 0..MAX_CHAIN {
            let Some(operation) = self.one_of(signs) else { return Ok(left) };
            let (node, found) = left.value()?;
            if found == Type::Text && operation == Operation::Add {
                let right = part(self)?.of(Type::Text)?;
                left = Operand::Value(Node::Join(Box::new([node, right])), Type::Text);
                continue;
            }
            let sum = matches!(operation, Operation::Add | Operation::Subtract);
            if found != Type::Number && !(sum && found == Type::Duration) {
                return Err(format!("calculating with {}", found.name()));
            }
            let right = part(self)?.of(found)?;
            left = Operand::Value(Node::Calculate(operation, Box::new([node, right])), found);
        }
        Err(format!("more than {MAX_CHAIN} operators in a row"))
    }

    fn unary(&mut self) -> Result<Operand, String> {
        let (mut nots, mut minuses) = (0, 0);
        while self.takes("!") {
            nots += 1;
        }
        while nots == 0 && self.takes("-") {
            minuses += 1;
        }
        if minuses % 2 == 1
            && let Some(Token::Literal(text)) = self.peek()
            && let Ok(number) = format!("-{text}").parse::<i64>()
        {
            self.next += 1;
            return Ok(Operand::Value(Node::Number(number), Type::Number));
        }
        let operand = self.member()?;
        if nots > 0 {
            let node = operand.of(Type::Truth)?;
            let node = if nots % 2 == 1 { Node::Not(Box::new(node)) } else { node };
            return Ok(Operand::Value(node, Type::Truth));
        }
        if minuses > 0 {
            let node = operand.of(Type::Number)?;
            let negative = |node| Node::Calculate(Operation::Subtract, Box::new([Node::Number(0), node]));
            return Ok(Operand::Value(if minuses % 2 == 1 { negative(node) } else { node }, Type::Number));
        }
        Ok(operand)
    }

    fn member(&mut self) -> Result<Operand, String> {
        let mut operand = self.primary()?;
        for _ in 0..MAX_CHAIN {
            if self.takes("[") {
                let message = match operand {
                    Operand::Headers(message) => Some(message),
                    Operand::UpstreamLabels => None,
                    Operand::Value(..) | Operand::List(_) => {
                        return Err(self.here("an index other than into headers or labels"));
                    }
                };
                let name = Box::new(self.expression()?.of(Type::Text)?);
                self.expects("]")?;
                let node = match message {
                    Some(message) => Node::Header(message, name),
                    None => Node::UpstreamLabel(name),
                };
                operand = Operand::Value(node, Type::Text);
            } else if self.takes(".") {
                let Some(Token::Name(name)) = self.peek() else { return Err(self.here("what follows `.`")) };
                self.next += 1;
                operand = if self.takes("(") { self.method(operand, name)? } else { field(operand, name)? };
            } else if self.peek() == Some(Token::Sign("{")) {
                return Err(self.here("a message or map"));
            } else {
                return Ok(operand);
            }
        }
        Err(format!("more than {MAX_CHAIN} members in a row"))
    }

    fn primary(&mut self) -> Result<Operand, String> {
        if self.takes("(") {
            let operand = self.expression()?;
            self.expects(")")?;
            return Ok(operand);
        }
        if self.takes("[") {
            let mut items = Vec::new();
            while !self.takes("]") {
                items.push(self.expression()?.value()?);
                if !self.takes(",") {
                    self.expects("]")?;
                    break;
                }
            }
            return Ok(Operand::List(items));
        }
        match self.peek() {
            Some(Token::Literal(text)) => {
                self.next += 1;
                literal(text)
            }
            Some(Token::Name(name)) => {
                self.next += 1;
                if self.takes("(") { self.function(name) } else { self.attribute(name) }
            }
            Some(Token::Sign(_)) | None => Err(self.here("what stands")),
        }
    }

    /// `true`, `false`, or an attribute: of two names, but for what is known of peers.
    fn attribute(&mut self, first: &str) -> Result<Operand, String> {
        match first {
            "true" => return Ok(Operand::Value(Node::Truth(true), Type::Truth)),
            "false" => return Ok(Operand::Value(Node::Truth(false), Type::Truth)),
            _ => {}
        }
        let mut name = first.to_owned();
        if self.takes(".") {
            let Some(Token::Name(second)) = self.peek() else { return Err(self.here("what follows `.`")) };
            self.next += 1;
            name = format!("{first}.{second}");
        }
        if name == "filter_state.upstream_peer" && self.takes(".") {
            let Some(Token::Name(third)) = self.peek() else { return Err(self.here("what follows `.`")) };
            self.next += 1;
            name = format!("{name}.{third}");
        }
        let of = |node, found| Ok(Operand::Value(node, found));
        if let Some((_, fact)) = TEXTS.iter().find(|(own, _)| *own == name) {
            return of(Node::TextFact(*fact), Type::Text);
        }
        if let Some((_, fact)) = NUMBERS.iter().find(|(own, _)| *own == name) {
            return of(Node::NumberFact(*fact), Type::Number);
        }
        if let Some((_, header)) = HEADERS.iter().find(|(own, _)| *own == name) {
            return of(Node::Header(Message::Request, Box::new(Node::Text((*header).to_owned()))), Type::Text);
        }
        match name.as_str() {
            "request.headers" => Ok(Operand::Headers(Message::Request)),
            "response.headers" => Ok(Operand::Headers(Message::Response)),
            "filter_state.upstream_peer.labels" | "upstream_peer.labels" => Ok(Operand::UpstreamLabels),
            "request.duration" => of(Node::NumberFact(NumberFact::Duration), Type::Duration),
            "connection.mtls" => of(Node::MutualTls, Type::Truth),
            _ => Err(format!("`{name}` in an expression")),
        }
    }

    fn arguments(&mut self) -> Result<Vec<Operand>, String> {
        let mut arguments = Vec::new();
        while !self.takes(")") {
            arguments.push(self.expression()?);
            if !self.takes(",") {
                self.expects(")")?;
                break;
            }
        }
        Ok(arguments)
    }

    fn function(&mut self, name: &str) -> Result<Operand, String> {
        if !matches!(name, "has" | "size" | "duration" | "string") {
            return Err(format!("the function `{name}` in an expression"));
        }
        let mut arguments = self.arguments()?;
        let (Some(only), true) = (arguments.pop(), arguments.is_empty()) else {
            return Err(format!("`{name}` with another number of arguments than one"));
        };
        match name {
            "has" => has(only),
            "string" => match only.value()? {
                (node, Type::Text) => Ok(Operand::Value(node, Type::Text)),
                (node, Type::Number | Type::Truth) => Ok(Operand::Value(Node::Shown(Box::new(node)), Type::Text)),
                (_, Type::Duration) => Err("`string` of a duration".to_owned()),
            },
            "size" => Ok(Operand::Value(Node::Size(Box::new(only.of(Type::Text)?)), Type::Number)),
            _ => {
                let Node::Text(text) = only.of(Type::Text)? else {
                    return Err("`duration` of anything but a literal".to_owned());
                };
                let time = duration(&text).and_then(|time| i64::try_from(time.as_nanos()).ok());
                let time = time.ok_or_else(|| format!("the duration `{text}`"))?;
                Ok(Operand::Value(Node::Number(time), Type::Duration))
            }
        }
    }

    fn method(&mut self, operand: Operand, name: &str) -> Result<Operand, String> {
        let search = SEARCHES.iter().find(|(own, _)| *own == name).map(|(_, search)| *search);
        if search.is_none() && !matches!(name, "matches" | "size") {
            return Err(format!("the function `{name}` in an expression"));
        }
        let text = operand.of(Type::Text)?;
        let mut arguments = self.arguments()?;
        let argument = arguments.pop();
        if !arguments.is_empty() || argument.is_some() != (name != "size") {
            return Err(format!("`{name}` with this number of arguments"));
        }
        let argument = argument.map(|argument| argument.of(Type::Text)).transpose()?;
        let truth = |node| Ok(Operand::Value(node, Type::Truth));
        match (search, argument) {
            (Some(search), Some(part)) => truth(Node::Find(search, Box::new([text, part]))),
            (None, Some(Node::Text(pattern))) => truth(Node::Matches(Box::new(text), Pattern::anywhere(&pattern)?)),
            (None, Some(_)) => Err("`matches` with anything but a literal".to_owned()),
            (_, None) => Ok(Operand::Value(Node::Size(Box::new(text)), Type::Number)),
        }
    }
}
