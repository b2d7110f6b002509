//! RE2's syntax, in which Istio's regular expressions are written, in the words of the `regex` crate.
//!
//! The two agree but for what is here: `\d`, `\s`, `\w` and `\b` are ASCII in RE2; a brace that counts nothing, and `[`, `&&`, `--`, `~~` in
//! a class, are characters like others; `\Q...\E` quotes; `\<` and `\>` are the characters. What RE2 knows and the crate does not (`\C`,
//! octal escapes) is left as it is, so that the crate refuses it.

use std::iter::Peekable;
use std::str::Chars;

const DIGIT: &str = "0-9";
const WORD: &str = "0-9A-Za-z_";
// Without the vertical tab.
const SPACE: &str = r"\t\n\f\r ";

/// The same expression for the `regex` crate.
pub(super) fn translate(source: &str) -> String {
    let mut out = String::with_capacity(source.len() + 32);
    let mut rest = source.chars().peekable();
    while let Some(next) = rest.next() {
        match next {
            '\\' => escape(&mut rest, &mut out),
            '[' => class(&mut rest, &mut out),
            '{' if !counts(rest.clone()) => out.push_str(r"\{"),
            _ => out.push(next),
        }
    }
    out
}

/// What follows a backslash outside a class.
fn escape(rest: &mut Peekable<Chars<'_>>, out: &mut String) {
    match rest.next() {
        Some('Q') => quoted(rest, out),
        Some(letter @ ('b' | 'B')) => out.extend([r"(?-u:\", letter.encode_utf8(&mut [0; 4]), ")"]),
        Some(sign @ ('<' | '>')) => out.push(sign),
        Some(letter) => match perl(letter) {
            // Not folded by `(?i)`: two characters beyond ASCII fold to letters.
            Some((not, set)) => out.extend(["(?-i:[", not, set, "])"]),
            None => {
                out.extend(['\\', letter]);
                // `\p{Greek}`, `\x{e9}`.
                if matches!(letter, 'p' | 'P' | 'x') {
                    out.extend(rest.next_if_eq(&'{'));
                }
            }
        },
        None => out.push('\\'),
    }
}

/// `\Q...\E`, or to the end.
fn quoted(rest: &mut Peekable<Chars<'_>>, out: &mut String) {
    let mut text = String::new();
    while let Some(next) = rest.next() {
        if next == '\\' && rest.next_if_eq(&'E').is_some() {
            break;
        }
        text.push(next);
    }
    out.push_str(&regex::escape(&text));
}

/// `[...]`; one that does not end is left to the crate to complain about.
fn class(rest: &mut Peekable<Chars<'_>>, out: &mut String) {
    out.push('[');
    if rest.next_if_eq(&'^').is_some() {
        out.push('^');
    }
    if rest.next_if_eq(&']').is_some() {
        out.push_str(r"\]");
    }
    let mut after_dash = true;
    while let Some(next) = rest.next() {
        let dash = next == '-' && !after_dash;
        match next {
            ']' => return out.push(']'),
            '[' if rest.peek() == Some(&':') => named(rest, out),
            '[' | '&' | '~' => out.extend(['\\', next]),
            '-' if after_dash => out.push_str(r"\-"),
            '\\' => class_escape(rest, out),
            _ => out.push(next),
        }
        after_dash = dash;
    }
}

/// `[:alpha:]`, of which the opening bracket was read; a bracket that opens no name is a character.
fn named(rest: &mut Peekable<Chars<'_>>, out: &mut String) {
    let ahead: String = rest.clone().take_while(|next| *next != ']').collect();
    if ahead.len() > 1 && ahead.ends_with(':') {
        out.extend(["[", &ahead, "]"]);
        rest.by_ref().take(ahead.chars().count() + 1).for_each(drop);
    } else {
        out.push_str(r"\[");
    }
}

fn class_escape(rest: &mut Peekable<Chars<'_>>, out: &mut String) {
    match rest.next() {
        Some(sign @ ('<' | '>')) => out.push(sign),
        Some(letter) => match perl(letter) {
            Some(("", set)) => out.push_str(set),
            Some((not, set)) => out.extend(["[", not, set, "]"]),
            None => out.extend(['\\', letter]),
        },
        None => out.push('\\'),
    }
}

/// A class of one letter: whether it is negated, and its characters.
const fn perl(letter: char) -> Option<(&'static str, &'static str)> {
    match letter {
        'd' => Some(("", DIGIT)),
        'D' => Some(("^", DIGIT)),
        'w' => Some(("", WORD)),
        'W' => Some(("^", WORD)),
        's' => Some(("", SPACE)),
        'S' => Some(("^", SPACE)),
        _ => None,
    }
}

/// True for what follows the brace of `{n}`, `{n,}` and `{n,m}`.
fn counts(rest: Peekable<Chars<'_>>) -> bool {
    let text: String = rest.take(16).collect();
    let Some((text, _)) = text.split_once('}') else { return false };
    let (least, most) = text.split_once(',').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    !least.is_empty() && digits(least) && digits(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(source: &str, value: &str) -> bool {
        regex::bytes::Regex::new(&format!("^(?s:{})$", translate(source))).unwrap().is_match(value.as_bytes())
    }

    #[test]
    fn classes_are_ascii() {
        for (source, yes, no) in [
            (r"\d+", "07", "\u{0667}"),
            (r"\w+", "aZ_9", "\u{e9}"),
            (r"(?i)\w", "K", "\u{212a}"),
            (r"\s", "\t", "\u{b}"),
            (r"\s", " ", "\u{a0}"),
            (r"[\w.-]+", "a.b-c", "\u{e9}"),
            (r"\W", "\u{e9}", "e"),
            (r"[\D]", "\u{0667}", "7"),
            (r"[^\d]", "\u{0667}", "7"),
            (r"[^\D]", "7", "\u{0667}"),
            (r"\S+", "\u{a0}", " "),
            // Between an accented letter and a plain one there is a boundary of words.
            ("\u{e9}\\bx", "\u{e9}x", "\u{e9}"),
            (r"a\Bb", "ab", "a b"),
        ] {
            assert!(matches(source, yes), "{source} {yes:?}");
            assert!(!matches(source, no), "{source} {no:?}");
        }
    }

    #[test]
    fn characters_that_mean_something_to_the_crate_alone_are_characters() {
        for (source, yes, no) in [
            ("/users/{id}", "/users/{id}", "/users/id"),
            ("a{,2}", "a{,2}", "aa"),
            ("a{2}", "aa", "a{2}"),
            ("a{1,2}", "aa", "aaa"),
            ("a{2,}", "aaa", "a"),
            // RE2 reads an unfinished count as characters.
            ("a{2", "a{2", "aa"),
            ("[a&&b]+", "a&b", "c"),
            ("[[a]+", "[a", "]"),
            ("[a~~b]+", "a~b", "c"),
            ("[+--]+", "+,-", "."),
            ("[--0]+", "-./0", "1"),
            ("[]a]+", "]a", "b"),
            ("[^]a]+", "b", "]"),
            ("[[:alpha:]_]+", "aZ_", "1"),
            ("[[:x]+", "[:x", "y"),
            ("[a-]+", "a-", "b"),
            (r"[\]\\]+", r"]\", "a"),
            (r"\<a\>", "<a>", "a"),
            (r"\Qa.b\E.", "a.bc", "axbc"),
            (r"\Qa+", "a+", "aa"),
            (r"\.\{", ".{", "a{"),
            (r"\p{Greek}\x{e9}[\p{Greek}]", "\u{3b1}\u{e9}\u{3b2}", "a\u{e9}\u{3b2}"),
        ] {
            assert!(matches(source, yes), "{source} {yes:?}");
            assert!(!matches(source, no), "{source} {no:?}");
        }
    }

    #[test]
    fn what_is_wrong_stays_wrong() {
        for source in ["[a", "(", "*", r"a\", "[b-a]", r"\C", r"\1", "[:alpha"] {
            let text = translate(source);
            assert!(regex::bytes::Regex::new(&text).is_err(), "{source} {text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(source in r"[\[\]\\{}(),a0:&~^QEdwsbB<>-]{0,24}") {
            let _ = regex::bytes::Regex::new(&translate(&source));
        }
    }
}
