//! Tokens of every kind against rules of every kind.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
        EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512,
        RSA_PSS_SHA256, RsaEncoding, RsaKeyPair,
    },
};
use http::{HeaderName, HeaderValue, Request, header::AUTHORIZATION, request::Parts};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{keys::encode, *};
use crate::kinds::{TokenKeys, TokenRule};

const NOW: u64 = 1_800_000_000;

type Sign = Box<dyn Fn(&[u8]) -> Vec<u8>>;

/// Somebody who signs tokens.
struct Issuer {
    algorithm: &'static str,
    jwk: Value,
    sign: Sign,
}

impl Issuer {
    fn token(&self, claims: &Value) -> String {
        self.token_as(&json!({"alg": self.algorithm, "typ": "JWT"}), claims)
    }

    fn token_as(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
        let signature = (self.sign)(signed.as_bytes());
        format!("{signed}.{}", encode(&signature))
    }

    fn keys(&self) -> String {
        json!({"keys": [self.jwk]}).to_string()
    }
}

fn elliptic(algorithm: &'static str, curve: &str, signing: &'static EcdsaSigningAlgorithm) -> Issuer {
    let pair = EcdsaKeyPair::generate(signing).unwrap();
    let point = &pair.public_key().as_ref()[1..];
    let (x, y) = point.split_at(point.len() / 2);
    let jwk = json!({"kty": "EC", "crv": curve, "x": encode(x), "y": encode(y)});
    let sign = move |message: &[u8]| pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec();
    Issuer { algorithm, jwk, sign: Box::new(sign) }
}

fn p256() -> Issuer {
    elliptic("ES256", "P-256", &ECDSA_P256_SHA256_FIXED_SIGNING)
}

