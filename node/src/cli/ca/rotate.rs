//! `skein ca rotate`: from one root to the next, in steps that each wait until every live node has followed.

mod early;
mod followers;

use certs::{
    codec::Millis,
    id::NodeId,
    root::{Root, ends},
    trust::{OutOfTurn, Phase, Trust, root_id},
};
use policy::{DocumentId, history::State, kinds::RoleSet};
use serde_json::{Value, json};

use self::{early::early, followers::Under};
use super::{certified_by, longest_enroller_life};
use crate::{
    agent::admin::{
        api::{EnrollerRequest, Mesh, Status},
        rfc3339,
    },
    cli::{
        client::{self, Client},
        context::Context,
        error::{Error, Result},
        grants, operator,
        output::remark,
        proof,
        signing::{Operator, Outcome, Sending},
    },
    clock,
};

/// A step from one root to the next.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a new root and have every node trust it beside the old one
    #[command(after_help = "Examples:
  skein ca rotate start
  skein ca rotate start --emergency")]
    Start {
        /// The old root's key is stolen: withdraw it at once. Give it on an enroller's machine; connections are cut until nodes
        /// have renewed there
        #[arg(long, conflicts_with = "offline")]
        emergency: bool,
        /// The old root has expired: nodes come back by themselves once one enroller has the new one. Give it on that machine
        #[arg(long)]
        offline: bool,
        #[command(flatten)]
        by: By,
    },
    /// Show where the change stands, and which nodes have followed
    #[command(after_help = "Example: skein ca rotate status")]
    Status,
    /// Certify everything under the new root, once every live node trusts it
    #[command(after_help = "Example: skein ca rotate advance --timeout 1m")]
    Advance {
        #[command(flatten)]
        force: Force,
        #[command(flatten)]
        by: By,
    },
    /// Withdraw the old root, once nothing of any live node rests on it
    #[command(after_help = "Example: skein ca rotate finish --timeout 5m")]
    Finish {
        #[command(flatten)]
        force: Force,
        #[command(flatten)]
        by: By,
    },
    /// Give the change up while the new root is not in use yet
    #[command(after_help = "Example: skein ca rotate cancel")]
    Cancel {
        /// Also while enrollers certify under the new root already: what they certified counts no more, nor do they enrol anybody, until
        /// `skein ca renew NODE`
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        by: By,
    },
}

/// Who signs.
#[derive(Debug, clap::Args)]
pub struct By {
    /// Sign by recovery.key: where operators' keys are lost
    #[arg(long)]
    recovery: bool,
}

/// Whether to wait for all.
#[derive(Debug, clap::Args)]
pub struct Force {
    /// Leave behind the nodes that have not followed; they are named
    #[arg(long)]
    force: bool,
}

/// Runs the command.
pub(super) async fn run(command: Command, ctx: &Context) -> Result<()> {
    match command {
        Command::Start { emergency, offline, by } => {
            let ctx = ctx.recovering(by.recovery);
            if emergency || offline { replace(offline, &ctx).await } else { start(&ctx).await }
        }
        Command::Status => status(ctx).await,
        Command::Advance { force, by } => advance(force.force, &ctx.recovering(by.recovery)).await,
        Command::Finish { force, by } => finish(force.force, &ctx.recovering(by.recovery)).await,
        Command::Cancel { force, by } => cancel(force, &ctx.recovering(by.recovery)).await,
    }
}

/// A mesh whose roots are about to change.
struct Change {
    operator: Operator,
    client: Client,
    /// RoleSets, by their signatures.
    state: State,
}

impl Change {
    async fn of(ctx: &Context, mut client: Client) -> Result<Self> {
        let operator = Operator::load(ctx)?;
        let history = proof::of_document(&mut client, &operator.known, &DocumentId::role_set()).await?;
        let state = State::clone(&*history.state(clock::wall()));
        proof::readable(&state, &DocumentId::role_set())?;
        let change = Self { operator, client, state };
        if change.state.conflicts.iter().any(|conflict| matches!(conflict, policy::history::Conflict::RoleSets(_))) {
            return Err(Error::new("stale_parent", "two RoleSets were signed apart from each other, and none counts")
                .hint("settle that first: `skein policy conflicts` shows them"));
        }
        change.operator.directory.keep_roots(&change.trust().roots, change.state.role_set.number)?;
        change.operator.directory.settle_roots(change.trust())?;
        Ok(change)
    }

