//! `skein ping NODE`.

use std::{fmt::Write as _, time::Duration};

use certs::id::NodeId;
use serde::Serialize;

use crate::{
    agent::admin::api::{Ping, Status},
    cli::{
        client,
        context::Context,
        error::{Error, Result, usage},
    },
};

/// Pause between questions.
const PAUSE: Duration = Duration::from_millis(200);

/// Asks a node questions and shows the path, how long each answer takes, and which are lost.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein ping web-2")]
pub struct Args {
    /// Whom; the node that answers this command asks
    #[arg(value_name = "NODE")]
    of: NodeId,
    /// How many questions
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    count: u32,
}

#[derive(Serialize)]
struct Summary {
    node: NodeId,
    sent: usize,
    lost: usize,
    rtt_ms: Option<Times>,
    pings: Vec<Ping>,
}

#[derive(Serialize)]
struct Times {
    min: f64,
    avg: f64,
    max: f64,
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    let mut client = client::connect(ctx).await?;
    let status: Status = client.get("/v1/status").await?;
    if status.node.as_str() == args.of.to_string() {
        return Err(usage(
            format!("{} is the node that is asked: it has no way to itself", args.of),
            "name another one; `skein members` lists them",
        ));
    }
    let path = format!("/v1/ping/{}", args.of);
    let (pings, failed) = asked(args.count, async || client.get(&path).await).await;
    let times: Vec<f64> = pings.iter().filter_map(|ping| ping.rtt_ms).collect();
    let rtt_ms = (!times.is_empty()).then(|| Times {
        min: times.iter().copied().fold(f64::INFINITY, f64::min),
        avg: times.iter().sum::<f64>() / times.len() as f64,
        max: times.iter().copied().fold(0.0, f64::max),
    });
    let lost = pings.len() - times.len();
    let all_lost = times.is_empty();
    let summary = Summary { node: args.of, sent: pings.len(), lost, rtt_ms, pings };
    if let Some(error) = failed {
        if summary.sent > 0 {
            ctx.output.show(&summary, || text(&summary))?;
        }
        return Err(error);
    }
    ctx.output.show(&summary, || text(&summary))?;
    if all_lost {
        let message = format!("{} answered none of {} questions", summary.node, summary.sent);
        return Err(Error::new("unreachable", message).hint("`skein members NODE` says who reaches it"));
    }
    Ok(())
}

/// What so many questions gave, and what the node said instead of asking on: the one that is asked for may be evicted meanwhile.
async fn asked(count: u32, mut ask: impl AsyncFnMut() -> Result<Ping>) -> (Vec<Ping>, Option<Error>) {
    let mut pings = Vec::new();
    for number in 0..count {
        if number > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        match ask().await {
            Ok(ping) => pings.push(ping),
            Err(error) => return (pings, Some(error)),
        }
    }
    (pings, None)
}

fn text(summary: &Summary) -> String {
    let mut text = String::new();
    for (number, ping) in (1..).zip(&summary.pings) {
        let path =
            if ping.carrier.is_empty() { "no link".to_owned() } else { format!("{} to {}", ping.carrier, ping.remote) };
        // Writing to a string does not fail.
        let _ = match (ping.rtt_ms, &ping.lost) {
            (Some(rtt), _) => writeln!(text, "{number}  {path}  {rtt:.3} ms"),
            (None, why) => writeln!(text, "{number}  {path}  lost: {}", why.as_deref().unwrap_or_default()),
        };
    }
    let _ = write!(text, "{}: {} sent, {} lost", summary.node, summary.sent, summary.lost);
    if let Some(Times { min, avg, max }) = &summary.rtt_ms {
        let _ = write!(text, ", {min:.3}/{avg:.3}/{max:.3} ms least/mean/most");
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_measured_is_kept_when_nobody_can_ask_on() {
        let mut questions = 0;
        let ask = async || {
            questions += 1;
            let node = NodeId::new("b").unwrap();
            let answer = Ping { node, carrier: "quic".into(), remote: String::new(), rtt_ms: Some(1.0), lost: None };
            if questions < 3 { Ok(answer) } else { Err(Error::new("not_found", "b is not a node of this mesh")) }
        };
        let (pings, failed) = asked(5, ask).await;
        assert_eq!((pings.len(), failed.map(|error| error.code.to_string())), (2, Some("not_found".to_owned())));
        assert_eq!(questions, 3);
    }
}
