//! `skein outliers`.

use crate::{
    agent::admin::api::Outlier,
    cli::{
        context::Context,
        error::Result,
        look::{self, cell, state},
        output::{Format, Table, remark},
    },
};

/// Lists the endpoints that fail for services of one node: those that they do without for a while, and those that stay in because
/// `maxEjectionPercent` lets no further one go out.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein outliers --watch")]
pub struct Args {}

/// Runs the command.
pub(super) async fn run(Args {}: Args, ctx: &Context) -> Result<()> {
    look::list_here(ctx, "/v1/outliers", table).await?;
    if ctx.output.format == Format::Table && !ctx.globals.watch {
        remark("This is what one node does without; `skein status --mesh` names what any node does without.");
    }
    Ok(())
}

fn table(outliers: &[Outlier]) -> Table {
    let mut table =
        Table::new(&["SERVICE", "ENDPOINT", "STATE", "REASON", "TIMES", "WITNESSES", "UNTIL", "CALLER", "CLUSTER"]);
    for outlier in outliers {
        table.toned([
            cell(&outlier.service),
            cell(&outlier.endpoint),
            state(&outlier.state),
            cell(match &outlier.spared_by {
                Some(why) => format!("{}; {why}", outlier.reason),
                None => outlier.reason.clone(),
            }),
            cell(outlier.times.to_string()),
            cell(outlier.witnesses.join(",")),
            cell(look::when(&outlier.until)),
            cell(&outlier.caller),
            cell(&outlier.cluster),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::Output;

    #[test]
    fn those_who_report_it_too_are_named() {
        let outlier = Outlier {
            service: "shop/cart".into(),
            endpoint: "a/shop/cart".into(),
            state: "ejected".into(),
            reason: "consecutive5xxErrors".into(),
            spared_by: None,
            witnesses: vec!["b".into(), "c".into()],
            until: "2030-01-01T00:00:00.000Z".into(),
            caller: "shop/web".into(),
            cluster: "outbound|80||cart.shop.svc.cluster.local".into(),
            times: 2,
        };
        let text = Output::new(Format::Table).render(&table(&[outlier]));
        assert!(text.contains("WITNESSES") && text.contains("b,c"), "{text}");
    }
}
