//! Envoy's command operators, `%WORD(ARGUMENTS)%`, as access logs and values of headers have them.

/// A time as strftime writes it, in UTC; `%f` are fractions of a second, `%3f` three digits of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeFormat(String);

impl TimeFormat {
    /// The format; each of its directives is one of strftime's.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Those of Envoy that do not depend on a place or a language.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            if letter != '%' {
                continue;
            }
            let mut directive = letters.next();
            if directive.is_some_and(|digit| ('1'..='9').contains(&digit)) {
                directive = letters.next().filter(|letter| *letter == 'f');
            }
            if !directive.is_some_and(|directive| "%YmdHMSsfzjyeFTab".contains(directive)) {
                return Err(format!("`{text}` is not a format of times that is known here"));
            }
        }
        Ok(Self(text.to_owned()))
    }
}

/// An operator and what follows its end, of a text behind the sign that begins it. Its arguments may hold a `%`: those of a time do.
pub(crate) fn split(text: &str) -> Option<(&str, &str)> {
    let arguments = text.find('(').filter(|open| !text[..*open].contains('%'));
    let closed = arguments.and_then(|open| Some(open + text[open..].find(')')?)).unwrap_or_default();
    let end = closed + text[closed..].find('%')?;
    Some((&text[..end], &text[end + 1..]))
}
