//! What became of a push, for programs and for people.

use certs::{codec::Millis, id::NodeId};
use policy::changeset::ChangesetId;
use serde_json::{Value, json};

use crate::{
    agent::admin::{api::Pushed, rfc3339},
    cli::{
        context::Context,
        error::{Error, Result},
        look,
        policy::proposals,
    },
};

/// What the documents become, and which changeset says so.
#[derive(Debug)]
pub struct Outcome {
    /// The contract's fields of `policy push`.
    pub result: Value,
    /// What the nodes said; none after a dry run.
    pub pushed: Option<Pushed>,
    /// The signed changeset, as it was sent.
    pub signed: Vec<u8>,
}

impl Outcome {
    /// What a push of these documents gave; `pushed` is absent after a dry run.
    pub fn new(changeset: &str, documents: Vec<Value>, pushed: Option<Pushed>, signed: Vec<u8>) -> Self {
        Self { result: result(changeset, documents, pushed.as_ref()), pushed, signed }
    }

    /// The same with the end of its trial, if it is on trial.
    pub(super) fn on_trial(mut self, confirm_by: Option<Millis>) -> Self {
        if let Some(until) = confirm_by {
            self.result["confirm_by"] = Value::String(rfc3339(until));
        }
        self
    }

    /// The same, counting those only that have the other, too.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        let (Some(pushed), Some(other)) = (&mut self.pushed, &other.pushed) else { return self };
        pushed.durable.retain(|node| other.durable.contains(node));
        pushed.applied.retain(|node| other.applied.contains(node));
        for (nodes, more) in [
            (&mut pushed.unreadable, &other.unreadable),
            (&mut pushed.pending, &other.pending),
            (&mut pushed.unreachable, &other.unreachable),
        ] {
            let more: Vec<_> = more.iter().filter(|node| !nodes.contains(node)).cloned().collect();
            nodes.extend(more);
        }
        pushed.complete &= other.complete;
        pushed.elapsed_ms += other.elapsed_ms;
        if let (Value::Object(result), Value::Object(spread)) = (&mut self.result, spread(Some(pushed))) {
            result.extend(spread);
        }
        self
    }

    /// The same with what lint says of the documents, which did not keep them from being sent.
    #[must_use]
    pub fn with_problems(mut self, problems: impl IntoIterator<Item = Value>) -> Self {
        if let Value::Array(all) = &mut self.result["problems"] {
            all.extend(problems);
        }
        self
    }

    /// The same with documents that stand as they were written; `fresh` if there was anything else to push.
    #[must_use]
    pub fn with_standing(mut self, documents: Vec<Value>, fresh: bool) -> Self {
        if let Value::Array(all) = &mut self.result["documents"] {
            all.extend(documents);
        }
        if !fresh {
            self.result["unchanged"] = Value::Bool(true);
        }
        self
    }

    /// The same for a signature under a proposal, which is what it speaks of.
    #[must_use]
    pub fn approving(mut self, proposal: &ChangesetId) -> Self {
        self.result["approval"] = self.result["changeset"].take();
        self.result["changeset"] = json!(proposal.to_string());
        self
    }

    /// Who must still sign before it counts, in words; `None` if it counts.
    pub fn missing(&self) -> Option<String> {
        let proposal = self.pushed.as_ref()?.proposal.as_ref()?;
        Some(proposals::missing(&proposal.missing))
    }

    /// Whether it was sent and counts.
    pub fn is_in_force(&self) -> bool {
        self.pushed.is_some() && self.missing().is_none()
    }

    /// The same without waiting for a node.
    #[must_use]
    pub fn without(mut self, node: &NodeId) -> Self {
        if let Some(pushed) = &mut self.pushed {
            pushed.pending.retain(|pending| pending != node);
            pushed.complete |= pushed.pending.is_empty() && pushed.unreadable.iter().all(|other| other == node);
            self.result["pending"] = json!(pushed.pending);
        }
        self
    }

    /// Prints what became of a push; one that is not where it shall be is printed and then fails.
    ///
    /// # Errors
    /// `not_converged`.
    pub fn show(&self, ctx: &Context) -> Result<()> {
        ctx.output.show(&self.result, || self.text())?;
        self.converged()
    }

    /// Whether the push is where it shall be.
    ///
    /// # Errors
    /// `not_converged`, naming the nodes that have said nothing.
    pub fn converged(&self) -> Result<()> {
        let Some(pushed) = self.pushed.as_ref().filter(|pushed| !pushed.complete) else { return Ok(()) };
        let names = |nodes: &[NodeId]| nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let missing = match (pushed.pending.as_slice(), pushed.unreadable.as_slice()) {
            ([], []) => "no further node is in reach".to_owned(),
            ([], older) => format!("{} cannot read it: run a newer skein there", names(older)),
            (silent, _) => format!("nothing heard from {}", names(silent)),
        };
        let id = look::short(&pushed.changeset);
        let message =
            format!("after {} ms changeset {id} is on {} nodes; {missing}", pushed.elapsed_ms, pushed.durable.len());
        let hint = format!("it is accepted and spreads by itself: `skein wait --changeset {}`", pushed.changeset);
        Err(Error::new("not_converged", message).hint(hint))
    }

    fn text(&self) -> String {
        let changeset = self.result["changeset"].as_str().unwrap_or_default();
        let mut text = String::new();
        for document in self.result["documents"].as_array().into_iter().flatten() {
            let word = |field: &str| document[field].as_str().unwrap_or_default().to_owned();
            let (kind, namespace, name) = (word("kind"), word("namespace"), word("name"));
            let version = document["version"].as_u64().map(|version| format!(" version {version}")).unwrap_or_default();
            let (begin, end) = if document["deleted"] == true { ("deleted ", "") } else { ("", version.as_str()) };
            let stands = if document["unchanged"] == true { ", unchanged" } else { "" };
            text.push_str(&format!("{begin}{kind} {namespace}/{name}{end}{stands}\n"));
        }
        let unchanged = self.result["unchanged"] == true;
        if unchanged {
            text.push_str("nothing was pushed: all of it stands as it is written\n");
        }
        let Some(pushed) = &self.pushed else {
            if unchanged {
                return text;
            }
            text.push_str(&format!("would be changeset {changeset}; nothing was sent (--dry-run)\n"));
            return text;
        };
        let names = |nodes: &[NodeId]| nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        text.push_str(&format!("changeset    {changeset}\n"));
        for (word, nodes) in [
            ("durable", &pushed.durable),
            ("applied", &pushed.applied),
            ("unreadable", &pushed.unreadable),
            ("pending", &pushed.pending),
            ("unreachable", &pushed.unreachable),
        ] {
            // Who is not known to have what stands since long is no news, unless it was waited for.
            let is_news = word != "pending" || !unchanged || !pushed.complete;
            if is_news && !nodes.is_empty() {
                text.push_str(&format!("{word:<12} {}\n", names(nodes)));
            }
        }
        text.push_str(&format!("elapsed      {} ms\n", pushed.elapsed_ms));
        if let Some(until) = self.result["confirm_by"].as_str() {
            let id = look::short(changeset);
            text.push_str(&format!("on trial     until {until}; keep it with `skein policy confirm {id}`\n"));
        }
        if let (Some(missing), Some(proposal)) = (self.missing(), &pushed.proposal) {
            let id = look::short(changeset);
            text.push_str(&format!("proposal     not in effect until it is signed by {missing}\n"));
            text.push_str(&format!("             skein policy sign {id}   (until {})\n", proposal.until));
        }
        text
    }
}

