//! Measures Skein beside Envoy, HAProxy and nginx by the bench kit, in one run: ratios, because absolute times are the machine's.
//! What the kit lacks here is named, and its rows are not measured.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::Figure;

/// Repetitions of every group, interleaved; `SKEIN_FIGURES_REPS` says otherwise.
const REPETITIONS: usize = 3;
/// Without these nothing can be measured.
const ALWAYS: [&str; 5] = ["bash", "python3", "openssl", "nginx", "wrk"];

/// What a row compares.
#[derive(Clone, Copy)]
pub(crate) enum Measure {
    /// A field of Skein's over another peer's, in the same repetition.
    Over(&'static str, Run),
    /// What Skein adds to direct over what another peer adds.
    Added(&'static str, Run),
    /// A field of Skein's, times this.
    Itself(&'static str, f64),
}

use Measure::{Added, Itself, Over};

/// A peer and a scenario of the kit.
pub(crate) type Run = (&'static str, &'static str);

/// A goal.
pub(crate) struct Row {
    pub(crate) id: &'static str,
    pub(crate) group: &'static str,
    /// Skein's scenario.
    pub(crate) scenario: &'static str,
    pub(crate) measure: Measure,
    pub(crate) unit: &'static str,
    pub(crate) bound: f64,
    pub(crate) at_least: bool,
    pub(crate) how: &'static str,
}

/// What is measured for a reader: its id, group, run, field and unit. Absolute, and so the machine's.
pub(crate) type Stated = (&'static str, &'static str, Run, &'static str, &'static str);

/// A ratio that must not exceed its bound.
pub(crate) const fn most(
    id: &'static str,
    group: &'static str,
    measure: Measure,
    bound: f64,
    how: &'static str,
) -> Row {
    Row { id, group, scenario: "mesh", measure, unit: "times", bound, at_least: false, how }
}

/// Measures all of them.
pub(crate) fn figures(rows: &[Row], stated: &[Stated]) -> Vec<Figure> {
    let results = Kit::find().and_then(|kit| kit.run(rows, stated));
    let results = match results {
        Ok(results) => results,
        Err(because) => return rows.iter().map(|row| row.not_measured(&because)).collect(),
    };
    let stated = stated.iter().filter_map(|(id, group, run, field, unit)| {
        let value = median(results.of(group, *run).filter_map(|row| row[*field].as_f64()))?;
        Some(Figure::stated(*id, value, unit, "of that, absolute: this machine's, now"))
    });
    rows.iter().map(|row| row.figure(&results)).chain(stated).collect()
}

impl Row {
    fn figure(&self, results: &Results) -> Figure {
        let Some(value) = results.measure(self) else {
            return self.not_measured(&results.why_not(self));
        };
        let judged = if self.at_least { Figure::at_least } else { Figure::at_most };
        judged(self.id, value, self.unit, self.bound, self.how)
    }

    fn not_measured(&self, because: &str) -> Figure {
        Figure::not_measured(self.id, self.unit, self.bound, format!("not measured: {because}"))
    }
}

/// The node itself with its own allocator, not the figures' program; the best profile that was built.
pub(crate) fn built() -> Option<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    let all = ["dist", "release"].map(|profile| workspace.join("target").join(profile).join("skein"));
    all.into_iter().find(|path| path.is_file())
}

struct Kit {
    shared: PathBuf,
    extra: PathBuf,
    skein: PathBuf,
    missing: Vec<&'static str>,
}

impl Kit {
    fn find() -> Result<Self, String> {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are a crate of the workspace");
        let shared = std::env::var_os("SKEIN_BENCH").map_or(workspace.join("../shared/bench"), PathBuf::from);
        if !shared.join("bench.sh").is_file() {
            return Err("shared/bench is not beside the workspace (set SKEIN_BENCH)".to_owned());
        }
        let lacking: Vec<&str> = ALWAYS.into_iter().filter(|tool| !is_installed(tool)).collect();
        if !lacking.is_empty() {
            return Err(format!("missing {}", lacking.join(", ")));
        }
        let skein = built().ok_or("missing the node: cargo build --profile dist")?;
        let missing = ["haproxy", "envoy", "oha", "iperf3"].into_iter().filter(|tool| !is_installed(tool)).collect();
        Ok(Self { shared, extra: workspace.join("tests/bench"), skein, missing })
    }

    /// Works on a copy, as the kit asks.
    fn run(self, rows: &[Row], stated: &[Stated]) -> Result<Results, String> {
        let failed = |what: &str| format!("the bench kit: {what}");
        let dir =
            tempfile::Builder::new().prefix("skein-bench-").tempdir().map_err(|error| failed(&error.to_string()))?;
        let copied = Command::new("cp").arg("-r").arg(self.shared.join(".")).arg(dir.path()).status();
        let opened = Command::new("chmod").args(["-R", "u+w"]).arg(dir.path()).status();
        if !copied.is_ok_and(|status| status.success()) || !opened.is_ok_and(|status| status.success()) {
            return Err(failed("it cannot be copied"));
        }
        std::fs::write(dir.path().join("groups.now"), self.groups(rows, stated)?)
            .map_err(|error| failed(&error.to_string()))?;
        let mut path = self.skein.parent().expect("a file is in a folder").as_os_str().to_owned();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let repetitions = std::env::var("SKEIN_FIGURES_REPS").unwrap_or(REPETITIONS.to_string());
        let ended = Command::new("./bench.sh")
            .arg(repetitions)
            .current_dir(dir.path())
            .envs([("GROUPS_FILE", "groups.now"), ("RESULTS", "figures")])
            .env("EXTRA", &self.extra)
            .env("PATH", path)
            .stdout(Stdio::null())
            .status();
        let text = std::fs::read_to_string(dir.path().join("results/figures.jsonl"))
            .map_err(|_| failed(&format!("it left no results: {ended:?}")))?;
        let rows = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Ok(Results { rows, missing: self.missing })
    }

    /// Lines of `tests/bench/groups.txt` that a row or a stated value wants and whose tools are here.
    fn groups(&self, rows: &[Row], stated: &[Stated]) -> Result<String, String> {
        let all =
            std::fs::read_to_string(self.extra.join("groups.txt")).map_err(|error| format!("groups.txt: {error}"))?;
        let is_wanted = |line: &&str| {
            let mut words = line.split_whitespace();
            let (group, peer) = (words.next().unwrap_or("#"), words.next().unwrap_or_default());
            let scenario = words.next().unwrap_or_default();
            let of = |row: &Row| row.group == group && row.wants(peer, scenario);
            let told = |told: &Stated| told.1 == group && told.2 == (peer, scenario);
            (rows.iter().any(of) || stated.iter().any(told))
                && self.missing.iter().all(|tool| !needs(tool, peer, scenario))
        };
        Ok(all.lines().filter(is_wanted).map(|line| format!("{line}\n")).collect())
    }
}

impl Row {
    fn wants(&self, peer: &str, scenario: &str) -> bool {
        let scenario = scenario.split(':').next().unwrap_or_default();
        let other = match self.measure {
            Over(_, run) => peer == run.0 && (scenario == run.1 || scenario == "rate"),
            Added(_, run) => (peer, scenario) == run || peer == "direct",
            Itself(..) => false,
        };
        peer == "skein" || other
    }
}

/// Whether a run of the kit needs a tool.
fn needs(tool: &str, peer: &str, scenario: &str) -> bool {
    peer == tool || tool == "oha" && scenario.starts_with("rate") || tool == "iperf3" && scenario.starts_with("tcp")
}

struct Results {
    rows: Vec<Value>,
    missing: Vec<&'static str>,
}

impl Results {
    fn of<'r>(&'r self, group: &'r str, (peer, scenario): Run) -> impl Iterator<Item = &'r Value> {
        self.rows.iter().filter(move |row| {
            let ran = row["scenario"].as_str().unwrap_or_default();
            let ran = ran.split(':').next().unwrap_or_default();
            row["group"] == group && row["peer"] == peer && (ran == scenario || ran == "rate") && row["error"].is_null()
        })
    }

    /// The median over the repetitions, each compared within itself.
    fn measure(&self, row: &Row) -> Option<f64> {
        let of = |field: &'static str, run: Run, rep: &Value| {
            self.of(row.group, run).find(|found| found["rep"] == *rep).and_then(|found| found[field].as_f64())
        };
        let each = self.of(row.group, ("skein", row.scenario)).filter_map(|own| {
            let rep = &own["rep"];
            match row.measure {
                Itself(field, times) => Some(own[field].as_f64()? * times),
                Over(field, run) => Some(own[field].as_f64()? / of(field, run, rep)?),
                Added(field, run) => {
                    let direct = of(field, ("direct", "hop1"), rep)?;
                    Some((own[field].as_f64()? - direct) / (of(field, run, rep)? - direct))
                }
            }
        });
        median(each)
    }

    fn why_not(&self, row: &Row) -> String {
        let other = match row.measure {
            Over(_, run) | Added(_, run) => run.0,
            Itself(..) => "skein",
        };
        let lacking: Vec<&str> = self.missing.iter().copied().filter(|tool| needs(tool, other, row.group)).collect();
        if !lacking.is_empty() {
            return format!("missing {}", lacking.join(", "));
        }
        let error = self.rows.iter().find(|found| found["group"] == row.group && !found["error"].is_null());
        error.map_or("the kit gave no such result".to_owned(), |found| {
            format!("{} of {}", found["error"], found["peer"])
        })
    }
}

/// The middle of some values, none of none.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().checked_sub(1)? / 2, values.len() / 2);
    Some((values[low] + values[high]) / 2.0)
}

/// Whether a program is found.
pub(crate) fn is_installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Servers lie where root looks; the kit looks there, too.
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).any(|folder| folder.join(tool).is_file())
}

/// User and system time of a process in seconds.
pub(crate) fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = fields.iter().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
    ticks / 100.0
}
