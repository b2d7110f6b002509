//! The demonstration's course: a mesh comes up, policy is pushed here and there, traffic follows.

use std::cell::RefCell;
use std::time::Duration;

use anyhow::Context as _;

use super::cluster::Cluster;
use super::failover;
use super::machine::FOUNDER;
use super::report::{Push, Report, Step, milliseconds};
use super::screen::{Screen, Style};
use super::traffic::{RATE, Tally, Traffic};
use super::watch;
use crate::clock::monotonic;

/// How long nodes may take to see each other, or a push to be everywhere.
const SETTLE: Duration = Duration::from_secs(10);
/// Requests of a step.
const REQUESTS: u64 = 300;
/// How far a version's share may be from its weight: more than five standard deviations of [`REQUESTS`] at 50 %.
const TOLERANCE: f64 = 0.15;
/// How often a line that is being rewritten is.
const REDRAW: Duration = Duration::from_millis(100);

/// What a step must show: versions and their shares.
type Shares = &'static [(&'static str, f64)];

/// All three versions answer.
pub(super) const ALL_THREE: Shares = &[("v1", 1.0 / 3.0), ("v2", 1.0 / 3.0), ("v3", 1.0 / 3.0)];

/// A demonstration in progress.
#[derive(Debug)]
pub(super) struct Show<'a> {
    pub(super) cluster: &'a mut Cluster,
    pub(super) screen: &'a Screen,
    pub(super) report: &'a mut Report,
    /// What did not hold, for people.
    pub(super) complaints: Vec<String>,
}

impl Show<'_> {
    /// Brings the mesh up and shows who sees whom.
    ///
    /// # Errors
    /// It does not come up.
    pub(super) async fn rise(&mut self) -> anyhow::Result<()> {
        let screen = self.screen;
        let (first, last) = (self.cluster.machines()[0].mesh.ip(), self.cluster.machines().last().map(|m| m.mesh.ip()));
        let last = last.unwrap_or(first);
        let count = self.cluster.machines().len();
        screen.chapter("Enrol", &format!("{count} machines, {first} to {last}: a sample service and a node on each"));
        let started = monotonic();
        self.cluster.start_apps().await?;
        self.cluster.found().await?;
        let what = format!("{} founds the mesh", FOUNDER.name());
        screen.line(&screen.row(true, &what, &took(started.elapsed())));
        let started = monotonic();
        self.cluster.enrol().await?;
        let what = format!("{} others join, each with a token of its own", count - 1);
        screen.line(&screen.row(true, &what, &took(started.elapsed())));
        self.meet().await
    }

    async fn meet(&mut self) -> anyhow::Result<()> {
        let screen = self.screen;
        let count = self.cluster.machines().len();
        screen.chapter("Who sees whom", "no server tells them: they tell each other");
        let started = monotonic();
        self.cluster.start_others()?;
        let all = self.cluster.all();
        let converged = watch::until("every node sees every other one", &all, SETTLE, |watcher| async move {
            let members = watcher.members().await?;
            Ok(members.iter().filter(|member| member.state == "alive").count() == count)
        });
        converged.await?;
        let converged = started.elapsed();
        let served = watch::until("every endpoint is healthy", &all, SETTLE, |watcher| async move {
            let endpoints = watcher.endpoints().await?;
            Ok(endpoints.iter().filter(|endpoint| endpoint.health == "healthy").count() == count)
        });
        served.await?;
        let served = started.elapsed();
        self.report.nodes = count;
        self.report.convergence_ms = milliseconds(converged);
        for watcher in &self.cluster.watchers {
            let members = watcher.members().await?;
            let dots = self.cluster.machines().iter().map(|machine| {
                let seen = members.iter().any(|member| member.name == machine.name() && member.state == "alive");
                if seen { screen.paint(Style::Good, "●") } else { screen.paint(Style::Bad, "○") }
            });
            let dots: Vec<_> = dots.collect();
            screen.line(&format!("    {:<14} {}", watcher.name, dots.join(" ")));
        }
        screen.line(&screen.row(true, "every node sees every other one", &took(converged)));
        screen.line(&screen.row(true, "every endpoint is healthy, seen from every node", &took(served)));
        self.cluster.others_ready().await
    }

    /// Pushes, sends traffic, kills a node and brings it back.
    ///
    /// # Errors
    /// A command failed or a node did not answer. Steps that did not hold are complaints instead.
    pub(super) async fn play(&mut self) -> anyhow::Result<()> {
        self.screen
            .chapter("Traffic", "client → productpage → details, and reviews → ratings; v2 has black stars, v3 red");
        self.step("no policy", None, ALL_THREE).await?;
        self.push("destination-rule-all.yaml", "details").await?;
        self.push("virtual-service-all-v1.yaml", "ratings").await?;
        self.step("everybody gets v1", None, &[("v1", 1.0)]).await?;
        self.push("virtual-service-reviews-test-v2.yaml", "reviews-v3").await?;
        self.step("jason gets v2", Some("jason"), &[("v2", 1.0)]).await?;
        self.step("everybody else still gets v1", None, &[("v1", 1.0)]).await?;
        self.push("virtual-service-reviews-50-v3.yaml", "reviews-v1").await?;
        self.step("half v1, half v3", None, &[("v1", 0.5), ("v3", 0.5)]).await?;
        self.push("virtual-service-reviews-80-20.yaml", "productpage").await?;
        self.step("80 % v1, 20 % v2", None, &[("v1", 0.8), ("v2", 0.2)]).await?;
        self.push("virtual-service-reviews-v3.yaml", "reviews-v2").await?;
        self.step("everybody gets v3", None, &[("v3", 1.0)]).await?;
        for (service, node) in
            [("reviews", "details"), ("productpage", "ratings"), ("ratings", "reviews-v1"), ("details", "reviews-v3")]
        {
            self.delete(service, node).await?;
        }
        self.step("no policy again", None, ALL_THREE).await?;
        failover::play(self).await
    }

    /// Pushes one file to one node and waits until all have it.
    pub(super) async fn push(&mut self, file: &str, node: &str) -> anyhow::Result<()> {
        let at = self.cluster.at(node);
        let path = self.cluster.policy(file);
        let push = async { self.cluster.skein.push(&path, &at).await };
        let (pushed, took) = self.spread(push).await.with_context(|| format!("pushing {file} to {node}"))?;
        self.pushed(&format!("push {}", file.trim_end_matches(".yaml")), pushed, node, took);
        Ok(())
    }

    async fn delete(&mut self, service: &str, node: &str) -> anyhow::Result<()> {
        let at = self.cluster.at(node);
        let delete = async { self.cluster.skein.delete("VirtualService", service, &at).await };
        let (deleted, took) = self.spread(delete).await.with_context(|| format!("deleting {service} at {node}"))?;
        self.pushed(&format!("delete VirtualService {service}"), deleted, node, took);
        Ok(())
    }

    /// Runs a command that changes policy, and times it until every node has the change.
    async fn spread<T>(&self, command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<(T, Duration)> {
        let before = self.cluster.watchers[0].policy().await?;
        let all = self.cluster.all();
        tokio::try_join!(command, watch::agree(&all, &before, SETTLE))
    }

    fn pushed(&mut self, what: &str, pushed: super::skein::Pushed, node: &str, took: Duration) {
        let count = self.cluster.watchers.len();
        let screen = self.screen;
        let to = screen.paint(Style::Dim, &format!("at {node:<11}"));
        screen.line(&screen.row(true, what, &format!("{to} active on all {count} after {} ms", took.as_millis())));
        let documents: Vec<_> = pushed.documents.iter().map(ToString::to_string).collect();
        let document = documents.join(", ");
        self.report.pushes.push(Push { document, node: node.to_owned(), to_all_ms: milliseconds(took) });
    }

    /// Sends the requests of one step and says whether the split is what it must be.
    pub(super) async fn step(&mut self, name: &str, user: Option<&'static str>, wanted: Shares) -> anyhow::Result<()> {
        let tally = RefCell::new(Tally::default());
        let traffic = Traffic { client: &self.cluster.client, user, rate: RATE };
        self.live(name, &tally, traffic.count(REQUESTS, &tally)).await;
        let tally = tally.into_inner();
        let amiss = amiss(&tally, wanted);
        let rest = self.seen(&tally);
        self.screen.line(&self.screen.row(amiss.is_none(), name, &rest));
        self.complaints.extend(amiss.map(|amiss| format!("{name}: {amiss}")));
        self.report.steps.push(Step::new(name, &tally));
        Ok(())
    }

    /// Waits for `work` while the line shows what is counted.
    pub(super) async fn live<T>(&self, label: &str, tally: &RefCell<Tally>, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let mut tick = tokio::time::interval(REDRAW);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = tick.tick(), if self.screen.is_terminal() => {
                    let rest = self.seen(&tally.borrow());
                    self.screen.live(&self.screen.open_row(label, &rest));
                }
            }
        }
    }

    /// What a client saw, in columns.
    pub(super) fn seen(&self, tally: &Tally) -> String {
        let screen = self.screen;
        format!("{} {:>5} requests  {}", screen.split(&tally.split), tally.requests, screen.failed(tally.failed))
    }
}

