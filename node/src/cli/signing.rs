//! From documents to a signed changeset on some node: plan, sign, send, believe the receipts, say who has it.

mod outcome;

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use certs::{codec::Millis, id::NodeId, root::bundle_from_pem, sign::SigningKey, verify::Authority};
use policy::{
    DocumentId, Kind,
    changeset::{Change, Changeset, ChangesetId},
};
use rand::RngCore as _;
use serde_json::{Value, json};

pub use outcome::Outcome;

use crate::{
    agent::{
        admin::api::{Intent, Plan, Pushed},
        receipt::{Receipt, Standing},
    },
    cli::{
        client::Client,
        context::Context,
        directory::{Directory, Known},
        error::{Error, Result},
        progress,
        value::Wait,
    },
    clock,
};

/// An operator's means: the key that signs and what is known of the mesh.
pub struct Operator {
    /// Where both lie.
    pub directory: Directory,
    /// Signs.
    pub key: SigningKey,
    /// The mesh that the key belongs to.
    pub known: Known,
}

/// How a push is sent.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Sending {
    /// Who must have it on disk before this returns: local, a number of nodes, or all that are alive (and in effect there); others are named as unreachable
    /// [default: 2, or 1 when alone]
    #[arg(long, value_name = "local|N|all")]
    pub wait: Option<Wait>,
    /// Why, for `policy log`
    #[arg(long, short, value_name = "TEXT", default_value = "")]
    pub message: String,
    /// Do everything except sending
    #[arg(long)]
    pub dry_run: bool,
    /// How long it counts without confirmation; for ever if absent. Set by the commands that offer `--confirm-within`.
    #[arg(skip)]
    pub confirm_within: Option<Duration>,
}

impl Operator {
    /// The operator of the flags.
    ///
    /// # Errors
    /// No directory, no key, or a key that others can read.
    pub fn load(ctx: &Context) -> Result<Self> {
        let directory = ctx.operator()?;
        let key = directory.operator_key()?;
        let known = directory.known()?;
        Ok(Self { directory, key, known })
    }

    /// Asks the node what a push of these documents by this operator needs to know.
    ///
    /// # Errors
    /// What the node answers; `wrong_trust_domain` if it is of another mesh than the key.
    pub async fn plan(&self, client: &mut Client, intents: &[Intent]) -> Result<Plan> {
        let path = format!("/v1/policy/plan?signer={}", self.key.public());
        let plan: Plan = client.post_json(&path, &intents).await?;
        if plan.trust_domain != self.known.trust_domain {
            let message = format!(
                "{} is a node of {}, the operator key in {} belongs to {}",
                client.reached(),
                plan.trust_domain,
                self.directory.path().display(),
                self.known.trust_domain
            );
            return Err(Error::new("wrong_trust_domain", message).hint("give the right --operator DIR or --node"));
        }
        if plan.live.len() != intents.len() || plan.versions.len() != intents.len() {
            return Err(Error::new("failed", format!("{} answers another plan than asked for", client.reached())));
        }
        Ok(plan)
    }

    /// Signs the documents as one changeset and sends it.
    ///
    /// # Errors
    /// What the node answers. A push that is not yet where it shall be is no error here: see [`Outcome::converged`].
    pub async fn send(
        &self,
        client: &mut Client,
        ctx: &Context,
        intents: Vec<Intent>,
        plan: &Plan,
        sending: &Sending,
    ) -> Result<Outcome> {
        let documents: Vec<_> = intents
            .iter()
            .zip(&plan.versions)
            .map(|(intent, version)| {
                let mut row =
                    json!({"kind": intent.kind, "namespace": intent.namespace, "name": intent.name, "version": version});
                if intent.content.is_none() {
                    row["deleted"] = json!(true);
                }
                row
            })
            .collect();
        let problems = plan.problems.iter().cloned();
        let changeset = changeset(intents, plan, sending)?;
        let signed = changeset.sign(&[&self.key]);
        let id = ChangesetId(signed.id());
        let bytes = policy::changeset::encode(&signed);
        if sending.dry_run {
            let outcome = Outcome::new(&id.to_string(), documents, None, bytes).on_trial(changeset.confirm_by);
            return Ok(outcome.with_problems(problems));
        }
        let path = sending.path(ctx);
        let pushed: Pushed = progress::of_changeset(client.post(&path, bytes.clone()), &id, ctx).await?;
        let outcome = self.outcome(pushed, id, documents, client.reached(), sending)?.on_trial(changeset.confirm_by);
        Ok(Outcome { signed: bytes, ..outcome.with_problems(problems) })
    }

