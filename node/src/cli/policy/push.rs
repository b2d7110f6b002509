//! `skein policy push`.

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    time::Duration,
};

use policy::{
    Problem, Severity,
    changeset::{MAX_CHANGES, MAX_CHANGESET},
    codes,
    kinds::KubernetesObject,
    parse::Located,
    validate,
};
use serde_json::Value;

use super::{
    facts,
    source::{self, Shown, Source},
    standing::Standing,
};
use crate::{
    agent::admin::api::{Intent, Plan},
    cli::{
        client,
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
    /// Push although a complaint with this code stands against it; several with commas, or repeated
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
    let allowed = allowed(&args.allow)?;
    let sources = source::read(&paths, ctx.globals.namespace())?;
    let mut intents = intents(&sources, ctx)?;
    let operator = Operator::load(ctx)?;
    let mut client = client::connect(ctx).await?;
    let mut plan = operator.plan(&mut client, &intents).await?;
    place(&mut plan.problems, &sources);
    refuse(&plan, &allowed, &sources, ctx)?;
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
    let documents = || sources.iter().flat_map(|source| &source.parsed.documents);
    let mut others = facts::twins(documents(), Severity::Error, "keep one of them");
    others.extend(sources.iter().flat_map(|source| &source.parsed.kubernetes).map(foreign));
    let problems = || sources.iter().flat_map(|source| &source.parsed.problems).chain(&others);
    if ctx.output.format == Format::Table {
        for problem in problems() {
            let text = sources.iter().find(|source| source.file == problem.file).map(|source| &*source.text);
            remark(&source::snippet(problem, text));
        }
    }
    let errors = || problems().filter(|problem| problem.refuses());
    if errors().next().is_some() {
        return Err(source::invalid(errors(), ctx.output.format, "correct the documents; nothing was pushed"));
    }
    let documents: Vec<_> = documents().collect();
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
    let intent = |located: &&Located| Intent {
        kind: located.document.id.kind.to_string(),
        namespace: located.document.id.namespace.clone(),
        name: located.document.id.name.clone(),
        content: Some(located.json.clone()),
        file: located.file.clone(),
        line: located.line,
    };
    Ok(documents.iter().map(intent).collect())
}

/// An object of Kubernetes, which is a fact for lint alone.
fn foreign(object: &KubernetesObject) -> Problem {
    let hint = match object.kind.as_str() {
        "Ingress" => "write it as a Gateway and a VirtualService; push only Istio's and Skein's documents",
        "NetworkPolicy" => "write it as an AuthorizationPolicy; push only Istio's and Skein's documents",
        "Secret" => "put it on the nodes that need it with `skein secret put`; push only Istio's and Skein's documents",
        _ => "services are declared in each node's skein.toml; push only Istio's and Skein's documents",
    };
    Problem {
        code: codes::KUBERNETES,
        severity: Severity::Error,
        document: None,
        file: object.file.clone(),
        line: object.line,
        column: 1,
        field: String::new(),
        message: format!("{} is Kubernetes' kind, not policy", object.kind),
        hint: hint.to_owned(),
        istio_message: None,
    }
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

/// The codes that `--allow` names; refuses what is none.
fn allowed(given: &[String]) -> Result<Vec<String>> {
    let codes = || codes::TABLE.iter().map(|(code, _)| *code);
    let named = given.iter().map(|code| code.trim()).filter(|code| !code.is_empty());
    let allowed: Vec<String> = named.map(str::to_owned).collect();
    let Some(unknown) = allowed.iter().find(|allowed| !codes().any(|code| code.eq_ignore_ascii_case(allowed))) else {
        return Ok(allowed);
    };
    let near = policy::nearest(unknown, codes()).map(|code| format!("did you mean {code}? ")).unwrap_or_default();
    let hint = format!("{near}`skein policy lint --list` shows all codes and what they mean");
    Err(usage(format!("--allow {unknown}: no complaint has this code"), hint))
}

/// Puts complaints of the node where the files have what they are about: what it read has the lines of the files, not their columns.
pub(super) fn place(problems: &mut [Value], sources: &[Source]) {
    let documents: HashMap<String, &Located> = sources
        .iter()
        .flat_map(|source| &source.parsed.documents)
        .map(|located| (located.document.id.to_string(), located))
        .collect();
    for problem in problems {
        let about = problem["document"].as_str().and_then(|document| documents.get(document));
        if let Some(located) = about.filter(|located| problem["file"] == *located.file) {
            let (line, column) = located.places().of(problem["field"].as_str().unwrap_or_default());
            (problem["line"], problem["column"]) = (line.into(), column.into());
        }
    }
}

/// Says to people what lint finds in documents that are sent whatever it finds.
pub(super) fn tell(plan: &Plan, ctx: &Context) {
    if ctx.output.format == Format::Table {
        plan.problems.iter().map(Complaint::read).for_each(|complaint| remark(&complaint.shown("note", &[])));
    }
}

/// A complaint of the node between documents.
struct Complaint<'p> {
    said: &'p Value,
    code: &'p str,
    /// Then no `--allow` helps.
    is_error: bool,
    refuses: bool,
}

impl<'p> Complaint<'p> {
    fn read(said: &'p Value) -> Self {
        let severity = match said["severity"].as_str() {
            Some("error") => Severity::Error,
            Some("info") => Severity::Info,
            Some(_) | None => Severity::Warning,
        };
        let code = said["code"].as_str().unwrap_or_default();
        let is_error = severity == Severity::Error;
        Self { said, code, is_error, refuses: validate::refuses_push(code, severity) }
    }

    fn word(&self, field: &str) -> &'p str {
        self.said[field].as_str().unwrap_or_default()
    }

    fn number(&self, field: &str) -> usize {
        self.said[field].as_u64().and_then(|number| usize::try_from(number).ok()).unwrap_or_default()
    }

    /// As people see it, with the line of its file.
    fn shown(&self, word: &str, sources: &[Source]) -> String {
        let file = self.word("file");
        let text = sources.iter().find(|source| source.file == file).map(|source| &*source.text);
        let complaint = Shown {
            word,
            code: self.code,
            message: self.word("message"),
            file: if file.is_empty() { self.word("document") } else { file },
            line: self.number("line"),
            column: self.number("column"),
            field: self.word("field"),
            hint: self.word("hint"),
        };
        source::framed(&complaint, text)
    }

    fn line(&self) -> String {
        let place = format!("{}:{}:{}", self.word("file"), self.number("line"), self.number("column"));
        let about = format!("{} {} {}", self.code, self.word("document"), self.word("field"));
        format!("{place}: {about}: {}", self.word("message"))
    }
}

