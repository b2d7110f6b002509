//! `skein explain`.

use std::fmt::Write as _;

use crate::{
    agent::admin::api::{Candidate, Effective, Explanation},
    cli::{
        client::{self, segment},
        context::Context,
        error::Result,
        output::{Table, Tone, plain},
    },
};

/// Says what a node would do with a request or a connection: the rule it meets, where it goes, who may answer and who is out and why.
/// The asked node answers from what its own proxy reads, by the same code.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  skein explain http://reviews:9080/reviews/0 -H 'end-user: jason'
  skein explain --from shop/web -X POST http://cart.shop/items --node web-1
  skein explain --gateway shop/public https://shop.example.com/cart --node edge-1
  skein explain tcp://db.shop:5432
  skein explain tls://web.shop:443 --sni www.example.com")]
pub struct Args {
    /// What the application asks for; of a connection tcp://HOST:PORT or tls://HOST:PORT
    #[arg(value_name = "URL")]
    url: String,
    /// Who calls [default: the service that speaks at the node's outbound port]
    #[arg(long, value_name = "NS/SA")]
    from: Option<String>,
    /// It comes in from outside the mesh where this Gateway opens the URL's port; the asked node must be one that does
    #[arg(long, value_name = "NS/NAME", conflicts_with = "from")]
    gateway: Option<String>,
    /// The method
    #[arg(short = 'X', long, value_name = "METHOD", default_value = "GET")]
    method: String,
    /// The server name that TLS asks for [default: the URL's host]
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,
    /// A header; may be repeated
    #[arg(short = 'H', long, value_name = "NAME: VALUE")]
    header: Vec<String>,
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    let mut path = format!("/v1/explain?url={}&method={}", segment(&args.url), segment(&args.method));
    let more = args.from.iter().map(|from| ("from", from)).chain(args.header.iter().map(|header| ("header", header)));
    let more = more.chain(args.gateway.iter().map(|name| ("gateway", name)));
    for (name, value) in more.chain(args.sni.iter().map(|name| ("sni", name))) {
        // Writing to a string does not fail.
        let _ = write!(path, "&{name}={}", segment(value));
    }
    // What is asked is what one node does: that of this machine, if the flags name no other.
    let explanation: Explanation = client::connect_here(ctx).await?.get(&path).await?;
    ctx.output.show(&explanation, || text(&explanation, ctx))
}

fn text(explained: &Explanation, ctx: &Context) -> String {
    let mut text = lines(explained);
    if !explained.endpoints.is_empty() {
        text.push('\n');
        let several = explained.destinations.len() > 1;
        text.push_str(&ctx.output.render(&table(&explained.endpoints, several)));
    }
    text
}

/// All but the endpoints.
fn lines(explained: &Explanation) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:<14} {}", plain(value).replace('\n', " "));
    };
    let unknown = if explained.from.known { "" } else { " (no endpoint known here runs under it)" };
    row("from", &format!("{}{unknown}", explained.from.account));
    if let Some(gateway) = &explained.gateway {
        let (name, port) = (&gateway.name, gateway.port);
        row("gateway", &format!("{name}, port {port}; policies and limits of the gateway itself are not asked"));
    }
    let called = explained.service.as_deref().or(explained.virtual_host.as_deref());
    row("service", called.unwrap_or("-"));
    let line = explained.line.map(|line| format!(", line {line} of its file")).unwrap_or_default();
    match (&explained.document, &explained.rule) {
        (Some(document), _) => row("document", &format!("{document}{line}")),
        (None, Some(_)) => row("document", "none: the default route"),
        // It came to no route.
        (None, None) => {}
    }
    if let Some(rule) = explained.rule.as_deref().filter(|_| explained.document.is_some()) {
        row("rule", rule);
    }
    for target in &explained.destinations {
        row("destination", &format!("{}% to {}", target.percent, target.cluster));
        if let Some(rule) = &target.destination_rule {
            row("", &balanced(rule));
        }
    }
    if let Some(retries) = &explained.retries {
        row("retries", &format!("{} on {}", retries.attempts, retries.on));
        row("timeout", &explained.timeout_ms.map_or_else(|| "none".to_owned(), |time| format!("{time} ms")));
    }
    if let Some(fault) = &explained.fault {
        let delay = fault.delay_ms.map(|time| format!("delay {time} ms for {}%", fault.delay_percent));
        let abort = fault.abort.as_ref().map(|abort| format!("abort {abort} for {}%", fault.abort_percent));
        row("fault", &delay.into_iter().chain(abort).collect::<Vec<_>>().join(", "));
    }
    let verdict = &explained.authorization;
    let rule = verdict.rule.as_ref().map(|rule| format!(" {rule}")).unwrap_or_default();
    let by = verdict.document.as_ref().map(|document| format!(" by {document}{rule}")).unwrap_or_default();
    if explained.is_judged() {
        row("authorization", &format!("{}{by}", verdict.verdict));
    }
    for ask in &verdict.asks {
        row("", &format!("if the authoriser `{}` lets it in, too: {} {}", ask.provider, ask.document, ask.rule));
    }
    if let Some(note) = &verdict.note {
        row("", note);
    }
    if let Some(answer) = &explained.answer {
        let status = if answer.status == 0 { "reset".to_owned() } else { answer.status.to_string() };
        let flag = if answer.flag.is_empty() { String::new() } else { format!(" {}", answer.flag) };
        row("answer", &format!("{status}{flag}: {}", answer.reason));
    }
    text
}