    /// What became of something signed, by the receipts of nodes.
    ///
    /// # Errors
    /// `unverified_node` if no receipt proves that any node has it.
    pub fn outcome(
        &self,
        said: Pushed,
        id: ChangesetId,
        documents: Vec<Value>,
        reached: &str,
        sending: &Sending,
    ) -> Result<Outcome> {
        let pushed = self.believed(said, &id, reached)?.enough(sending.wait);
        Ok(Outcome::new(&pushed.changeset.clone(), documents, Some(pushed), Vec::new()))
    }

    /// What nodes signed counts, not what the asked one says of them.
    fn believed(&self, said: Pushed, id: &ChangesetId, reached: &str) -> Result<Pushed> {
        let authority = self.authority()?;
        let (mut durable, mut applied, mut unreadable) = (Vec::new(), Vec::new(), Vec::new());
        for receipt in said.receipts.iter().filter_map(|text| STANDARD.decode(text).ok()) {
            let proven = Receipt::prove(&receipt, &authority, clock::wall());
            // Nobody is counted twice.
            let proven = proven.filter(|receipt| receipt.changeset() == *id && !durable.contains(&receipt.node));
            if let Some(receipt) = proven {
                if receipt.standing >= Standing::Applied {
                    applied.push(receipt.node.clone());
                } else if receipt.standing == Standing::Unreadable {
                    unreadable.push(receipt.node.clone());
                }
                durable.push(receipt.node);
            }
        }
        let unproven = |node: &&NodeId| !durable.contains(node);
        let mut pending = said.pending;
        pending.extend(said.durable.iter().filter(unproven).cloned());
        let complete = said.complete && said.durable.iter().all(|node| durable.contains(node));
        if durable.is_empty() {
            let message = format!("{reached} took the changeset {id}, but no receipt of a node proves it");
            return Err(
                Error::new("unverified_node", message).hint("is bundle.pem that of this mesh? ask another node")
            );
        }
        Ok(Pushed { changeset: id.to_string(), durable, applied, unreadable, pending, complete, ..said })
    }

    /// Whom the operator believes: who is certified under the roots that it knows now, and not out as far as it knows.
    ///
    /// # Errors
    /// As [`Self::roots`].
    pub fn authority(&self) -> Result<Authority> {
        // What this very command has learned is on disk.
        let known = self.directory.known();
        Ok(known.as_ref().unwrap_or(&self.known).authority(self.roots()?))
    }

    /// The roots that the operator believes.
    ///
    /// # Errors
    /// `bundle.pem` is missing or damaged.
    pub fn roots(&self) -> Result<Vec<Vec<u8>>> {
        bundle_from_pem(&self.directory.bundle()?).map_err(|error| {
            Error::new("bad_config", format!("{}/bundle.pem: {error}", self.directory.path().display()))
                .hint("restore the file that `skein init` wrote")
        })
    }
}

impl Sending {
    /// Where it is posted to.
    pub(super) fn path(&self, ctx: &Context) -> String {
        format!("/v1/policy?{}", self.query(ctx))
    }

    /// For whom the node waits, and how long.
    pub(super) fn query(&self, ctx: &Context) -> String {
        let wait = self.wait.map_or_else(|| "default".to_owned(), |wait| wait.to_string());
        format!("wait={wait}&timeout_ms={}", ctx.globals.timeout.as_millis())
    }
}

impl Pushed {
    /// The same, complete only if it is on as many nodes as were asked for, by their own receipts.
    fn enough(mut self, wait: Option<Wait>) -> Self {
        let wanted = match wait {
            Some(Wait::Local) => 1,
            Some(Wait::Nodes(count)) => usize::try_from(count).unwrap_or(usize::MAX),
            // A node that is alone awaits nobody.
            None => 1 + usize::from(!self.pending.is_empty()),
            Some(Wait::All) => self.durable.len() + self.pending.len(),
        };
        self.complete &= self.durable.len() >= wanted;
        // Who cannot read it will not follow it by waiting.
        self.complete &= wait != Some(Wait::All) || self.unreadable.is_empty();
        self
    }
}