/// Refuses what the node finds wrong between documents, unless its code is allowed; to people all of it is shown.
fn refuse(plan: &Plan, allowed: &[String], sources: &[Source], ctx: &Context) -> Result<()> {
    let mut refused = Vec::new();
    for complaint in plan.problems.iter().map(Complaint::read) {
        let is_allowed = allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(complaint.code));
        let is_refused = complaint.is_error || complaint.refuses && !is_allowed;
        let word = match complaint.refuses {
            _ if is_refused => "error",
            true => "allowed",
            false => "note",
        };
        if ctx.output.format == Format::Table {
            remark(&complaint.shown(word, sources));
        }
        if is_refused {
            refused.push(complaint);
        }
    }
    let Some(first) = refused.first() else { return Ok(()) };
    let message = match ctx.output.format {
        Format::Table => {
            format!("{} complaint{} refused", refused.len(), if refused.len() == 1 { " is" } else { "s are" })
        }
        Format::Json | Format::Yaml => refused.iter().map(Complaint::line).collect::<Vec<_>>().join("\n"),
    };
    Err(Error::new("invalid_document", format!("{message}; nothing was pushed")).hint(cure(first, &refused)))
}

/// What helps against what is refused: an error must go, all else may be allowed together.
fn cure(first: &Complaint<'_>, refused: &[Complaint<'_>]) -> String {
    if let Some(error) = refused.iter().find(|complaint| complaint.is_error) {
        return error.word("hint").to_owned();
    }
    let hint = match first.code {
        validate::UNKNOWN_HOST | validate::UNKNOWN_SUBSET => {
            "neither the mesh nor this push defines it: correct it, push what defines it too"
        }
        _ => first.word("hint"),
    };
    let codes: BTreeSet<&str> = refused.iter().map(|complaint| complaint.code).collect();
    format!("{hint}, or allow it with --allow {}", Vec::from_iter(codes).join(","))
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

    fn complaint(code: &str, severity: &str) -> Value {
        serde_json::json!({"code": code, "severity": severity, "document": "VirtualService shop/a", "file": "a.yaml", "line": 1, "column": 1,
            "field": "spec.hosts[0]", "message": "m", "hint": "h"})
    }

    #[test]
    fn complaints_stand_where_the_file_has_them() {
        let text = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a, namespace: shop}\n\
                    spec:\n  hosts:\n  -   a\n  http: [{directResponse: {status: 200}}]\n";
        let parsed = policy::parse::yaml("a.yaml", text, "shop");
        let sources = [Source { file: "a.yaml".into(), text: text.into(), parsed }];
        let mut problems = [complaint("SKN0301", "warning"), complaint("SKN0301", "warning")];
        problems[1]["file"] = "other.yaml".into();
        place(&mut problems, &sources);
        let at = |problem: &Value| (problem["line"].as_u64(), problem["column"].as_u64());
        assert_eq!((at(&problems[0]), at(&problems[1])), ((Some(6), Some(7)), (Some(1), Some(1))));
        let shown = Complaint::read(&problems[0]).shown("error", &sources);
        assert_eq!(
            shown,
            "error[SKN0301]: m\n  --> a.yaml:6:7 (spec.hosts[0])\n   |\n 6 |   -   a\n   |       ^\n hint: h\n"
        );
    }

    #[test]
    fn all_codes_are_named_that_must_be_allowed() {
        let said = ["SKN0302", "SKN0301", "SKN0302"].map(|code| complaint(code, "warning"));
        let refused: Vec<_> = said.iter().map(Complaint::read).collect();
        assert!(cure(&refused[0], &refused).ends_with("--allow SKN0301,SKN0302"));
        let error = complaint("SKN0169", "error");
        let refused: Vec<_> = said.iter().chain([&error]).map(Complaint::read).collect();
        assert_eq!(cure(&refused[0], &refused), "h", "an error is not allowed by any code");
    }

    #[test]
    fn only_codes_are_allowed() {
        let given = ["SKN0301", "", " skn0302 "].map(str::to_owned);
        assert_eq!(allowed(&given).unwrap(), ["SKN0301", "skn0302"]);
        let near = allowed(&["SKN301".to_owned()]).unwrap_err();
        assert!(near.code == "usage" && near.hint.contains("did you mean SKN0301?"), "{near:?}");
        assert!(allowed(&["foo".to_owned()]).unwrap_err().hint.starts_with("`skein policy lint --list`"));
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
