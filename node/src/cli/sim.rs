//! `skein sim run SCENARIO`.

use std::{collections::BTreeMap, io::Read as _, path::Path};

use membership::sim::{
    play,
    report::{Quantiles, Report, Zones},
    scenario::Scenario,
};

use crate::cli::{
    context::Context,
    error::{Result, io, usage},
    progress,
};

/// The largest file of a scenario, bytes.
const FILE_LIMIT: u64 = 1 << 20;

/// Scenarios that come with the program.
const SHIPPED: &[(&str, &str)] = &[
    ("join-100", include_str!("sim/join-100.toml")),
    ("kill", include_str!("sim/kill.toml")),
    ("loss-20", include_str!("sim/loss-20.toml")),
    ("partition", include_str!("sim/partition.toml")),
    ("one-way", include_str!("sim/one-way.toml")),
    ("blip", include_str!("sim/blip.toml")),
    ("liars", include_str!("sim/liars.toml")),
    ("restart-storm", include_str!("sim/restart-storm.toml")),
    ("nodes-1000", include_str!("sim/nodes-1000.toml")),
    ("repair-100", include_str!("sim/repair-100.toml")),
    ("zones-10000", include_str!("sim/zones-10000.toml")),
];

/// Whole meshes in virtual time.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Play a scenario with the membership engine of this build and print what came out
    ///
    /// A scenario says how many nodes there are, what the paths between them are like, and what happens when: each `[[event]]` has
    /// `at`, `do` and `nodes`, where `do` is join, kill, restart, pause (with `for`: how long they stand still, below 1s), partition,
    /// heal (of all, without `nodes`), block (of what gets from `from` to `to`), put (something new to say), follow (to
    /// hold what was put last) or lie.
    #[command(after_help = "Example: skein sim run kill -o json")]
    Run {
        /// A file, - for standard input, or one that comes with the program: join-100, kill, loss-20, partition,
        /// one-way, blip, liars, restart-storm, nodes-1000, repair-100, zones-10000
        #[arg(value_name = "SCENARIO")]
        scenario: String,
        /// Instead of the scenario's own
        #[arg(long, value_name = "NUMBER")]
        seed: Option<u64>,
    },
    /// Print a scenario that comes with the program, to start from
    #[command(after_help = "Example: skein sim show kill > mine.toml")]
    Show {
        /// Its name
        #[arg(value_name = "SCENARIO")]
        scenario: String,
    },
}

/// Runs the command.
pub(super) fn run(command: Command, ctx: &Context) -> Result<()> {
    match command {
        Command::Run { scenario: name, seed } => {
            let mut scenario = scenario(&name)?;
            scenario.seed = seed.unwrap_or(scenario.seed);
            let report = play::play(&scenario, Some(&cpu), &mut progress::of_play())
                .map_err(|error| usage(format!("{name}: {error}"), "`skein sim show kill` prints one that is right"))?;
            ctx.output.show(&report, || text(&report))
        }
        Command::Show { scenario } => match shipped(&scenario) {
            Some(text) => ctx.output.text(text),
            None => Err(unknown(&scenario)),
        },
    }
}

fn shipped(name: &str) -> Option<&'static str> {
    SHIPPED.iter().find(|(shipped, _)| *shipped == name).map(|(_, text)| *text)
}

fn unknown(name: &str) -> crate::cli::error::Error {
    let names: Vec<&str> = SHIPPED.iter().map(|(name, _)| *name).collect();
    usage(format!("no scenario is called {name}"), format!("these come with the program: {}", names.join(", ")))
}

fn scenario(name: &str) -> Result<Scenario> {
    let text = match shipped(name) {
        Some(text) => text.to_owned(),
        None if name == "-" || Path::new(name).exists() => read(Path::new(name))?,
        None => return Err(unknown(name)),
    };
    toml::from_str(&text).map_err(|error| {
        usage(format!("{name}: {}", error.to_string().trim()), "`skein sim show kill` prints one that is right")
    })
}

fn read(path: &Path) -> Result<String> {
    let mut text = String::new();
    let limited = |source: &mut dyn std::io::Read, text: &mut String| source.take(FILE_LIMIT + 1).read_to_string(text);
    let read = if path == Path::new("-") {
        limited(&mut std::io::stdin().lock(), &mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| limited(&mut file, &mut text))
    };
    read.map_err(|error| io("read", path, &error))?;
    if text.len() as u64 > FILE_LIMIT {
        return Err(usage(format!("{} is larger than 1 MiB", path.display()), "a scenario is a few lines of TOML"));
    }
    Ok(text)
}

