//! YAML -> nodes. Documents are parted first, so that an error in one does not hide the others.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::Spanned;

use super::{Key, Node, Place, SyntaxError, Value};

/// Reads every document of a text; empty ones are skipped.
pub(crate) fn read(text: &str) -> Vec<Result<Node, SyntaxError>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    split(text)
        .into_iter()
        .filter(|(_, chunk)| !is_empty(chunk))
        .filter_map(|(line, chunk)| one(line, &chunk))
        .collect()
}

/// The documents of a stream, each with the number of lines before it. `---` or `...` at the start of a line ends a document even
/// inside a block scalar (YAML 1.2, section 9.1.2), so no parser is needed to find them.
fn split(text: &str) -> Vec<(usize, String)> {
    let mut documents = vec![(0, String::new())];
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let rest = marker(line, "---");
        if rest.is_some() || marker(line, "...").is_some() {
            documents.push((number, String::new()));
        }
        let (_, document) = documents.last_mut().expect("it never becomes empty");
        match rest {
            Some(rest) => {
                document.push_str("   ");
                document.push_str(rest);
            }
            None if marker(line, "...").is_some() => document.push('\n'),
            None => document.push_str(line),
        }
    }
    documents
}

fn marker<'l>(line: &'l str, marker: &str) -> Option<&'l str> {
    line.strip_prefix(marker).filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn is_empty(document: &str) -> bool {
    document.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#') || line.starts_with('%'))
}

fn one(lines_before: usize, chunk: &str) -> Option<Result<Node, SyntaxError>> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! { max_depth: super::MAX_DEPTH },
    };
    match serde_saphyr::from_str_with_options::<Spanned<Raw>>(chunk, options) {
        Ok(spanned) => {
            let mut node = Node::from(spanned);
            node.shift(lines_before);
            (node.value != Value::Null).then_some(Ok(node))
        }
        Err(error) => {
            let place = error.location().map_or(Place { line: 1, column: 1 }, |location| place(&location));
            let message = error.without_snippet().to_string();
            let (message, hint) = told(plain(&message));
            Some(Err(SyntaxError { place: Place { line: place.line + lines_before, ..place }, message, hint }))
        }
    }
}

/// The message without the place that the parser appends: ours is shifted.
fn plain(message: &str) -> String {
    let end = message.find(" at line ").or_else(|| message.find(" at byte ")).unwrap_or(message.len());
    message.lines().next().map_or("", |line| &line[..end.min(line.len())]).trim_end_matches([':', ' ']).to_owned()
}

/// What the parser says in words of its own, in ours, and how to mend it.
fn told(message: String) -> (String, &'static str) {
    if let Some((key, _)) = message.strip_prefix("duplicate mapping key: ").and_then(|rest| rest.split_once(", set ")) {
        return (format!("duplicate key `{key}`"), "keep one of them");
    }
    if message.starts_with("budget breached: Depth") {
        return (format!("lists and objects lie deeper than {} in each other", super::MAX_DEPTH), "");
    }
    if message.starts_with("budget breached: ") {
        return (
            "the document is too large to be read".to_owned(),
            "part it with `---`, or into files; anchors and aliases count as often as they are used",
        );
    }
    if message.starts_with("tabs disallowed") {
        return ("a tab stands where YAML wants spaces".to_owned(), "indent with spaces");
    }
    (message, "")
}

fn place(location: &serde_saphyr::Location) -> Place {
    let whole = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    Place { line: whole(location.line()), column: whole(location.column()) }
}

/// A value whose children know their place; it learns its own from [`Spanned`].
struct Raw(Value);

impl From<Spanned<Raw>> for Node {
    fn from(spanned: Spanned<Raw>) -> Self {
        Node { place: place(&spanned.referenced), value: spanned.value.0 }
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor).map(Raw)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<Spanned<Raw>>()? {
            list.push(item.into());
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = entries.next_key::<Spanned<String>>()? {
            let value = entries.next_value::<Spanned<Raw>>()?;
            map.push((Key { place: place(&key.referenced), text: key.value }, value.into()));
        }
        Ok(Value::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_know_their_place() {
        let documents = read("# comment\n---\na: 1\nb:\n- x: yes\n  y: \"1\"\n---\n\n---\n{c: [1.5]}\n");
        assert_eq!(documents.len(), 2);
        let first = documents[0].as_ref().unwrap();
        let Value::List(items) = &first.get("b").unwrap().value else { panic!("a list") };
        assert_eq!(items[0].get("x").unwrap().value, Value::Bool(true));
        assert_eq!(items[0].get("x").unwrap().place, Place { line: 5, column: 6 });
        assert_eq!(items[0].get("y").unwrap().value, Value::Text("1".into()));
        let Value::Map(entries) = &first.value else { panic!("a map") };
        assert_eq!(entries[1].0.place, Place { line: 4, column: 1 });
        let second = documents[1].as_ref().unwrap();
        assert_eq!(second.get("c").unwrap().place, Place { line: 10, column: 5 });
    }

    #[test]
    fn an_error_in_one_document_does_not_hide_the_next() {
        let documents = read("a: [1\n---\nb: 1\n---\nc: 1\nc: 2\n");
        assert_eq!(documents.len(), 3);
        assert!(documents[0].is_err());
        assert!(documents[1].is_ok());
        let error = documents[2].as_ref().unwrap_err();
        assert_eq!((error.place.line, &*error.message), (6, "duplicate key `c`"), "{error:?}");
        let tab = read("a:\n\t- b\n").remove(0).unwrap_err();
        assert_eq!(tab.hint, "indent with spaces", "{tab:?}");
    }

    #[test]
    fn bombs_are_refused() {
        let deep = "[".repeat(2_000);
        let error = read(&deep)[0].clone().unwrap_err();
        assert!(!error.message.contains("budget"), "{error:?}");
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for i in 1..12 {
            bomb += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(", "));
        }
        let error = read(&bomb)[0].clone().unwrap_err();
        assert!(error.message.contains("too large") && !error.hint.is_empty(), "{error:?}");
        assert!(read("a: 1e999\n")[0].is_err());
    }
}
