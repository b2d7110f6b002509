//! A strict decoder over the node tree: it walks a document, collects every complaint with its place, and goes on.

mod fields;
mod recording;
mod scalars;
mod words;

use std::{cell::RefCell, fmt};

pub(crate) use fields::{Fields, is as is_field};
#[cfg(test)]
pub(crate) use recording::unknown;
pub(crate) use recording::{Asked, Record, Recording};
pub(crate) use scalars::{duration, is_label, parse_time};
pub use words::nearest;

use crate::{
    Problem, Severity,
    tree::{Node, Place, Value},
};

/// Complaints of one document.
#[derive(Default)]
pub(crate) struct Complaints {
    pub(crate) file: String,
    pub(crate) document: RefCell<Option<String>>,
    pub(crate) problems: RefCell<Vec<Problem>>,
    /// True of what operators signed: words that only give rights of a later build are no complaint.
    pub(crate) signed: bool,
    /// Present while a probe is decoded: what is asked is written down, and nothing is complained of.
    recording: Option<Recording>,
}

/// Complaints of one document at most: a hostile one cannot make thousands.
const MAX_COMPLAINTS: usize = 100;

impl Complaints {
    pub(crate) fn new(file: &str) -> Self {
        Self { file: file.to_owned(), ..Self::default() }
    }

    /// Those of what is signed and kept already.
    pub(crate) fn of_signed() -> Self {
        Self { signed: true, ..Self::default() }
    }

    /// Those of a probe: none.
    pub(crate) fn of_probe(recording: Recording) -> Self {
        Self { recording: Some(recording), ..Self::default() }
    }

    /// What was asked of the probe.
    pub(crate) fn into_recording(self) -> Recording {
        self.recording.unwrap_or_default()
    }

    /// Records a complaint.
    pub(crate) fn add(
        &self,
        severity: Severity,
        code: &'static str,
        place: Place,
        field: String,
        message: String,
        hint: String,
    ) {
        let mut problems = self.problems.borrow_mut();
        if problems.len() < MAX_COMPLAINTS && self.recording.is_none() {
            problems.push(Problem {
                code,
                severity,
                document: self.document.borrow().clone(),
                file: self.file.clone(),
                line: place.line,
                column: place.column,
                field,
                message,
                hint,
                istio_message: None,
            });
        }
    }

    pub(crate) fn errors(&self) -> usize {
        self.problems.borrow().iter().filter(|problem| problem.severity == Severity::Error).count()
    }
}

/// A step of the way from the root to a node.
#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    /// A field that a decoder asked for.
    Field(&'static str),
    /// A field that none asked for.
    Unknown(&'a str),
    Index(usize),
    Entry(&'a str),
}

/// The way from the root to a node; built without allocation, shown only in complaints.
#[derive(Clone, Copy)]
pub(crate) struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        let at_root = self.parent.is_none_or(|parent| matches!(parent.step, Step::Root));
        match self.step {
            Step::Root => Ok(()),
            Step::Field(name) | Step::Unknown(name) if at_root => f.write_str(name),
            Step::Field(name) | Step::Unknown(name) => write!(f, ".{name}"),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Entry(key) => write!(f, "[{key}]"),
        }
    }
}

/// A node that is being decoded: where it is, and where complaints about it go.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    pub(crate) node: &'a Node,
    path: Path<'a>,
    pub(crate) out: &'a Complaints,
}

impl<'a> At<'a> {
    pub(crate) fn root(node: &'a Node, out: &'a Complaints) -> Self {
        Self { node, path: Path { parent: None, step: Step::Root }, out }
    }

    /// The probe itself.
    pub(crate) fn probe(out: &'a Complaints) -> Self {
        Self::root(&recording::PROBE, out)
    }

    /// Writes down what is asked of a probe; false for a document.
    fn notes(&self, asked: Asked) -> bool {
        let Some(recording) = &self.out.recording else { return false };
        recording.note(&self.path, asked);
        true
    }

    /// A value of which nothing is asked: whatever stands there is valid.
    pub(crate) fn anything(&self) {
        self.notes(Asked::Anything);
    }

    /// True for null, where that has a meaning of its own.
    pub(crate) fn is_null(&self) -> bool {
        self.notes(Asked::Null);
        self.node.value == Value::Null
    }

    pub(crate) fn line(&self) -> usize {
        self.node.place.line
    }

    pub(crate) fn error(&self, code: &'static str, message: impl Into<String>) {
        self.error_hint(code, message, "");
    }

    pub(crate) fn error_hint(&self, code: &'static str, message: impl Into<String>, hint: impl Into<String>) {
        self.add(Severity::Error, code, message.into(), hint.into());
    }