/// The longest trial: `confirm_by` is a net for mistakes, not a timer.
const LONGEST_TRIAL: Duration = Duration::from_secs(7 * 24 * 3_600);

/// When a trial that begins now ends.
fn confirm_by(within: Duration, now: Millis) -> Result<Millis> {
    if within < Duration::from_secs(1) || within > LONGEST_TRIAL {
        return Err(Error::new("usage", "--confirm-within must be between 1s and 168h")
            .hint("give it the time that you need to look at the effect, e.g. 5m"));
    }
    Ok(now + Millis::try_from(within.as_millis()).unwrap_or(Millis::MAX / 2))
}

fn changeset(intents: Vec<Intent>, plan: &Plan, sending: &Sending) -> Result<Changeset> {
    let (message, now) = (sending.message.as_str(), clock::wall());
    let confirm_by = sending.confirm_within.map(|within| confirm_by(within, now)).transpose()?;
    if message.len() > policy::changeset::MAX_MESSAGE {
        let limit = policy::changeset::MAX_MESSAGE;
        return Err(Error::new("usage", format!("--message is longer than {limit} bytes")).hint("say it shorter"));
    }
    let mut changes = Vec::with_capacity(intents.len());
    for (index, (intent, live)) in intents.into_iter().zip(&plan.live).enumerate() {
        let yielded = plan.yielded.get(index).into_iter().flatten();
        let replaces = live.iter().chain(yielded).map(|id| changeset_id(id)).collect::<Result<Vec<_>>>()?;
        changes.push(Change { document: document_id(&intent)?, content: intent.content, replaces });
    }
    let mut nonce = [0; 16];
    rand::rng().fill_bytes(&mut nonce);
    Ok(Changeset {
        trust_domain: plan.trust_domain.clone(),
        role_set: plan.role_set,
        issued_at: now,
        message: message.to_owned(),
        confirm_by,
        nonce,
        changes,
    })
}

fn document_id(intent: &Intent) -> Result<DocumentId> {
    Ok(DocumentId::new(kind(&intent.kind)?, &intent.namespace, &intent.name))
}

/// Short words that kubectl has for Istio's kinds.
const SHORT: &[(&str, &str)] = &[
    ("ap", "AuthorizationPolicy"),
    ("dr", "DestinationRule"),
    ("gw", "Gateway"),
    ("pa", "PeerAuthentication"),
    ("ra", "RequestAuthentication"),
    ("se", "ServiceEntry"),
    ("vs", "VirtualService"),
    ("we", "WorkloadEntry"),
    ("wg", "WorkloadGroup"),
];

/// A kind as people type it.
///
/// # Errors
/// There is no such kind.
pub fn kind(word: &str) -> Result<Kind> {
    let full = SHORT.iter().find(|(short, _)| short.eq_ignore_ascii_case(word)).map_or(word, |(_, full)| full);
    full.parse::<Kind>().map_err(|error| {
        let kinds: Vec<_> = Kind::words().collect();
        let near = policy::nearest(word, kinds.iter().copied()).map(|kind| format!("did you mean {kind}? "));
        let hint = format!("{}kinds: {}", near.unwrap_or_default(), kinds.join(", "));
        Error::new("usage", error.to_string()).hint(hint)
    })
}

/// The document that people name by kind and name: `NAME` is of the namespace that the flags say, `NAMESPACE/NAME` as it is printed is
/// taken back.
///
/// # Errors
/// There is no such kind.
pub fn document(word: &str, name: &str, namespace: &str) -> Result<DocumentId> {
    let (namespace, name) = name.split_once('/').unwrap_or((namespace, name));
    Ok(DocumentId::new(kind(word)?, namespace, name))
}

/// A changeset's id in full.
///
/// # Errors
/// It is none.
pub fn changeset_id(text: &str) -> Result<ChangesetId> {
    text.parse::<ChangesetId>()
        .map_err(|error| Error::new("usage", error.to_string()).hint("`skein policy log` shows ids"))
}