    fn trust(&self) -> &Trust {
        self.state.trust()
    }

    /// The same where no receipt can prove it, because nothing that nodes could show counts: what the node holds then proves itself.
    async fn sign_at_once(&mut self, ctx: &Context, trust: &Trust, what: &str) -> Result<Value> {
        let known = self.operator.known.clone();
        match self.sign(ctx, trust, what).await {
            Ok(outcome) => Ok(outcome.result["changeset"].clone()),
            Err(error) if error.code == "unverified_node" => {
                let history = proof::of_document(&mut self.client, &known, &DocumentId::role_set()).await?;
                let state = history.state(clock::wall());
                if state.trust() != trust {
                    return Err(error);
                }
                self.operator.directory.keep_roots(&trust.roots, state.role_set.number)?;
                self.operator.directory.settle_roots(trust)?;
                Ok(json!(state.role_set.changeset.to_string()))
            }
            Err(error) => Err(error),
        }
    }

    /// Signs and sends the RoleSet of now with these roots.
    async fn sign(&mut self, ctx: &Context, trust: &Trust, what: &str) -> Result<Outcome> {
        let set = RoleSet { trust: Some(trust.clone()), keeps: None, ..(*self.state.role_set.set).clone() };
        let sending = Sending { message: what.to_owned(), ..Sending::default() };
        let outcome = operator::put(&self.operator, &mut self.client, ctx, &self.state, &set, &sending).await?;
        if let Some(missing) = outcome.missing() {
            let id = outcome.result["changeset"].as_str().unwrap_or_default();
            let message = format!("the RoleSet {id} is a proposal: it is in effect once {missing} signed it");
            return Err(Error::new("threshold_missing", message)
                .hint(format!("skein policy sign {id}, by another operator or with --recovery; then `skein ca rotate status` says what is next, and an emergency's command is given again")));
        }
        let directory = &self.operator.directory;
        directory.keep_roots(&trust.roots, self.state.role_set.number + 1)?;
        directory.settle_roots(trust)?;
        Ok(outcome)
    }

    fn shown(&self, ctx: &Context, outcome: &Outcome, trust: &Trust, extra: Value, words: &str) -> Result<()> {
        let mut value = json!({
            "phase": trust.phase().to_string(),
            "changeset": outcome.result["changeset"],
            "roots": roots(trust),
            "next": next(trust.phase()),
        });
        for (field, more) in extra.as_object().into_iter().flatten() {
            value[field] = more.clone();
        }
        ctx.output.show(&value, || {
            let next = next(trust.phase()).map(|next| format!("next: {next}\n")).unwrap_or_default();
            format!("{words}\n{next}")
        })?;
        outcome.converged()
    }
}

async fn start(ctx: &Context) -> Result<()> {
    let mut change = Change::of(ctx, client::connect(ctx).await?).await?;
    if change.trust().phase() != Phase::Steady {
        return Err(out_of_turn(change.trust(), OutOfTurn::Distributing));
    }
    let known = &change.operator.known;
    let root = change.operator.directory.next_root(&known.trust_domain, change.trust(), clock::wall())?;
    let trust = change.trust().begin(&root.certificate()).map_err(|turn| out_of_turn(change.trust(), turn))?;
    let outcome = change.sign(ctx, &trust, "trust a new root").await?;
    let path = change.operator.directory.path().display();
    let words = format!(
        "root {} is trusted beside the old one; its key is {path}/root.next.key: store it as you store root.key",
        root_id(&root.certificate())
    );
    change.shown(ctx, &outcome, &trust, json!({}), &words)
}

