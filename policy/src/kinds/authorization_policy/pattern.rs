//! The patterns of an AuthorizationPolicy: text, namespaces, paths, tokens.

use crate::normalize;

/// A string with at most one wildcard, at its beginning or its end; any other `*` is a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextPattern {
    /// The whole value.
    Exact(String),
    /// `abc*`.
    Prefix(String),
    /// `*abc`.
    Suffix(String),
    /// `*`: there is a value.
    Present,
}

impl TextPattern {
    pub(crate) fn new(text: &str) -> Self {
        if text == "*" {
            Self::Present
        } else if let Some(suffix) = text.strip_prefix('*') {
            Self::Suffix(suffix.to_owned())
        } else if let Some(prefix) = text.strip_suffix('*') {
            Self::Prefix(prefix.to_owned())
        } else {
            Self::Exact(text.to_owned())
        }
    }

    /// True if a value that is there matches. Case counts.
    pub fn is_match(&self, value: &str) -> bool {
        match self {
            Self::Exact(text) => value == text,
            Self::Prefix(prefix) => value.starts_with(prefix.as_str()),
            Self::Suffix(suffix) => value.ends_with(suffix.as_str()),
            Self::Present => true,
        }
    }

    /// As [`TextPattern::is_match`], where `*` wants a value that is not empty.
    pub fn is_match_filled(&self, value: &str) -> bool {
        self.is_match(value) && (*self != Self::Present || !value.is_empty())
    }

    /// True if it names `;` itself: it was written for paths whose segments have parameters.
    pub(crate) fn has_parameters(&self) -> bool {
        match self {
            Self::Exact(text) | Self::Prefix(text) | Self::Suffix(text) => text.contains(';'),
            Self::Present => false,
        }
    }

    fn map(self, change: impl FnOnce(&str) -> String) -> Self {
        match self {
            Self::Exact(text) => Self::Exact(change(&text)),
            Self::Prefix(text) => Self::Prefix(change(&text)),
            Self::Suffix(text) => Self::Suffix(change(&text)),
            Self::Present => Self::Present,
        }
    }

    pub(crate) fn lower_case(self) -> Self {
        self.map(str::to_ascii_lowercase)
    }
}

/// A namespace in which every `*` stands for any letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespacePattern(Vec<String>);

impl NamespacePattern {
    pub(super) fn new(text: &str) -> Self {
        Self(text.split('*').map(str::to_owned).collect())
    }

    /// True if the namespace matches.
    pub fn is_match(&self, namespace: &str) -> bool {
        let [first, middle @ .., last] = self.0.as_slice() else {
            return self.0.first().is_some_and(|only| only == namespace);
        };
        let Some(rest) = namespace.strip_prefix(first.as_str()).and_then(|rest| rest.strip_suffix(last.as_str()))
        else {
            return false;
        };
        // The leftmost place of each piece leaves most room for the next.
        let mut rest = rest;
        middle.iter().all(|piece| match rest.find(piece.as_str()) {
            Some(at) => {
                rest = &rest[at + piece.len()..];
                true
            }
            None => false,
        })
    }
}

impl std::fmt::Display for NamespacePattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join("*"))
    }
}

/// A pattern of a path, in the normal form of [`crate::normalize`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathPattern {
    /// Without operators of templates.
    Text(TextPattern),
    /// With `{*}` (one segment, not empty) and perhaps `{**}` (any number of segments) as the last operator.
    Template {
        /// What stands between the operators up to `{**}` or the end.
        pieces: Vec<String>,
        /// What follows `{**}`, if it is there.
        tail: Option<String>,
    },
}

impl PathPattern {
    /// Reads a pattern; templates must keep Istio's rules.
    pub(super) fn new(text: &str) -> Result<Self, String> {
        let is_template = text.contains("{*}") || text.contains("{**}");
        let mut any_before = false;
        for segment in text.trim_matches('/').split('/') {
            match segment {
                "{*}" | "{**}" if any_before => {
                    return Err(format!("invalid or unsupported path {text}: {{**}} is not the last operator"));
                }
                "{*}" => continue,
                "{**}" => {
                    any_before = true;
                    continue;
                }
                _ => {}
            }
            if segment.contains(['{', '}']) {
                return Err(format!(
                    "invalid or unsupported path {text}: contains '{{' or '}}' beyond a supported path template"
                ));
            }
            if is_template && !is_literal(segment) {
                return Err(format!(
                    "invalid or unsupported path {text}: contains segment {segment} with invalid string literal"
                ));
            }
        }
        if !is_template {
            return Ok(Self::Text(TextPattern::new(text).map(normalize::escapes)));
        }
        let (head, tail) = match text.split_once("{**}") {
            Some((head, tail)) => (head, Some(normalize::escapes(tail))),
            None => (text, None),
        };
        Ok(Self::Template { pieces: head.split("{*}").map(normalize::escapes).collect(), tail })
    }

    /// As [`TextPattern::has_parameters`].
    pub(crate) fn has_parameters(&self) -> bool {
        match self {
            Self::Text(pattern) => pattern.has_parameters(),
            Self::Template { pieces, tail } => pieces.iter().chain(tail).any(|text| text.contains(';')),
        }
    }