/// What is wrong with a step, if anything.
pub(super) fn amiss(tally: &Tally, wanted: Shares) -> Option<String> {
    if tally.failed > 0 {
        let first = tally.first_failure.as_deref().unwrap_or_default();
        return Some(format!("{} of {} requests failed, the first one with {first}", tally.failed, tally.requests));
    }
    for (version, share) in wanted {
        let seen = tally.share(version);
        let exact = wanted.len() == 1;
        if (exact && seen < 1.0) || (seen - share).abs() > TOLERANCE {
            return Some(format!("{version} answered {:.0} %, not {:.0} %", seen * 100.0, share * 100.0));
        }
    }
    None
}

/// A duration in the column of results.
pub(super) fn took(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(split: &[(&str, u64)]) -> Tally {
        let split = split.iter().map(|(version, count)| ((*version).to_owned(), *count)).collect();
        Tally { split, requests: 300, ..Tally::default() }
    }

    #[test]
    fn a_split_must_be_near_its_weights_and_pure_where_it_is_pure() {
        assert_eq!(amiss(&tally(&[("v1", 150), ("v3", 150)]), &[("v1", 0.5), ("v3", 0.5)]), None);
        assert!(amiss(&tally(&[("v1", 250), ("v3", 50)]), &[("v1", 0.5), ("v3", 0.5)]).is_some());
        assert!(amiss(&tally(&[("v1", 299), ("v2", 1)]), &[("v1", 1.0)]).is_some());
        assert!(amiss(&tally(&[("v1", 200), ("v2", 100)]), ALL_THREE).is_some());
        let failed = Tally { failed: 1, ..tally(&[("v1", 300)]) };
        assert!(amiss(&failed, &[("v1", 1.0)]).is_some());
    }
}
