//! `skein policy push`.

use std::{path::PathBuf, time::Duration};

use policy::{
    Problem, Severity,
    changeset::{MAX_CHANGES, MAX_CHANGESET},
    validate,
};
use serde_json::Value;

use super::{
    source::{self, Source},
    standing::Standing,
};
use crate::{
    agent::admin::api::{Intent, Mesh, Plan},
    cli::{
        client::{self, Client},
        context::Context,
        error::{Error, Result, usage},
        output::{Format, remark},
        signing::{Operator, Sending},
        value,
    },
};

/// Digits of a changeset's id that tables show.
const SHOWN: usize = 12;

/// Signs documents with the operator's key and pushes them to one node, whichever is near; every node ends up with
/// them. All files of one command are one changeset: it counts as a whole or not at all. Documents that stand as they are written are
/// not pushed again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  skein policy push reviews.yaml --node web-1 --wait all --message 'all to v2'
  skein policy push policies/ --confirm-within 5m && curl ... && skein policy confirm CHANGESET")]
pub struct Args {
    /// Files, folders (recursively *.yaml, *.yml, *.json) or - for standard input
    #[arg(value_name = "FILE|DIR|-", required_unless_present = "filename")]
    paths: Vec<PathBuf>,
    /// The same, as other tools have it
    #[arg(long, short = 'f', value_name = "FILE|DIR|-")]
    filename: Vec<PathBuf>,
    /// Push although a complaint with this code stands against it; may be repeated
    #[arg(long, value_name = "CODE", value_delimiter = ',')]
    allow: Vec<String>,
    /// Only if this changeset set the value that each document has now
    #[arg(long, value_name = "CHANGESET")]
    expect_parent: Option<String>,
    /// Put it on trial: unless `policy confirm` follows in this time, every node takes it back by itself
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    confirm_within: Option<Duration>,
    /// Sign and push what stands as it is written, too: it becomes a new version, by this operator; --confirm-within does so by itself
    #[arg(long)]
    again: bool,
    #[command(flatten)]
    sending: Sending,
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    let paths: Vec<_> = args.paths.iter().chain(&args.filename).cloned().collect();
    let sources = source::read(&paths, &ctx.globals.namespace)?;
    let mut intents = intents(&sources, ctx)?;
    let operator = Operator::load(ctx)?;
    let mut client = client::connect(ctx).await?;
    let mut plan = operator.plan(&mut client, &intents).await?;
    let author = if plan.problems.is_empty() { String::new() } else { own_name(&operator, &mut client).await? };
    refuse(&plan, &args.allow, &author, ctx)?;
    if let Some(parent) = &args.expect_parent {
        expect(&plan, &intents, parent)?;
    }
    let sending = Sending { confirm_within: args.confirm_within, ..args.sending };
    // A trial is confirmed by its id: there is one whatever it holds.
    let again = args.again || args.confirm_within.is_some();
    let standing = if again { Standing::default() } else { Standing::take(&mut intents, &mut plan) };
    let mut said = notes(&sources)?;
    let pushed = match intents.is_empty() {
        true => {
            said.extend(plan.problems);
            None
        }
        false => Some(operator.send(&mut client, ctx, intents, &plan, &sending).await?),
    };
    standing.add_to(pushed, &operator, &mut client, ctx, &sending).await?.with_problems(said).show(ctx)
}

/// What the files want, if nothing within them is wrong.
pub(super) fn intents(sources: &[Source], ctx: &Context) -> Result<Vec<Intent>> {
    let errors: Vec<&Problem> =
        sources.iter().flat_map(|source| &source.parsed.problems).filter(|problem| problem.refuses()).collect();
    if ctx.output.format == Format::Table {
        for source in sources {
            source.parsed.problems.iter().for_each(|problem| remark(&source::snippet(problem, Some(&source.text))));
        }
    }
    if !errors.is_empty() {
        return Err(source::invalid(
            errors.into_iter(),
            ctx.output.format,
            "correct the documents; nothing was pushed",
        ));
    }
    if let Some(object) = sources.iter().flat_map(|source| &source.parsed.kubernetes).next() {
        let message = format!("{}:{}: {} is Kubernetes' kind, not policy", object.file, object.line, object.kind);
        return Err(Error::new("invalid_document", message)
            .hint("services are declared in each node's skein.toml; push only Istio's and Skein's documents"));
    }
    let documents: Vec<_> = sources.iter().flat_map(|source| &source.parsed.documents).collect();
    if documents.is_empty() {
        return Err(usage("there is no document in what was named", "name a file that holds policy documents"));
    }
    let size: usize = documents.iter().map(|document| document.json.len()).sum();
    if size > MAX_CHANGESET || documents.len() > MAX_CHANGES {
        let message = format!("{} documents of {size} bytes are too many for one push", documents.len());
        return Err(Error::new("quota_exceeded", message).hint(format!(
            "one push holds {MAX_CHANGES} documents and {} MiB: push them in parts",
            MAX_CHANGESET >> 20
        )));
    }
    for (index, document) in documents.iter().enumerate() {
        if let Some(twin) = documents[..index].iter().find(|other| other.document.id == document.document.id) {
            let message = format!(
                "{}:{}: {} stands twice, first at {}:{}",
                document.file, document.line, document.document.id, twin.file, twin.line
            );
            return Err(Error::new("invalid_document", message).hint("keep one of them"));
        }
    }
    let intent = |located: &&policy::parse::Located| Intent {
        kind: located.document.id.kind.to_string(),
        namespace: located.document.id.namespace.clone(),
        name: located.document.id.name.clone(),
        content: Some(located.json.clone()),
        file: located.file.clone(),
        line: located.line,
    };
    Ok(documents.iter().map(intent).collect())
}

