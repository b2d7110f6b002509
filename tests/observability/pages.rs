//! The pages in a real Chromium: nothing from elsewhere, no complaint, no width that does not fit, nothing that jumps, all of it by keyboard,
//! in the light and in the dark, fresh with a script and whole without.

use std::{path::PathBuf, time::Duration};

use harness::{eventually_within, now};
use serde_json::json;

use crate::{
    PATIENCE,
    browser::Browser,
    crowd::Crowd,
    world::{self, World},
};

/// Pages, and a word that each of them shows of this mesh; one more is that of the changeset with the longest difference.
const PAGES: [(&str, &str); 11] = [
    ("/", "Nodes"),
    ("/services", "shop/reviews"),
    ("/services/shop/reviews", "By caller"),
    ("/services/shop/flaky", "ejected"),
    ("/graph", "shop/reviews"),
    ("/policy", "DestinationRule"),
    ("/policy/documents/DestinationRule/shop/flaky", "outlierDetection"),
    ("/nodes", "two"),
    ("/nodes/two", "two"),
    ("/events", "policy_applied"),
    ("/explain?url=http%3A%2F%2Fflaky.shop%3A9080%2F&from=shop%2Fdefault", "What becomes of it"),
];
const DESK: (u32, u32) = (1280, 900);
const PHONE: (u32, u32) = (390, 844);
/// What Core Web Vitals call good: what is new comes in between what was there, and moves that a little.
const SHIFT: f64 = 0.1;
/// Pages that answer one question, and do not ask it again by themselves.
const STILL: [&str; 3] = ["/policy/documents/", "/policy/changesets/", "/explain"];
/// Stops of the tabulator that are tried.
const STOPS: usize = 400;

/// Where pictures go, if somebody wants to look: `SKEIN_SCREENSHOTS`.
fn keep(browser: &mut Browser, name: &str) {
    let Some(dir) = std::env::var_os("SKEIN_SCREENSHOTS") else { return };
    let name = name.trim_matches('/').replace('/', "-");
    let file = PathBuf::from(dir).join(format!("{name}.png"));
    std::fs::write(&file, browser.picture()).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}

fn name(path: &str) -> &str {
    match path.split('?').next().unwrap_or(path) {
        "/" => "overview",
        changeset if changeset.starts_with("/policy/changesets/") => "policy-changeset",
        path => path,
    }
}

fn pages(world: &World) -> Vec<(String, &'static str)> {
    let fixed = PAGES.map(|(path, word)| (path.to_owned(), word));
    fixed.into_iter().chain([(format!("/policy/changesets/{}", world.changeset), world::LONG_DIFFERENCE)]).collect()
}

/// Waits until the pages know of everything that happens in this mesh.
fn settled(browser: &mut Browser, origin: &str) {
    eventually_within("the pages know what happened", PATIENCE, || {
        browser.open(&format!("{origin}/services/shop/flaky"));
        let text = browser.value("document.body.innerText").as_str().unwrap_or_default().to_owned();
        if text.contains("ejected") { Ok(()) } else { Err(text) }
    });
}

#[test]
#[ignore = "needs Chromium"]
fn pages_are_whole_in_a_browser() {
    let world = World::start();
    let origin = format!("http://{}", world.admin());
    let mut browser = Browser::start();
    settled(&mut browser, &origin);
    for (path, word) in pages(&world) {
        for (shape, scheme) in [(DESK, "light"), (DESK, "dark"), (PHONE, "light"), (PHONE, "dark")] {
            let what = format!("{path} at {} in the {scheme}", shape.0);
            browser.shape(shape, scheme);
            browser.open(&format!("{origin}{path}"));
            let text = browser.value("document.body.innerText").as_str().unwrap_or_default().to_owned();
            assert!(text.contains(word), "{what} says {word}: {text}");
            let wide = browser.value("document.documentElement.scrollWidth - document.documentElement.clientWidth");
            assert!(wide.as_i64().is_some_and(|wide| wide <= 0), "{what} is {wide} too wide");
            let elsewhere: Vec<_> = browser.asked().into_iter().filter(|url| !url.starts_with(&origin)).collect();
            assert!(elsewhere.is_empty(), "{what} asks {elsewhere:?}");
            assert_eq!(browser.complaints(), Vec::<String>::new(), "{what}");
            let ground = browser.value("getComputedStyle(document.body).backgroundColor");
            assert_eq!(ground == json!("rgb(255, 255, 255)"), scheme == "light", "{what}: {ground}");
            let side = if shape == PHONE { format!("phone-{scheme}") } else { scheme.to_owned() };
            keep(&mut browser, &format!("{}-{side}", name(&path)));
        }
    }
}

