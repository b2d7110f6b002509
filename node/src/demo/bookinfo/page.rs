//! The page that a browser sees: written by hand, one file, nothing from elsewhere.

use std::time::Duration;

use super::call::Failure;
use super::details::Details;
use super::reviews::{Rating, Review, Reviews};

const TEMPLATE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
/// Stars that a book can have.
const MOST_STARS: u8 = 5;

/// All that the page shows.
pub(super) struct Page<'a> {
    pub(super) pod: &'a str,
    pub(super) user: Option<&'a str>,
    pub(super) details: Result<&'a Details, &'a Failure>,
    pub(super) reviews: Result<&'a Reviews, &'a Failure>,
    /// The instances that answered for details and for reviews, outermost first; none where none answered.
    pub(super) paths: [Option<&'a str>; 2],
    /// How long details and reviews took.
    pub(super) took: (Duration, Duration),
}

impl Page<'_> {
    /// The whole page as HTML.
    pub(super) fn html(&self) -> String {
        fill(
            TEMPLATE,
            &[
                ("style", STYLE.to_owned()),
                ("session", session(self.user)),
                (
                    "details",
                    self.details.map_or_else(|failure| error("Error fetching product details", failure), details),
                ),
                ("version", self.reviews.map_or_else(|_| String::new(), |reviews| hop_tag(&reviews.podname))),
                (
                    "reviews",
                    self.reviews.map_or_else(|failure| error("Error fetching product reviews", failure), reviews),
                ),
                ("paths", paths(self.pod, self.paths)),
                ("times", times(self.took)),
                ("pod", escape(self.pod)),
            ],
        )
    }
}

/// Puts values in place of `{{name}}`. Values are not looked through again.
fn fill(template: &str, values: &[(&str, String)]) -> String {
    let mut pieces = template.split("{{");
    let mut page = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (name, rest) = piece.split_once("}}").unwrap_or_default();
        page.push_str(values.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value));
        page.push_str(rest);
    }
    page
}

fn session(user: Option<&str>) -> String {
    match user {
        Some(user) => format!(
            r#"<form action="/logout" method="post">Signed in as <b>{}</b><button>Sign out</button></form>"#,
            escape(user)
        ),
        None => r#"<form action="/login" method="post"><label for="user">User</label><input id="user" name="username" value="jason" maxlength="32" required pattern="[A-Za-z0-9._\-]+" autocomplete="username"><button>Sign in</button></form>"#.to_owned(),
    }
}

fn details(details: &Details) -> String {
    let facts = [
        ("Author", &details.author),
        ("Year", &details.year.to_string()),
        ("Binding", &details.binding),
        ("Pages", &details.pages.to_string()),
        ("Publisher", &details.publisher),
        ("Language", &details.language),
        ("ISBN-10", &details.isbn_10),
        ("ISBN-13", &details.isbn_13),
    ];
    let facts = facts.map(|(name, value)| format!("<div><dt>{name}</dt><dd>{}</dd></div>", escape(value)));
    format!("<dl>{}</dl>", facts.concat())
}

fn reviews(reviews: &Reviews) -> String {
    let cards: String = reviews.reviews.iter().map(card).collect();
    format!(r#"<div class="cards">{cards}</div>"#)
}

fn card(review: &Review) -> String {
    let stars = match &review.rating {
        None => r#"<span class="none">no stars in this version</span>"#.to_owned(),
        Some(Rating::Failed { error }) => format!(r#"<span class="none">{}</span>"#, escape(error)),
        Some(Rating::Stars { stars, color }) => {
            let on = usize::from((*stars).min(MOST_STARS));
            let off = usize::from(MOST_STARS) - on;
            format!(
                r#"<span class="stars {}" role="img" aria-label="{on} of {MOST_STARS} stars"><b>{}</b>{}</span>"#,
                escape(color),
                "★".repeat(on),
                "★".repeat(off)
            )
        }
    };
    format!(
        "<figure><blockquote>{}</blockquote><figcaption><span>{}</span>{stars}</figcaption></figure>",
        escape(&review.text),
        escape(&review.reviewer)
    )
}

fn error(what: &str, failure: &Failure) -> String {
    format!(r#"<div class="error" role="alert"><b>{what}</b>{}</div>"#, escape(&failure.to_string()))
}

fn paths(pod: &str, [details, reviews]: [Option<&str>; 2]) -> String {
    let path = |service: &str, via: Option<&str>| {
        let rest: String = match via {
            Some(via) => via.split(", ").map(|pod| format!("<li>{}</li>", hop_tag(pod))).collect(),
            None => format!(r#"<li><span class="tag bad">{service} failed</span></li>"#),
        };
        format!(r#"<ul class="path"><li>{}</li>{rest}</ul>"#, hop_tag(pod))
    };
    path("details", details) + &path("reviews", reviews)
}

/// A service's instance, in the colour of its version.
fn hop_tag(pod: &str) -> String {
    let class = if pod.starts_with("reviews-") { pod.rsplit('-').next().unwrap_or_default() } else { "" };
    format!(r#"<span class="tag {}">{}</span>"#, escape(class), escape(pod))
}

fn times((details, reviews): (Duration, Duration)) -> String {
    let milliseconds = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1000.0);
    format!(
        "details took {}, reviews {}, through the mesh and back. Reload: another version may answer.",
        milliseconds(details),
        milliseconds(reviews)
    )
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_has_no_slot_without_a_value() {
        let failure = Failure { service: "details", status: None, message: "<b>&".into() };
        let page = Page {
            pod: "productpage-v1",
            user: Some("jason"),
            details: Err(&failure),
            reviews: Err(&failure),
            paths: [None, Some("reviews-v2, ratings-v1")],
            took: (Duration::ZERO, Duration::ZERO),
        };
        let html = page.html();
        assert!(html.contains("&lt;b&gt;&amp;") && !html.contains("<b>&"), "{html}");
        for piece in TEMPLATE.split("{{").skip(1) {
            let (name, _) = piece.split_once("}}").expect("slots end");
            assert!(!fill(&format!("{{{{{name}}}}}"), &[(name, "x".into())]).is_empty());
        }
        assert!(!html.contains("{{") && html.contains("reviews-v2") && html.contains("jason"));
    }

    #[test]
    fn values_are_not_templates() {
        assert_eq!(fill("a{{x}}b", &[("x", "{{y}}".into()), ("y", "no".into())]), "a{{y}}b");
    }
}
