//! Strict JSON (RFC 8259) -> nodes. Reads what operators signed, so whatever bytes a peer brings: it never panics, its depth is
//! bounded, and a key that stands twice, a number that overflows and trailing text are errors.

use super::{Key, MAX_DEPTH, Node, Place, SyntaxError, Value};

/// Reads exactly one value.
pub(crate) fn read(text: &str) -> Result<Node, SyntaxError> {
    let mut reader = Reader { text, at: 0, line: 1, line_start: 0 };
    let node = reader.value(0)?;
    reader.blanks();
    match reader.peek() {
        None => Ok(node),
        Some(_) => Err(reader.error("text after the end of the document")),
    }
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    line: usize,
    line_start: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn place(&self) -> Place {
        Place { line: self.line, column: self.at - self.line_start + 1 }
    }

    fn error(&self, message: &str) -> SyntaxError {
        SyntaxError { place: self.place(), message: message.to_owned(), hint: "" }
    }

    fn blanks(&mut self) {
        while let Some(byte @ (b' ' | b'\t' | b'\r' | b'\n')) = self.peek() {
            self.at += 1;
            if byte == b'\n' {
                self.line += 1;
                self.line_start = self.at;
            }
        }
    }

    fn accept(&mut self, token: &str) -> bool {
        let found = self.text.as_bytes()[self.at..].starts_with(token.as_bytes());
        if found {
            self.at += token.len();
        }
        found
    }

    fn value(&mut self, depth: usize) -> Result<Node, SyntaxError> {
        self.blanks();
        let place = self.place();
        if depth > MAX_DEPTH {
            return Err(self.error("nested too deeply"));
        }
        let value = match self.peek() {
            Some(b'{') => self.map(depth)?,
            Some(b'[') => self.list(depth)?,
            Some(b'"') => Value::Text(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            _ if self.accept("true") => Value::Bool(true),
            _ if self.accept("false") => Value::Bool(false),
            _ if self.accept("null") => Value::Null,
            _ => return Err(self.error("expected a JSON value")),
        };
        Ok(Node { place, value })
    }

    fn map(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        self.at += 1;
        let mut entries: Vec<(Key, Node)> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        self.blanks();
        if self.accept("}") {
            return Ok(Value::Map(entries));
        }
        loop {
            self.blanks();
            let place = self.place();
            if self.peek() != Some(b'"') {
                return Err(self.error("expected a key"));
            }
            let text = self.string()?;
            if !seen.insert(text.clone()) {
                return Err(SyntaxError {
                    place,
                    message: format!("duplicate key `{text}`"),
                    hint: "keep one of them",
                });
            }
            self.blanks();
            if !self.accept(":") {
                return Err(self.error("expected `:`"));
            }
            let node = self.value(depth + 1)?;
            entries.push((Key { place, text }, node));
            self.blanks();
            if self.accept("}") {
                return Ok(Value::Map(entries));
            }
            if !self.accept(",") {
                return Err(self.error("expected `,` or `}`"));
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        self.at += 1;
        let mut items = Vec::new();
        self.blanks();
        if self.accept("]") {
            return Ok(Value::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.blanks();
            if self.accept("]") {
                return Ok(Value::List(items));
            }
            if !self.accept(",") {
                return Err(self.error("expected `,` or `]`"));
            }
        }
    }

    fn number(&mut self) -> Result<Value, SyntaxError> {
        let start = self.at;
        self.accept("-");
        let digits = self.digits();
        let leading_zero = digits > 1 && self.text.as_bytes()[self.at - digits] == b'0';
        if digits == 0 || leading_zero {
            return Err(self.error("not a number"));
        }
        let mut integer = true;
        if self.accept(".") {
            integer = false;
            if self.digits() == 0 {
                return Err(self.error("not a number"));
            }
        }
        if self.accept("e") || self.accept("E") {
            integer = false;
            let _sign = self.accept("+") || self.accept("-");
            if self.digits() == 0 {
                return Err(self.error("not a number"));
            }
        }
        let text = &self.text[start..self.at];
        if integer && let Ok(whole) = text.parse::<i128>() {
            return Ok(Value::Integer(whole));
        }
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Value::Float(number)),
            _ => Err(self.error("the number is too large")),
        }
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        self.at - start
    }

    fn string(&mut self) -> Result<String, SyntaxError> {
        self.at += 1;
        let mut text = String::new();
        loop {
            let start = self.at;
            while self.peek().is_some_and(|byte| byte != b'"' && byte != b'\\' && byte >= 0x20) {
                self.at += 1;
            }
            text.push_str(&self.text[start..self.at]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => {
                    self.at += 1;
                    text.push(self.escape()?);
                }
                Some(_) => return Err(self.error("control character in a string")),
                None => return Err(self.error("unfinished string")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, SyntaxError> {
        let letter = self.peek().ok_or_else(|| self.error("unfinished string"))?;
        self.at += 1;
        Ok(match letter {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = self.hex()?;
                let code = if (0xd800..0xdc00).contains(&first) && self.accept("\\u") {
                    let second = self.hex()?;
                    if !(0xdc00..0xe000).contains(&second) {
                        return Err(self.error("half of a surrogate pair"));
                    }
                    0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)
                } else {
                    first
                };
                char::from_u32(code).ok_or_else(|| self.error("half of a surrogate pair"))?
            }
            _ => return Err(self.error("unknown escape")),
        })
    }

    fn hex(&mut self) -> Result<u32, SyntaxError> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4);
        let code = digits
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok())
            .ok_or_else(|| self.error("bad \\u escape"))?;
        self.at += 4;
        Ok(code)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tree::write;

    #[test]
    fn refuses_what_is_not_strict() {
        for bad in [
            "",
            "{",
            "{a:1}",
            "{\"a\":1,}",
            "[1,]",
            "01",
            "1.",
            "1e",
            "-",
            "1e999",
            "\"\\x\"",
            "\"\\ud800\"",
            "nul",
            "{} {}",
            "\"\n\"",
            "{\"a\":1,\"a\":2}",
            "+1",
            "NaN",
            "'a'",
            "\"\\u12g4\"",
            "\"\\u+123\"",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(read(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn places_are_lines_and_columns() {
        let node = read("{\n \"a\": [1,\n  2]}").unwrap();
        let Value::List(items) = &node.get("a").unwrap().value else { panic!("a list") };
        assert_eq!(items[1].place, Place { line: 3, column: 3 });
    }

    proptest! {
        #[test]
        fn never_panics(text in "[\\[\\]{}\",:\\\\u0-9a-f\\-.eE \n\u{e9}]{0,60}") {
            let _ = read(&text);
        }

        #[test]
        fn agrees_with_serde(text in "[\\[\\]{}\",:ab0-9\\-. \n]{0,24}") {
            if serde_json::from_str::<serde_json::Value>(&text).is_err() {
                prop_assert!(read(&text).is_err());
            }
        }

        #[test]
        fn strings_survive(text in "\\PC{0,40}") {
            let node = Node { place: Place { line: 1, column: 1 }, value: Value::Text(text.clone()) };
            let again = read(&write(&node, true)).unwrap();
            prop_assert_eq!(again.value, Value::Text(text));
        }
    }
}