fn result(changeset: &str, documents: Vec<Value>, pushed: Option<&Pushed>) -> Value {
    let mut result = json!({"changeset": changeset, "documents": documents, "problems": []});
    if let (Value::Object(result), Value::Object(spread)) = (&mut result, spread(pushed)) {
        result.extend(spread);
    }
    if let Some(proposal) = pushed.and_then(|pushed| pushed.proposal.as_ref()) {
        result["proposal"] = Value::Bool(true);
        result["signed"] = json!(proposal.signed);
        result["missing"] = json!(proposal.missing);
    }
    if pushed.is_none() {
        result["dry_run"] = Value::Bool(true);
    }
    result
}

/// Where it is, as far as was heard.
fn spread(pushed: Option<&Pushed>) -> Value {
    let none = Vec::new();
    json!({
        "durable": pushed.map_or(&none, |pushed| &pushed.durable),
        "applied": pushed.map_or(&none, |pushed| &pushed.applied),
        "unreadable": pushed.map_or(&none, |pushed| &pushed.unreadable),
        "pending": pushed.map_or(&none, |pushed| &pushed.pending),
        "unreachable": pushed.map_or(&none, |pushed| &pushed.unreachable),
        "elapsed_ms": pushed.map_or(0, |pushed| pushed.elapsed_ms),
    })
}

#[cfg(test)]
mod tests {
    use super::{super::tests::pushed, *};

    fn outcome(pushed: Pushed) -> Outcome {
        Outcome::new(&pushed.changeset.clone(), Vec::new(), Some(pushed), Vec::new())
    }

    #[test]
    fn a_result_has_the_fields_of_the_contract() {
        let result = result("ab", Vec::new(), Some(&pushed(&[], true)));
        let fields: Vec<_> = result.as_object().unwrap().keys().map(String::as_str).collect();
        let wanted = [
            "changeset",
            "documents",
            "problems",
            "durable",
            "applied",
            "unreadable",
            "pending",
            "unreachable",
            "elapsed_ms",
        ];
        assert_eq!(fields, wanted);
    }

    #[test]
    fn what_stands_names_as_pending_only_those_that_were_waited_for() {
        let text = |complete| outcome(pushed(&["b"], complete)).with_standing(Vec::new(), false).text();
        assert!(!text(true).contains("pending") && text(false).contains("pending      b"), "{}", text(true));
    }

    #[test]
    fn a_push_that_is_not_everywhere_names_who_is_missing() {
        let error = outcome(pushed(&["b"], false)).converged().unwrap_err();
        assert_eq!((&*error.code, error.class().exit_code()), ("not_converged", 4));
        assert!(error.message.contains('b') && error.hint.contains("skein wait"), "{error:?}");
        let older = Pushed { unreadable: vec![NodeId::new("c").unwrap()], ..pushed(&[], false) };
        let error = outcome(older).converged().unwrap_err();
        assert!(error.message.contains("c cannot read it"), "{error:?}");
        assert!(outcome(pushed(&["b"], true)).converged().is_ok());
        assert!(outcome(pushed(&["b"], false)).without(&NodeId::new("b").unwrap()).converged().is_ok());
    }
}
