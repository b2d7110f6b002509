//! Scalars of policy documents: strings, whole numbers, durations, percentages, labels, time.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use certs::codec::Millis;

use super::{
    Asked, At, nearest,
    recording::{TEXT, number_within},
};
use crate::{codes, tree::Value};

impl<'a> At<'a> {
    /// A string.
    pub(crate) fn text(&self) -> Option<&'a str> {
        if self.notes(Asked::Text) {
            return Some(TEXT);
        }
        if let Value::Text(text) = &self.node.value {
            return Some(text);
        }
        self.wrong_type("a string", &self.node.value);
        None
    }

    /// A string that is not empty.
    pub(crate) fn filled_text(&self) -> Option<&'a str> {
        self.notes(Asked::FilledText);
        let text = self.text()?;
        if text.is_empty() {
            self.error(codes::EMPTY, "must not be empty");
            return None;
        }
        Some(text)
    }

    /// A boolean.
    pub(crate) fn boolean(&self) -> Option<bool> {
        if self.notes(Asked::Boolean) {
            return Some(false);
        }
        if let Value::Bool(value) = &self.node.value {
            return Some(*value);
        }
        self.wrong_type("a boolean", &self.node.value);
        None
    }

    /// A whole number within bounds. A string of digits is read too, as protobuf's JSON does.
    pub(crate) fn integer(&self, bounds: RangeInclusive<i64>) -> Option<i64> {
        if self.notes(Asked::Integer(*bounds.start(), *bounds.end())) {
            return Some(number_within(&bounds));
        }
        let number = match &self.node.value {
            Value::Integer(number) => *number,
            Value::Float(number) if number.fract() == 0.0 && number.abs() < 1e15 => {
                #[expect(clippy::cast_possible_truncation, reason = "whole and small enough, as just checked")]
                let whole = *number as i64;
                whole.into()
            }
            Value::Text(text) if text.parse::<i64>().is_ok() => text.parse().ok()?,
            other @ (Value::Null
            | Value::Bool(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::List(_)
            | Value::Map(_)) => {
                self.wrong_type("a whole number", other);
                return None;
            }
        };
        let inside = i64::try_from(number).ok().filter(|number| bounds.contains(number));
        if inside.is_none() {
            self.error(codes::RANGE, format!("{number} is not within {} to {}", bounds.start(), bounds.end()));
        }
        inside
    }

    /// A port number.
    pub(crate) fn port(&self) -> Option<u16> {
        self.integer(1..=65_535).and_then(|port| u16::try_from(port).ok())
    }

    /// A number.
    pub(crate) fn number(&self) -> Option<f64> {
        if self.notes(Asked::Number(None)) {
            return Some(1.0);
        }
        match &self.node.value {
            #[expect(clippy::cast_precision_loss, reason = "bounds that matter are far below 2^53")]
            Value::Integer(number) => Some(*number as f64),
            Value::Float(number) => Some(*number),
            other @ (Value::Null | Value::Bool(_) | Value::Text(_) | Value::List(_) | Value::Map(_)) => {
                self.wrong_type("a number", other);
                None
            }
        }
    }

    /// `Percent`, `{value: 12.5}`, in parts of a million: 0 or 0.0001 to 100.
    pub(crate) fn percent(&self) -> Option<u32> {
        let fields = self.fields()?;
        let value = fields.get("value");
        fields.finish();
        let Some(value) = value else { return Some(0) };
        value.notes(Asked::Number(Some((0, 100))));
        let number = value.number()?;
        if number != 0.0 && !(0.0001..=100.0).contains(&number) {
            value.error(codes::RANGE, format!("{number} is not 0 or within 0.0001 to 100"));
            return None;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "within 0 to 1,000,000 as just checked"
        )]
        Some((number * 10_000.0).round() as u32)
    }

    /// A duration in Go's syntax (`1m30s`), at least 1 ms and whole milliseconds.
    pub(crate) fn duration(&self) -> Option<Duration> {
        if self.notes(Asked::Duration(false)) {
            return Some(Duration::from_secs(1));
        }
        let duration = self.duration_or_zero()?;
        if duration.is_zero() {
            self.error(codes::DURATION, "the duration must be at least 1ms");
            return None;
        }
        Some(duration)
    }

    /// As [`At::duration`], where 0 has a meaning.
    pub(crate) fn duration_or_zero(&self) -> Option<Duration> {
        if self.notes(Asked::Duration(true)) {
            return Some(Duration::from_secs(1));
        }
        if let Value::Integer(number) = &self.node.value {
            self.error_hint(codes::DURATION, format!("`{number}` has no unit"), format!("write \"{number}s\""));
            return None;
        }
        let text = self.text()?;
        match parse_duration(text) {
            Ok(duration) => Some(duration),
            Err(reason) => {
                self.error_hint(
                    codes::DURATION,
                    format!("`{text}`: {reason}"),
                    "write it like 5s, 0.5s, 30ms, 1m30s or 2h",
                );
                None
            }
        }
    }

    /// One of some words.
    pub(crate) fn word<T: Copy>(&self, words: &[(&'static str, T)]) -> Option<T> {
        if let Some(recording) = &self.out.recording {
            recording.note_words(&self.path, words.iter().map(|(word, _)| *word));
            return words.first().map(|(_, value)| *value);
        }
        let text = self.text()?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let hint = match nearest(text, words.iter().map(|(word, _)| *word)) {
            Some(word) => format!("did you mean `{word}`?"),
            None => format!("one of {}", words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ")),
        };
        self.error_hint(codes::WORD, format!("`{text}` is not allowed here"), hint);
        None
    }

    /// True if it is this word, one beside those of [`At::word`].
    pub(crate) fn is_word(&self, word: &'static str) -> bool {
        !self.notes(Asked::Word(word)) && self.node.text() == Some(word)
    }

    /// A map of strings.
    pub(crate) fn texts(&self) -> BTreeMap<String, String> {
        self.entries().into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.text()?.to_owned()))).collect()
    }

    /// A list of strings.
    pub(crate) fn text_list(&self) -> Vec<(&str, At<'_>)> {
        self.items().into_iter().filter_map(|item| Some((item.text()?, item))).collect()
    }

    /// Labels: keys `[prefix/]name`, values of the same characters.
    pub(crate) fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::new();
        for (key, value) in self.entries() {
            let Some(text) = value.text() else { continue };
            if !is_label_key(key) {
                value.error(codes::LABEL, format!("`{key}` is not a label key"));
            }
            if !text.is_empty() && !is_label_name(text) {
                value.error(codes::LABEL, format!("`{text}` is not a label value"));
            }
            labels.insert(key.to_owned(), text.to_owned());
        }
        labels
    }

    /// An RFC 3339 time.
    pub(crate) fn time(&self) -> Option<Millis> {
        if self.notes(Asked::Time) {
            return Some(0);
        }
        let text = self.text()?;
        let time = parse_time(text);
        if time.is_none() {
            self.error_hint(codes::ANNOTATION, format!("`{text}` is not a time"), "write it like 2030-01-31T12:00:00Z");
        }
        time
    }
}

