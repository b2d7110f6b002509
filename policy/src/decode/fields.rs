//! The fields of one object: each is asked for by name, what nobody asked for is a complaint.

use std::cell::RefCell;

use super::{At, Path, Step, nearest};
use crate::{
    Problem, codes,
    tree::{Key, Node, Value},
};

/// The fields of one object.
pub(crate) struct Fields<'a> {
    pub(crate) at: &'a At<'a>,
    entries: &'a [(Key, Node)],
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(at: &'a At<'a>, entries: &'a [(Key, Node)]) -> Self {
        Self { at, entries, known: RefCell::default() }
    }

    /// A field by its lowerCamelCase name; snake_case is read too, null counts as absent.
    pub(crate) fn get(&self, name: &'static str) -> Option<At<'a>> {
        if let Some(recording) = &self.at.out.recording {
            return recording.field(&self.at.path, name, false).then(|| self.at(self.at.node, name));
        }
        self.known.borrow_mut().push(name);
        let mut found = self.entries.iter().filter(|(key, _)| is(&key.text, name));
        let (_, node) = found.next()?;
        let at = self.at(node, name);
        if found.next().is_some() {
            at.error(codes::DUPLICATE, format!("`{name}` stands twice, as lowerCamelCase and as snake_case"));
        }
        (node.value != Value::Null).then_some(at)
    }

    fn at(&self, node: &'a Node, name: &'static str) -> At<'a> {
        At { node, path: Path { parent: Some(&self.at.path), step: Step::Field(name) }, out: self.at.out }
    }

    /// True if the field is there and not null.
    pub(crate) fn has(&self, name: &'static str) -> bool {
        if let Some(recording) = &self.at.out.recording {
            return recording.has(&self.at.path, name);
        }
        self.entries.iter().any(|(key, node)| is(&key.text, name) && node.value != Value::Null)
    }

    /// True if the field says something: protobuf takes an empty string or list for an absent one.
    pub(crate) fn is_set(&self, name: &'static str) -> bool {
        if self.at.out.recording.is_some() {
            return self.has(name);
        }
        let set = |value: &Value| match value {
            Value::Null => false,
            Value::Text(text) => !text.is_empty(),
            Value::List(items) => !items.is_empty(),
            Value::Bool(_) | Value::Integer(_) | Value::Float(_) | Value::Map(_) => true,
        };
        self.entries.iter().any(|(key, node)| is(&key.text, name) && set(&node.value))
    }

    /// A field that must be there.
    pub(crate) fn required(&self, name: &'static str) -> Option<At<'a>> {
        if let Some(recording) = &self.at.out.recording {
            recording.field(&self.at.path, name, true);
        }
        let found = self.get(name);
        if found.is_none() {
            self.at.error(codes::MISSING, lacks(name));
        }
        found
    }

    /// A string and its place; an empty one counts as absent, as in protobuf.
    pub(crate) fn filled(&self, name: &'static str) -> Option<(&'a str, At<'a>)> {
        let at = self.get(name)?;
        let text = at.text()?;
        (!text.is_empty()).then_some((text, at))
    }

    /// A text that is not empty and its place; `Some(None)` where it is absent or empty, `None` where it is no text.
    pub(crate) fn given(&self, name: &'static str) -> Option<Option<(&'a str, At<'a>)>> {
        let Some(at) = self.get(name) else { return Some(None) };
        let text = at.text()?;
        Some((!text.is_empty()).then_some((text, at)))
    }

    /// Fields that Istio has and this build does not: valid, refused at push by name.
    pub(crate) fn not_supported(&self, names: &[&'static str]) {
        for name in names {
            if let Some(at) = self.get(name) {
                at.unbuilt(format!("`{name}`"));
            }
        }
    }

    /// The same, with what stands in their place.
    pub(crate) fn not_supported_because(&self, names: &[&'static str], why: &str) {
        for name in names {
            if let Some(at) = self.get(name) {
                at.unbuilt(format!("`{name}` ({why})"));
            }
        }
    }

    /// Fields that mean nothing here.
    pub(crate) fn ignored(&self, names: &[&'static str]) {
        for name in names {
            if let Some(at) = self.get(name) {
                at.anything();
                at.warn(codes::IGNORED, format!("`{name}` has no meaning in this mesh"), "");
            }
        }
    }

    /// Fields that are left alone, whatever they hold.
    pub(crate) fn left_alone(&self, names: &[&'static str]) {
        names.iter().filter_map(|name| self.get(name)).for_each(|at| at.anything());
    }

    /// Complains about every field that was not asked for.
    pub(crate) fn finish(self) {
        let known = self.known.borrow();
        for (key, _) in self.entries {
            if known.iter().any(|name| is(&key.text, name)) {
                continue;
            }
            let near = nearest(&key.text, known.iter().copied());
            let hint = near.map(|name| format!("did you mean `{name}`?")).unwrap_or_default();
            near.iter().for_each(|name| self.forgive(name));
            let path = Path { parent: Some(&self.at.path), step: Step::Unknown(&key.text) };
            let message = format!("unknown field `{}`", key.text);
            self.at.out.add(crate::Severity::Error, codes::UNKNOWN_FIELD, key.place, path.to_string(), message, hint);
        }
    }

    /// What is there under a misspelt name is not said to be missing as well.
    fn forgive(&self, name: &str) {
        let (field, missing) = (self.at.path.to_string(), lacks(name));
        let same = |problem: &Problem| problem.field == field && problem.line == self.at.line();
        let follows = |problem: &Problem| problem.code == codes::NO_ACTION || problem.message == missing;
        self.at.out.problems.borrow_mut().retain(|problem| !(same(problem) && follows(problem)));
    }
}

fn lacks(name: &str) -> String {
    format!("`{name}` is required")
}

/// True if `key` is `name` or its snake_case form.
pub(crate) fn is(key: &str, name: &str) -> bool {
    if key == name {
        return true;
    }
    let mut rest = key;
    for letter in name.chars() {
        let after_bar = || rest.strip_prefix('_').and_then(|rest| rest.strip_prefix(letter.to_ascii_lowercase()));
        let next = if letter.is_ascii_uppercase() {
            after_bar()
        } else if letter.is_ascii_digit() {
            // `http2_max_requests`, and `consecutive_5xx_errors`.
            rest.strip_prefix(letter).or_else(after_bar)
        } else {
            rest.strip_prefix(letter)
        };
        match next {
            Some(next) => rest = next,
            None => return false,
        }
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::is;

    #[test]
    fn snake_case_is_the_same_field() {
        assert!(is("perTryTimeout", "perTryTimeout"));
        assert!(is("per_try_timeout", "perTryTimeout"));
        assert!(!is("per_try_timeou", "perTryTimeout"));
        assert!(!is("pertrytimeout", "perTryTimeout"));
        assert!(!is("uri_", "uri"));
        assert!(is("consecutive_5xx_errors", "consecutive5xxErrors"));
        assert!(is("http2_max_requests", "http2MaxRequests"));
        assert!(!is("http_2_max__requests", "http2MaxRequests"));
    }
}
