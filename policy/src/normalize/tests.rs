//! Tests of normal forms: cases of the attack list, and laws.

use proptest::prelude::*;

use super::*;

const LEVELS: [PathNormalization; 5] = [
    PathNormalization::Strict,
    PathNormalization::DecodeAndMergeSlashes,
    PathNormalization::MergeSlashes,
    PathNormalization::Base,
    PathNormalization::None,
];

fn strict(raw: &str) -> Result<String, Refused> {
    path(raw, PathNormalization::Strict).map(|path| path.as_str().to_owned())
}

#[test]
fn spellings_of_one_path_are_one() {
    for (raw, normal) in [
        ("/admin", "/admin"),
        ("//admin", "/admin"),
        ("/./admin", "/admin"),
        ("/info/../admin", "/admin"),
        ("/info/%2e%2e/admin", "/admin"),
        ("/info/.%2E/admin", "/admin"),
        ("/%61dmin", "/admin"),
        ("/admin/", "/admin/"),
        ("/admin//x", "/admin/x"),
        ("/admin/.", "/admin/"),
        ("/admin/x/..", "/admin/"),
        ("/..", "/"),
        ("/../../admin", "/admin"),
        ("/info//../admin", "/admin"),
        ("/%c3%a9", "/%C3%A9"),
        ("/caf\u{e9}", "/caf%C3%A9"),
        ("/a\"{b}[0]|^`<>", "/a%22%7Bb%7D%5B0%5D%7C%5E%60%3C%3E"),
        ("/a%7bb", "/a%7Bb"),
        ("/%40me", "/%40me"),
        ("/@me:x,y", "/@me:x,y"),
        ("/%252e%252e/x", "/%252e%252e/x"),
        ("/admin%23", "/admin%23"),
        ("/admin?x=/../y", "/admin"),
        ("/...", "/..."),
        ("/", "/"),
        ("*", "*"),
    ] {
        assert_eq!(strict(raw).as_deref(), Ok(normal), "{raw}");
    }
}

#[test]
fn what_servers_read_in_two_ways_is_refused() {
    for (raw, why) in [
        ("/%2Fadmin", Refused::Separator),
        ("/info%2fadmin", Refused::Separator),
        ("\\admin", Refused::Relative),
        ("/info\\..\\admin", Refused::Separator),
        ("/info%5cadmin", Refused::Separator),
        ("/info/..;/admin", Refused::DotParameters),
        ("/info/.;/../admin", Refused::DotParameters),
        ("/info/%2e%2e;x/admin", Refused::DotParameters),
        ("/admin#x", Refused::Fragment),
        ("/admin%00", Refused::Control),
        ("/admin%0d%0a", Refused::Control),
        ("/admin\n", Refused::Control),
        ("/%c0%af", Refused::NotUtf8),
        ("/%u002f", Refused::Escape),
        ("/%", Refused::Escape),
        ("/%4", Refused::Escape),
        ("admin", Refused::Relative),
        ("", Refused::Relative),
    ] {
        assert_eq!(strict(raw), Err(why), "{raw}");
    }
}

#[test]
fn escapes_that_need_not_be_are_undone_beside_the_path() {
    let unescaped = |raw| path(raw, PathNormalization::Strict).unwrap().unescaped().map(str::to_owned);
    assert_eq!(unescaped("/users/%40me%3Ax%2B").as_deref(), Some("/users/@me:x+"));
    assert_eq!(unescaped("/caf\u{e9}%20x%3f"), None, "these escapes must be");
    assert_eq!(unescaped("/users/@me"), None);
}

#[test]
fn parameters_are_left_out_beside_the_path() {
    let normal = path("/admin;x=1/y;z", PathNormalization::Strict).unwrap();
    assert_eq!((normal.as_str(), normal.without_parameters()), ("/admin;x=1/y;z", "/admin/y"));
    let base = path("/info/..;/admin", PathNormalization::Base).unwrap();
    assert_eq!((base.as_str(), base.without_parameters()), ("/info/..;/admin", "/admin"));
}

#[test]
fn levels_are_istios() {
    let at = |level, raw| path(raw, level).unwrap().as_str().to_owned();
    assert_eq!(at(PathNormalization::None, "/a/../b//c"), "/a/../b//c");
    assert_eq!(at(PathNormalization::Base, "/a/../b//c\\d%2fe"), "/b//c/d%2Fe");
    assert_eq!(at(PathNormalization::Base, "/a//../b"), "/a/b");
    assert_eq!(at(PathNormalization::Base, "/%%61%61/100%"), "/%25aa/100%25");
    assert_eq!(at(PathNormalization::MergeSlashes, "/a/../b//c%2fe"), "/b/c%2Fe");
    assert_eq!(at(PathNormalization::DecodeAndMergeSlashes, "/a%2f..%5cb//c"), "/b/c");
}

/// A target's form for routes; the target itself where that is the form.
fn routed(raw: &str, level: PathNormalization) -> Result<String, Refused> {
    let uri: Uri = raw.parse().unwrap();
    Ok(target(&uri, level)?.unwrap_or(uri).to_string())
}

