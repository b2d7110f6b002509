//! Three real nodes in a network namespace of their own, where packets between them can be dropped and lost: it takes root.

use std::{
    io::Write as _,
    net::IpAddr,
    process::{Command, Stdio},
    time::Duration,
};

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    now,
    process::Skein,
};
use nix::sched::{CloneFlags, unshare};

use super::real::{endpoints, grant, is_seen, until};
use crate::Figure;

/// How long the partition lasts.
const PARTED: Duration = Duration::from_secs(600);
/// How long every fifth packet, and every twentieth, gets lost, if nobody asks for another time.
const LOSSY: Duration = Duration::from_secs(3_600);
pub(super) const HEAL: &str = "heal_3";
const NODES: [&str; 3] = ["a", "b", "c"];

/// Runs in a thread of its own, whose namespace the nodes inherit.
pub(super) fn figures(skein: &Skein) -> Vec<Figure> {
    let skein = skein.clone();
    let measured = std::thread::spawn(move || -> Result<Vec<Figure>, String> {
        enter()?;
        let cluster = start(&skein);
        let mut figures = vec![heal(&cluster)?];
        figures.extend(lossy(&cluster));
        Ok(figures)
    });
    match measured.join() {
        Ok(Ok(figures)) => figures,
        Ok(Err(why)) => vec![Figure::not_measured(HEAL, "ms", 1_000.0, why)],
        Err(_) => vec![Figure::not_measured(HEAL, "ms", 1_000.0, "it failed, see above")],
    }
}

/// Goes into a new network namespace with a loopback.
fn enter() -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| format!("no network namespace ({error}): it takes root"))?;
    run("ip", &["link", "set", "lo", "up"], "")
}

fn run(program: &str, words: &[&str], input: &str) -> Result<(), String> {
    let wrong = |error: String| format!("`{program} {}`: {error}", words.join(" "));
    let child = Command::new(program).args(words).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| wrong(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(|error| wrong(error.to_string()))?;
    }
    let output = child.wait_with_output().map_err(|error| wrong(error.to_string()))?;
    if output.status.success() { Ok(()) } else { Err(wrong(String::from_utf8_lossy(&output.stderr).into_owned())) }
}

fn start(skein: &Skein) -> Cluster {
    let plans = NODES.map(|name| (name, Plan::with([Service::client(&format!("shop/{name}"))])));
    let cluster = Cluster::start(skein.clone(), &plans);
    cluster.wait_members(PATIENCE);
    cluster
}

/// Drops all that goes between `c` and the others; each side says something new meanwhile.
fn heal(cluster: &Cluster) -> Result<Figure, String> {
    let [a, b, c] = NODES.map(|name| cluster.node(name).ip);
    let IpAddr::V4(_) = a else { return Err("the nodes have no IPv4 addresses".to_owned()) };
    let rules = format!(
        "table ip parted {{\n chain input {{\n  type filter hook input priority 0;\n  ip saddr {c} ip daddr {{ {a}, {b} }} drop\n  \
         ip saddr {{ {a}, {b} }} ip daddr {c} drop\n }}\n}}\n"
    );
    ["a", "c"].iter().for_each(|name| grant(cluster, name));
    run("nft", &["-f", "-"], &rules)?;
    let admin = NODES.map(|name| cluster.node(name).address("admin"));
    until(now(), "both sides see the other dead", || {
        is_seen(admin[0], "c", "dead") && is_seen(admin[1], "c", "dead") && is_seen(admin[2], "a", "dead")
    });
    for name in ["a", "c"] {
        let text = "[[service]]\nname = \"extra\"\nnamespace = \"shop\"\nports = [{ name = \"http\", port = 80, protocol = \"http\", \
                    target = \"127.0.0.1:9\" }]\n";
        let file = cluster.file("extra.toml", text);
        cluster.on(name, &["service", "add", file.to_str().expect("a path in UTF-8")]).expect_code(0);
    }
    std::thread::sleep(PARTED);
    run("nft", &["delete", "table", "ip", "parted"], "")?;
    let took = until(now(), "all see all, and the same", || {
        let alive = admin.iter().all(|at| NODES.iter().all(|of| is_seen(*at, of, "alive")));
        alive && admin.iter().all(|at| endpoints(*at, "shop/extra") == 2)
    });
    Ok(Figure::at_most(HEAL, took, "ms", 1_000.0, "three real nodes, parted for 10 min by dropped packets"))
}

/// Packets get lost by chance on the loopback, the harness's own questions among them.
fn lossy(cluster: &Cluster) -> Vec<Figure> {
    let time = crate::asked_seconds().unwrap_or(LOSSY);
    let deaths = || -> usize { NODES.iter().map(|name| cluster.log(name).matches("is dead").count()).sum() };
    let measure = |loss: f64| -> Result<f64, String> {
        let rules = format!(
            "table ip lossy {{\n chain input {{\n  type filter hook input priority 0;\n  \
             meta l4proto {{ tcp, udp }} numgen random mod 100 < {} drop\n }}\n}}\n",
            loss * 100.0
        );
        let before = deaths();
        run("nft", &["-f", "-"], &rules)?;
        std::thread::sleep(time);
        run("nft", &["delete", "table", "ip", "lossy"], "")?;
        Ok((deaths() - before) as f64)
    };
    let measured = |loss: f64| match measure(loss) {
        Ok(deaths) => {
            let how =
                format!("three real nodes, {time:?} in which {}% of all packets get lost, by nftables", loss * 100.0);
            Figure::at_most(lossy_id(loss), deaths, "deaths", 0.0, how)
        }
        Err(why) => Figure::not_measured(lossy_id(loss), "deaths", 0.0, why),
    };
    super::LOSSES.map(measured).into()
}

pub(super) fn lossy_id(loss: f64) -> String {
    format!("false_deaths_3_real_loss_{}", loss * 100.0)
}