/// What stands within the files and refuses nothing, as the node writes what is between documents.
fn notes(sources: &[Source]) -> Result<Vec<Value>> {
    let note = |problem: &Problem| {
        let mut written = serde_json::to_value(problem)
            .map_err(|error| Error::new("failed", format!("the result cannot be printed: {error}")))?;
        written["file"] = Value::String(problem.file.clone());
        written["refuses"] = Value::Bool(false);
        Ok(written)
    };
    sources.iter().flat_map(|source| &source.parsed.problems).map(note).collect()
}

/// Says to people what lint finds in documents that are sent whatever it finds.
pub(super) fn tell(plan: &Plan, ctx: &Context) {
    if ctx.output.format == Format::Table {
        plan.problems.iter().map(Complaint::read).for_each(|complaint| remark(&format!("note: {}", complaint.line)));
    }
}

/// A complaint of the node between documents.
struct Complaint {
    code: String,
    /// Then no `--allow` helps.
    is_error: bool,
    refuses: bool,
    line: String,
    hint: String,
}

impl Complaint {
    fn read(problem: &Value) -> Self {
        let word = |field: &str| problem[field].as_str().unwrap_or_default().to_owned();
        let severity = match word("severity").as_str() {
            "error" => Severity::Error,
            "info" => Severity::Info,
            _ => Severity::Warning,
        };
        let (code, file, document) = (word("code"), word("file"), word("document"));
        let place = format!("{file}:{}:{}", problem["line"], problem["column"]);
        let line = format!("{place}: {code} {document} {}: {}", word("field"), word("message"));
        let is_error = severity == Severity::Error;
        Self { is_error, refuses: validate::refuses_push(&code, severity), code, line, hint: word("hint") }
    }
}

/// Refuses what the node finds wrong between documents, unless its code is allowed; the rest is said.
fn refuse(plan: &Plan, allowed: &[String], author: &str, ctx: &Context) -> Result<()> {
    let mut refused = Vec::new();
    for complaint in plan.problems.iter().map(Complaint::read) {
        let is_allowed = allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(&complaint.code));
        if complaint.is_error || complaint.refuses && !is_allowed {
            refused.push(complaint);
        } else if ctx.output.format == Format::Table {
            let word = if complaint.refuses { "allowed" } else { "note" };
            remark(&format!("{word}: {}", complaint.line));
        }
    }
    let Some(first) = refused.first() else { return Ok(()) };
    let hint = match first.code.as_str() {
        validate::UNKNOWN_HOST | validate::UNKNOWN_SUBSET => {
            "neither the mesh nor this push defines it: correct it, push what defines it too"
        }
        _ => &first.hint,
    };
    let hint =
        if first.is_error { hint.to_owned() } else { format!("{hint}, or allow it with --allow {}", first.code) };
    let mut lines: Vec<_> = refused.iter().map(|complaint| complaint.line.as_str()).collect();
    let signed = format!("nothing was pushed for {author}");
    lines.push(&signed);
    Err(Error::new("invalid_document", lines.join("\n")).hint(hint))
}

/// How the mesh calls this operator; the key itself if it names no such key.
async fn own_name(operator: &Operator, client: &mut Client) -> Result<String> {
    let (mesh, key): (Mesh, _) = (client.get("/v1/mesh").await?, operator.key.public().to_string());
    Ok(mesh.keys.into_iter().find(|known| known.public_key == key).map_or(key, |known| known.name))
}

/// Replaces only what `parent` set: its id, or as much of it as `policy log` shows.
fn expect(plan: &Plan, intents: &[Intent], parent: &str) -> Result<()> {
    if parent.len() < SHOWN || !parent.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(usage(
            format!("`{parent}` is not a changeset's id"),
            format!("give at least {SHOWN} hexadecimal digits; `skein policy log` shows ids"),
        ));
    }
    let parent = parent.to_ascii_lowercase();
    for (live, intent) in plan.live.iter().zip(intents) {
        if !matches!(live.as_slice(), [only] if only.starts_with(&parent)) {
            let found =
                if live.is_empty() { "does not exist".to_owned() } else { format!("was set by {}", live.join(", ")) };
            let message = format!("{} {}/{} {found}, not by {parent}", intent.kind, intent.namespace, intent.name);
            return Err(Error::new("stale_parent", message)
                .hint("look at what changed (`skein policy diff`), then push on top of it"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use certs::id::TrustDomain;

    use super::*;

    fn plan(live: &[&str]) -> Plan {
        Plan {
            trust_domain: TrustDomain::new("test.example").unwrap(),
            role_set: 1,
            live: vec![live.iter().map(|id| (*id).to_owned()).collect()],
            yielded: Vec::new(),
            versions: vec![1],
            problems: Vec::new(),
            standing: Vec::new(),
        }
    }

    #[test]
    fn a_parent_is_the_one_live_value() {
        let (id, other) = ("ab".repeat(32), "cd".repeat(32));
        let intents = [Intent {
            kind: "VirtualService".into(),
            namespace: "shop".into(),
            name: "cart".into(),
            content: None,
            file: String::new(),
            line: 0,
        }];
        let code = |live: &[&str], parent: &str| {
            expect(&plan(live), &intents, parent).err().map(|error| error.code.into_owned())
        };
        assert_eq!(code(&[&id], &id), None);
        assert_eq!(code(&[&id], &id[..12].to_uppercase()), None);
        for live in [&[][..], &[other.as_str()], &[id.as_str(), other.as_str()]] {
            assert_eq!(code(live, &id).as_deref(), Some("stale_parent"));
        }
        for vague in ["", "abab", "no changeset"] {
            assert_eq!(code(&[&id], vague).as_deref(), Some("usage"));
        }
    }
}
