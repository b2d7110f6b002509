//! Expressions in CEL (the grammar of the language definition of github.com/google/cel-spec): checked, kept as text.
//!
//! Only the grammar is checked, as Istio does: what a name means is known where the expression is evaluated. The check is our own
//! because a signed document is read on every node, and a reader must not run out of stack.

use crate::{codes, decode::At};

/// Bytes of an expression at most.
const MAX_EXPRESSION: usize = 1_024;
/// Parentheses, brackets and braces inside one another at most.
const MAX_DEPTH: usize = 32;

/// An expression in CEL whose grammar has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expression(String);

impl Expression {
    /// The text.
    pub(super) fn source(&self) -> &str {
        &self.0
    }

    pub(super) fn decode(at: &At<'_>) -> Option<Self> {
        let text = at.text()?;
        match check(text) {
            Ok(()) => Some(Self(text.to_owned())),
            Err(error) => {
                at.error_hint(codes::EXPRESSION, error, "write it in CEL, e.g. response.code >= 400");
                None
            }
        }
    }
}

/// What the text is made of; positions are bytes from 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Token<'t> {
    Name(&'t str),
    Literal(&'t str),
    Sign(&'t str),
}

/// Signs, longer ones first.
const SIGNS: [&str; 26] = [
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ".", ",", "(", ")", "[", "]",
    "{", "}", "=", "&",
];
const BINARY: [&str; 13] = ["&&", "||", "==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%"];
/// Words that name nothing.
const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

pub(super) fn check(text: &str) -> Result<(), String> {
    if text.len() > MAX_EXPRESSION {
        return Err(format!("an expression has at most {MAX_EXPRESSION} bytes"));
    }
    let mut parser = Parser { tokens: tokens(text)?, next: 0, depth: 0 };
    parser.expression()?;
    match parser.tokens.get(parser.next) {
        None => Ok(()),
        Some(_) => Err(parser.unexpected()),
    }
}

pub(super) fn tokens(text: &str) -> Result<Vec<(usize, Token<'_>)>, String> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let is_number = first.is_ascii_digit() || (first == '.' && rest[1..].starts_with(|c: char| c.is_ascii_digit()));
        let (length, token) = if first.is_ascii_whitespace() {
            (1, None)
        } else if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), None)
        } else if let Some(length) = string(rest).map_err(|error| format!("{error} at byte {at}"))? {
            (length, Some(Token::Literal(&rest[..length])))
        } else if is_number {
            (number(rest), Some(Token::Literal(&rest[..number(rest)])))
        } else if first.is_ascii_alphabetic() || first == '_' {
            let length = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            (length, Some(Token::Name(&rest[..length])))
        } else if let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
            (sign.len(), Some(Token::Sign(sign)))
        } else {
            return Err(format!("`{first}` is no part of CEL, at byte {at}"));
        };
        found.extend(token.map(|token| (at, token)));
        at += length;
    }
    Ok(found)
}

/// Length of a number that begins here; a letter after it is found to be out of place later.
fn number(rest: &str) -> usize {
    let digits = |text: &str, hex: bool| {
        text.find(|c: char| if hex { !c.is_ascii_hexdigit() } else { !c.is_ascii_digit() }).unwrap_or(text.len())
    };
    let end = if rest.starts_with("0x") && digits(&rest[2..], true) > 0 {
        2 + digits(&rest[2..], true)
    } else {
        let mut end = digits(rest, false);
        if rest[end..].starts_with('.') && digits(&rest[end + 1..], false) > 0 {
            end += 1 + digits(&rest[end + 1..], false);
        }
        if rest[end..].starts_with(['e', 'E']) {
            let after = &rest[end + 1..];
            let sign = usize::from(after.starts_with(['+', '-']));
            let exponent = digits(&after[sign..], false);
            end += if exponent > 0 { 1 + sign + exponent } else { 0 };
        }
        end
    };
    end + usize::from(rest[end..].starts_with(['u', 'U']))
}

