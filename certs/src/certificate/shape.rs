//! The places of a certificate (RFC 5280, section 4.1), each filled by what belongs there and nothing after it: the parser behind
//! us skips what follows the last part that it knows.

use crate::der::{SEQUENCE, parts};

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SET: u8 = 0x31;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;

/// A tag and what it holds.
type Part<'a> = (u8, &'a [u8]);

/// True if the signed part of a certificate of version 3 has its eight parts, and each of these its own.
pub(super) fn is_whole(tbs: &[u8]) -> bool {
    let Some(outer) = parts(tbs) else { return false };
    let [(SEQUENCE, tbs)] = outer.as_slice() else { return false };
    let Some(fields) = parts(tbs) else { return false };
    let [
        (VERSION, version),
        (INTEGER, _),
        (SEQUENCE, algorithm),
        (SEQUENCE, issuer),
        (SEQUENCE, validity),
        (SEQUENCE, subject),
        (SEQUENCE, _key),
        (EXTENSIONS, extensions),
    ] = fields.as_slice()
    else {
        return false;
    };
    // The key is compared byte for byte elsewhere.
    tags(version, &[INTEGER])
        && tags(algorithm, &[OBJECT_IDENTIFIER])
        && each(validity, |(tag, _)| tag == UTC_TIME || tag == GENERALIZED_TIME)
        && parts(validity).is_some_and(|dates| dates.len() == 2)
        && each(issuer, is_relative_name)
        && each(subject, is_relative_name)
        && tags(extensions, &[SEQUENCE])
        && each(extensions, |(_, list)| each(list, is_extension))
}

/// True if every subtree of name constraints is a name alone, without the bounds on its depth that RFC 5280 does away with.
pub(super) fn has_bare_subtrees(constraints: &[u8]) -> bool {
    let bare = |(tag, tree): Part<'_>| tag == SEQUENCE && parts(tree).is_some_and(|parts| parts.len() == 1);
    tags(constraints, &[SEQUENCE]) && each(constraints, |(_, sorts)| each(sorts, |(_, trees)| each(trees, bare)))
}

/// One attribute: a type and a value.
fn is_relative_name((tag, set): Part<'_>) -> bool {
    let attribute = |(tag, attribute): Part<'_>| {
        let parts = parts(attribute).unwrap_or_default();
        tag == SEQUENCE && matches!(parts.as_slice(), [(OBJECT_IDENTIFIER, _), _])
    };
    tag == SET && parts(set).is_some_and(|attributes| attributes.len() == 1) && each(set, attribute)
}

fn is_extension((tag, extension): Part<'_>) -> bool {
    tag == SEQUENCE
        && (tags(extension, &[OBJECT_IDENTIFIER, OCTET_STRING])
            || tags(extension, &[OBJECT_IDENTIFIER, BOOLEAN, OCTET_STRING]))
}

fn tags(content: &[u8], wanted: &[u8]) -> bool {
    parts(content).is_some_and(|parts| parts.iter().map(|(tag, _)| tag).eq(wanted))
}

/// True if the content is elements and all of them are so.
fn each(content: &[u8], is_so: impl Fn(Part<'_>) -> bool) -> bool {
    parts(content).is_some_and(|parts| parts.into_iter().all(is_so))
}
