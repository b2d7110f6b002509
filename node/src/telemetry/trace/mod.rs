//! Traces: the context that a request brings and takes along, and whether it is sampled.
//!
//! A decision that somebody made before holds. Else the first proxy decides, by the id of the request where policy lets it, so that
//! every proxy on the way comes to the same.

mod context;

pub use context::{Came, Context};

use http::{HeaderMap, HeaderName, HeaderValue};
use policy::compile::TraceRule;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORCE: HeaderName = HeaderName::from_static("x-envoy-force-trace");
/// Where a UUID says why it is traced.
const REASON: usize = 14;
/// Length of a UUID as text.
const UUID: usize = 36;
/// Sampling counts in ten-thousandths, as Envoy's does.
const WHOLE: u64 = 10_000;

/// A span that is open: a request that is sampled and reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// The trace and the span.
    pub context: Context,
    /// The span that this one is part of; 0 for none.
    pub parent: u64,
}

/// Decides about a request and tells it on in the headers. Gives the span, if the request is sampled and its spans go out.
/// `percent` holds where the rule says nothing.
pub fn begin(headers: &mut HeaderMap, rule: &TraceRule, percent: f64, random: impl Fn() -> u64) -> Option<Open> {
    let came = Came::of(headers);
    let known = came.context;
    let sampled = match came.sampled {
        // What nobody records goes on as it came.
        Some(false) if known.is_some() => return None,
        Some(sampled) => sampled,
        None => decide(headers, rule, percent, &random),
    };
    let trace = known.map_or_else(|| (u128::from(random()) << 64) | u128::from(random().max(1)), |known| known.trace);
    if !sampled || !rule.reports {
        // Without a span of ours the next one is part of the one before.
        let span = known.map_or_else(|| random().max(1), |known| known.span);
        let told = came.sampled.is_some() && known.is_some();
        if rule.propagates && !told {
            came.tell(headers, Context { trace, span, sampled }, 0);
        }
        return None;
    }
    let (context, parent) = (Context { trace, span: random().max(1), sampled }, known.map_or(0, |known| known.span));
    if rule.propagates {
        came.tell(headers, context, parent);
    }
    Some(Open { context, parent })
}

/// Whether a request is sampled about which nobody has decided.
fn decide(headers: &mut HeaderMap, rule: &TraceRule, percent: f64, random: &impl Fn() -> u64) -> bool {
    let share = share(rule.sampling_percent.unwrap_or(percent));
    let forced = headers.get(FORCE).is_some_and(|force| force == "true");
    let id = headers.get(REQUEST_ID).filter(|_| rule.by_request_id).map(HeaderValue::as_bytes);
    let Some(id) = id.filter(|id| is_uuid(id)) else { return forced || random() % WHOLE < share };
    if matches!(id[REASON], b'9' | b'a' | b'b') {
        return true;
    }
    let number = id[..8].iter().fold(0, |number, digit| number * 16 + u64::from(hex(*digit).unwrap_or(0)));
    let sampled = number % WHOLE < share;
    if forced || sampled {
        let mut marked = [0; UUID];
        marked.copy_from_slice(id);
        marked[REASON] = if sampled { b'9' } else { b'a' };
        if let Ok(marked) = HeaderValue::from_bytes(&marked) {
            headers.insert(REQUEST_ID, marked);
        }
    }
    forced || sampled
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 10000")]
fn share(percent: f64) -> u64 {
    (percent.clamp(0.0, 100.0) * 100.0).round() as u64
}

fn is_uuid(id: &[u8]) -> bool {
    let fits = |(place, byte): (usize, &u8)| match place {
        8 | 13 | 18 | 23 => *byte == b'-',
        _ => hex(*byte).is_some(),
    };
    id.len() == UUID && id.iter().enumerate().all(fits)
}

/// A digit in lower case.
const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
