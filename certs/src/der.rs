//! The little DER that we write and compare ourselves.

mod strict;

pub(crate) use strict::{is_strict, parts};

/// Tags of X.690.
pub(crate) const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
pub(crate) const SEQUENCE: u8 = 0x30;

/// One element with the shortest form of its length, which is the only one that DER has.
pub(crate) fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let leading = length.iter().take_while(|byte| **byte == 0).count().min(length.len() - 1);
    let length = &length[leading..];
    let mut der = vec![tag];
    if content.len() >= 0x80 {
        der.push(0x80 | length.len() as u8);
    }
    der.extend_from_slice(length);
    der.extend_from_slice(content);
    der
}

/// An OCTET STRING.
pub(crate) fn octet_string(content: &[u8]) -> Vec<u8> {
    element(OCTET_STRING, content)
}

/// The content of an OCTET STRING that fills all of `der`; none above 64 KiB.
pub(crate) fn from_octet_string(der: &[u8]) -> Option<&[u8]> {
    let length = match der {
        [OCTET_STRING, short, ..] if *short < 0x80 => usize::from(*short),
        [OCTET_STRING, 0x81, length, ..] => usize::from(*length),
        [OCTET_STRING, 0x82, high, low, ..] => usize::from(*high) << 8 | usize::from(*low),
        _ => return None,
    };
    let content = &der[der.len().checked_sub(length)?..];
    (octet_string(content) == der).then_some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octet_strings_of_every_length_form() {
        for length in [0, 1, 127, 128, 255, 256, 4096, 65_535] {
            let content = vec![7; length];
            let der = octet_string(&content);
            assert_eq!(from_octet_string(&der), Some(content.as_slice()), "{length}");
            assert_eq!(from_octet_string(&der[..der.len() - 1]), None, "{length}");
        }
    }

    #[test]
    fn other_forms_are_none() {
        for der in
            [&[][..], &[4], &[4, 0x80], &[5, 0], &[4, 0x81, 1, 9], &[4, 0x82, 0, 1, 9], &[4, 1, 9, 9], &[4, 2, 9]]
        {
            assert_eq!(from_octet_string(der), None, "{der:?}");
        }
    }
}