fn ed25519() -> Issuer {
    let pair = Ed25519KeyPair::generate().unwrap();
    let jwk =
        json!({"kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key().as_ref()), "kid": "ed", "use": "sig"});
    Issuer { algorithm: "EdDSA", jwk, sign: Box::new(move |message| pair.sign(message).as_ref().to_vec()) }
}

fn rsa(algorithm: &'static str, encoding: &'static dyn RsaEncoding, pair: &Arc<RsaKeyPair>) -> Issuer {
    let public = pair.public_key();
    let (n, e) = (public.modulus().big_endian_without_leading_zero(), public.exponent());
    let jwk = json!({"kty": "RSA", "n": encode(n), "e": encode(e.big_endian_without_leading_zero())});
    let pair = Arc::clone(pair);
    let sign = move |message: &[u8]| {
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(encoding, &SystemRandom::new(), message, &mut signature).unwrap();
        signature
    };
    Issuer { algorithm, jwk, sign: Box::new(sign) }
}

fn secret() -> Issuer {
    let jwk = json!({"kty": "oct", "k": encode(b"a secret of thirty-two bytes ...")});
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"a secret of thirty-two bytes ...");
    Issuer { algorithm: "HS256", jwk, sign: Box::new(move |message| hmac::sign(&key, message).as_ref().to_vec()) }
}

fn rule(issuer: &str, keys: String) -> TokenRule {
    TokenRule {
        issuer: issuer.to_owned(),
        audiences: Vec::new(),
        keys: TokenKeys::Inline(keys),
        from_headers: Vec::new(),
        from_params: Vec::new(),
        from_cookies: Vec::new(),
        output_payload: None,
        output_claims: Vec::new(),
        forward_original: false,
        timeout: Duration::from_secs(5),
        space_delimited: Vec::new(),
        required: false,
    }
}

fn parts(target: &str, headers: &[(&'static str, &str)]) -> Parts {
    let mut request = Request::get(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn bearer(token: &str) -> Parts {
    parts("/", &[("authorization", &format!("Bearer {token}"))])
}

/// Fetched keys: none, or one set for all.
#[derive(Default)]
struct Fetched {
    keys: Option<Arc<KeySet>>,
    missed: Mutex<BTreeSet<Source>>,
}

impl Keys for Fetched {
    fn of(&self, _: &Source) -> Option<Arc<KeySet>> {
        self.keys.clone()
    }

    fn missed(&self, source: &Source) {
        self.missed.lock().unwrap().insert(source.clone());
    }
}

fn check(rules: &[TokenRule], parts: &mut Parts) -> Result<Option<Verified>, Refusal> {
    Tokens::new(rules, "shop").check(parts, &Fetched::default(), NOW)
}

fn refused(rules: &[TokenRule], parts: &mut Parts) -> Refusal {
    check(rules, parts).expect_err("it holds")
}

#[test]
fn every_algorithm_verifies_what_it_signed_and_nothing_else() {
    let pair = Arc::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap());
    let issuers = [
        p256(),
        elliptic("ES384", "P-384", &ECDSA_P384_SHA384_FIXED_SIGNING),
        elliptic("ES512", "P-521", &ECDSA_P521_SHA512_FIXED_SIGNING),
        ed25519(),
        rsa("RS256", &RSA_PKCS1_SHA256, &pair),
        rsa("RS512", &RSA_PKCS1_SHA512, &pair),
        rsa("PS256", &RSA_PSS_SHA256, &pair),
        secret(),
    ];
    for issuer in &issuers {
        let rules = [rule("i", issuer.keys())];
        let token = issuer.token(&json!({"iss": "i", "sub": "s"}));
        let verified = check(&rules, &mut bearer(&token)).unwrap().expect(issuer.algorithm);
        assert_eq!(verified.token.claims["sub"], "s");
        // Another payload under the same signature.
        let sections: Vec<&str> = token.split('.').collect();
        let forged = encode(br#"{"iss": "i", "sub": "t"}"#);
        let forged = format!("{}.{forged}.{}", sections[0], sections[2]);
        assert_eq!(refused(&rules, &mut bearer(&forged)), Refusal::Signature, "{}", issuer.algorithm);
        let other = p256().token_as(&json!({"alg": issuer.algorithm}), &json!({"iss": "i"}));
        assert_eq!(refused(&rules, &mut bearer(&other)), Refusal::Signature, "{}", issuer.algorithm);
    }
}

#[test]
fn a_key_serves_its_own_algorithms_only() {
    let issuer = p256();
    let (token, rules) = (issuer.token(&json!({"iss": "i"})), [rule("i", issuer.keys())]);
    let swapped = |algorithm: &str| {
        let rest = token.split_once('.').unwrap().1;
        format!("{}.{rest}", encode(json!({"alg": algorithm}).to_string().as_bytes()))
    };
    // The oldest trick: the public key as a secret, and no signature at all.
    assert_eq!(refused(&rules, &mut bearer(&swapped("HS256"))), Refusal::NoSuchKey);
    assert_eq!(refused(&rules, &mut bearer(&swapped("none"))), Refusal::UnknownAlg);
    assert_eq!(refused(&rules, &mut bearer(&swapped("ES384"))), Refusal::NoSuchKey);
    let mut jwk = issuer.jwk.clone();
    jwk["alg"] = json!("ES384");
    assert_eq!(refused(&[rule("i", json!({"keys": [jwk]}).to_string())], &mut bearer(&token)), Refusal::NoSuchKey);
    // A name picks the key; without one all are tried.
    let mut jwk = issuer.jwk.clone();
    jwk["kid"] = json!("new");
    let rules = [rule("i", json!({"keys": [p256().jwk, jwk]}).to_string())];
    assert!(check(&rules, &mut bearer(&token)).unwrap().is_some());
    let named = |name: &str| issuer.token_as(&json!({"alg": "ES256", "kid": name}), &json!({"iss": "i"}));
    assert!(check(&rules, &mut bearer(&named("new"))).unwrap().is_some());
    let other = [rule("i", json!({"keys": [jwk]}).to_string())];
    assert_eq!(refused(&other, &mut bearer(&named("old"))), Refusal::NoSuchKey);
}

#[test]
fn claims_decide_in_envoys_words() {
    let issuer = p256();
    let mut believed = rule("i", issuer.keys());
    believed.audiences = vec!["https://shop.example/".to_owned()];
    let rules = [believed];
    let text = |claims: Value| match check(&rules, &mut bearer(&issuer.token(&claims))) {
        Ok(verified) => verified.map_or("nobody", |_| "ok"),
        Err(refusal) => refusal.text(),
    };
    assert_eq!(text(json!({"iss": "i", "aud": "shop.example"})), "ok");
    assert_eq!(text(json!({"iss": "i", "aud": ["a", "http://shop.example"], "exp": NOW + 1, "nbf": NOW})), "ok");
    assert_eq!(text(json!({"iss": "i", "aud": "shop.example", "exp": NOW - 30})), "ok", "clocks differ");
    assert_eq!(text(json!({"iss": "i", "aud": "shop.example", "exp": NOW - 61})), "Jwt is expired");
    assert_eq!(text(json!({"iss": "i", "aud": "shop.example", "nbf": NOW + 61})), "Jwt not yet valid");
    assert_eq!(text(json!({"iss": "j", "aud": "shop.example"})), "Jwt issuer is not configured");
    assert_eq!(text(json!({"iss": "i", "aud": "other"})), "Audiences in Jwt are not allowed");
    assert_eq!(text(json!({"iss": "i"})), "Audiences in Jwt are not allowed");
    assert_eq!(text(json!({"iss": "i", "aud": 7})), "Jwt payload [aud] field is not a string or string list");
    assert_eq!(text(json!({"iss": "i", "exp": "soon"})), "Jwt payload [exp] field is not an integer or overflow");
    assert_eq!((Refusal::Audience.status(), Refusal::Expired.status()), (403, 401));
    assert_eq!(Refusal::Expired.details(), "jwt_authn_access_denied{Jwt_is_expired}");
    assert_eq!(Refusal::Missing.challenge("http://a/b"), "Bearer realm=\"http://a/b\"");
    assert_eq!(Refusal::Expired.challenge("http://a/\"b"), "Bearer realm=\"http://a/b\", error=\"invalid_token\"");
}

#[test]
fn what_is_no_token_says_why() {
    let issuer = p256();
    let rules = [rule("i", issuer.keys())];
    let header = encode(br#"{"alg": "ES256"}"#);
    for (token, refusal) in [
        (String::new(), Refusal::Form),
        ("a.b".to_owned(), Refusal::Form),
        ("a.b.c.d".to_owned(), Refusal::Form),
        ("?.e30.e30".to_owned(), Refusal::HeaderBase64),
        (format!("{}.e30.e30", encode(b"[]")), Refusal::HeaderJson),
        ("e30.e30.e30".to_owned(), Refusal::HeaderAlg),
        (format!("{}.e30.e30", encode(br#"{"alg": "ES256", "kid": 1}"#)), Refusal::HeaderKid),
        (format!("{}.e30.e30", encode(br#"{"alg": "ES256", "crit": ["b64"]}"#)), Refusal::Critical),
        (format!("{header}.?.e30"), Refusal::PayloadBase64),
        (format!("{header}.{}.e30", encode(b"7")), Refusal::PayloadJson),
        (format!("{header}.e30.?"), Refusal::SignatureBase64),
    ] {
        assert_eq!(refused(&rules, &mut bearer(&token)), refusal, "{token}");
    }
}

#[test]
fn without_a_token_a_request_passes_unless_one_is_required() {
    let issuer = p256();
    let mut rules = vec![rule("i", issuer.keys())];
    assert!(check(&rules, &mut parts("/", &[])).unwrap().is_none());
    assert!(check(&rules, &mut parts("/", &[("authorization", "Basic YTpi")])).unwrap().is_none());
    rules.push(TokenRule { required: true, ..rule("j", issuer.keys()) });
    assert_eq!(refused(&rules, &mut parts("/", &[])), Refusal::Missing);
    let mut preflight = parts("/", &[("origin", "http://a"), ("access-control-request-method", "GET")]);
    preflight.method = Method::OPTIONS;
    assert!(check(&rules, &mut preflight).unwrap().is_none(), "a preflight bears no token");
    assert!(check(&[], &mut bearer("nonsense")).unwrap().is_none(), "nobody asks");
}

#[test]
fn a_token_need_satisfy_one_rule() {
    let (one, other) = (p256(), p256());
    let rules = [rule("i", one.keys()), rule("j", other.keys())];
    for (issuer, name) in [(&one, "i"), (&other, "j")] {
        assert!(check(&rules, &mut bearer(&issuer.token(&json!({"iss": name})))).unwrap().is_some());
    }
    assert_eq!(refused(&rules, &mut bearer(&one.token(&json!({"iss": "j"})))), Refusal::Signature, "names the cause");
    assert_eq!(refused(&rules, &mut bearer(&one.token(&json!({"iss": "k"})))), Refusal::Issuer);
}

#[test]
fn tokens_are_found_and_taken_out_where_rules_say() {
    let issuer = p256();
    let token = issuer.token(&json!({"iss": "i"}));
    let mut believed = rule("i", issuer.keys());
    // The two default places.
    let mut shown = bearer(&token);
    check(std::slice::from_ref(&believed), &mut shown).unwrap().unwrap();
    assert!(!shown.headers.contains_key(AUTHORIZATION));
    let mut shown = parts(&format!("/p?a=1&access_token={token}&b=2"), &[]);
    check(std::slice::from_ref(&believed), &mut shown).unwrap().unwrap();
    assert_eq!(shown.uri, "/p?a=1&b=2");
    let mut shown = parts(&format!("http://h.example/p?access_token={token}"), &[]);
    check(std::slice::from_ref(&believed), &mut shown).unwrap().unwrap();
    assert_eq!(shown.uri, "http://h.example/p");
    // Named places replace them.
    believed.from_headers = vec![(HeaderName::from_static("x-token"), "T ".to_owned())];
    believed.from_params = vec!["t".to_owned()];
    believed.from_cookies = vec!["session".to_owned()];
    assert!(check(std::slice::from_ref(&believed), &mut bearer(&token)).unwrap().is_none());
    let mut shown = parts("/", &[("x-token", &format!("T {token}")), ("x-token", "other")]);
    check(std::slice::from_ref(&believed), &mut shown).unwrap().unwrap();
    assert_eq!(shown.headers.get_all("x-token").iter().collect::<Vec<_>>(), ["other"]);
    let mut shown = parts("/", &[("cookie", &format!("a=b; session={token}; c=d"))]);
    check(std::slice::from_ref(&believed), &mut shown).unwrap().unwrap();
    assert_eq!(shown.headers["cookie"], "a=b; c=d");
    // Whatever another cookie holds; and what is no text is no token.
    let with_cookies = |cookies: &[&[u8]]| {
        let mut shown = parts("/", &[]);
        shown.headers.insert("cookie", HeaderValue::from_bytes(&cookies.concat()).unwrap());
        shown
    };
    let mut shown = with_cookies(&[b"name=J\xfcrgen; session=", token.as_bytes(), b"; c=d"]);
    assert!(check(std::slice::from_ref(&believed), &mut shown).unwrap().is_some());
    assert_eq!(shown.headers["cookie"].as_bytes(), b"name=J\xfcrgen; c=d");
    for forged in [&b"\xff; session=forged.token.here"[..], b"session=\xff", b"session=forged.token.\xff"] {
        assert!(check(std::slice::from_ref(&believed), &mut with_cookies(&[forged])).is_err(), "{forged:?}");
    }
    let mut twice = parts(&format!("/?t={token}"), &[("x-token", "T other.token.here")]);
    assert_eq!(refused(std::slice::from_ref(&believed), &mut twice), Refusal::Several);
    // Kept where the rule says so.
    believed.forward_original = true;
    let mut shown = parts(&format!("/?t={token}"), &[]);
    check(&[believed], &mut shown).unwrap().unwrap();
    assert!(shown.uri.query().unwrap().contains(&token));
}

#[test]
fn claims_go_on_in_headers_that_nobody_else_can_write() {
    let issuer = p256();
    let mut believed = rule("i", issuer.keys());
    believed.output_payload = Some(HeaderName::from_static("x-payload"));
    believed.output_claims = [("x-sub", "sub"), ("x-deep", "a.b"), ("x-list", "l"), ("x-not", "none")]
        .map(|(header, claim)| (HeaderName::from_static(header), claim.to_owned()))
        .to_vec();
    let rules = [believed];
    let sent = [
        ("x-sub", "root"),
        ("x_sub", "root"),
        ("x-payload", "e30"),
        ("x_payload", "e30"),
        ("x-not", "x"),
        ("x_not", "x"),
    ];
    let mut forged = parts("/", &sent);
    assert!(check(&rules, &mut forged).unwrap().is_none());
    assert!(forged.headers.is_empty(), "{:?}", forged.headers);
    let claims = json!({"iss": "i", "sub": "alice", "a": {"b": 7}, "l": ["x"]});
    let token = issuer.token(&claims);
    let mut shown = parts("/", &[("authorization", &format!("Bearer {token}")), ("x-sub", "root"), ("X_Sub", "root")]);
    check(&rules, &mut shown).unwrap().unwrap();
    assert_eq!(shown.headers.get_all("x-sub").iter().collect::<Vec<_>>(), ["alice"]);
    assert!(!shown.headers.contains_key("x_sub"), "an application may read it as x-sub");
    assert_eq!(shown.headers["x-deep"], "7");
    assert_eq!(shown.headers["x-list"], encode(br#"["x"]"#));
    assert_eq!(shown.headers["x-payload"], encode(claims.to_string().as_bytes()));
    assert!(!shown.headers.contains_key("x-not"));
}

#[test]
fn fetched_keys_are_asked_for_and_a_missing_one_is_told() {
    let issuer = ed25519();
    let believed = TokenRule { keys: TokenKeys::Discovered, ..rule("https://i.example", String::new()) };
    let tokens = Tokens::new([&believed], "shop");
    let source = Source { namespace: "shop".to_owned(), site: Site::Issuer("https://i.example".to_owned()) };
    assert_eq!(tokens.sources().collect::<Vec<_>>(), [(&source, Duration::from_secs(5))]);
    let token = issuer.token(&json!({"iss": "https://i.example"}));
    let none = Fetched::default();
    assert_eq!(tokens.check(&mut bearer(&token), &none, NOW).unwrap_err(), Refusal::NoKeys);
    let keys = Some(Arc::new(KeySet::read(&issuer.keys()).unwrap()));
    let some = Fetched { keys, ..Fetched::default() };
    assert!(tokens.check(&mut bearer(&token), &some, NOW).unwrap().is_some());
    let rotated = issuer.token_as(&json!({"alg": "EdDSA", "kid": "next"}), &json!({"iss": "https://i.example"}));
    assert_eq!(tokens.check(&mut bearer(&rotated), &some, NOW).unwrap_err(), Refusal::NoSuchKey);
    assert_eq!(some.missed.lock().unwrap().iter().collect::<Vec<_>>(), [&source]);
}

#[test]
fn keys_that_were_fetched_for_one_namespace_count_in_no_other() {
    let believed =
        TokenRule { keys: TokenKeys::Fetched("http://keycloak/keys".to_owned()), ..rule("i", String::new()) };
    let source = |namespace: &str| Tokens::new([&believed], namespace).sources().next().unwrap().0.clone();
    assert_eq!(source("dev"), source("dev"));
    assert_ne!(source("dev"), source("prod"));
}

#[test]
fn who_is_believed_no_more_is_told_apart() {
    let issuer = p256();
    let believed = rule("i", issuer.keys());
    let verified =
        check(std::slice::from_ref(&believed), &mut bearer(&issuer.token(&json!({"iss": "i"})))).unwrap().unwrap();
    assert!(Tokens::new([&believed], "shop").believe(&verified));
    assert!(!Tokens::new([&rule("i", p256().keys())], "shop").believe(&verified));
    assert!(!Tokens::default().believe(&verified));
}

#[test]
fn sets_of_keys_leave_out_what_verifies_nothing() {
    let set = KeySet::read(
        r#"{"keys": [{"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"}, {"kty": "RSA", "use": "enc", "n": "AQ", "e": "AQAB"},
            {"kty": "oct", "k": "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE"}, {"kty": "oct", "k": "AQ"}]}"#,
    );
    let set = set.unwrap();
    assert_eq!((set.len(), set.unusable(), set.is_empty()), (1, 3, false), "a short secret is guessed");
    for bad in ["", "{\"keys\": 7}", "{\"keys\": [{}]}", "[]"] {
        assert!(KeySet::read(bad).is_err(), "{bad}");
    }
}

#[test]
fn what_signs_is_known_and_can_be_left_out() {
    let public = p256().keys();
    assert_eq!((KeySet::read(&public).unwrap().signing(), public_part(&public)), (0, None));
    let shared = secret().keys();
    assert_eq!(KeySet::read(&shared).unwrap().signing(), 1);
    let private = r#"{"kty": "RSA", "n": "AQ", "e": "AQAB", "d": "c2VjcmV0", "p": "c2VjcmV0"}"#;
    assert_eq!(KeySet::read(private).unwrap().signing(), 1);
    for text in [&*shared, private] {
        let left = public_part(text).unwrap();
        assert_eq!(KeySet::read(&left).unwrap().signing(), 0, "{left}");
        assert!(left.contains("kty") && !left.contains("c2VjcmV0"), "{left}");
    }
    assert_eq!(public_part("no JSON"), None);
}

proptest! {
    #[test]
    fn no_bytes_panic_and_none_holds(
        token in "[A-Za-z0-9_.-]{0,60}|[ -~]{0,60}",
        query in "[A-Za-z0-9_.%=&;-]{0,40}",
        mut cookie in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        cookie.retain(|byte| *byte >= b' ' && *byte != 0x7f);
        let mut believed = rule("i", p256().keys());
        believed.from_headers = vec![(AUTHORIZATION, "Bearer ".to_owned())];
        believed.from_params = vec!["t".to_owned()];
        believed.from_cookies = vec!["c".to_owned()];
        let target = format!("/?t={query}");
        let mut shown = parts(&target, &[("authorization", &format!("Bearer {token}"))]);
        shown.headers.insert("cookie", HeaderValue::from_bytes(&[&cookie[..], b";c=", &cookie[..]].concat()).unwrap());
        prop_assert!(!matches!(check(std::slice::from_ref(&believed), &mut shown), Ok(Some(_))));
        for place in Place::all(&believed) {
            place.clear(&mut shown);
        }
        let mut found = Vec::new();
        for place in Place::all(&believed) {
            place.find(&shown.headers, &shown.uri, &mut found);
        }
        prop_assert!(found.is_empty(), "what is cleared is gone");
    }
}