/// CPU time of this process in microseconds.
fn cpu() -> u64 {
    use nix::sys::resource::{UsageWho, getrusage};
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return 0 };
    let micros =
        |time: nix::sys::time::TimeVal| u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).unwrap_or_default();
    micros(usage.user_time()) + micros(usage.system_time())
}

fn text(report: &Report) -> String {
    let quantiles = |quantiles: &Option<Quantiles>, missing: usize| match quantiles {
        None if missing == 0 => "-".to_owned(),
        None => format!("never ({missing} pairs)"),
        Some(Quantiles { p50, p99, p100 }) => {
            let rest = if missing > 0 { format!(", never for {missing} pairs") } else { String::new() };
            format!("p50 {p50} ms, p99 {p99} ms, p100 {p100} ms{rest}")
        }
    };
    let lanes: &BTreeMap<&str, u64> = &report.bytes_per_node_s;
    let bytes: Vec<String> = lanes.iter().map(|(lane, bytes)| format!("{lane} {bytes}")).collect();
    let [least, median, most] = report.links;
    let settled = report.settled_ms.map_or_else(|| "never".to_owned(), |settled| format!("{settled} ms"));
    let cpu = report.cpu_us_per_node_round.map_or_else(|| "-".to_owned(), |cpu| format!("{cpu} us"));
    let rows = [
        ("seed", report.seed.to_string()),
        ("spread", quantiles(&report.spread_ms, report.unspread)),
        ("detection", quantiles(&report.detection_ms, report.undetected)),
        ("false deaths", format!("{} ({} false suspicions)", report.false_deaths, report.false_suspicions)),
        ("settled", settled),
        ("bytes/node/s", format!("{} ({})", lanes.values().sum::<u64>(), bytes.join(", "))),
        ("links", format!("least {least}, median {median}, most {most}")),
        ("cpu/node/s", cpu),
        ("states", report.state_hashes.len().to_string()),
    ];
    let zones = report.zones.iter().flat_map(|zones| {
        let Zones { count, spread_ms, unspread, deceived, bridge_links, bytes_per_news } = zones;
        [
            ("zones", format!("{count}, {bridge_links} links of a bridge to others")),
            ("between", quantiles(spread_ms, *unspread)),
            ("deceived", deceived.to_string()),
            ("bytes/news", format!("{bytes_per_news} of a bridge")),
        ]
    });
    let runs = report.runs.iter().flat_map(|runs| {
        [
            ("runs", format!("{}: above is the worst of each", runs.count)),
            ("spread p100", quantiles(&runs.spread_p100_ms, 0)),
            ("settled in", quantiles(&runs.settled_ms, 0)),
        ]
    });
    let rows: Vec<(&str, String)> = rows.into_iter().chain(zones).chain(runs).collect();
    rows.iter().map(|(name, value)| format!("{name:<14} {value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shipped_makes_sense() {
        for (name, text) in SHIPPED {
            let scenario: Scenario = toml::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(scenario.check(), Ok(()), "{name}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let refused = |text: &str| match toml::from_str::<Scenario>(text) {
            Ok(scenario) => scenario.check().expect_err("refused").to_string(),
            Err(error) => error.to_string(),
        };
        let event = |text: &str| format!("nodes = 3\nduration = \"10s\"\n[[event]]\nat = \"1s\"\n{text}");
        for (text, word) in [
            ("nodes = 0\nduration = \"1s\"".to_owned(), "nodes"),
            ("nodes = 3\nduration = \"1 s\"".to_owned(), "no time such as"),
            ("nodes = 3\nduration = \"1s\"\nlink = { loss = 1.0 }".to_owned(), "link.loss"),
            ("nodes = 3\nduration = \"1s\"\ncolour = 1".to_owned(), "colour"),
            (event("do = \"dance\""), "dance"),
            (event("do = \"kill\""), "event 1: nodes"),
            (event("do = \"kill\"\nnodes = 3"), "3 is none of the 3 nodes"),
            (event("do = \"kill\"\nnodes = \"2-1\""), "does not rise"),
            (event("do = \"kill\"\nnodes = true"), "a range such as"),
            (event("do = \"block\"\nfrom = 0"), "event 1: to"),
            (event("do = \"heal\"\nnodes = 0"), "does not belong"),
            (event("do = \"pause\"\nnodes = 0"), "event 1: for"),
            (event("do = \"pause\"\nnodes = 0\nfor = \"1s\""), "below 1s"),
            (event("do = \"kill\"\nnodes = 0\nfor = \"1s\""), "event 1: for"),
            (event("do = \"join\"\nnodes = 0").replace("1s", "10s"), "event 1: at"),
        ] {
            let said = refused(&text);
            assert!(said.contains(word), "{text}\nsaid {said}");
        }
    }
}
