//! Headers that speak of identity are the proxy's to set, never the client's.

use harness::http::get_with;

use crate::pair;

#[test]
fn a55_claims_of_identity_never_reach_the_application() {
    let cluster = pair();
    let answer = get_with(
        cluster.node("web").outbound(),
        "reviews",
        "/",
        &[
            ("x-forwarded-client-cert", "By=spiffe://forged;URI=spiffe://forged"),
            ("x-skein-source", "bank/vault"),
            ("x-forwarded-for", "127.0.0.1"),
            ("forwarded", "for=127.0.0.1"),
            ("x-real-ip", "127.0.0.1"),
            ("X_Forwarded_Client_Cert", "URI=spiffe://forged"),
            ("X_Forwarded_For", "127.0.0.1"),
            ("X_Skein-Source", "bank/vault"),
            ("x_real_ip", "127.0.0.1"),
            ("x-kept", "yes"),
        ],
    )
    .expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    let arrivals = cluster.node("reviews").backends[0].arrivals();
    let arrived = arrivals.last().expect("it arrived");
    assert_eq!(arrived.header("x-kept"), Some("yes"));
    for name in [
        "x-skein-source",
        "forwarded",
        "x-real-ip",
        "x_forwarded_client_cert",
        "x_forwarded_for",
        "x_skein-source",
        "x_real_ip",
    ] {
        assert_eq!(arrived.header(name), None, "{name}: {arrived:?}");
    }
    let certificate = arrived.header("x-forwarded-client-cert").unwrap_or_default();
    assert!(!certificate.contains("forged"), "{arrived:?}");
    assert!(certificate.contains("spiffe://test.example/ns/shop/sa/default"), "set by us: {arrived:?}");
}

#[test]
fn a18_connection_strips_hop_by_hop_headers_but_not_ours() {
    let cluster = pair();
    let answer = get_with(
        cluster.node("web").outbound(),
        "reviews",
        "/",
        &[
            ("connection", "x-mine, authorization, x-forwarded-client-cert"),
            ("x-mine", "1"),
            ("authorization", "Bearer kept"),
            ("te", "gzip"),
            ("proxy-connection", "keep-alive"),
        ],
    )
    .expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    let arrivals = cluster.node("reviews").backends[0].arrivals();
    let arrived = arrivals.last().expect("it arrived");
    assert_eq!((arrived.header("x-mine"), arrived.header("proxy-connection")), (None, None), "{arrived:?}");
    assert_eq!(arrived.header("authorization"), Some("Bearer kept"), "{arrived:?}");
    assert!(arrived.header("x-forwarded-client-cert").is_some(), "{arrived:?}");
}