    /// A complaint that Istio's validation words so, too.
    pub(crate) fn error_as_istio(&self, code: &'static str, message: impl Into<String>, hint: &str) {
        let message = message.into();
        self.error_hint(code, message.clone(), hint);
        let mut problems = self.out.problems.borrow_mut();
        if let Some(last) = problems.last_mut().filter(|last| last.code == code && last.message == message) {
            last.istio_message = Some(message);
        }
    }

    /// Something that is valid and that this build does not apply yet: lint warns, a push is refused.
    pub(crate) fn unbuilt(&self, what: impl std::fmt::Display) {
        self.warn(
            crate::codes::NOT_SUPPORTED,
            format!("{what} is not supported yet"),
            "nodes refuse the document until it is",
        );
    }

    pub(crate) fn warn(&self, code: &'static str, message: impl Into<String>, hint: impl Into<String>) {
        self.add(Severity::Warning, code, message.into(), hint.into());
    }

    fn add(&self, severity: Severity, code: &'static str, message: String, hint: String) {
        if code == crate::codes::NOT_IN_ISTIO {
            self.notes(Asked::Refused);
        }
        self.out.add(severity, code, self.node.place, self.path.to_string(), message, hint);
    }

    /// The fields of an object.
    pub(crate) fn fields<'b>(&'b self) -> Option<Fields<'b>> {
        if self.notes(Asked::Object) {
            return Some(Fields::new(self, &[]));
        }
        if let Value::Map(entries) = &self.node.value {
            return Some(Fields::new(self, entries));
        }
        self.wrong_type("an object", &self.node.value);
        None
    }

    /// The items of a list; a null item is a complaint.
    pub(crate) fn items<'b>(&'b self) -> Vec<At<'b>> {
        if self.notes(Asked::List) {
            return self.inner_probe(Step::Index(0)).into_iter().collect();
        }
        let Value::List(items) = &self.node.value else {
            self.wrong_type("a list", &self.node.value);
            return Vec::new();
        };
        let at = |(index, node)| At {
            node,
            path: Path { parent: Some(&self.path), step: Step::Index(index) },
            out: self.out,
        };
        let items = items.iter().enumerate().map(at);
        items
            .filter(|item| {
                let null = item.node.value == Value::Null;
                if null {
                    item.error(crate::codes::WRONG_TYPE, "an item of a list cannot be null");
                }
                !null
            })
            .collect()
    }

    /// Complains of a list or map with more than `limit` entries.
    pub(crate) fn limit(&self, limit: usize) {
        let count = match &self.node.value {
            Value::List(items) => items.len(),
            Value::Map(entries) => entries.len(),
            Value::Null | Value::Bool(_) | Value::Integer(_) | Value::Float(_) | Value::Text(_) => 0,
        };
        if count > limit {
            self.error(crate::codes::TOO_MANY, format!("{count} entries, the limit is {limit}"));
        }
    }

    /// True for a list without items: in Istio's language the same as none.
    pub(crate) fn is_empty_list(&self) -> bool {
        matches!(&self.node.value, Value::List(items) if items.is_empty())
    }

    /// Key and value of a map whose keys are free.
    pub(crate) fn entries<'b>(&'b self) -> Vec<(&'b str, At<'b>)> {
        if self.notes(Asked::Map) {
            return self
                .inner_probe(Step::Entry(recording::TEXT))
                .map(|at| (recording::TEXT, at))
                .into_iter()
                .collect();
        }
        let Value::Map(entries) = &self.node.value else {
            self.wrong_type("an object", &self.node.value);
            return Vec::new();
        };
        let path = |key| Path { parent: Some(&self.path), step: Step::Entry(key) };
        entries
            .iter()
            .map(|(key, node)| (key.text.as_str(), At { node, path: path(&key.text), out: self.out }))
            .collect()
    }

    /// The one item or entry of a probe.
    fn inner_probe<'b>(&'b self, step: Step<'b>) -> Option<At<'b>> {
        let ends = self.out.recording.as_ref().is_none_or(|recording| recording.ends(&self.path));
        (!ends).then_some(At { node: self.node, path: Path { parent: Some(&self.path), step }, out: self.out })
    }

    fn wrong_type(&self, expected: &str, found: &Value) {
        let hint = match (expected, found) {
            ("a string", Value::Integer(number)) => format!("put it in quotes: \"{number}\""),
            ("a string", Value::Float(number)) => format!("put it in quotes: \"{number}\""),
            ("a string", Value::Bool(_)) => {
                "put it in quotes: YAML reads yes, no, on, off, true and false as booleans".to_owned()
            }
            ("a list", Value::Text(text)) => format!("write it as a list: [\"{text}\"]"),
            ("an object", Value::Integer(number)) if matches!(self.path.step, Step::Field("port")) => {
                format!("write {{number: {number}}}")
            }
            _ => String::new(),
        };
        self.error_hint(crate::codes::WRONG_TYPE, format!("expected {expected}, found {}", found.describe()), hint);
    }
}