async fn cancel(force: bool, ctx: &Context) -> Result<()> {
    let mut change = Change::of(ctx, client::connect(ctx).await?).await?;
    let trust = change.trust().cancel().map_err(|turn| out_of_turn(change.trust(), turn))?;
    let early = early(&mut change, ctx).await?;
    if let Some((first, _)) = early.first().filter(|_| !force) {
        let each: Vec<_> = early.iter().map(|(node, why)| format!("{node}: {why}")).collect();
        let message =
            format!("enrollers may rest on the new root, by an `advance` that broke off: {}", each.join("; "));
        return Err(Error::new("refused", message).hint(format!(
            "put each back under the old root with its key, `skein ca renew {first}`, and try again; or go on: skein ca rotate advance"
        )));
    }
    let outcome = change.sign(ctx, &trust, "give up the new root").await?;
    change.operator.directory.forget_next_root()?;
    let left: Vec<&NodeId> = early.iter().map(|(node, _)| node).collect();
    let words = format!(
        "the new root is trusted no more; nodes that were certified under it renew by themselves{}",
        left_words(&left)
    );
    change.shown(ctx, &outcome, &trust, json!({"left_behind": left}), &words)
}

async fn advance(force: bool, ctx: &Context) -> Result<()> {
    let mut change = Change::of(ctx, client::connect(ctx).await?).await?;
    let trust = change.trust().activate().map_err(|turn| out_of_turn(change.trust(), turn))?;
    let known = change.operator.known.clone();
    let mut coming = trust.issuing();
    let certificate = coming.next().ok_or_else(|| Error::new("failed", "the RoleSet names no next root"))?;
    let root = change.operator.directory.root_of(&known.trust_domain, certificate)?;
    let followers = change.followers(ctx, Under::AnyRoot).await?;
    let behind = followers.left_behind(force, "do not trust the new root yet")?;
    let (done, failed) = enrollers(&mut change, &root, ctx).await?;
    if done.is_empty() || (!failed.is_empty() && !force) {
        let failed: Vec<_> = failed.iter().map(|(node, why)| format!("{node}: {why}")).collect();
        let message = format!("enrollers without the new root: {}", failed.join("; "));
        return Err(Error::new("not_acknowledged", message).hint(
            "start them and try again, or leave them behind with --force: each then needs `skein ca renew NODE`",
        ));
    }
    let outcome = change.sign(ctx, &trust, "certify under the new root").await?;
    let left: Vec<&NodeId> = behind.iter().chain(failed.iter().map(|(node, _)| node)).collect();
    let words = format!(
        "enrollers certify under the new root: {}\nnodes renew by themselves and end what rests on the old root{}",
        names(&done),
        left_words(&left)
    );
    change.shown(ctx, &outcome, &trust, json!({"enrollers": done, "left_behind": left}), &words)
}

async fn finish(force: bool, ctx: &Context) -> Result<()> {
    let mut change = Change::of(ctx, client::connect(ctx).await?).await?;
    let trust = change.trust().finish().map_err(|turn| out_of_turn(change.trust(), turn))?;
    let followers = change.followers(ctx, Under::StayingRoots).await?;
    let behind = followers.left_behind(force, "still rest on the old root")?;
    let outcome = change.sign(ctx, &trust, "withdraw the old root").await?;
    let left: Vec<&NodeId> = behind.iter().collect();
    let (away, cut) = (followers.away(), followers.busy());
    let words = format!(
        "the old root is withdrawn{}{}",
        left_words(&left),
        if away.is_empty() {
            String::new()
        } else {
            format!("\nnot reached: {}; they renew by their keys when they return", names(&away))
        }
    );
    change.shown(ctx, &outcome, &trust, json!({"left_behind": left, "cut": cut, "away": away}), &words)
}