#[test]
fn routes_see_one_form_of_a_path() {
    for (raw, form) in [
        ("/x/../admin", "/admin"),
        ("/%61dmin?a=/../%61", "/admin?a=/../%61"),
        ("/x/%2e%2E/admin", "/admin"),
        ("/x/.%2e/admin/.", "/admin/"),
        ("http://reviews:80/x/../admin?q", "http://reviews:80/admin?q"),
        ("/x%2f/../admin", "/admin"),
        // Other resources, by the standard and to applications.
        ("//admin", "//admin"),
        ("/fetch/https://a.example/%7e", "/fetch/https://a.example/~"),
        ("/a%2fb", "/a%2fb"),
        ("/a\\..\\b", "/a\\..\\b"),
        ("/a[0]{b}|c%20%7b%zz", "/a[0]{b}|c%20%7b%zz"),
        ("/..;/admin", "/..;/admin"),
        // Once, and nothing that is decoded ends an escape that was begun before.
        ("/%2561dmin", "/%2561dmin"),
        ("/%%61%61/%6%31/../b", "/%%61a/b"),
        ("/...", "/..."),
        ("*", "*"),
    ] {
        assert_eq!(routed(raw, PathNormalization::Strict).as_deref(), Ok(form), "{raw}");
        assert_eq!(routed(raw, PathNormalization::None).as_deref(), Ok(raw));
    }
    for raw in ["/.;/../admin", "/x/..;y/./admin"] {
        assert_eq!(routed(raw, PathNormalization::Strict), Err(Refused::DotParameters), "{raw}");
    }
    let raw = "/a/../b//c\\d%2fe";
    assert_eq!(routed(raw, PathNormalization::Base).as_deref(), Ok("/b//c/d%2fe"));
    assert_eq!(routed(raw, PathNormalization::MergeSlashes).as_deref(), Ok("/b/c/d%2fe"));
    assert_eq!(routed(raw, PathNormalization::DecodeAndMergeSlashes).as_deref(), Ok("/b/c/d/e"));
    assert_eq!(routed("/.;/../b", PathNormalization::Base).as_deref(), Ok("/b"), "as in Istio");
}

#[test]
fn hosts_have_one_form() {
    for spelling in ["Bank.TD", "bank.td.", "bank.td:80", "BANK.td.:80", "bank.td"] {
        assert_eq!(host(spelling, 80).unwrap().to_string(), "bank.td", "{spelling}");
    }
    assert_eq!(host("bank.td:8080", 80).unwrap().to_string(), "bank.td:8080");
    assert_eq!(host("[::0001]:80", 80).unwrap().to_string(), "[::1]");
    assert_eq!(host("10.0.0.1:90", 80).unwrap().to_string(), "10.0.0.1:90");
    for bad in [
        "",
        ".",
        "a@bank",
        "bank:",
        "bank:x",
        "bank:0",
        "bank:99999",
        "bank:+80",
        "ba nk",
        "bank..td",
        "bank/",
        "::1",
        "[::1",
        "[x]",
        "bänk",
    ] {
        assert_eq!(host(bad, 80), Err(Refused::Authority), "{bad}");
    }
}

/// Paths made of what attackers use.
fn raw_path() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("/"),
        Just("//"),
        Just("."),
        Just(".."),
        Just("%2e"),
        Just("%2E"),
        Just("%2f"),
        Just("%5c"),
        Just("\\"),
        Just(";"),
        Just(";x"),
        Just("%25"),
        Just("%61"),
        Just("%c3%a9"),
        Just("admin"),
        Just("a"),
        Just("%"),
        Just("%zz"),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
}

proptest! {
    #[test]
    fn the_normal_form_is_its_own(raw in raw_path(), level in prop::sample::select(&LEVELS[..])) {
        if let Ok(once) = path(&raw, level) {
            let twice = path(once.as_str(), level);
            prop_assert_eq!(twice.as_ref().map(NormalPath::as_str), Ok(once.as_str()));
            prop_assert_eq!(twice.as_ref().map(NormalPath::without_parameters), Ok(once.without_parameters()));
        }
    }

    #[test]
    fn the_form_for_routes_is_its_own_and_has_no_dot_segments(
        raw in raw_path(),
        level in prop::sample::select(&LEVELS[..4]),
    ) {
        if let Ok(once) = routed(&raw, level) {
            prop_assert!(once.split('/').all(|segment| segment != "." && segment != ".."), "{}", once);
            prop_assert_eq!(routed(&once, level), Ok(once));
        }
    }

    #[test]
    fn no_dot_segment_is_left(raw in raw_path(), level in prop::sample::select(&LEVELS[..4])) {
        if let Ok(normal) = path(&raw, level) {
            for form in [normal.as_str(), normal.without_parameters()] {
                prop_assert!(form.starts_with('/'));
                prop_assert!(form.split('/').all(|segment| segment != "." && segment != ".."), "{}", form);
                prop_assert!(level == PathNormalization::Base || !form.contains("//"), "{}", form);
            }
        }
    }

    #[test]
    fn any_text_is_taken_or_refused(raw in "\\PC{0,40}|[/.%;\\\\a-f0-9]{0,40}", level in prop::sample::select(&LEVELS[..])) {
        let _ = path(&raw, level);
        if let Ok(once) = host(&raw, 80) {
            prop_assert_eq!(host(&once.to_string(), 80), Ok(once));
        }
    }
}
