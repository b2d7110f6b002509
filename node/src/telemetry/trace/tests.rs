//! Tests of contexts and decisions.

use super::*;
use proptest::prelude::*;
use std::cell::Cell;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const TRACE: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;

fn rule(percent: f64) -> TraceRule {
    TraceRule {
        provider: None,
        sampling_percent: Some(percent),
        reports: true,
        tags: Vec::new(),
        istio_tags: true,
        by_request_id: true,
        propagates: true,
    }
}

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

/// Counts up, so that ids are known.
fn begin_with(headers: &mut HeaderMap, rule: &TraceRule) -> Option<Open> {
    let next = Cell::new(0);
    begin(headers, rule, 1.0, || {
        next.set(next.get() + 1);
        next.get()
    })
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).map_or("", |value| value.to_str().unwrap())
}

#[test]
fn a_decision_made_before_holds() {
    let mut sampled = headers(&[("traceparent", PARENT), ("tracestate", "a=b,c=d")]);
    let open = begin_with(&mut sampled, &rule(0.0)).unwrap();
    assert_eq!((open.context.trace, open.context.span, open.parent), (TRACE, 1, 0xb7ad_6b71_6920_3331));
    assert_eq!(text(&sampled, "traceparent"), "00-0af7651916cd43dd8448eb211c80319c-0000000000000001-01");
    assert_eq!(text(&sampled, "tracestate"), "a=b,c=d");
    let unsampled = PARENT.replace("-01", "-00");
    let mut left = headers(&[("traceparent", &unsampled)]);
    assert_eq!(begin_with(&mut left, &rule(100.0)), None);
    assert_eq!(left, headers(&[("traceparent", &unsampled)]), "it goes on as it came");
}

#[test]
fn the_first_proxy_begins_a_trace_and_tells_of_it_either_way() {
    let mut sampled = headers(&[("tracestate", "nobodys=1")]);
    let open = begin_with(&mut sampled, &rule(100.0)).unwrap();
    assert_eq!((open.context.sampled, open.parent), (true, 0));
    assert!(text(&sampled, "traceparent").ends_with("-01") && text(&sampled, "tracestate").is_empty());
    let mut unsampled = HeaderMap::new();
    assert_eq!(begin_with(&mut unsampled, &rule(0.0)), None);
    assert!(text(&unsampled, "traceparent").ends_with("-00"));
    let mut silent = HeaderMap::new();
    begin_with(&mut silent, &TraceRule { propagates: false, ..rule(100.0) }).unwrap();
    assert!(silent.is_empty());
}

#[test]
fn b3_is_told_on_in_the_form_in_which_it_came() {
    let single = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1-05e3ac9a4f6e3b90";
    let mut one = headers(&[("b3", single)]);
    let open = begin_with(&mut one, &rule(0.0)).unwrap();
    assert_eq!((open.context.trace, open.parent), (TRACE, 0xb7ad_6b71_6920_3331));
    assert_eq!(text(&one, "b3"), "0af7651916cd43dd8448eb211c80319c-0000000000000001-1-b7ad6b7169203331");
    assert!(text(&one, "traceparent").starts_with("00-0af7651916cd43dd8448eb211c80319c-0000000000000001-01"));
    let mut several =
        headers(&[("x-b3-traceid", "8448eb211c80319c"), ("x-b3-spanid", "b7ad6b7169203331"), ("x-b3-sampled", "1")]);
    let open = begin_with(&mut several, &rule(0.0)).unwrap();
    assert_eq!(open.context.trace, 0x8448_eb21_1c80_319c);
    let told = ["x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled"].map(|name| text(&several, name));
    assert_eq!(told, ["00000000000000008448eb211c80319c", "0000000000000001", "b7ad6b7169203331", "1"]);
    assert!(text(&several, "b3").is_empty());
    // The decision is still to be made.
    let mut open_end = headers(&[("b3", "8448eb211c80319c-b7ad6b7169203331")]);
    assert_eq!(begin_with(&mut open_end, &rule(0.0)), None);
    assert_eq!(text(&open_end, "b3"), "00000000000000008448eb211c80319c-b7ad6b7169203331-0");
    let mut denied = headers(&[("b3", "0")]);
    assert_eq!(begin_with(&mut denied, &rule(100.0)), None);
    let mut debug =
        headers(&[("x-b3-flags", "1"), ("x-b3-traceid", "8448eb211c80319c"), ("x-b3-spanid", "b7ad6b7169203331")]);
    assert!(begin_with(&mut debug, &rule(0.0)).is_some());
}

#[test]
fn who_looks_for_a_fault_is_heard_and_told_on_so() {
    let mut alone = headers(&[("x-b3-flags", "1")]);
    assert!(begin_with(&mut alone, &rule(0.0)).is_some_and(|open| open.context.sampled));
    assert_eq!((text(&alone, "x-b3-flags"), text(&alone, "x-b3-traceid").len()), ("1", 32));
    let mut one = headers(&[("b3", "8448eb211c80319c8448eb211c80319c-b7ad6b7169203331-d")]);
    assert!(begin_with(&mut one, &rule(0.0)).is_some_and(|open| open.context.sampled));
    assert_eq!(text(&one, "b3"), "8448eb211c80319c8448eb211c80319c-0000000000000001-d-b7ad6b7169203331");
    let mut decision = headers(&[("b3", "d")]);
    begin_with(&mut decision, &rule(0.0));
    assert!(text(&decision, "b3").ends_with("-d"), "{decision:?}");
}