/// The way without waiting: for a root that is stolen, or under which nothing counts any more.
async fn replace(expired: bool, ctx: &Context) -> Result<()> {
    if ctx.globals.node.is_some() {
        let message =
            "this is done on an enroller's machine, by its socket: over the net the old root would have to prove it";
        return Err(Error::new("usage", message).hint("leave out --node, on a machine whose node is an enroller"));
    }
    let mut change = Change::of(ctx, client::connect_here(ctx).await?).await?;
    let (known, now) = (change.operator.known.clone(), clock::wall());
    let directory = change.operator.directory.clone();
    let asked: EnrollerRequest = change.client.post("/v1/ca/request", "").await?;
    let grant = grants::fetch_active(&mut change.client, &known, &asked.node).await?.grant;
    if !grant.enroller {
        let message = format!("operators do not let {} enrol others", asked.node);
        return Err(Error::new("not_an_enroller", message).hint("give the command on the machine of an enroller"));
    }
    let live = change.trust().issuing().filter_map(|root| ends(root)).max().filter(|end| *end > now);
    // An attempt that broke off once its RoleSet counted: the enroller CA is still to come.
    let resumed = is_withdrawn(&mut change).await?;
    if let (true, Some(end), false) = (expired, live, resumed) {
        return Err(Error::new("refused", format!("the root is valid until {}", rfc3339(end)))
            .hint("`skein ca rotate start` changes it and cuts nothing; --emergency is for one that is stolen"));
    }
    let mesh: Mesh = change.client.get("/v1/mesh").await?;
    let (root, trust, changeset) = if resumed {
        (directory.issuing_root(&known.trust_domain, change.trust())?, change.trust().clone(), None)
    } else {
        let root = fresh_root(&change, now)?;
        let trust = change.trust().replace(&root.certificate()).map_err(|turn| out_of_turn(change.trust(), turn))?;
        let what = if expired { "replace the expired root" } else { "withdraw a stolen root at once" };
        let changeset = change.sign_at_once(ctx, &trust, what).await?;
        (root, trust, Some(changeset))
    };
    let longest = longest_enroller_life(&mut change.client, &known).await?;
    certified_by(&root, (&asked, &grant, longest), &mut change.client).await?;
    let others = |enroller: bool| -> Vec<NodeId> {
        let others = mesh.nodes.iter().filter(|node| node.name != asked.node);
        others.filter(|node| node.enroller == enroller).map(|node| node.name.clone()).collect()
    };
    let (enrollers, nodes) = (others(true), others(false));
    let words = format!(
        "root {} alone is trusted; {} certifies under it\n\
         every connection under the old root is cut until both of its nodes have renewed: {}\n\
         these enrol nobody until `skein ca renew NODE`: {}\n\
         a node that {} never saw before is refused: skein invite NODE --replace",
        root_id(&root.certificate()),
        asked.node,
        names(&nodes),
        names(&enrollers),
        asked.node
    );
    let value = json!({
        "phase": trust.phase().to_string(),
        "changeset": changeset,
        "roots": roots(&trust),
        "enroller": asked.node,
        "cut": nodes,
        "enrollers": enrollers,
    });
    ctx.output.show(&value, || words + "\n")
}

/// A root that is not trusted yet: one that a change under way was to lead to may be stolen, too.
fn fresh_root(change: &Change, now: Millis) -> Result<Root> {
    let (directory, known) = (&change.operator.directory, &change.operator.known);
    if change.trust().phase() != Phase::Steady {
        directory.forget_next_root()?;
    }
    directory.next_root(&known.trust_domain, change.trust(), now)
}

/// Whether the node that was reached has its enroller CA under a root that was withdrawn.
async fn is_withdrawn(change: &mut Change) -> Result<bool> {
    let status: Status = change.client.get("/v1/status").await?;
    Ok(status.problems.iter().any(|problem| problem.code == "enroller_withdrawn"))
}

