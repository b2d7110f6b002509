//! What a decoder asks of a document. A decoder that walks a probe instead of a document finds whatever it asks for, and its
//! questions are written down here: that is the kind's schema, and it cannot drift from what the decoder reads.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use super::{Path, Step};
use crate::tree::{Node, Place, Value};

/// Stands where the document would have a value.
pub(super) static PROBE: Node = Node { place: Place { line: 1, column: 1 }, value: Value::Text(String::new()) };
/// What a text of the probe says: a name, a host, a header, a pattern.
pub(super) const TEXT: &str = "a";
/// Nesting of a probe at most: no kind is that deep, and a decoder that calls itself would never end.
const MAX_DEPTH: usize = 32;

/// What was asked of one value. Several questions mean alternatives.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Asked {
    /// Nothing is asked: whatever stands there is valid.
    Anything,
    /// Null has a meaning of its own.
    Null,
    /// A string.
    Text,
    /// A string that is not empty.
    FilledText,
    /// A boolean.
    Boolean,
    /// A whole number within bounds.
    Integer(i64, i64),
    /// A number within bounds.
    Number(Option<(u32, u32)>),
    /// A duration; true where 0 has a meaning.
    Duration(bool),
    /// A time.
    Time,
    /// This word.
    Word(&'static str),
    /// A list.
    List,
    /// A map with free keys.
    Map,
    /// An object.
    Object,
    /// Istio's API has it and Istio refuses it.
    Refused,
}

/// What was asked of one value and of what it holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) asked: BTreeSet<Asked>,
    /// Fields of an object, and whether they must be there.
    pub(crate) fields: BTreeMap<&'static str, (bool, Record)>,
    /// Items of a list, or values of a map.
    pub(crate) inner: Option<Box<Record>>,
}

/// A step from a value to one that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Field(&'static str),
    Inner,
}

/// What was asked so far.
#[derive(Debug, Default)]
pub(crate) struct Recording {
    root: RefCell<Record>,
    /// A field that stands alone in its object this time: its neighbours exclude it.
    focus: Vec<Part>,
}

impl Recording {
    /// Walks a probe by a decoder as often as it takes to see every field alone that its neighbours hide.
    pub(crate) fn of(decode: impl Fn(Recording) -> Recording) -> Record {
        let mut record = decode(Recording::default()).root.into_inner();
        loop {
            let before = record.clone();
            let mut open = Vec::new();
            unanswered(&record, &mut Vec::new(), &mut open);
            for focus in open {
                let again = Recording { root: RefCell::new(record), focus };
                record = decode(again).root.into_inner();
            }
            if record == before {
                return record;
            }
        }
    }

    pub(super) fn note(&self, path: &Path<'_>, asked: Asked) {
        let mut root = self.root.borrow_mut();
        reach(&mut root, &parts(path)).asked.insert(asked);
    }

    pub(super) fn note_words(&self, path: &Path<'_>, words: impl Iterator<Item = &'static str>) {
        words.for_each(|word| self.note(path, Asked::Word(word)));
    }

    /// A field was asked for; false if it does not exist this time.
    pub(super) fn field(&self, path: &Path<'_>, name: &'static str, required: bool) -> bool {
        let mut root = self.root.borrow_mut();
        let record = reach(&mut root, &parts(path));
        record.fields.entry(name).or_default().0 |= required;
        drop(root);
        self.has(path, name)
    }

    /// Every field exists, but for the neighbours of the one that stands alone.
    pub(super) fn has(&self, path: &Path<'_>, name: &'static str) -> bool {
        match self.focus.split_last() {
            Some((Part::Field(alone), object)) if parts(path) == object => *alone == name,
            Some(_) | None => true,
        }
    }

    /// True if the probe ends here.
    pub(super) fn ends(&self, path: &Path<'_>) -> bool {
        parts(path).len() >= MAX_DEPTH
    }
}

/// A number of these bounds: 1, or what is nearest to it.
pub(super) fn number_within(bounds: &RangeInclusive<i64>) -> i64 {
    1.clamp(*bounds.start(), *bounds.end())
}

fn parts(path: &Path<'_>) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut next = Some(path);
    while let Some(path) = next {
        match path.step {
            // A probe has no fields beside those that are asked for.
            Step::Root | Step::Unknown(_) => {}
            Step::Field(name) => parts.push(Part::Field(name)),
            Step::Index(_) | Step::Entry(_) => parts.push(Part::Inner),
        }
        next = path.parent;
    }
    parts.reverse();
    parts
}

fn reach<'r>(root: &'r mut Record, parts: &[Part]) -> &'r mut Record {
    parts.iter().fold(root, |record, part| match part {
        Part::Field(name) => &mut record.fields.entry(name).or_default().1,
        Part::Inner => record.inner.get_or_insert_default(),
    })
}

/// The fields of which nobody has asked what they are.
fn unanswered(record: &Record, way: &mut Vec<Part>, open: &mut Vec<Vec<Part>>) {
    if record.asked.is_empty() && matches!(way.last(), Some(Part::Field(_))) {
        open.push(way.clone());
    }
    for (name, (_, field)) in &record.fields {
        way.push(Part::Field(name));
        unanswered(field, way, open);
        way.pop();
    }
    if let Some(inner) = &record.inner {
        way.push(Part::Inner);
        unanswered(inner, way, open);
        way.pop();
    }
}

/// The paths of fields whose form no decoder says, for the test that there are none.
#[cfg(test)]
pub(crate) fn unknown(record: &Record) -> Vec<String> {
    let mut open = Vec::new();
    unanswered(record, &mut Vec::new(), &mut open);
    let shown = |part: &Part| match part {
        Part::Field(name) => format!(".{name}"),
        Part::Inner => "[]".to_owned(),
    };
    open.iter().map(|way| way.iter().map(shown).collect()).collect()
}