#[test]
fn a_flag_that_asks_for_nothing_leaves_the_decision_to_be_told() {
    for flag in ["0", ""] {
        let mut alone = headers(&[("x-b3-flags", flag)]);
        assert!(begin_with(&mut alone, &rule(100.0)).is_some());
        assert_eq!(text(&alone, "x-b3-sampled"), "1", "{flag:?}");
        let ids = [("x-b3-traceid", "8448eb211c80319c"), ("x-b3-spanid", "b7ad6b7169203331"), ("x-b3-flags", flag)];
        let mut undecided = headers(&ids);
        assert_eq!(begin_with(&mut undecided, &rule(0.0)), None);
        assert_eq!(text(&undecided, "x-b3-sampled"), "0", "{flag:?}");
    }
    let mut debug = headers(&[("x-b3-flags", "1")]);
    begin_with(&mut debug, &rule(0.0));
    assert!(!debug.contains_key("x-b3-sampled"), "the flag says it");
}

#[test]
fn what_is_not_valid_counts_as_absent() {
    for value in [
        "",
        "00",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01more",
        "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ] {
        assert_eq!(Came::of(&headers(&[("traceparent", value)])).context, None, "{value}");
    }
    assert_eq!(Came::of(&headers(&[("traceparent", PARENT), ("traceparent", PARENT)])).context, None);
    let later = PARENT.replacen("00", "cc", 1) + "-what-comes-next";
    assert_eq!(Came::of(&headers(&[("traceparent", &later)])).context.map(|context| context.trace), Some(TRACE));
    for value in
        ["x", "0af7651916cd43dd8448eb211c80319c", "0af7-b7ad6b7169203331-1", "8448eb211c80319c-b7ad6b7169203331-x"]
    {
        let came = Came::of(&headers(&[("b3", value)]));
        assert_eq!((came.context, came.sampled), (None, None), "{value}");
    }
}

#[test]
fn the_id_of_the_request_decides_the_same_everywhere_and_says_so() {
    // 0x2710 is 10000: the share of nobody. 0x2711 is of everybody but them.
    let id = |head: &str, reason: char| format!("{head}-1234-{reason}234-8234-123456789abc");
    let decided = |request_id: &str, percent: f64| {
        let mut told = headers(&[("x-request-id", request_id)]);
        let sampled = begin_with(&mut told, &rule(percent)).is_some();
        (sampled, text(&told, "x-request-id").to_owned())
    };
    assert_eq!(decided(&id("00002710", '4'), 0.01), (true, id("00002710", '9')));
    assert_eq!(decided(&id("00002711", '4'), 0.01), (false, id("00002711", '4')));
    for reason in ['9', 'a', 'b'] {
        assert_eq!(decided(&id("ffffffff", reason), 0.0), (true, id("ffffffff", reason)));
    }
    assert!(decided("mine", 100.0).0, "drawn where the id is none");
    let mut forced = headers(&[("x-request-id", &id("00002711", '4')), ("x-envoy-force-trace", "true")]);
    assert!(begin_with(&mut forced, &rule(0.0)).is_some());
    assert_eq!(text(&forced, "x-request-id"), id("00002711", 'a'));
    let mut apart = headers(&[("x-request-id", &id("00002711", '9'))]);
    assert_eq!(begin_with(&mut apart, &TraceRule { by_request_id: false, ..rule(0.0) }), None);
}

#[test]
fn without_reports_the_next_span_is_part_of_the_one_before() {
    let silent = TraceRule { reports: false, ..rule(0.0) };
    let mut came = headers(&[("traceparent", PARENT)]);
    assert_eq!(begin_with(&mut came, &silent), None);
    assert_eq!(text(&came, "traceparent"), PARENT);
    let mut first = HeaderMap::new();
    assert_eq!(begin_with(&mut first, &TraceRule { reports: false, ..rule(100.0) }), None);
    assert!(text(&first, "traceparent").ends_with("-01"), "sampling goes on");
}

proptest! {
    #[test]
    fn whatever_comes_a_valid_context_goes_on(parent in "[ -~]{0,70}", b3 in "[0-9a-fd-]{0,70}", flags in "[ -~]{0,3}") {
        let mut told = headers(&[("traceparent", &parent), ("b3", &b3), ("x-b3-sampled", &flags)]);
        begin_with(&mut told, &rule(100.0));
        prop_assert!(Came::of(&told).context.is_some());
    }

    #[test]
    fn what_is_written_is_read(trace in 1u128.., span in 1u64.., parent in any::<u64>(), sampled in any::<bool>()) {
        let context = Context { trace, span, sampled };
        let mut told = headers(&[("b3", "1"), ("x-b3-traceid", "")]);
        Came::of(&told).tell(&mut told, context, parent);
        prop_assert_eq!(Came::of(&told).context, Some(context));
        told.remove("traceparent");
        prop_assert_eq!(Came::of(&told).context, Some(context));
        told.remove("b3");
        prop_assert_eq!(Came::of(&told).context, Some(context));
    }
}
