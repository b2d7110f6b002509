//! The context of a trace in headers: W3C's `traceparent` and `tracestate`, and Zipkin's B3 in one header or several.
//!
//! Sources: W3C Trace Context (Recommendation, 2021), openzipkin/b3-propagation. Where both are there, W3C counts, and both are
//! told on. What is not valid counts as absent.

use super::hex;
use http::{HeaderMap, HeaderName, HeaderValue};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const B3: HeaderName = HeaderName::from_static("b3");
const B3_TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
const B3_SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
const B3_PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");
/// `00-TRACE-SPAN-FLAGS`.
const LENGTH: usize = 55;
/// `TRACE-SPAN-S-PARENT`.
const B3_LENGTH: usize = 68;

/// A place in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// The trace; never 0.
    pub trace: u128,
    /// The span; never 0.
    pub span: u64,
    /// Its spans are recorded.
    pub sampled: bool,
}

/// What a request brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Came {
    /// The trace and the caller's span; whether it is sampled says `sampled`.
    pub context: Option<Context>,
    /// The decision, if there is one.
    pub sampled: Option<bool>,
    /// The context is W3C's: `tracestate` belongs to it.
    w3c: bool,
    /// It also brought B3 in one header.
    single: bool,
    /// It also brought B3 in several.
    multi: bool,
    /// B3 in one header asks for it to be recorded whatever samplers say, and is told on so.
    debug: bool,
}

impl Came {
    /// Reads the headers of a request.
    pub fn of(headers: &HeaderMap) -> Self {
        let single = headers.get(B3);
        let multi = [B3_TRACE, B3_SAMPLED, B3_FLAGS].iter().any(|name| headers.contains_key(name));
        let debug = single.is_some_and(|value| is_debug(value.as_bytes()));
        let told = Self { single: single.is_some(), multi, debug, ..Self::default() };
        if let Some(context) = only(headers, &TRACEPARENT).and_then(|value| traceparent(value.as_bytes())) {
            return Self { context: Some(context), sampled: Some(context.sampled), w3c: true, ..told };
        }
        let (context, sampled) = match single {
            Some(value) => b3(value.as_bytes()),
            None if multi => b3_multi(headers),
            None => (None, None),
        };
        Self { context, sampled, ..told }
    }

    /// Tells a context on: W3C's always, B3 in the form in which it came.
    pub fn tell(&self, headers: &mut HeaderMap, context: Context, parent: u64) {
        if let Ok(value) = HeaderValue::from_bytes(&written(&context)) {
            headers.insert(TRACEPARENT, value);
        }
        if !self.w3c {
            headers.remove(TRACESTATE);
        }
        if self.single {
            let mut text = [b'-'; B3_LENGTH];
            write_hex(&mut text[..32], context.trace);
            write_hex(&mut text[33..49], context.span.into());
            text[50] = match (context.sampled, self.debug) {
                (true, true) => b'd',
                (true, false) => b'1',
                (false, _) => b'0',
            };
            write_hex(&mut text[52..], parent.into());
            let length = if parent == 0 { 51 } else { B3_LENGTH };
            if let Ok(value) = HeaderValue::from_bytes(&text[..length]) {
                headers.insert(B3, value);
            }
        }
        if self.multi {
            tell_multi(headers, &context, parent);
        }
    }
}

fn tell_multi(headers: &mut HeaderMap, context: &Context, parent: u64) {
    let mut text = [0; 32];
    let mut insert = |name: HeaderName, digits: usize, number: u128| {
        write_hex(&mut text[..digits], number);
        if let Ok(value) = HeaderValue::from_bytes(&text[..digits]) {
            headers.insert(name, value);
        }
    };
    insert(B3_TRACE, 32, context.trace);
    insert(B3_SPAN, 16, context.span.into());
    if parent == 0 {
        headers.remove(B3_PARENT);
    } else {
        insert(B3_PARENT, 16, parent.into());
    }
    if !is_debug_flag(headers) {
        headers.insert(B3_SAMPLED, HeaderValue::from_static(if context.sampled { "1" } else { "0" }));
    }
}

/// A header that stands once.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    let mut all = headers.get_all(name).iter();
    all.next().filter(|_| all.next().is_none())
}

