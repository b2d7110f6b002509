//! What all pages have in common: head, navigation, foot, and the headers that keep a browser from loading anything else.

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Response},
};
use maud::{DOCTYPE, Markup, html};

use super::words;
use crate::{
    agent::admin::{Admin, rfc3339},
    error::Error,
};

/// Only what this node serves, no inline style or script, in nobody's frame.
const SECURITY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
                        base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// Entries of the navigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tab {
    Overview,
    Services,
    Graph,
    Policy,
    Nodes,
    Explain,
}

const TABS: [(Tab, &str, &str); 6] = [
    (Tab::Overview, "/", "Overview"),
    (Tab::Services, "/services", "Services"),
    (Tab::Graph, "/graph", "Graph"),
    (Tab::Policy, "/policy", "Policy"),
    (Tab::Nodes, "/nodes", "Nodes"),
    (Tab::Explain, "/explain", "Explain"),
];

/// A page without what surrounds it.
#[derive(Debug)]
pub(super) struct Page {
    title: String,
    tab: Tab,
    body: Markup,
    status: StatusCode,
}

impl Page {
    pub(super) fn new(title: &str, tab: Tab, body: Markup) -> Self {
        Self { title: title.to_owned(), tab, body, status: StatusCode::OK }
    }

    /// What went wrong.
    pub(super) fn of_error(error: &Error) -> Self {
        let body = html! {
            h1 { "This cannot be shown" }
            section.problem.critical {
                p { (error.message) " " code { (error.code) } }
                @if !error.hint.is_empty() { p.hint { (words::prose(&error.hint)) } }
            }
        };
        Self { title: "Error".to_owned(), tab: Tab::Overview, body, status: error.status() }
    }

    /// The whole document, as this node answers it.
    pub(super) fn response(self, admin: &Admin) -> Response {
        let document = self.of_node(&admin.trust_domain().to_string(), admin.node().as_str(), &rfc3339(admin.now()));
        let html = (self.status, [(header::CACHE_CONTROL, "no-store")], Html(document.into_string()));
        guarded(html.into_response())
    }

    fn of_node(&self, mesh: &str, node: &str, now: &str) -> Markup {
        let tabs = TABS.map(|(tab, path, name)| (path, name, tab == self.tab));
        let foot = html! {
            "As " a href={ "/nodes/" (words::segment(node)) } { (node) } " sees it at " time datetime=(now) { (now) } "."
        };
        document(&Frame { title: &self.title, mesh, base: "", tabs: &tabs, foot }, &self.body)
    }
}

/// What surrounds a page.
pub(super) struct Frame<'a> {
    pub(super) title: &'a str,
    pub(super) mesh: &'a str,
    /// What paths of all that the page loads begin with; empty at a node.
    pub(super) base: &'a str,
    /// Path, name, and whether the page is there.
    pub(super) tabs: &'a [(&'a str, &'a str, bool)],
    pub(super) foot: Markup,
}

/// The whole document.
pub(super) fn document(frame: &Frame<'_>, body: &Markup) -> Markup {
    let Frame { title, mesh, base, tabs, foot } = frame;
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · " (mesh) }
                link rel="icon" href={ (base) "/assets/icon.svg" } type="image/svg+xml";
                link rel="stylesheet" href={ (base) "/assets/skein.css" };
                script src={ (base) "/assets/skein.js" } defer {}
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                header {
                    a.brand href={ (base) "/" } { "Skein" }
                    span.mesh { (mesh) }
                    nav aria-label="Pages" {
                        ul {
                            @for (path, name, is_here) in *tabs {
                                li { a href={ (base) (path) } aria-current=[is_here.then_some("page")] { (name) } }
                            }
                        }
                    }
                }
                main id="main" { (body) }
                footer {
                    p #observed data-live { (foot) }
                    button #live type="button" hidden aria-pressed="true" { "Live" }
                }
            }
        }
    }
}

/// Adds the headers that every answer of this room bears.
pub(crate) fn guarded<B>(mut response: Response<B>) -> Response<B> {
    let headers: [(HeaderName, &str); 4] = [
        (header::CONTENT_SECURITY_POLICY, SECURITY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_named_is_escaped() {
        let evil = "<script>alert(1)</script>\"'&";
        let error = Error::new("not_found", evil).hint(evil);
        let mut page = Page::of_error(&error);
        page.title = evil.to_owned();
        let text = page.of_node(evil, evil, evil).into_string();
        assert_eq!(text.matches("<script").count(), 1, "only our own: {text}");
        assert!(!text.contains("alert(1)<") && text.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot;"));
    }

    #[test]
    fn nothing_comes_from_elsewhere_and_nothing_is_inline() {
        let text = Page::of_error(&Error::new("x", "y")).of_node("m", "n", "t").into_string();
        for word in ["http:", "https:", "style=", "onclick", "<style"] {
            assert!(!text.contains(word), "{word}");
        }
    }
}
