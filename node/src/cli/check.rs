//! `skein check`.

use serde::Serialize;

use crate::{
    agent::{
        admin::api::{Health, Mesh, Status},
        state_dir::{self, StateDir},
    },
    cli::{
        client,
        context::Context,
        error::{Error, Result},
        output::plain,
    },
    clock,
};

/// Looks for mistakes on this machine and, as the asked node sees it, in the mesh.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein check --strict")]
pub struct Args {
    /// Fail with exit code 3 if there are warnings
    #[arg(long)]
    strict: bool,
}

/// So many enrollers survive the loss of two.
const ENROLLERS: usize = 3;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Error,
    Warning,
    Ok,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    code: String,
    message: String,
    hint: String,
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    let mut findings = Vec::new();
    if ctx.globals.node.is_none() {
        machine(ctx, &mut findings);
    }
    operator(ctx, &mut findings);
    mesh(ctx, &mut findings).await;
    findings.sort_by_key(|finding| finding.verdict);
    ctx.output.show(&findings, || findings.iter().map(text).collect())?;
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let (errors, warnings) = (count(Verdict::Error), count(Verdict::Warning));
    match findings.first().filter(|first| first.verdict == Verdict::Error) {
        Some(first) => {
            Err(Error::new(first.code.clone(), format!("{errors} errors: {}", first.message)).hint(&first.hint))
        }
        None if args.strict && warnings > 0 => {
            Err(Error::new("warnings", format!("{warnings} warnings")).hint("mend them, or leave out --strict"))
        }
        None => Ok(()),
    }
}

/// The files of this machine's node.
fn machine(ctx: &Context, findings: &mut Vec<Finding>) {
    let file = ctx.config_file();
    if !file.exists() {
        let hint = "`skein init` founds a mesh, `skein join` enters one";
        let error = Error::new("not_joined", format!("there is no {}", file.display())).hint(hint);
        findings.push(Finding::of("configuration", Verdict::Warning, &error));
        return;
    }
    let config = match ctx.config() {
        Ok(config) => config,
        Err(error) => return findings.push(Finding::of("configuration", Verdict::Error, &error)),
    };
    findings.push(Finding::fine("configuration", format!("{} is valid", file.display())));
    findings.extend(state_dir::faults(&config.data_dir).iter().map(|fault| Finding::of("keys", Verdict::Error, fault)));
    let owner = StateDir::open(&config.data_dir).and_then(|dir| dir.owner());
    findings.push(match owner {
        Ok(Some(owner)) => Finding::fine("state", format!("{} of {}", owner.node, owner.trust_domain)),
        Ok(None) => {
            let error = Error::new("not_joined", format!("{} is in no mesh yet", config.node))
                .hint(format!("get a token by `skein invite {}` and give it to `skein join -`", config.node));
            Finding::of("state", Verdict::Error, &error)
        }
        Err(error) if error.code == "state_in_use" => Finding::fine("state", "in use by the node".to_owned()),
        Err(error) => Finding::of("state", Verdict::Error, &error),
    });
}

/// The operator directory, if there is one.
fn operator(ctx: &Context, findings: &mut Vec<Finding>) {
    let Ok(directory) = ctx.operator() else { return };
    let dir = directory.path().display();
    findings.push(match directory.operator_key().and(directory.known()) {
        Ok(_) => Finding::fine("operator", format!("{dir} is complete")),
        Err(error) => Finding::of("operator", Verdict::Error, &error),
    });
    if directory.holds_root() && ctx.config_file().exists() {
        let error = Error::new("root_key_on_node", format!("{dir}/root.key lies on a node"))
            .hint("move it to a place that this machine cannot reach; running nodes do not need it");
        findings.push(Finding::of("root", Verdict::Warning, &error));
    }
}

/// What a node says.
async fn mesh(ctx: &Context, findings: &mut Vec<Finding>) {
    let answers = async {
        let mut client = client::connect(ctx).await?;
        let status: Status = client.get("/v1/status").await?;
        let mesh: Mesh = client.get("/v1/mesh").await?;
        Ok::<_, Error>((status, mesh))
    };
    let (status, mesh) = match answers.await {
        Ok(answers) => answers,
        Err(error) => return findings.push(Finding::of("node", Verdict::Error, &error)),
    };
    findings.push(Finding::fine("node", format!("{} answers", status.node)));
    findings.extend(trust(&status));
    findings.extend(status.problems.into_iter().map(|problem| {
        let verdict = if problem.severity == Health::Critical { Verdict::Error } else { Verdict::Warning };
        Finding { check: "mesh", verdict, code: problem.code, message: problem.message, hint: problem.hint }
    }));
    if mesh.keys.iter().filter(|key| !key.recovery).count() < 2 {
        let error = Error::new("one_operator", "only one operator key exists: if it is lost, only recovery.key helps")
            .hint("keep recovery.key safe, away from this machine");
        findings.push(Finding::of("operators", Verdict::Warning, &error));
    }
}

/// What the mesh's trust hangs on.
fn trust(status: &Status) -> Vec<Finding> {
    let mut findings = Vec::new();
    let enrollers = status.certificates.enrollers;
    if enrollers < ENROLLERS {
        let message = format!("{enrollers} of the {ENROLLERS} enrollers that a mesh should have are alive");
        let error = Error::new("few_enrollers", message)
            .hint("while none lives nobody joins and no node CA is renewed: make more by `skein ca promote NODE`");
        findings.push(Finding::of("enrollers", Verdict::Warning, &error));
    }
    if !matches!(status.root.phase.as_str(), "" | "steady") {
        let message = format!("the mesh goes from one root to the next: {}", status.root.phase);
        let error = Error::new("root_change", message).hint("`skein ca rotate status` says what is next");
        findings.push(Finding::of("root", Verdict::Warning, &error));
    }
    if let Some(drift) = status.clock.drift_ms.filter(|drift| drift.unsigned_abs() <= status.clock.bound_ms) {
        let message = format!("{drift:+} ms beside the median of {} peers", status.clock.peers);
        findings.push(Finding::fine("clock", message));
    }
    let at = |text: &str| text.parse::<jiff::Timestamp>().map(|at| at.as_millisecond().unsigned_abs()).ok();
    let (begins, ends) = (at(&status.certificates.node_ca_begins), at(&status.certificates.node_ca_expires));
    if begins.zip(ends).is_some_and(|(begins, ends)| clock::wall() > begins.midpoint(ends)) {
        let message = format!("the node CA of {} is past half of its life", status.node);
        let error = Error::new("certificate_half", message).hint("is an enroller alive? nodes renew by themselves");
        findings.push(Finding::of("certificates", Verdict::Warning, &error));
    }
    findings
}

impl Finding {
    fn fine(check: &'static str, message: String) -> Self {
        Self { check, verdict: Verdict::Ok, code: String::new(), message, hint: String::new() }
    }

    fn of(check: &'static str, verdict: Verdict, error: &Error) -> Self {
        let Error { code, message, hint } = error.clone();
        Self { check, verdict, code: code.into_owned(), message, hint }
    }
}

fn text(finding: &Finding) -> String {
    let word = match finding.verdict {
        Verdict::Error => "error",
        Verdict::Warning => "warning",
        Verdict::Ok => return format!("ok       {}: {}\n", finding.check, plain(&finding.message)),
    };
    let hint =
        if finding.hint.is_empty() { String::new() } else { format!("         hint: {}\n", plain(&finding.hint)) };
    format!("{word:<8} {}: {} [{}]\n{hint}", finding.check, plain(&finding.message), finding.code)
}