/// What DestinationRules come to, in a line.
fn balanced(rule: &Effective) -> String {
    let by = if rule.documents.is_empty() { "no DestinationRule".to_owned() } else { rule.documents.join(", ") };
    let outliers = match &rule.outlier_detection {
        Some(detection) => format!("ejects up to {}%", detection.max_ejection_percent),
        None => "ejects nobody".to_owned(),
    };
    let tls = rule.tls.as_ref().map(|mode| format!(", tls {mode}")).unwrap_or_default();
    format!("{} by {by}; {outliers}{tls}", rule.load_balancer)
}

fn table(endpoints: &[Candidate], several: bool) -> Table {
    let mut table = Table::new(&["ENDPOINT", "ADDRESS", "CLUSTER", "STATE", "MODE", "REASON"]);
    for endpoint in endpoints {
        let (state, tone) = if endpoint.candidate { ("candidate", Tone::Good) } else { ("out", Tone::Doubt) };
        let cell = |text: &str| (text.to_owned(), Tone::Plain);
        table.toned([
            cell(&endpoint.id),
            cell(&endpoint.address),
            // Of one destination it stands above.
            cell(if several { &endpoint.cluster } else { "" }),
            (state.to_owned(), tone),
            cell(&endpoint.mutual_tls),
            cell(&endpoint.reason),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::{Format, Output};
    use serde_json::{Value, json};

    fn told(more: Value) -> String {
        let mut explained = json!({
            "service": "shop/cart", "document": null, "rule": null, "line": null, "destination": null, "cluster": null,
            "virtual_host": null, "retries": null, "timeout_ms": null, "fault": null, "endpoints": [], "destinations": [],
            "authorization": {"verdict": "allow", "document": null, "rule": null, "note": null}, "answer": null, "path": null,
            "from": {"account": "shop/web", "labels": {}, "known": true}, "node": "web-1",
        });
        for (name, value) in more.as_object().unwrap() {
            explained[name] = value.clone();
        }
        let explained: Explanation = serde_json::from_value(explained).unwrap();
        lines(&explained)
    }

    #[test]
    fn what_comes_to_no_route_tells_of_none() {
        let text = told(json!({"answer": {"status": 404, "flag": "NR", "reason": "shop/cart has no HTTP port 99"}}));
        assert_eq!(
            text,
            "from           shop/web\nservice        shop/cart\nanswer         404 NR: shop/cart has no HTTP port 99\n"
        );
    }

    #[test]
    fn where_no_endpoint_may_be_chosen_nobody_has_judged() {
        let verdict = json!({"verdict": "allow", "document": null, "rule": null, "note": null});
        let endpoint = |candidate: bool| {
            json!({"id": "a/shop/cart", "address": "10.0.0.5:80", "port": 80, "labels": {}, "weight": 1, "cluster": "c",
                   "candidate": candidate, "reason": "", "authorization": verdict, "mutual_tls": "STRICT"})
        };
        let judged = |endpoints: Value| told(json!({"endpoints": endpoints})).contains("authorization");
        assert!(!judged(json!([endpoint(false)])) && judged(json!([endpoint(false), endpoint(true)])));
    }

    #[test]
    fn each_endpoint_has_the_mode_of_its_port() {
        let endpoint: Candidate = serde_json::from_value(json!({
            "id": "a/shop/cart", "address": "10.0.0.5:80", "port": 80, "labels": {}, "weight": 1, "cluster": "c", "candidate": true,
            "reason": "", "authorization": {"verdict": "allow", "document": null, "rule": null, "note": null},
            "mutual_tls": "PERMISSIVE",
        }))
        .unwrap();
        let text = Output::new(Format::Table).render(&table(&[endpoint], false));
        assert!(text.contains("MODE") && text.contains("PERMISSIVE"), "{text}");
    }

    #[test]
    fn words_stand_apart() {
        let verdict = json!({
            "verdict": "deny", "document": "AuthorizationPolicy shop/cart", "rule": "rules[1]",
            "note": "the caller's address is not known here",
            "asks": [{"provider": "opa", "document": "AuthorizationPolicy shop/ask", "rule": "rules[0]"}],
        });
        let target = json!({"host": "cart", "port": 80, "subset": null, "percent": 90, "cluster": "outbound|80||cart"});
        let text = told(json!({
            "document": "VirtualService shop/cart", "rule": "http[0]", "line": 7, "destinations": [target],
            "authorization": verdict, "retries": {"attempts": 2, "on": "5xx", "per_try_timeout_ms": null},
            "fault": {"delay_ms": 5, "delay_percent": 10.0, "abort": "HTTP 503", "abort_percent": 2.5},
            "answer": {"status": 0, "flag": "", "reason": "nobody"},
        }));
        let wanted = "from           shop/web
service        shop/cart
document       VirtualService shop/cart, line 7 of its file
rule           http[0]
destination    90% to outbound|80||cart
retries        2 on 5xx
timeout        none
fault          delay 5 ms for 10%, abort HTTP 503 for 2.5%
authorization  deny by AuthorizationPolicy shop/cart rules[1]
               if the authoriser `opa` lets it in, too: AuthorizationPolicy shop/ask rules[0]
               the caller's address is not known here
answer         reset: nobody
";
        assert_eq!(text, wanted);
        let default = told(json!({"rule": "default", "destinations": [target]}));
        assert!(
            default.contains("document       none: the default route\n") && !default.contains("rule "),
            "{default}"
        );
    }
}
