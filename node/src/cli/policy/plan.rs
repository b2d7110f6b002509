//! `skein policy plan`.

use std::{fmt::Write as _, path::PathBuf};

use policy::DocumentId;
use serde::Serialize;
use serde_json::Value;

use super::{diff::Difference, push, source};
use crate::{
    agent::admin::api::{
        AffectedNode, DocumentChange, Intent, PlaintextCaller, PlaintextSeen, Preview, RouteChange, RuleChange,
        WorkloadChange,
    },
    cli::{
        client,
        context::Context,
        error::{Result, usage},
        output::plain,
        signing,
    },
};

/// Says what a push of these files would change: documents, routes and whom they concern. Changes nothing and needs no key.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  skein policy plan policies/
  skein policy plan reviews.yaml --delete VirtualService/old -n shop")]
pub struct Args {
    /// Files, folders (recursively *.yaml, *.yml, *.json) or - for standard input
    #[arg(value_name = "FILE|DIR|-", required_unless_present_any = ["filename", "delete"])]
    paths: Vec<PathBuf>,
    /// The same, as other tools have it
    #[arg(long, short = 'f', value_name = "FILE|DIR|-")]
    filename: Vec<PathBuf>,
    /// As if this document were deleted too; may be repeated
    #[arg(long, value_name = "KIND/NAME")]
    delete: Vec<String>,
}

/// What a node of a version before these were told leaves open.
const OLDER: &str =
    "what changes for those who are called, at gateways and for names outside: this node is older and does not tell";

/// The result for programs.
#[derive(Debug, Serialize)]
struct Plan<'p> {
    documents: Vec<Difference>,
    services: &'p [String],
    nodes: &'p [AffectedNode],
    routes: &'p [RouteChange],
    workloads: &'p [WorkloadChange],
    plaintext_seen: Option<PlaintextSeen>,
    not_reckoned: &'p [String],
    problems: &'p [Value],
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    let paths: Vec<_> = args.paths.iter().chain(&args.filename).cloned().collect();
    let (mut sources, mut intents) = (Vec::new(), Vec::new());
    if !paths.is_empty() {
        sources = source::read(&paths, ctx.globals.namespace())?;
        intents = push::intents(&sources, ctx)?;
    }
    for word in &args.delete {
        intents.push(deletion(word, ctx.globals.namespace())?);
    }
    let mut preview: Preview = client::connect(ctx).await?.post_json("/v1/policy/preview", &intents).await?;
    push::place(&mut preview.problems, &sources);
    let documents = preview.documents.iter().map(difference).collect::<Result<Vec<_>>>()?;
    let (workloads, not_reckoned) = told(&preview);
    let plan = Plan {
        documents,
        services: &preview.services,
        nodes: &preview.nodes,
        routes: &preview.routes,
        workloads,
        plaintext_seen: preview.plaintext_seen,
        not_reckoned: &not_reckoned,
        problems: &preview.problems,
    };
    ctx.output.show(&plan, || text(&plan))
}

/// What the node says of workloads, and what it does not tell.
fn told(preview: &Preview) -> (&[WorkloadChange], Vec<String>) {
    let mut not_reckoned = preview.not_reckoned.clone().unwrap_or_default();
    if preview.workloads.is_none() {
        not_reckoned.push(OLDER.to_owned());
    }
    (preview.workloads.as_deref().unwrap_or_default(), not_reckoned)
}

fn deletion(word: &str, namespace: &str) -> Result<Intent> {
    let wrong = || usage(format!("`{word}` is not KIND/NAME"), "write VirtualService/reviews, the namespace with -n");
    let (kind, name) = word.split_once('/').ok_or_else(wrong)?;
    let id = signing::document(kind, name, namespace)?;
    Ok(Intent {
        kind: id.kind.to_string(),
        namespace: id.namespace,
        name: id.name,
        content: None,
        file: String::new(),
        line: 0,
    })
}

fn difference(change: &DocumentChange) -> Result<Difference> {
    let id = DocumentId::new(signing::kind(&change.kind)?, &change.namespace, &change.name);
    Difference::new(&id, ("in effect", "planned"), change.before.clone(), change.after.clone())
}

fn text(plan: &Plan<'_>) -> String {
    let mut text: String = plan.documents.iter().map(Difference::text).collect();
    // Writing to a string does not fail.
    for route in plan.routes {
        let _ = writeln!(text, "\nroutes of {}, for callers in {}", route.service, route.from.join(", "));
        route.changes.iter().for_each(|change| text.push_str(&line(change)));
    }
    for change in plan.workloads {
        let nodes: Vec<_> = change.nodes.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "\n{} on {}: other {}", change.service, nodes.join(", "), change.changes.join(", "));
        text.push_str(&plaintext(change, plan.plaintext_seen));
    }
    let nothing = plan.nodes.is_empty() && plan.not_reckoned.is_empty();
    if nothing && plan.documents.iter().any(|one| one.change != "unchanged") {
        let _ = writeln!(text, "\nnodes concerned: none of those that are known here");
    }
    if !plan.nodes.is_empty() {
        let role = |node: &AffectedNode| {
            let parts = [(node.calls, "calls"), (node.serves, "serves"), (node.opens, "opens a gateway")];
            parts.into_iter().filter_map(|(holds, word)| holds.then_some(word)).collect::<Vec<_>>().join(" and ")
        };
        let nodes: Vec<_> = plan.nodes.iter().map(|node| format!("{} ({})", node.node, role(node))).collect();
        let _ = writeln!(text, "\nnodes concerned: {}", nodes.join(", "));
    }
    for unknown in plan.not_reckoned {
        let _ = writeln!(text, "\nnot reckoned: {}", plain(unknown));
    }
    for problem in plan.problems {
        let word = |field: &str| problem[field].as_str().unwrap_or_default();
        let head = if problem["refuses"] == true { "push refuses this" } else { "note" };
        let place = format!("{}:{}", word("file"), problem["line"]);
        let _ = writeln!(text, "\n{head}: {place}: {} {}", word("code"), plain(word("message")));
    }
    let count = |change: &str| plan.documents.iter().filter(|one| one.change == change).count();
    let counts = ["set", "changed", "deleted", "unchanged"].map(|change| format!("{} {change}", count(change)));
    let _ = writeln!(text, "\n{}; nothing was pushed", counts.join(", "));
    text
}

