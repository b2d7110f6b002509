//! What would become of a request, asked by a form.

use maud::{Markup, html};
use percent_encoding::percent_decode_str;

use super::words::{self, segment};
use crate::{
    agent::admin::api::{Authorization, Candidate, Explanation},
    error::Error,
};

/// Bytes of the form at most.
const FORM: usize = 32 << 10;

/// The form as it was sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    url: String,
    method: String,
    from: String,
    /// One a line.
    headers: String,
}

impl Asked {
    /// Reads `application/x-www-form-urlencoded`; what it does not know it leaves.
    pub(super) fn read(query: &str) -> Self {
        let mut asked = Self::default();
        for pair in query.get(..FORM.min(query.len())).unwrap_or_default().split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = value.replace('+', " ");
            let value = percent_decode_str(&value).decode_utf8_lossy().trim().to_owned();
            match name {
                "url" => asked.url = value,
                "method" => asked.method = value,
                "from" => asked.from = value,
                "headers" => asked.headers = value,
                _ => {}
            }
        }
        asked
    }

    /// The same as the admin interface is asked; `None` if nothing was asked yet.
    pub(super) fn query(&self) -> Option<String> {
        if self.url.is_empty() {
            return None;
        }
        let mut query = format!("url={}", segment(&self.url));
        if !self.method.is_empty() {
            query.push_str(&format!("&method={}", segment(&self.method)));
        }
        if !self.from.is_empty() {
            query.push_str(&format!("&from={}", segment(&self.from)));
        }
        for header in self.headers.lines().map(str::trim).filter(|line| !line.is_empty()) {
            query.push_str(&format!("&header={}", segment(header)));
        }
        Some(query)
    }
}

/// The form, and the answer if there is one.
pub(super) fn page(asked: &Asked, explained: Option<&Result<Explanation, Error>>) -> Markup {
    html! {
        h1 { "Explain" }
        p { "What this node would do with a request of an application beside it: the rule that it meets, where it goes, who may answer and who is out and why." }
        form.ask action="/explain" method="get" {
            label for="url" { "URL" }
            input #url type="text" name="url" value=(asked.url) placeholder="http://cart.shop/items?id=1" required autocomplete="off" spellcheck="false";
            label for="method" { "Method" }
            input #method type="text" name="method" value=(asked.method) placeholder="GET" autocomplete="off" spellcheck="false";
            label for="from" { "Caller" }
            input #from type="text" name="from" value=(asked.from) placeholder="NAMESPACE/ACCOUNT, or who speaks here" autocomplete="off" spellcheck="false";
            label for="headers" { "Headers" }
            textarea #headers name="headers" rows="2" placeholder="end-user: jason" spellcheck="false" { (asked.headers) }
            button type="submit" { "Explain" }
        }
        @match explained {
            None => {}
            Some(Err(error)) => {
                section.problem.critical {
                    p { (error.message) " " code { (error.code) } }
                    @if !error.hint.is_empty() { p.hint { (words::prose(&error.hint)) } }
                }
            }
            Some(Ok(explained)) => { (answer(explained, true)) }
        }
    }
}

