//! What of a request's head is told to nobody: secrets, known by the names of headers and parameters that hold them.

use percent_encoding::percent_decode_str;
use std::{borrow::Cow, collections::BTreeSet};

/// What stands in the place of a secret.
pub(super) const REDACTED: &str = "[redacted]";
/// Parts of names whose values are for nobody else, wherever they stand.
const PARTS: [&str; 11] = [
    "authorization",
    "cookie",
    "token",
    "secret",
    "passw",
    "passphrase",
    "apikey",
    "credential",
    "session",
    "signature",
    "client-cert",
];
/// Words of names that mean a secret only as a whole word, as in `x-functions-key`, or as the end of one, as in `accessKey`.
const WORDS: [&str; 9] = ["assertion", "auth", "jwt", "otp", "pass", "pin", "saml", "sid", "sig"];
const ENDS: [&str; 2] = ["key", "pwd"];
/// What begins a parameter: a query, its next one, one of a path, a fragment.
const BEGINS: [char; 4] = ['?', '&', ';', '#'];
/// How many times a value may be encoded within another and is still looked into.
const NESTED: usize = 3;

/// Which names hold secrets: those that everybody knows, and those of policy.
#[derive(Debug, Default)]
pub struct Redaction {
    /// In lower case.
    named: BTreeSet<String>,
}

impl Redaction {
    /// These, too: headers and parameters in which policy looks for tokens.
    pub fn of(named: impl IntoIterator<Item = String>) -> Self {
        Self { named: named.into_iter().map(|name| name.to_ascii_lowercase()).collect() }
    }

    /// A header's value, as it may be told.
    pub(super) fn header(&self, name: &str, value: &str) -> String {
        if self.hides(name) { REDACTED.to_owned() } else { self.text(value) }
    }

    /// A path or URL, as it may be told: with the names of its parameters, and without values that may be secrets.
    pub(super) fn text(&self, text: &str) -> String {
        self.within(text, NESTED)
    }

    fn within(&self, text: &str, nested: usize) -> String {
        let text = without_user(text);
        let (start, mut rest) = text.split_at(text.find(BEGINS).unwrap_or(text.len()));
        let mut told = start.to_owned();
        while let Some(begin) = rest.chars().next() {
            told.push(begin);
            let (parameter, next) = rest[1..].split_at(rest[1..].find(BEGINS).unwrap_or(rest.len() - 1));
            match parameter.split_once('=') {
                Some((name, value)) if self.hides(name) || self.holds(value, nested) => {
                    told.push_str(name);
                    told.push('=');
                    told.push_str(REDACTED);
                }
                Some(_) | None => told.push_str(parameter),
            }
            rest = next;
        }
        told
    }

    /// Whether a value has a secret in itself, like the URL that one is sent back to.
    fn holds(&self, value: &str, nested: usize) -> bool {
        let (decoded, Some(nested)) = (decoded(value), nested.checked_sub(1)) else { return false };
        self.within(&decoded, nested) != decoded || decoded != value && self.holds(&decoded, nested)
    }

    fn hides(&self, name: &str) -> bool {
        let name = decoded(name).trim().to_lowercase();
        let mut words = name.split(|letter: char| !letter.is_alphanumeric());
        self.named.contains(&name)
            || name == "code"
            || PARTS.iter().any(|part| name.contains(part))
            || words.any(|word| WORDS.contains(&word) || ENDS.iter().any(|end| word.ends_with(end)))
    }
}

/// An authority without whose it is asked for.
pub(super) fn authority(text: &str) -> Cow<'_, str> {
    match text.rsplit_once('@') {
        Some((_, host)) => format!("{REDACTED}@{host}").into(),
        None => text.into(),
    }
}

/// A URL without whom it is asked for as.
fn without_user(text: &str) -> Cow<'_, str> {
    let Some(start) = text.find("//").map(|at| at + 2) else { return text.into() };
    let end = text[start..].find(['/', '?', '#']).map_or(text.len(), |length| start + length);
    match authority(&text[start..end]) {
        Cow::Borrowed(_) => text.into(),
        Cow::Owned(authority) => format!("{}{authority}{}", &text[..start], &text[end..]).into(),
    }
}

fn decoded(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_their_names_however_they_are_written() {
        let known = Redaction::of(["X-Badge".to_owned(), "ticket".to_owned()]);
        for secret in [
            "/a?access_token=t0p",
            "/a?access%5Ftoken=t0p",
            "/a?%70wd=t0p",
            "/a?b=c&code=t0p#id_token=t0p",
            "/a;jsessionid=t0p?b=c",
            "/a?user[password]=t0p&db_pwd=t0p&pass=t0p&accessKey=t0p&X-Amz-Credential=t0p&x_sig=t0p",
            "/a?ticket=t0p",
            "/a?next=https%3A%2F%2Fb%2F%3Ftoken%3Dt0p",
            "/a?next=%68ttps%253A%252F%252Fme%253At0p%2540b%252F",
            "https://me:t0p@b/c?d=e",
            "https://me:t;0&t0p@b/c",
            "//me:t0p@b/c",
        ] {
            let told = known.text(secret);
            assert!(!told.contains("t0p") && told.contains(REDACTED), "{secret}: {told}");
        }
        for name in
            ["Authorization", "x-jwt-assertion", "x-goog-iap-jwt-assertion", "x-functions-key", "x-badge", "x-auth"]
        {
            assert_eq!(known.header(name, "t0p"), REDACTED, "{name}");
        }
        assert!(!known.header("referer", "https://a/b?token=t0p").contains("t0p"));
        assert_eq!(authority("me:t0p@host:80"), "[redacted]@host:80");
    }

    #[test]
    fn everything_else_is_told_as_it_is() {
        let known = Redaction::default();
        for plain in [
            "/a?b=c&flag&author=d&compass=n",
            "/a%20b?q=%C3%A4",
            "https://host:80/a?next=%2Fhome",
            "Mozilla/5.0 (X11; Linux x86_64; rv:1.0)",
            "text/html;q=0.8, */*;q=0.1",
            "a@b.example",
            "",
        ] {
            assert_eq!(known.text(plain), plain);
        }
        assert_eq!(known.header("x-request-id", "7"), "7");
        assert_eq!(authority("host:80"), "host:80");
    }
}