    /// True if the path (without query) matches.
    pub fn is_match(&self, path: &str) -> bool {
        let (pieces, tail) = match self {
            Self::Text(pattern) => return pattern.is_match_filled(path),
            Self::Template { pieces, tail } => (pieces, tail),
        };
        let mut rest = path;
        for (index, piece) in pieces.iter().enumerate() {
            if index > 0 {
                let end = rest.find('/').unwrap_or(rest.len());
                if end == 0 {
                    return false;
                }
                rest = &rest[end..];
            }
            match rest.strip_prefix(piece.as_str()) {
                Some(after) => rest = after,
                None => return false,
            }
        }
        match tail {
            Some(tail) => rest.ends_with(tail.as_str()),
            None => rest.is_empty(),
        }
    }
}

/// RFC 3986's `pchar` without `*`, and at least one.
fn is_literal(segment: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(&byte);
    !segment.is_empty() && segment.bytes().all(allowed)
}

/// Issuer and subject of a token. The pattern is split at its last `/`, so that no issuer can pose as part of another's subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenPattern {
    /// The claim `iss`.
    pub issuer: TextPattern,
    /// The claim `sub`.
    pub subject: TextPattern,
}

impl TokenPattern {
    pub(super) fn new(text: &str) -> Self {
        let any = TextPattern::Present;
        if text == "*" {
            return Self { issuer: any.clone(), subject: any };
        }
        match text.rsplit_once('/') {
            // `*` at the very beginning belongs to the issuer, at the very end to the subject.
            Some((issuer, subject)) => {
                let issuer = match issuer.strip_prefix('*') {
                    Some("") => any,
                    Some(suffix) => TextPattern::Suffix(suffix.to_owned()),
                    None => TextPattern::Exact(issuer.to_owned()),
                };
                let wild_start = matches!(issuer, TextPattern::Suffix(_) | TextPattern::Present);
                let subject = match subject.strip_suffix('*') {
                    Some("") => TextPattern::Present,
                    Some(prefix) if !wild_start => TextPattern::Prefix(prefix.to_owned()),
                    Some(_) | None => TextPattern::Exact(subject.to_owned()),
                };
                Self { issuer, subject }
            }
            None => match TextPattern::new(text) {
                suffix @ TextPattern::Suffix(_) => Self { issuer: any, subject: suffix },
                prefix @ TextPattern::Prefix(_) => Self { issuer: prefix, subject: any },
                whole @ (TextPattern::Exact(_) | TextPattern::Present) => {
                    Self { issuer: whole, subject: TextPattern::Exact(String::new()) }
                }
            },
        }
    }

    /// True if a token of this issuer and subject matches.
    pub fn is_match(&self, issuer: &str, subject: &str) -> bool {
        self.issuer.is_match_filled(issuer) && self.subject.is_match_filled(subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_have_stars_anywhere() {
        for (pattern, namespace, expected) in [
            ("foo", "foo", true),
            ("foo", "foobar", false),
            ("foo*", "foobar", true),
            ("*bar", "foobar", true),
            ("a*c", "abbbc", true),
            ("a*c", "ac", true),
            ("a*b*c", "axbxc", true),
            ("a*b*c", "axc", false),
            ("aa*aa", "aaa", false),
            ("*", "anything", true),
        ] {
            assert_eq!(NamespacePattern::new(pattern).is_match(namespace), expected, "{pattern} {namespace}");
        }
    }

    #[test]
    fn templates_match_segments() {
        for (pattern, path, expected) in [
            ("/allow/admin/{**}", "/allow/admin/", true),
            ("/allow/admin/{**}", "/allow/admin", false),
            ("/allow/admin/{**}", "/allow/admin/a/b", true),
            ("/foo/{*}/bar/{**}", "/foo/x/bar/y", true),
            ("/foo/{*}/bar/{**}", "/foo/bar/y", false),
            ("/foo/{*}/bar/{**}", "/foo//bar/y", false),
            ("/store/{**}/cart", "/store//cart", true),
            ("/store/{**}/cart", "/store/cart", false),
            ("/store/{**}/cart", "/store/a/b/cart", true),
            ("/{*}/foo", "/x/foo", true),
            ("/{*}/foo", "/x/y/foo", false),
            ("/{*}", "/x/", false),
            ("/{*}/", "/x/", true),
            ("/{**}/end", "/a/b/end", true),
        ] {
            assert_eq!(PathPattern::new(pattern).unwrap().is_match(path), expected, "{pattern} {path}");
        }
        for bad in ["/{buzz}", "/{*}/*", "/{**}/{*}", "/{**}/{**}", "/{**}x", "/a}/{*}", "/{*}//a", "/{*}/a b"] {
            assert!(PathPattern::new(bad).is_err(), "{bad}");
        }
        assert!(PathPattern::new("/caf%c3%a9%2dx").unwrap().is_match("/caf%C3%A9-x"));
    }

    #[test]
    fn token_patterns_split_at_the_last_slash() {
        for (pattern, issuer, subject, expected) in [
            ("*", "iss", "sub", true),
            ("*", "iss", "", false),
            ("https://iss/x/sub1", "https://iss/x", "sub1", true),
            ("https://iss/x/sub1", "https://iss", "x/sub1", false),
            ("https://iss/*", "https://iss", "anything", true),
            ("https://iss/*", "https://iss/evil", "x", false),
            ("https://iss/a*", "https://iss", "abc", true),
            ("*.com/sub", "https://a.com", "sub", true),
            ("*/sub", "anyone", "sub", true),
            ("*-suffix", "iss", "a-suffix", true),
            ("prefix-*", "prefix-a", "sub", true),
            ("id-1", "id-1", "", true),
            ("id-1", "id-1", "x", false),
        ] {
            assert_eq!(TokenPattern::new(pattern).is_match(issuer, subject), expected, "{pattern} {issuer} {subject}");
        }
    }
}