/// Of a later version the beginning is read as that of version 00, as the recommendation wants it.
fn traceparent(value: &[u8]) -> Option<Context> {
    let (version, rest) = (number(value.get(..2)?)?, value.get(LENGTH..)?);
    let dashes = [2, 35, 52].iter().all(|place| value.get(*place) == Some(&b'-'));
    if !dashes || version == 0xff || version == 0 && !rest.is_empty() || !rest.is_empty() && rest[0] != b'-' {
        return None;
    }
    let (trace, span) = (number(&value[3..35])?, number(&value[36..52])?);
    let flags = number(&value[53..55])?;
    context(trace, span, flags & 1 == 1)
}

/// Whether the decision of `TRACE-SPAN[-SAMPLED[-PARENT]]`, or the decision alone, is that of somebody who looks for a fault.
fn is_debug(value: &[u8]) -> bool {
    value == b"d" || value.split(|byte| *byte == b'-').nth(2) == Some(b"d")
}

/// `TRACE-SPAN[-SAMPLED[-PARENT]]`, or the decision alone.
fn b3(value: &[u8]) -> (Option<Context>, Option<bool>) {
    if let Some(decision) = decision(value) {
        return (None, Some(decision));
    }
    let mut parts = value.split(|byte| *byte == b'-');
    let (trace, span, said) = (parts.next(), parts.next(), parts.next());
    let sampled = said.and_then(decision);
    let ids = trace.and_then(b3_trace).zip(span.filter(|span| span.len() == 16).and_then(number));
    let read = ids.and_then(|(trace, span)| context(trace, span, sampled.unwrap_or(false)));
    if read.is_none() || said.is_some() && sampled.is_none() { (None, None) } else { (read, sampled) }
}

fn b3_multi(headers: &HeaderMap) -> (Option<Context>, Option<bool>) {
    let bytes = |name: &HeaderName| only(headers, name).map(HeaderValue::as_bytes);
    let sampled = if is_debug_flag(headers) { Some(true) } else { bytes(&B3_SAMPLED).and_then(decision) };
    let ids = bytes(&B3_TRACE).and_then(b3_trace).zip(bytes(&B3_SPAN).filter(|span| span.len() == 16).and_then(number));
    let read = ids.and_then(|(trace, span)| context(trace, span, sampled.unwrap_or(false)));
    (read, sampled)
}

/// True if the flag says the decision by itself, which is then told on so. Any other value than 1 says nothing.
fn is_debug_flag(headers: &HeaderMap) -> bool {
    only(headers, &B3_FLAGS).is_some_and(|flag| flag == "1")
}

fn b3_trace(digits: &[u8]) -> Option<u128> {
    matches!(digits.len(), 16 | 32).then(|| number(digits)).flatten()
}

const fn decision(value: &[u8]) -> Option<bool> {
    match value {
        b"1" | b"d" | b"true" => Some(true),
        b"0" | b"false" => Some(false),
        _ => None,
    }
}

fn context(trace: u128, span: u128, sampled: bool) -> Option<Context> {
    let span = u64::try_from(span).ok().filter(|span| *span != 0)?;
    (trace != 0).then_some(Context { trace, span, sampled })
}

/// A number in digits of lower case; not more than 32 of them.
fn number(digits: &[u8]) -> Option<u128> {
    if digits.is_empty() || digits.len() > 32 {
        return None;
    }
    digits.iter().try_fold(0, |number, digit| Some((number << 4) | u128::from(hex(*digit)?)))
}

fn written(context: &Context) -> [u8; LENGTH] {
    let mut text = [b'-'; LENGTH];
    text[..2].copy_from_slice(b"00");
    write_hex(&mut text[3..35], context.trace);
    write_hex(&mut text[36..52], context.span.into());
    text[53..].copy_from_slice(if context.sampled { b"01" } else { b"00" });
    text
}

/// Fills the place with digits, the lowest last.
fn write_hex(place: &mut [u8], mut number: u128) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for digit in place.iter_mut().rev() {
        *digit = DIGITS[usize::try_from(number & 0xf).unwrap_or(0)];
        number >>= 4;
    }
}