/// Length of a string that begins here, if one does: `"`, `'`, three of them, each with `r` and `b` before it.
fn string(rest: &str) -> Result<Option<usize>, &'static str> {
    let prefix = rest.find(|c: char| !matches!(c, 'r' | 'R' | 'b' | 'B')).unwrap_or(rest.len());
    let body = &rest[prefix..];
    let Some(quote) = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|quote| body.starts_with(quote)) else {
        return Ok(None);
    };
    if prefix > 2 {
        return Ok(None);
    }
    let is_raw = rest[..prefix].contains(['r', 'R']);
    let mut at = quote.len();
    while !body[at..].starts_with(quote) {
        let letter = body[at..].chars().next().ok_or("a string has no end")?;
        match letter {
            '\n' | '\r' if quote.len() == 1 => return Err("a string has no end on its line"),
            '\\' if !is_raw => at += escape(&body[at + 1..])?,
            _ => {}
        }
        at += letter.len_utf8();
    }
    Ok(Some(prefix + at + quote.len()))
}

/// What a string literal means; `None` for bytes and for what is no text.
pub(super) fn unquoted(literal: &str) -> Option<String> {
    let prefix = literal.find(['"', '\''])?;
    let (prefix, body) = literal.split_at(prefix);
    let quote = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|quote| body.starts_with(quote))?;
    let mut rest = body.strip_prefix(quote)?.strip_suffix(quote)?;
    if prefix.contains(['b', 'B']) {
        return None;
    }
    if prefix.contains(['r', 'R']) {
        return Some(rest.to_owned());
    }
    let mut text = String::with_capacity(rest.len());
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let length = escape(after).ok()?;
        let first = after.chars().next()?;
        let code = |digits: &str, radix| u32::from_str_radix(digits, radix).ok().and_then(char::from_u32);
        text.push(match first {
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            'x' | 'X' | 'u' | 'U' => code(&after[1..length], 16)?,
            '0'..='3' => code(&after[..length], 8)?,
            other => other,
        });
        rest = &after[length..];
    }
    text.push_str(rest);
    Some(text)
}

/// Length of what follows a backslash.
fn escape(rest: &str) -> Result<usize, &'static str> {
    let bad = "an escape in a string is not CEL's";
    let first = rest.chars().next().ok_or(bad)?;
    let (length, radix) = match first {
        'a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '\\' | '?' | '"' | '\'' | '`' => return Ok(1),
        'x' | 'X' => (3, 16),
        'u' => (5, 16),
        'U' => (9, 16),
        '0'..='3' => (3, 8),
        _ => return Err(bad),
    };
    let digits = if radix == 8 { rest.get(..length) } else { rest.get(1..length) };
    let valid = digits.is_some_and(|digits| digits.chars().all(|digit| digit.is_digit(radix)));
    valid.then_some(length).ok_or(bad)
}

struct Parser<'t> {
    tokens: Vec<(usize, Token<'t>)>,
    next: usize,
    depth: usize,
}

impl<'t> Parser<'t> {
    fn takes(&mut self, sign: &str) -> bool {
        let found = matches!(self.tokens.get(self.next), Some((_, Token::Sign(own))) if *own == sign);
        self.next += usize::from(found);
        found
    }

    fn expects(&mut self, sign: &str) -> Result<(), String> {
        if self.takes(sign) { Ok(()) } else { Err(self.unexpected()) }
    }

    fn unexpected(&self) -> String {
        match self.tokens.get(self.next) {
            None => "the expression ends too early".to_owned(),
            Some((at, Token::Name(word) | Token::Sign(word))) => format!("`{word}` is out of place, at byte {at}"),
            Some((at, Token::Literal(_))) => format!("a literal is out of place, at byte {at}"),
        }
    }

