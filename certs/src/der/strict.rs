//! Whether bytes are DER and nothing looser: the parser behind us also takes some of BER, and what two stacks read differently
//! is what an attacker looks for (X.690 sections 8 and 10 to 11, RFC 5280 section 4.1.2.5).

/// How deep a certificate of ours may nest; our own reach 9.
const DEPTH: usize = 24;

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const NULL: u8 = 0x05;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const CONSTRUCTED: u8 = 0x20;

/// True if `der` is one element, it and all that it holds in the one encoding that DER has for a certificate's parts.
pub(crate) fn is_strict(der: &[u8]) -> bool {
    split(der).is_some_and(|(_, _, rest)| rest.is_empty()) && elements(der, DEPTH)
}

fn elements(mut der: &[u8], depth: usize) -> bool {
    while !der.is_empty() {
        let Some((tag, content, rest)) = split(der) else { return false };
        let holds = if tag & CONSTRUCTED == 0 {
            primitive(tag, content)
        } else {
            depth > 0 && sequence_or_set(tag) && elements(content, depth - 1)
        };
        if !holds {
            return false;
        }
        der = rest;
    }
    true
}

/// The elements of a content, in order; none if it is not elements.
pub(crate) fn parts(mut content: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut parts = Vec::new();
    while !content.is_empty() {
        let (tag, inner, rest) = split(content)?;
        parts.push((tag, inner));
        content = rest;
    }
    Some(parts)
}

/// Tag, content and what follows; none if the tag has more than one byte or the length is not the shortest one.
fn split(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, der) = der.split_first()?;
    let (&first, der) = der.split_first()?;
    if tag & 0x1f == 0x1f {
        return None;
    }
    let (length, der) = match first {
        0..=0x7f => (usize::from(first), der),
        0x81..=0x83 => {
            let (bytes, der) = der.split_at_checked(usize::from(first & 0x7f))?;
            let length = bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
            let shorter = if bytes.len() == 1 { length < 0x80 } else { bytes[0] == 0 };
            if shorter {
                return None;
            }
            (length, der)
        }
        // Indefinite, or longer than anything that we read.
        _ => return None,
    };
    let (content, rest) = der.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// Of the universal constructed types certificates use these two; DER has no constructed strings.
fn sequence_or_set(tag: u8) -> bool {
    tag & 0xc0 != 0 || tag == 0x30 || tag == 0x31
}

fn primitive(tag: u8, content: &[u8]) -> bool {
    match tag {
        // Every boolean of a certificate is false unless it stands there.
        BOOLEAN => content == [0xff],
        INTEGER => match content {
            [] => false,
            [0, second, ..] => second & 0x80 != 0,
            [0xff, second, ..] => second & 0x80 == 0,
            _ => true,
        },
        BIT_STRING => match content {
            [] => false,
            [unused] => *unused == 0,
            [unused, .., last] => *unused < 8 && last & ((1u8 << unused) - 1) == 0,
        },
        NULL => content.is_empty(),
        OBJECT_IDENTIFIER => identifier(content),
        UTC_TIME => content.len() == 13 && zulu(content),
        // Dates before 2050 are UTCTime.
        GENERALIZED_TIME => content.len() == 15 && zulu(content) && &content[..4] >= b"2050".as_slice(),
        _ => true,
    }
}

/// Whole base-128 numbers, none with a leading zero.
fn identifier(content: &[u8]) -> bool {
    let ends = content.last().is_some_and(|byte| byte & 0x80 == 0);
    let mut begins = true;
    let shortest = content.iter().all(|byte| {
        let padded = begins && *byte == 0x80;
        begins = byte & 0x80 == 0;
        !padded
    });
    ends && shortest
}

fn zulu(text: &[u8]) -> bool {
    text.split_last().is_some_and(|(last, digits)| *last == b'Z' && digits.iter().all(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn der_passes() {
        for der in [
            &[0x30, 0x00][..],
            &[0x01, 0x01, 0xff],
            &[0x02, 0x01, 0x00],
            &[0x02, 0x02, 0x00, 0x80],
            &[0x03, 0x01, 0x00],
            &[0x03, 0x02, 0x07, 0x80],
            &[0x05, 0x00],
            &[0x06, 0x03, 0x55, 0x1d, 0x0f],
            &[0x31, 0x04, 0x30, 0x02, 0xa0, 0x00],
            b"\x17\x0d260101000000Z",
            b"\x18\x0f20500101000000Z",
        ] {
            assert!(is_strict(der), "{der:02x?}");
        }
        let long = [&[0x04, 0x82, 0x01, 0x00], [7; 256].as_slice()].concat();
        assert!(is_strict(&long));
    }

    #[test]
    fn what_ber_also_allows_does_not() {
        for ber in [
            // Lengths: indefinite, longer than need be, beyond the end.
            &[0x30, 0x80, 0x00, 0x00][..],
            &[0x30, 0x81, 0x00],
            &[0x04, 0x81, 0x01, 0x07],
            &[0x04, 0x82, 0x00, 0x01, 0x07],
            &[0x04, 0x84, 0x00, 0x00, 0x00, 0x01, 0x07],
            &[0x04, 0x02, 0x07],
            &[0x04],
            // Nothing, or more than one element.
            &[],
            &[0x05, 0x00, 0x05, 0x00],
            // Values: other truths, padded numbers, bits that nobody reads, padded identifiers.
            &[0x01, 0x01, 0x01],
            &[0x01, 0x01, 0x00],
            &[0x01, 0x02, 0xff, 0xff],
            &[0x02, 0x00],
            &[0x02, 0x02, 0x00, 0x7f],
            &[0x02, 0x02, 0xff, 0x80],
            &[0x03, 0x00],
            &[0x03, 0x01, 0x01],
            &[0x03, 0x02, 0x07, 0xc0],
            &[0x03, 0x02, 0x08, 0x00],
            &[0x05, 0x01, 0x00],
            &[0x06, 0x00],
            &[0x06, 0x02, 0x55, 0x80],
            &[0x06, 0x03, 0x55, 0x80, 0x01],
            // Strings in pieces, tags of more than one byte.
            &[0x24, 0x03, 0x04, 0x01, 0x07],
            &[0x1f, 0x81, 0x01, 0x00],
            b"\x17\x0b2601010000Z",
            b"\x17\x112601010000+0100",
            b"\x18\x0f20260101000000Z",
            b"\x18\x1120500101000000.5Z",
        ] {
            assert!(!is_strict(ber), "{ber:02x?}");
        }
        let deep: Vec<u8> = (0..30u8).rev().flat_map(|inner| [0x30, inner * 2]).collect();
        assert!(!is_strict(&deep));
    }
}
