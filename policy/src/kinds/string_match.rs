//! `StringMatch` and the regular expressions in it.

use std::sync::Arc;

use super::re2;
use crate::{codes, decode::At};

/// Characters of a regular expression at most, as in Istio.
const MAX_REGEX: usize = 1_024;
/// Bytes of a compiled regular expression at most.
const MAX_COMPILED: usize = 1 << 20;

/// A regular expression in RE2's syntax. Compiled once, size-capped.
#[derive(Debug, Clone)]
pub struct Pattern {
    source: Arc<str>,
    regex: regex::bytes::Regex,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

/// `StringMatch`.
#[derive(Debug, Clone, PartialEq)]
pub enum StringMatch {
    /// The whole value.
    Exact(String),
    /// A plain string prefix.
    Prefix(String),
    /// The whole value matches.
    Regex(Pattern),
    /// No value is set, or the magic `regex: "*"`: the value is present.
    Present,
}

impl Pattern {
    /// Compiles a pattern that must match the whole value; `fold` ignores case.
    fn whole(source: &str, fold: bool) -> Result<Self, String> {
        Self::compile(source, fold, |text| format!("^(?s:{text})$"))
    }

    /// Compiles a pattern that may match anywhere.
    pub(super) fn anywhere(source: &str) -> Result<Self, String> {
        Self::compile(source, false, |text| text)
    }

    fn compile(source: &str, fold: bool, around: impl FnOnce(String) -> String) -> Result<Self, String> {
        if source.is_empty() {
            return Err("a regular expression must not be empty".into());
        }
        if source.len() > MAX_REGEX {
            return Err(format!("a regular expression has at most {MAX_REGEX} characters"));
        }
        let text = re2::translate(source);
        // Alone first, so that nothing escapes the group around it.
        build(&text, fold)?;
        Ok(Self { source: source.into(), regex: build(&around(text), fold)? })
    }

    /// True if the pattern matches.
    pub fn is_match(&self, value: &[u8]) -> bool {
        self.regex.is_match(value)
    }

    /// Every match replaced.
    pub fn replace_all(&self, value: &str, with: &str) -> String {
        let replaced = self.regex.replace_all(value.as_bytes(), with.as_bytes());
        String::from_utf8_lossy(&replaced).into_owned()
    }

    /// As it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    pub(super) fn groups(&self) -> usize {
        self.regex.captures_len()
    }

    /// A pattern of a rewrite; complains at `at`.
    pub(super) fn decode_anywhere(at: &At<'_>) -> Option<Self> {
        Self::anywhere(at.text()?).map_err(|error| at.error(codes::REGEX, error)).ok()
    }
}

fn build(text: &str, fold: bool) -> Result<regex::bytes::Regex, String> {
    regex::bytes::RegexBuilder::new(text)
        .case_insensitive(fold)
        .size_limit(MAX_COMPILED)
        .dfa_size_limit(MAX_COMPILED)
        .build()
        .map_err(|error| plain(&error))
}

/// The last line of the error: the others draw the pattern.
fn plain(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    format!("not a regular expression: {}", last.strip_prefix("error: ").unwrap_or(last))
}

/// What a `StringMatch` may be in a place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum In {
    /// The path: an empty prefix is allowed.
    Uri,
    /// Method, scheme, authority.
    Value,
    /// Header or query parameter: `regex: "*"` means present.
    Entry,
}

impl StringMatch {
    pub(super) fn decode(at: &At<'_>, place: In, fold: bool) -> Option<Self> {
        let fields = at.fields()?;
        let given = ["exact", "prefix", "regex"].iter().filter(|name| fields.has(name)).count();
        let (exact, prefix, regex) = (fields.get("exact"), fields.get("prefix"), fields.get("regex"));
        fields.finish();
        if given > 1 {
            at.error(codes::EXCLUSIVE, "only one of exact, prefix and regex may be set");
            return None;
        }
        if let Some(exact) = exact {
            return Some(Self::Exact(exact.text()?.to_owned()));
        }
        if let Some(prefix) = prefix {
            let text = if place == In::Uri { prefix.text()? } else { prefix.filled_text()? };
            return Some(Self::Prefix(text.to_owned()));
        }
        let Some(regex) = regex else { return Some(Self::Present) };
        let source = regex.text()?;
        if source == "*" && place == In::Entry {
            return Some(Self::Present);
        }
        match Pattern::whole(source, fold) {
            Ok(pattern) => Some(Self::Regex(pattern)),
            Err(error) => {
                regex.error(codes::REGEX, error);
                None
            }
        }
    }

    /// True if a value that is there matches.
    pub fn is_match(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => value == exact.as_bytes(),
            Self::Prefix(prefix) => value.starts_with(prefix.as_bytes()),
            Self::Regex(pattern) => pattern.is_match(value),
            Self::Present => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_patterns_fit_the_limit() {
        for source in
            [r"/users/\w{1,253}", r"[\w.-]{1,253}", r"^/(\w{1,100})/", r"(?i)[a-z\d]{1,63}(\.[a-z\d]{1,63}){0,8}"]
        {
            assert!(Pattern::whole(source, false).is_ok(), "{source}");
        }
        assert!(Pattern::whole(r"(\pL{1,500}){1,500}", false).is_err());
    }

    #[test]
    fn replacements_name_their_groups() {
        let pattern = Pattern::anywhere(r"/(\d+)/\Qa.b\E").unwrap();
        assert_eq!(pattern.replace_all("/7/a.b/8/axb", "/${1}"), "/7/8/axb");
    }
}