/// Certifies the enroller CAs of live nodes under the new root: who has it, and who not and why.
async fn enrollers(change: &mut Change, root: &Root, ctx: &Context) -> Result<(Vec<NodeId>, Vec<(NodeId, String)>)> {
    let known = change.operator.known.clone();
    let mesh: Mesh = change.client.get("/v1/mesh").await?;
    let longest = longest_enroller_life(&mut change.client, &known).await?;
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for node in mesh.nodes.iter().filter(|node| node.enroller && node.alive) {
        let grant = grants::fetch_active(&mut change.client, &known, &node.name).await?.grant;
        let certified = async {
            if node.name == mesh.node {
                let asked = change.client.post("/v1/ca/request", "").await?;
                return certified_by(root, (&asked, &grant, longest), &mut change.client).await;
            }
            let mut client = client::connect_to(std::slice::from_ref(node), ctx).await?;
            let asked = client.post("/v1/ca/request", "").await?;
            certified_by(root, (&asked, &grant, longest), &mut client).await
        };
        match certified.await {
            Ok(_) => done.push(node.name.clone()),
            Err(error) => failed.push((node.name.clone(), error.message)),
        }
    }
    Ok((done, failed))
}

async fn status(ctx: &Context) -> Result<()> {
    let mut change = Change::of(ctx, client::connect(ctx).await?).await?;
    let trust = change.trust().clone();
    let followers = match trust.phase() {
        Phase::Steady => None,
        Phase::Distributing => Some(change.followers_now(Under::AnyRoot).await?),
        Phase::Issuing => Some(change.followers_now(Under::StayingRoots).await?),
    };
    let mut value = json!({
        "phase": trust.phase().to_string(),
        "role_set": change.state.role_set.number,
        "roots": roots(&trust),
        "next": next(trust.phase()),
    });
    if let Some(followers) = &followers {
        value["followed"] = json!(followers.followed());
        value["waiting"] = json!(followers.waiting());
        value["away"] = json!(followers.away());
    }
    ctx.output.show(&value, || {
        let mut text = format!("phase     {}\n", trust.phase());
        for root in roots(&trust) {
            let word = |field: &str| root[field].as_str().unwrap_or_default().to_owned();
            text.push_str(&format!("root      {} {} until {}\n", word("id"), word("state"), word("expires")));
        }
        if let Some(followers) = &followers {
            text.push_str(&followers.text());
        }
        text + &next(trust.phase()).map(|next| format!("next      {next}\n")).unwrap_or_default()
    })
}

/// Every root and what it is good for.
fn roots(trust: &Trust) -> Vec<Value> {
    let expires = |root: &[u8]| ends(root).map(|end: Millis| rfc3339(end));
    let all = trust.roots.iter().chain(&trust.former);
    all.map(|root| json!({"id": root_id(root), "state": trust.standing(root).to_string(), "expires": expires(root)}))
        .collect()
}

/// The command that comes next.
fn next(phase: Phase) -> Option<&'static str> {
    match phase {
        Phase::Steady => None,
        Phase::Distributing => Some("skein ca rotate advance"),
        Phase::Issuing => Some("skein ca rotate finish"),
    }
}

fn out_of_turn(trust: &Trust, turn: OutOfTurn) -> Error {
    let error = Error::new(
        "out_of_turn",
        match trust.phase() {
            Phase::Steady if turn == OutOfTurn::Known => OutOfTurn::Known.to_string(),
            Phase::Steady => OutOfTurn::Steady.to_string(),
            Phase::Distributing => OutOfTurn::Distributing.to_string(),
            Phase::Issuing => OutOfTurn::Issuing.to_string(),
        },
    );
    let next = next(trust.phase()).unwrap_or("skein ca rotate start");
    error.hint(format!("next is `{next}`; `skein ca rotate status` shows who has followed"))
}

fn names(nodes: &[NodeId]) -> String {
    let names: Vec<&str> = nodes.iter().map(NodeId::as_str).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn left_words(left: &[&NodeId]) -> String {
    if left.is_empty() {
        return String::new();
    }
    let names: Vec<&str> = left.iter().map(|node| node.as_str()).collect();
    remark(&format!("note: left behind by --force: {}", names.join(", ")));
    format!("\nleft behind: {}", names.join(", "))
}
