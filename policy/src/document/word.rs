//! A word that a later build may understand and this one need not.

use std::fmt;

/// Letters of a word at most.
const LONGEST: usize = 32;

/// ASCII letters and digits, a letter first, 32 at most; held in place, so that what bears one can be copied.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Word([u8; LONGEST]);

impl Word {
    /// The word of this text, if it is one.
    pub fn new(text: &str) -> Option<Self> {
        let begins = text.starts_with(|first: char| first.is_ascii_alphabetic());
        let mut word = Self([0; LONGEST]);
        word.0.get_mut(..text.len()).filter(|_| begins)?.copy_from_slice(text.as_bytes());
        text.bytes().all(|byte| byte.is_ascii_alphanumeric()).then_some(word)
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(LONGEST);
        std::str::from_utf8(&self.0[..end]).unwrap_or_default()
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_short_and_plain() {
        for text in ["TrafficMirror", "audit", "V2", &"x".repeat(LONGEST)] {
            assert_eq!(Word::new(text).unwrap().as_str(), text);
        }
        for text in ["", "2", "a-b", "a b", "a\0", "\0", "ä", "*", &"x".repeat(LONGEST + 1)] {
            assert_eq!(Word::new(text), None, "{text:?}");
        }
        assert!(Word::new("Ab") < Word::new("Abc") && Word::new("Abc") < Word::new("B"));
    }
}