/// An RFC 3339 time in milliseconds since 1970.
pub(crate) fn parse_time(text: &str) -> Option<Millis> {
    let time: jiff::Timestamp = text.parse().ok()?;
    Millis::try_from(time.as_millisecond()).ok()
}

/// `[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?`, at most 63 characters.
pub(crate) fn is_label_name(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    text.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// True if a workload can have the label.
pub(crate) fn is_label(key: &str, value: &str) -> bool {
    is_label_key(key) && (value.is_empty() || is_label_name(value))
}

fn is_label_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => crate::hosts::is_dns_name(prefix) && is_label_name(name),
        None => is_label_name(key),
    }
}

/// A duration of a text, in Go's syntax and whole milliseconds.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    parse_duration(text).ok()
}

/// Go's `time.ParseDuration`, whole milliseconds.
fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.starts_with('-') {
        return Err("a duration cannot be negative");
    }
    if rest.is_empty() {
        return Err("not a duration");
    }
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let unit_end = after.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let unit_nanos: u128 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "" => return Err("a number has no unit"),
            _ => return Err("unknown unit"),
        };
        nanos = nanos.checked_add(scaled(number, unit_nanos)?).ok_or("too long")?;
        rest = after;
    }
    if !nanos.is_multiple_of(1_000_000) {
        return Err("only whole milliseconds are supported");
    }
    let millis = u64::try_from(nanos / 1_000_000).map_err(|_| "too long")?;
    // 10,000 years are Go's limit for protobuf durations; anything near it is a slip.
    if millis > 315_576_000_000 * 1_000 { Err("too long") } else { Ok(Duration::from_millis(millis)) }
}

/// `number` (with an optional fraction) times `unit`.
fn scaled(number: &str, unit: u128) -> Result<u128, &'static str> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || whole.len() > 18 || fraction.len() > 18 {
        return Err("not a number");
    }
    let parse =
        |digits: &str| if digits.is_empty() { Ok(0) } else { digits.parse::<u128>().map_err(|_| "not a number") };
    let digits = u32::try_from(fraction.len()).map_err(|_| "not a number")?;
    let part = parse(fraction)? * unit / 10_u128.pow(digits);
    parse(whole)?.checked_mul(unit).and_then(|whole| whole.checked_add(part)).ok_or("too long")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_go() {
        let millis = |text| parse_duration(text).map(|duration| duration.as_millis());
        assert_eq!(millis("5s"), Ok(5_000));
        assert_eq!(millis("0.5s"), Ok(500));
        assert_eq!(millis("30ms"), Ok(30));
        assert_eq!(millis("1m30s"), Ok(90_000));
        assert_eq!(millis("2h"), Ok(7_200_000));
        assert_eq!(millis("1h1m1.5s"), Ok(3_661_500));
        assert_eq!(millis("0s"), Ok(0));
        for bad in ["", "5", "s", "5x", "1..5s", "-1s", "0.0001s", "1s ", "1 s", "100us", "99999999999999999999h", "."]
        {
            assert!(millis(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn labels_follow_kubernetes() {
        for good in ["app", "app.kubernetes.io/name", "a-b_c.d"] {
            assert!(is_label_key(good), "{good}");
        }
        for bad in ["", "-a", "a-", "a b", "*", "/a", "a/", &"x".repeat(64)] {
            assert!(!is_label_key(bad), "{bad}");
        }
    }
}