/// What is to become of a document that a program makes.
pub fn intent((document, content): (DocumentId, String)) -> Intent {
    Intent {
        kind: document.kind.to_string(),
        namespace: document.namespace,
        name: document.name,
        content: Some(content),
        file: String::new(),
        line: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn pushed(pending: &[&str], complete: bool) -> Pushed {
        let nodes = |names: &[&str]| names.iter().map(|name| NodeId::new(name).unwrap()).collect();
        Pushed {
            changeset: "ab".repeat(32),
            durable: nodes(&["a"]),
            applied: nodes(&["a"]),
            unreadable: Vec::new(),
            pending: nodes(pending),
            unreachable: Vec::new(),
            complete,
            elapsed_ms: 7,
            receipts: Vec::new(),
            proposal: None,
        }
    }

    #[test]
    fn only_proven_nodes_are_enough() {
        assert!(pushed(&[], true).enough(Some(Wait::Local)).complete);
        assert!(pushed(&[], true).enough(Some(Wait::Nodes(1))).complete);
        assert!(!pushed(&[], true).enough(Some(Wait::Nodes(2))).complete);
        assert!(pushed(&[], true).enough(None).complete);
        assert!(!pushed(&["b"], true).enough(None).complete);
        assert!(!pushed(&["b"], true).enough(Some(Wait::All)).complete);
        assert!(!pushed(&[], false).enough(None).complete);
        let unreadable =
            |wait| Pushed { unreadable: vec![NodeId::new("a").unwrap()], ..pushed(&[], true) }.enough(wait);
        assert!(unreadable(None).complete && !unreadable(Some(Wait::All)).complete, "it is to be in effect everywhere");
    }

    #[test]
    fn kinds_have_short_words() {
        assert_eq!(kind("vs").unwrap(), Kind::VirtualService);
        assert_eq!(kind("destinationrules").unwrap(), Kind::DestinationRule);
        assert_eq!(kind("AP").unwrap(), Kind::AuthorizationPolicy);
        for (short, full) in SHORT {
            assert_eq!(kind(short).unwrap().as_str(), *full);
        }
        assert_eq!(kind("Pod").unwrap_err().class().exit_code(), 2);
        assert!(kind("VirtualServce").unwrap_err().hint.starts_with("did you mean VirtualService? "));
        assert!(kind("Pod").unwrap_err().hint.starts_with("kinds: "));
    }

    #[test]
    fn the_printed_name_of_a_document_is_taken_back() {
        let id = DocumentId::new(Kind::VirtualService, "shop", "cart");
        assert_eq!(document("vs", "cart", "shop").unwrap(), id);
        assert_eq!(document("vs", "shop/cart", "default").unwrap(), id);
    }

    fn saying(message: &str) -> Sending {
        Sending { message: message.to_owned(), ..Sending::default() }
    }

    #[test]
    fn a_changeset_replaces_what_was_planned() {
        let plan = Plan {
            trust_domain: certs::id::TrustDomain::new("test.example").unwrap(),
            role_set: 3,
            live: vec![vec!["ab".repeat(32)]],
            yielded: Vec::new(),
            versions: vec![2],
            problems: Vec::new(),
            standing: Vec::new(),
        };
        let intent = Intent {
            kind: "VirtualService".into(),
            namespace: "shop".into(),
            name: "cart".into(),
            content: None,
            file: String::new(),
            line: 0,
        };
        let made = changeset(vec![intent.clone()], &plan, &saying("why")).unwrap();
        assert_eq!((made.role_set, made.message.as_str(), made.changes.len()), (3, "why", 1));
        assert_eq!(made.changes[0].replaces, [changeset_id(&"ab".repeat(32)).unwrap()]);
        let long = "x".repeat(policy::changeset::MAX_MESSAGE + 1);
        assert_eq!(changeset(vec![intent.clone()], &plan, &saying(&long)).unwrap_err().code, "usage");
        assert_eq!(made.confirm_by, None);
        let trial = |seconds| Sending { confirm_within: Some(Duration::from_secs(seconds)), ..saying("") };
        let made = changeset(vec![intent.clone()], &plan, &trial(300)).unwrap();
        assert_eq!(made.confirm_by, Some(made.issued_at + 300_000));
        for refused in [0, 8 * 24 * 3_600] {
            assert_eq!(changeset(vec![intent.clone()], &plan, &trial(refused)).unwrap_err().code, "usage");
        }
    }
}
