//! `skein policy proposals`.

use crate::{
    agent::admin::api::{Missing, Proposal},
    cli::{context::Context, error::Result, look, output::Table},
};

/// Lists the changesets that too few operators have signed so far, oldest first.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein policy proposals -o json")]
pub struct Args {}

/// Runs the command.
pub(super) async fn run(Args {}: Args, ctx: &Context) -> Result<()> {
    look::list(ctx, "/v1/policy/proposals", table).await
}

fn table(proposals: &[Proposal]) -> Table {
    let mut table = Table::new(&["PROPOSAL", "DOCUMENTS", "SIGNED", "MISSING", "UNTIL", "MESSAGE"]);
    for proposal in proposals {
        let missing = proposal.stale.clone().unwrap_or_else(|| missing(&proposal.missing));
        table.row([
            look::short(&proposal.changeset).to_owned(),
            proposal.documents.join(", "),
            proposal.signed.join(","),
            missing,
            look::when(&proposal.until),
            proposal.message.clone(),
        ]);
    }
    table
}

/// Who must still sign, as people say it.
pub(in crate::cli) fn missing(missing: &[Missing]) -> String {
    let one = |missing: &Missing| match missing.of.as_slice() {
        names if names.len() == missing.count => names.join(" and "),
        names => format!("{} of {}", missing.count, names.join(", ")),
    };
    missing.iter().map(one).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_missing_is_said_in_words() {
        let of = |count, names: &[&str]| Missing { count, of: names.iter().map(|name| (*name).to_owned()).collect() };
        assert_eq!(missing(&[of(1, &["bob", "carl"]), of(1, &["dora"])]), "1 of bob, carl; dora");
        assert_eq!(missing(&[of(2, &["bob", "carl"])]), "bob and carl");
    }
}