#[test]
#[ignore = "needs Chromium"]
fn pages_stay_fresh_and_do_not_jump() {
    let world = World::start();
    let origin = format!("http://{}", world.admin());
    let mut browser = Browser::start();
    settled(&mut browser, &origin);
    for ((path, _), shape) in pages(&world).iter().flat_map(|page| [(page, DESK), (page, PHONE)]) {
        browser.shape(shape, "light");
        browser.open(&format!("{origin}{path}"));
        let shifts = "window.shifted = 0; new PerformanceObserver(list => list.getEntries().forEach(one => { if (!one.hadRecentInput) \
                      window.shifted += one.value; })).observe({type: 'layout-shift', buffered: true})";
        browser.value(shifts);
        // What was asked for once stays as it is.
        let is_live = browser.value("document.getElementById('live').checkVisibility()") == json!(true);
        let time = "document.querySelector('#observed time').dateTime";
        let (first, began) = (browser.value(time), now());
        eventually_within(&format!("{path} is fresh"), Duration::from_secs(30), || {
            let now = browser.value(time);
            if is_live && now == first { Err(now.to_string()) } else { Ok(()) }
        });
        assert!(!is_live || began.elapsed() > Duration::from_secs(1), "{path} does not hurry");
        assert!(is_live || STILL.iter().any(|still| path.starts_with(still)), "{path} is fresh by itself");
        let shifted = browser.value("window.shifted").as_f64().expect("a number");
        assert!(shifted <= SHIFT, "{path} at {} jumps by {shifted}", shape.0);
        assert_eq!(browser.complaints(), Vec::<String>::new(), "{path}");
    }
}

/// Every link and field of a page is reached by the tabulator, in order, and the way past the navigation is the first.
fn is_reached_by_keys(browser: &mut Browser, origin: &str, path: &str) {
    browser.open(&format!("{origin}{path}"));
    // Nothing comes in between while keys are pressed.
    browser.value("sessionStorage.getItem('live') !== 'no' && document.getElementById('live').click()");
    browser.press("Tab");
    assert_eq!(browser.value("document.activeElement.className"), json!("skip"), "{path}");
    let all = browser
        .value("[...document.querySelectorAll('a[href],button:not([hidden]),input,textarea')].filter(e => e.checkVisibility()).length");
    let all = usize::try_from(all.as_u64().expect("a number")).expect("it fits");
    let mut reached = 1;
    while reached < STOPS {
        browser.press("Tab");
        if browser.value("document.activeElement === document.body || document.activeElement.className === 'skip'")
            == json!(true)
        {
            break;
        }
        let ringed = browser.value("getComputedStyle(document.activeElement).outlineStyle !== 'none'");
        assert_eq!(ringed, json!(true), "{path}: what has the focus shows it");
        reached += 1;
    }
    assert!(reached >= all, "{path}: {reached} of {all} stops");
}

#[test]
#[ignore = "needs Chromium"]
fn pages_need_no_mouse_and_no_script() {
    let world = World::start();
    let origin = format!("http://{}", world.admin());
    let mut browser = Browser::start();
    browser.shape(DESK, "light");
    settled(&mut browser, &origin);
    for (path, _) in pages(&world) {
        is_reached_by_keys(&mut browser, &origin, &path);
    }
    browser.open(&format!("{origin}/"));
    browser.value("document.querySelector('nav a[href=\"/services\"]').focus()");
    browser.press("Enter");
    eventually_within("a key follows the link", Duration::from_secs(30), || {
        let place = browser.value("location.pathname");
        if place == json!("/services") { Ok(()) } else { Err(place.to_string()) }
    });
    // Without a script it is the same page.
    browser.call("Emulation.setScriptExecutionDisabled", json!({"value": true}));
    browser.open(&format!("{origin}/services?q=review"));
    let text = browser.value("document.body.innerText").as_str().unwrap_or_default().to_owned();
    assert!(text.contains("shop/reviews") && !text.contains("shop/slow"), "{text}");
    let button = browser.value("document.getElementById('live').checkVisibility()");
    assert_eq!(button, json!(false), "what does nothing without a script is not shown");
}