/// What becomes of a request; `linked`: with links to the pages of what it meets.
pub(super) fn answer(explained: &Explanation, linked: bool) -> Markup {
    let link = |path: Option<String>, text: &str| words::link(path.filter(|_| linked), text);
    html! {
        section aria-label="What becomes of it" {
            h2 { "What becomes of it" }
            @if let Some(answer) = &explained.answer {
                div.problem.degraded { p { strong { "Answer " (answer.status) @if !answer.flag.is_empty() { " " (answer.flag) } ": " } (answer.reason) } }
            }
            dl {
                dt { "Caller" } dd { (explained.from.account) @if !explained.from.known { " (no endpoint known here runs under it)" } }
                dt { "Service" } dd {
                    @match &explained.service {
                        Some(service) => { (link(words::service_path(service), service)) }
                        None => { (explained.virtual_host.as_deref().unwrap_or("none")) }
                    }
                }
                @match (&explained.document, &explained.rule) {
                    (Some(document), rule) => {
                        dt { "Document" } dd {
                            (link(words::document_path(document), document))
                            @if let Some(line) = explained.line { ", line " (line) " of its file" }
                        }
                        @if let Some(rule) = rule { dt { "Rule" } dd { (rule) } }
                    }
                    (None, Some(_)) => { dt { "Document" } dd { "none: the default route" } }
                    // It came to no route.
                    (None, None) => {}
                }
                @for target in &explained.destinations {
                    dt { "Goes to" } dd {
                        (target.percent) " % " code { (target.cluster) }
                        @if let Some(rule) = &target.destination_rule {
                            ", " (rule.load_balancer)
                            @for document in &rule.documents { " by " (link(words::document_path(document), document)) }
                        }
                    }
                }
                @if let Some(path) = &explained.path { dt { "Path" } dd { code { (path) } } }
                @if let Some(retries) = &explained.retries {
                    dt { "Retries" } dd { (retries.attempts) " on " (retries.on) }
                    dt { "Timeout" } dd { @match explained.timeout_ms { Some(time) => { (time) " ms" } None => { "none" } } }
                }
                @if let Some(fault) = &explained.fault {
                    dt { "Fault" } dd {
                        @if let Some(delay) = fault.delay_ms { "delay of " (delay) " ms for " (fault.delay_percent) " % " }
                        @if let Some(abort) = &fault.abort { "abort with " (abort) " for " (fault.abort_percent) " %" }
                    }
                }
                @if explained.is_judged() {
                    dt { "Authorization" } dd { (verdict(&explained.authorization, linked)) }
                }
            }
            @if !explained.endpoints.is_empty() { (candidates(&explained.endpoints, linked)) }
        }
    }
}

fn verdict(authorization: &Authorization, linked: bool) -> Markup {
    let of = |document: &str| words::link(words::document_path(document).filter(|_| linked), document);
    html! {
        (words::state(&authorization.verdict))
        @if let Some(document) = &authorization.document {
            " by " (of(document))
            @if let Some(rule) = &authorization.rule { " " (rule) }
        }
        @for ask in &authorization.asks {
            ", if the authoriser " code { (ask.provider) } " lets it in, too, by "
            (of(&ask.document)) " " (ask.rule)
        }
        @if let Some(note) = &authorization.note { " (" (note) ")" }
    }
}

fn candidates(all: &[Candidate], linked: bool) -> Markup {
    html! {
        table.cards {
            thead { tr {
                th scope="col" { "Endpoint" } th scope="col" { "May be chosen" } th scope="col" { "Why not" }
                th scope="col" { "Lets it in" } th scope="col" { "Mode" } th scope="col" { "Cluster" }
            } }
            tbody {
                @for endpoint in all {
                    tr {
                        th scope="row" { (endpoint.id) }
                        td data-label="May be chosen" { (words::state(if endpoint.candidate { "candidate" } else { "out" })) }
                        td data-label="Why not" { (endpoint.reason) }
                        td data-label="Lets it in" { (verdict(&endpoint.authorization, linked)) }
                        td data-label="Mode" { (endpoint.mutual_tls) }
                        td data-label="Cluster" { code { (endpoint.cluster) } }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_becomes_the_question_of_the_command_line() {
        let asked =
            Asked::read("url=http%3A%2F%2Fcart.shop%2Fa+b&method=POST&from=&headers=a%3A+1%0D%0A%0D%0Ab%3A2&x=y");
        assert_eq!((asked.url.as_str(), asked.headers.as_str()), ("http://cart.shop/a b", "a: 1\r\n\r\nb:2"));
        let query = asked.query().unwrap();
        assert_eq!(query, "url=http%3A%2F%2Fcart%2Eshop%2Fa%20b&method=POST&header=a%3A%201&header=b%3A2");
        assert_eq!(Asked::read("").query(), None);
        assert_eq!(Asked::read("url=%ff%00").url, "\u{fffd}\0", "bytes of any kind do no harm");
    }

    #[test]
    fn what_was_asked_comes_back_as_text_only() {
        let asked = Asked::read("url=%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E&headers=%3C%2Ftextarea%3E%3Cb%3E");
        let refused = Err(Error::new("usage", format!("`{}`: not a URL", asked.url)));
        let text = page(&asked, Some(&refused)).into_string();
        assert!(
            !text.contains("<script") && !text.contains("<b>") && text.contains("&quot;&gt;&lt;script&gt;"),
            "{text}"
        );
    }
}
