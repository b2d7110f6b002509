//! A newcomer's path, walked: the demonstration's pages from a built clone, and README's three machines by its commands alone.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use harness::{
    PATIENCE,
    backend::Backend,
    http, now,
    process::{Running, Skein},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::machines::Machines;
use crate::{Figure, kit::built};

const DEMO: &str = "newcomer_demo_page";
const MACHINES: &str = "newcomer_three_machines";
/// Both paths, seconds.
const BOUND: f64 = 60.0;
/// Where README has the applications of the three machines.
const APPLICATION: &str = "127.0.0.1:8080";

pub(super) fn figures(skein: &Skein) -> Vec<Figure> {
    let how = "from the start of `skein demo` until a node's web page answers; nothing is compiled in that time";
    let demo = match demo() {
        Ok(took) => Figure::at_most(DEMO, took.as_secs_f64(), "s", BOUND, how),
        Err(why) => Figure::not_measured(DEMO, "s", BOUND, why),
    };
    let how = "from three empty machines, network namespaces, by README's commands and files alone to a request from the first that \
               the others serve over mTLS; typing takes no time, and nothing is compiled or installed in it";
    let machines = match machines(skein) {
        Ok(took) => Figure::at_most(MACHINES, took.as_secs_f64(), "s", BOUND, how),
        Err(why) => Figure::not_measured(MACHINES, "s", BOUND, why),
    };
    vec![demo, machines]
}

/// A demonstration that is told to end with the value, and waited for.
struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        let pid = i32::try_from(self.0.id()).expect("Linux pids fit");
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

fn demo() -> Result<Duration, String> {
    // The demonstration starts itself again, as nodes and applications: the figures' program cannot do that.
    let skein = Skein::at(built().ok_or("not measured: missing the node: cargo build --release")?);
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut command = skein.command();
    command.args(["demo", "-o", "json", "--dir"]).arg(dir.path().join("demo"));
    let begun = now();
    let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(|error| error.to_string())?;
    let mut demo = Demo(child);
    let mut line = String::new();
    let out = demo.0.stdout.as_mut().expect("piped above");
    BufReader::new(out).read_line(&mut line).map_err(|error| error.to_string())?;
    let told: Value =
        serde_json::from_str(&line).map_err(|error| format!("the demo says no JSON: {error}: {line:?}"))?;
    let admin = told["nodes"][0]["admin"].as_str().and_then(|text| text.parse::<SocketAddr>().ok());
    let admin = admin.ok_or_else(|| format!("the demo names no page: {told}"))?;
    answered(begun, || http::get(admin, &admin.to_string(), "/").is_ok_and(|page| page.status == 200))
}

/// How long it took since `begun` until this holds.
fn answered(begun: Instant, mut holds: impl FnMut() -> bool) -> Result<Duration, String> {
    while !holds() {
        if begun.elapsed() > PATIENCE * 6 {
            return Err(format!("it does not answer after {:?}", begun.elapsed()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(begun.elapsed())
}

/// What README tells its reader to do.
struct Told {
    /// Machine and command, in order.
    commands: Vec<(String, String)>,
    /// What is added to `skein.toml` on the first machine, and on each other one.
    added: [String; 2],
}

fn readme() -> Result<Told, String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let part =
        text.split("## Three nodes by hand").nth(1).and_then(|rest| rest.split("A service that speaks no HTTP").next());
    let part = part.ok_or("README has no three nodes by hand any more")?;
    let commands = part.lines().filter_map(|line| {
        let (machine, command) = line.strip_prefix("    ")?.split_once("$ ")?;
        let command = command.split("  #").next().unwrap_or(command).trim();
        Some((machine.to_owned(), command.to_owned()))
    });
    let blocks = part.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let added: Vec<String> = blocks.map(str::to_owned).collect();
    let added = added.try_into().map_err(|blocks| format!("README has other TOML there than expected: {blocks:?}"))?;
    Ok(Told { commands: commands.collect(), added })
}

fn machines(skein: &Skein) -> Result<Duration, String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("not measured: network namespaces take root".to_owned());
    }
    let told = readme()?;
    let machines = Machines::start(skein, &["web-1", "cart-1", "cart-2"])?;
    let address: SocketAddr = APPLICATION.parse().expect("an address");
    let mut applications = Vec::new();
    for name in ["web-1", "cart-1", "cart-2"] {
        let started = machines.within(name, || Backend::start(address, name))?;
        applications.push(started.map_err(|error| format!("{name}: {address}: {error}"))?);
    }
    // The same for the third machine, before the request.
    let (request, told_commands) = told.commands.split_last().ok_or("README has no commands there")?;
    let third: Vec<(String, String)> = told_commands
        .iter()
        .filter(|(machine, command)| machine == "cart-1" || command.contains("cart-1"))
        .map(|(machine, command)| (machine.replace("cart-1", "cart-2"), command.replace("cart-1", "cart-2")))
        .collect();
    let commands = [told_commands, &third].concat();
    if commands.len() != 10 || !request.1.starts_with("curl -H 'Host: cart.shop' http://127.0.0.1:15001/") {
        return Err(format!("README says other things than this figure knows: {commands:?}, {request:?}"));
    }
    let begun = now();
    let mut running = Vec::new();
    for (machine, command) in &commands {
        if command == "skein run" {
            let more = &told.added[usize::from(machine != "web-1")];
            let file = machines.etc(machine, "skein/skein.toml");
            let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
            std::fs::write(&file, format!("{text}\n{more}")).map_err(|error| error.to_string())?;
            let mut run = machines.command(machine, "exec skein run");
            run.stderr(Stdio::null());
            running.push(Running::start(run, PATIENCE * 3).map_err(|error| format!("{machine}$ skein run: {error}"))?);
        } else {
            machines.run(machine, command)?;
        }
    }
    let door: SocketAddr = "127.0.0.1:15001".parse().expect("an address");
    let mut seen = std::collections::BTreeSet::new();
    let first = answered(begun, || {
        let answer = machines.within("web-1", || http::get(door, "cart.shop", "/"));
        answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.status == 200 && seen.insert(answer.text())))
    })?;
    answered(now(), || {
        if let Ok(Ok(answer)) = machines.within("web-1", || http::get(door, "cart.shop", "/")) {
            seen.insert(answer.text());
        }
        seen.contains("cart-1") && seen.contains("cart-2")
    })?;
    // The called node says how requests came.
    let mutual = || {
        let output = machines.command("cart-1", "skein top -o json").output().ok();
        let told: Option<Value> = output.and_then(|output| serde_json::from_slice(&output.stdout).ok());
        let edges = told.as_ref().and_then(|told| told["edges"].as_array()).cloned().unwrap_or_default();
        !edges.is_empty() && edges.iter().all(|edge| edge["security"] == "mutual_tls")
    };
    answered(now(), mutual).map_err(|_| "the requests were not over mTLS".to_owned())?;
    drop((running, applications));
    Ok(first)
}