#[test]
#[ignore = "needs Chromium"]
fn requests_are_shown_as_they_end() {
    let world = World::start();
    let tap = world.tap_page();
    let mut browser = Browser::start();
    for (shape, scheme) in [(DESK, "light"), (PHONE, "dark")] {
        browser.shape(shape, scheme);
        browser.open(&tap.url);
        eventually_within("requests come by themselves", PATIENCE, || {
            let rows = browser.value("document.querySelectorAll('#requests tbody tr').length").as_u64().unwrap_or(0);
            if rows > 20 { Ok(()) } else { Err(format!("{rows} rows")) }
        });
        let wide = browser.value("document.documentElement.scrollWidth - document.documentElement.clientWidth");
        assert!(wide.as_i64().is_some_and(|wide| wide <= 0), "{wide} too wide");
        keep(&mut browser, &format!("tap-{scheme}"));
    }
    browser.shape(DESK, "light");
    browser.open(&format!("{}?status=5xx&q=flaky", tap.url));
    let link = browser.value("[...document.querySelectorAll('#requests tbody tr')].find(row => row.innerText.includes('as client'))?.querySelector('a').href");
    browser.open(link.as_str().expect("a request that failed"));
    let text = browser.value("document.body.innerText").as_str().unwrap_or_default().to_owned();
    assert!(text.contains("What becomes of it") && text.contains("shop/flaky"), "{text}");
    keep(&mut browser, "tap-one");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

/// What of the drawing covers what: pairs of boxes, labels that lie on boxes or on other labels, and what is left of the smallest letters.
const COVERED: &str = "(() => {
  const of = selector => [...document.querySelectorAll(selector)].map(one => one.getBoundingClientRect());
  const meet = (a, b) => a.left < b.right - 2 && b.left < a.right - 2 && a.top < b.bottom - 2 && b.top < a.bottom - 2;
  const pairs = all => all.flatMap((a, at) => all.slice(at + 1).filter(b => meet(a, b))).length;
  const boxes = of('.graph .box rect'), labels = of('.graph .arrow text');
  const letters = [...document.querySelectorAll('.graph text')].map(one => one.getBoundingClientRect().height);
  return {boxes: boxes.length, labels: labels.length, overlapping: pairs(boxes), colliding: pairs(labels),
    hidden: labels.filter(label => boxes.some(box => meet(label, box))).length, smallest: Math.min(...letters)};
})()";

#[test]
#[ignore = "needs Chromium"]
fn the_graph_of_fifty_services_can_be_read() {
    let crowd = Crowd::start();
    let origin = format!("http://{}", crowd.admin());
    let mut browser = Browser::start();
    browser.shape(DESK, "light");
    eventually_within("all calls are drawn", PATIENCE, || {
        browser.open(&format!("{origin}/graph"));
        let drawn = browser.value("document.querySelectorAll('.graph .arrow').length").as_u64().unwrap_or(0);
        if drawn >= 85 { Ok(()) } else { Err(format!("{drawn} calls")) }
    });
    for (shape, scheme, name) in [
        (DESK, "light", "graph-50-light"),
        (DESK, "dark", "graph-50-dark"),
        ((2400, 1600), "light", "graph-50-wall"),
        (PHONE, "light", "graph-50-phone"),
    ] {
        browser.shape(shape, scheme);
        browser.open(&format!("{origin}/graph"));
        let seen = browser.value(COVERED);
        let count = |name: &str| seen[name].as_u64().unwrap_or_else(|| panic!("{seen}"));
        assert!(count("boxes") >= 50 && count("labels") >= 85, "{seen}");
        assert_eq!((count("overlapping"), count("hidden")), (0, 0), "boxes, and labels behind boxes: {seen}");
        assert!(count("colliding") * 20 <= count("labels"), "labels on labels: {seen}");
        assert!(
            seen["smallest"].as_f64().is_some_and(|height| height >= 12.0),
            "letters as high as on the page: {seen}"
        );
        let wide = browser.value("document.documentElement.scrollWidth - document.documentElement.clientWidth");
        assert!(wide.as_i64().is_some_and(|wide| wide <= 0), "{name} is {wide} too wide: only the drawing scrolls");
        keep(&mut browser, name);
    }
    // One namespace is a drawing of its own.
    browser.shape(DESK, "light");
    browser.open(&format!("{origin}/graph?namespace=pay"));
    let seen = browser.value(COVERED);
    assert!(seen["boxes"].as_u64().is_some_and(|boxes| (8..30).contains(&boxes)), "{seen}");
    keep(&mut browser, "graph-50-pay");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}