/// Who will be refused because it comes in plaintext.
fn plaintext(change: &WorkloadChange, seen: Option<PlaintextSeen>) -> String {
    if !change.refuses_plaintext {
        return String::new();
    }
    let caller = |caller: &PlaintextCaller| {
        let (from, asked) = (&caller.from, caller.requests);
        format!("{}/{} ({asked} requests, {} connections)", from.namespace, from.service, caller.connections)
    };
    let callers: Vec<_> = change.plaintext.iter().map(caller).collect();
    let callers = if callers.is_empty() { "none seen".to_owned() } else { callers.join(", ") };
    let window = match seen {
        Some(PlaintextSeen { window_s: 900.., .. }) | None => "15 minutes".to_owned(),
        Some(PlaintextSeen { window_s, .. }) => format!("{window_s} s"),
    };
    let more = match seen {
        Some(PlaintextSeen { left_out: more @ 1.., .. }) => {
            format!("; of {more} more requests and connections the nodes could not keep apart who made them")
        }
        Some(_) | None => String::new(),
    };
    format!("  the mode refuses plaintext; callers in plaintext in the last {window}: {}{more}\n", plain(&callers))
}

fn line(change: &RuleChange) -> String {
    let text = match (&change.before, &change.after) {
        (Some(before), Some(after)) => format!("  ~ {}: {before}\n      -> {after}\n", change.when),
        (None, Some(after)) => format!("  + {}: {after}\n", change.when),
        (Some(before), None) => format!("  - {}: {before}\n", change.when),
        (None, None) => String::new(),
    };
    plain(&text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::agent::admin::api::Party;

    #[test]
    fn a_plan_reads_from_documents_to_nodes() {
        let change = DocumentChange {
            kind: "VirtualService".into(),
            namespace: "shop".into(),
            name: "a".into(),
            change: "set".into(),
            changeset: None,
            before: None,
            after: Some(json!({"spec": {}})),
        };
        let routes = [RouteChange {
            service: "shop/a".into(),
            from: vec!["shop".into(), "web".into()],
            changes: vec![RuleChange { when: "always".into(), before: Some("a".into()), after: Some("b".into()) }],
        }];
        let node = |name: &str| certs::id::NodeId::new(name).unwrap();
        let nodes = [AffectedNode { node: node("web-1"), calls: true, serves: false, opens: true }];
        let from = Party { namespace: "shop".into(), service: "cron".into(), version: "v1".into() };
        let workloads = [WorkloadChange {
            service: "shop/a".into(),
            nodes: vec![node("web-1")],
            changes: vec!["mutual TLS".into()],
            refuses_plaintext: true,
            plaintext: vec![PlaintextCaller { from, requests: 7, connections: 0 }],
        }];
        let problems = [json!({"refuses": true, "code": "SKN0302", "file": "f", "line": 3, "message": "m"})];
        let plan = Plan {
            documents: vec![difference(&change).unwrap()],
            services: &["shop/a".to_owned()],
            nodes: &nodes,
            routes: &routes,
            workloads: &workloads,
            plaintext_seen: Some(PlaintextSeen { window_s: 60, left_out: 2 }),
            not_reckoned: &["WorkloadGroup shop/g: only its nodes know".to_owned()],
            problems: &problems,
        };
        let wanted = "set VirtualService shop/a\n--- /dev/null\n+++ VirtualService shop/a planned\n@@ -0,0 +1,1 @@\n+spec: {}\n\nroutes of shop/a, for callers in shop, web\n  ~ always: a\n      -> b\n\nshop/a on web-1: other mutual TLS\n  the mode refuses plaintext; callers in plaintext in the last 60 s: shop/cron (7 requests, 0 connections); of 2 more requests and connections the nodes could not keep apart who made them\n\nnodes concerned: web-1 (calls and opens a gateway)\n\nnot reckoned: WorkloadGroup shop/g: only its nodes know\n\npush refuses this: f:3: SKN0302 m\n\n1 set, 0 changed, 0 deleted, 0 unchanged; nothing was pushed\n";
        assert_eq!(text(&plan), wanted);
    }

    #[test]
    fn what_an_older_node_does_not_tell_is_said() {
        let older = json!({"documents": [], "services": [], "nodes": [], "routes": [], "problems": []});
        let preview: Preview = serde_json::from_value(older).unwrap();
        assert_eq!(told(&preview), (&[][..], vec![OLDER.to_owned()]));
        let told_all = Preview { workloads: Some(Vec::new()), not_reckoned: Some(Vec::new()), ..preview };
        assert_eq!(told(&told_all).1, Vec::<String>::new());
    }

    #[test]
    fn a_deletion_is_named_by_kind_and_name() {
        let intent = deletion("vs/reviews", "shop").unwrap();
        assert_eq!((&*intent.kind, &*intent.namespace, intent.content), ("VirtualService", "shop", None));
        assert_eq!(deletion("reviews", "shop").unwrap_err().code, "usage");
    }
}