    /// `Expr`: the only rule that comes back to itself, and only inside of brackets.
    fn expression(&mut self) -> Result<(), String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("brackets stand inside one another more than {MAX_DEPTH} deep"));
        }
        loop {
            self.operation()?;
            if !self.takes("?") {
                break;
            }
            self.operation()?;
            self.expects(":")?;
        }
        self.depth -= 1;
        Ok(())
    }

    /// Operands with binary operators between them; which binds stronger does not matter for the grammar.
    fn operation(&mut self) -> Result<(), String> {
        loop {
            let not = self.takes("!");
            while if not { self.takes("!") } else { self.takes("-") } {}
            self.member()?;
            match self.tokens.get(self.next) {
                Some((_, Token::Name("in"))) => self.next += 1,
                Some((_, Token::Sign(sign))) if BINARY.contains(sign) => self.next += 1,
                Some(_) | None => return Ok(()),
            }
        }
    }

    fn member(&mut self) -> Result<(), String> {
        self.primary()?;
        loop {
            if self.takes(".") {
                self.name()?;
                if self.takes("(") {
                    self.list(")")?;
                }
            } else if self.takes("[") {
                self.expression()?;
                self.expects("]")?;
            } else if self.takes("{") {
                self.pairs()?;
            } else {
                return Ok(());
            }
        }
    }

    fn primary(&mut self) -> Result<(), String> {
        if self.takes("(") {
            self.expression()?;
            return self.expects(")");
        }
        if self.takes("[") {
            return self.list("]");
        }
        if self.takes("{") {
            return self.pairs();
        }
        if let Some((_, Token::Literal(_))) = self.tokens.get(self.next) {
            self.next += 1;
            return Ok(());
        }
        self.takes(".");
        if let Some((at, Token::Name(word))) = self.tokens.get(self.next)
            && RESERVED.contains(word)
        {
            return Err(format!("`{word}` is a reserved word, at byte {at}"));
        }
        self.name()?;
        if self.takes("(") { self.list(")") } else { Ok(()) }
    }

    /// A name; a reserved word may be one of a field.
    fn name(&mut self) -> Result<(), String> {
        match self.tokens.get(self.next) {
            Some((_, Token::Name(name))) if *name != "in" => {
                self.next += 1;
                Ok(())
            }
            Some(_) | None => Err(self.unexpected()),
        }
    }

    /// Expressions up to the closing sign.
    fn list(&mut self, end: &str) -> Result<(), String> {
        while !self.takes(end) {
            self.expression()?;
            if !self.takes(",") {
                return self.expects(end);
            }
        }
        Ok(())
    }

    /// `key: value` up to the closing brace.
    fn pairs(&mut self) -> Result<(), String> {
        while !self.takes("}") {
            self.expression()?;
            self.expects(":")?;
            self.expression()?;
            if !self.takes(",") {
                return self.expects("}");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn expressions_of_the_language_pass() {
        for good in [
            "true",
            "response.code",
            "response.code >= 400 && request.path != '/health'",
            "some-cel-expression",
            "filter_state.upstream_peer.labels['custom-label']",
            "has(request.auth.claims) ? request.auth.claims.iss : 'none'",
            "request.headers['x'].startsWith(\"a\\u00e9\\x41\\101\")",
            "!!(connection.mtls) || --1 < 2u",
            "1.5e-3 + .5 * 0xff % 7 in [1, 2, 3,]",
            "{'a': 1, 'b': [2]}",
            "google.protobuf.Duration{seconds: 5}",
            "[1, 2].all(x, x > 0) // a comment",
            "r'\\d' == b\"\\xff\" ? '''a'b''' : \"\"\"c\"d\"\"\"",
            ".a.b(c)[0]",
            "a ? b : c ? d : e",
            "message.package",
            "'é' == x",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_is_not_of_the_language_is_named() {
        for bad in [
            "",
            "1 +",
            "a.b(",
            ")",
            "a b",
            "a | b",
            "a & b",
            "a = b",
            "'open",
            "'a\nb'",
            "'\\q'",
            "'\\u12'",
            "a ? b",
            "a ? b ? c : d : e",
            "-!a",
            "!-a",
            "a..b",
            "1a",
            "if",
            "a.in",
            "{1}",
            "[,]",
            "f(,)",
            "é",
            "#",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn size_and_depth_have_limits() {
        let nested = |depth: usize| format!("{}1{}", "(".repeat(depth), ")".repeat(depth));
        assert_eq!(check(&nested(MAX_DEPTH - 1)), Ok(()));
        assert!(check(&nested(MAX_DEPTH)).is_err());
        assert!(check(&"a+".repeat(MAX_EXPRESSION)).is_err());
        assert!(check(&"(".repeat(MAX_EXPRESSION)).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused(text in "\\PC{0,40}|[-a-b.(){}\\[\\]?:!'\"\\\\rbxu0-9,=&| \n]{0,60}") {
            let _ = check(&text);
        }
    }
}
