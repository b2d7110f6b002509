//! Where a field of a document stands: for complaints that are found after it was read.

use std::sync::Arc;

use super::{Located, source_line};
use crate::{
    Document,
    decode::is_field,
    tree::{self, Node, Value},
};

impl Located {
    /// A document that was read from its signed body. `line` and `file` say where its author wrote it.
    pub fn of_body(document: Document, json: String, line: usize, file: String) -> Self {
        Self { document, json, line, file, tree: None }
    }

    /// Line and column, from 1, of fields such as `spec.http[0].match[1].uri`; of the nearest part that is there, if the field is not.
    /// Of a document that was read from its signed body the column is the one in that body.
    pub fn places(&self) -> Places {
        let tree = self.tree.clone().or_else(|| {
            let mut node = tree::read_json(&self.json).ok()?;
            let line = source_line(&node);
            node.shift(line - 1);
            Some(Arc::new(node))
        });
        Places { tree, line: self.line }
    }
}

/// The places of one document's fields.
#[derive(Debug, Clone)]
pub struct Places {
    tree: Option<Arc<Node>>,
    line: usize,
}

impl Places {
    /// Line and column of a field.
    pub fn of(&self, field: &str) -> (usize, usize) {
        let Some(mut node) = self.tree.as_deref() else { return (self.line, 1) };
        for step in steps(field) {
            let next = match &node.value {
                Value::Map(entries) => entries.iter().find(|(key, _)| is_field(&key.text, step)).map(|(_, node)| node),
                Value::List(items) => step.parse::<usize>().ok().and_then(|index| items.get(index)),
                Value::Null | Value::Bool(_) | Value::Integer(_) | Value::Float(_) | Value::Text(_) => None,
            };
            let Some(next) = next else { break };
            node = next;
        }
        (node.place.line, node.place.column)
    }
}

/// `a.b[0][c.d]` as `a`, `b`, `0`, `c.d`.
fn steps(field: &str) -> impl Iterator<Item = &str> {
    let mut rest = field;
    std::iter::from_fn(move || {
        rest = rest.strip_prefix('.').unwrap_or(rest);
        if rest.is_empty() {
            return None;
        }
        let (step, after) = match rest.strip_prefix('[') {
            Some(inner) => inner.split_once(']').unwrap_or((inner, "")),
            None => rest.split_at(rest.find(['.', '[']).unwrap_or(rest.len())),
        };
        rest = after;
        Some(step)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    const TEXT: &str = "# first\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: edge}\nspec:\n  selector:\n    example.com/app: edge\n  servers:\n  - hosts: ['*']\n    port: {number: 80, name: http,\n      protocol: HTTP}\n";

    #[test]
    fn fields_have_places() {
        let located = parse::yaml("f.yaml", TEXT, "default").documents.remove(0);
        let places = located.places();
        for (field, place) in [
            ("spec.servers[0].port.protocol", (11, 17)),
            ("spec.servers[0].hosts[0]", (9, 13)),
            ("spec.selector[example.com/app]", (7, 22)),
            ("spec.servers[0].tls.mode", (9, 5)),
            ("spec.servers[7]", (9, 5)),
            ("", (2, 1)),
        ] {
            assert_eq!(places.of(field), place, "{field}");
        }
    }

    #[test]
    fn lines_of_a_signed_body_are_those_of_the_file() {
        let located = parse::yaml("f.yaml", TEXT, "default").documents.remove(0);
        let again = Located::of_body(located.document, located.json, located.line, located.file);
        assert_eq!(again.places().of("spec.servers[0].port.protocol").0, 11);
        let broken = Located { json: "no JSON".to_owned(), ..again };
        assert_eq!(broken.places().of("spec"), (2, 1));
    }
}
