//! Nodes -> strict JSON. With lines kept, each key and item stands on the line (relative to the root) where it stood in the source,
//! so that a node can name the line of a rule without ever seeing the file.

use super::{Node, Value};

/// Writes a node, on one line or with its lines kept.
pub(crate) fn write(node: &Node, lines: bool) -> String {
    let mut writer = Writer { out: String::new(), line: node.place.line, lines };
    writer.node(node);
    writer.out
}

struct Writer {
    out: String,
    line: usize,
    lines: bool,
}

impl Writer {
    fn move_to(&mut self, line: usize) {
        while self.lines && self.line < line {
            self.out.push('\n');
            self.line += 1;
        }
    }

    fn node(&mut self, node: &Node) {
        self.move_to(node.place.line);
        match &node.value {
            Value::Null => self.out.push_str("null"),
            Value::Bool(value) => self.out.push_str(if *value { "true" } else { "false" }),
            Value::Integer(number) => self.out.push_str(&number.to_string()),
            Value::Float(number) => {
                let text =
                    serde_json::Number::from_f64(*number).map_or_else(|| "null".into(), |number| number.to_string());
                self.out.push_str(&text);
            }
            Value::Text(text) => self.text(text),
            Value::List(items) => {
                self.out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        self.out.push(',');
                    }
                    self.node(item);
                }
                self.out.push(']');
            }
            Value::Map(entries) => {
                self.out.push('{');
                for (index, (key, value)) in entries.iter().enumerate() {
                    if index > 0 {
                        self.out.push(',');
                    }
                    self.move_to(key.place.line);
                    self.text(&key.text);
                    self.out.push(':');
                    self.node(value);
                }
                self.out.push('}');
            }
        }
    }

    fn text(&mut self, text: &str) {
        self.out.push_str(&serde_json::to_string(text).expect("a string is JSON"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{read_json, read_yaml};

    #[test]
    fn lines_survive() {
        let yaml = "a: 1\n\n# comment\nb:\n  - c: x\n\n  - d: [1, 2.5, yes, null]\n";
        let node = read_yaml(yaml).remove(0).unwrap();
        let again = read_json(&write(&node, true)).unwrap();
        let line = |node: &Node| {
            let Value::List(items) = &node.get("b").unwrap().value else { panic!("a list") };
            items[1].get("d").unwrap().place.line
        };
        assert_eq!(line(&node), 7);
        assert_eq!(line(&again), 7);
        assert_eq!(write(&again, false), r#"{"a":1,"b":[{"c":"x"},{"d":[1,2.5,true,null]}]}"#);
    }
}
