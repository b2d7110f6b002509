//! The `nft` program, and what of the kernel's state is read beside it.

use super::rules::{self, ANYWHERE, ANYWHERE_V6, AT_V4, AT_V6, INCOMING, TABLE};
use crate::error::{Error, fail};
use serde_json::Value;
use std::{
    fs,
    io::{self, Write as _},
    net::SocketAddr,
    process::{Command, Stdio},
};

/// The program.
const PROGRAM: &str = "nft";
/// Characters of what it says that are passed on.
const SAID: usize = 600;

/// What the kernel has of the table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// There is a table.
    pub present: bool,
    /// New connections are redirected.
    pub armed: bool,
    /// It lasts until it is switched off.
    pub confirmed: bool,
    /// Of connections of this machine.
    pub outgoing: Way,
    /// Of connections of other machines.
    pub incoming: Way,
    /// The ports of applications to which those go, `ADDRESS:PORT`; `*` for each address of the machine, `0.0.0.0` and
    /// `[::]` for each of one family.
    pub targets: Vec<String>,
}

/// What the table has for one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Way {
    /// There are rules.
    pub ruled: bool,
    /// Connections that were redirected since it was switched on.
    pub redirected: u64,
}

/// Hands a transaction to the kernel.
///
/// # Errors
/// The program is not there, this user may not, or the kernel refuses it; nothing has changed then.
pub fn apply(script: &str) -> Result<(), Error> {
    run(&["-f", "-"], script).map(drop)
}

/// What is there.
///
/// # Errors
/// As [`apply`].
pub fn state() -> Result<State, Error> {
    let tables: Value = parse(&run(&["-j", "list", "tables"], "")?)?;
    let of = TABLE.split_once(' ').unwrap_or_default();
    let is_ours = |one: &Value| one["table"]["family"] == of.0 && one["table"]["name"] == of.1;
    if !objects(&tables).any(is_ours) {
        return Ok(State::default());
    }
    let listed = run(&["-j", "list", "table", of.0, of.1], "")?;
    Ok(read(&parse(&listed)?))
}

/// Redirects nothing more, if there is a table.
///
/// # Errors
/// As [`apply`].
pub fn disarm() -> Result<(), Error> {
    apply(&rules::disarming())
}

/// Says that it lasts.
///
/// # Errors
/// As [`apply`].
pub fn confirm() -> Result<(), Error> {
    apply(&rules::confirmation())
}

/// Removes the table, and with it where connections that were redirected led.
///
/// # Errors
/// As [`apply`].
pub fn remove() -> Result<(), Error> {
    apply(&rules::removal())
}

/// Redirected connections that go on: those that the node has at its port.
pub fn connections(listen: &[SocketAddr]) -> usize {
    let ports: Vec<u16> = listen.iter().map(SocketAddr::port).collect();
    let count = |file: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines().skip(1).filter(|line| is_open(line, &ports)).count()
    };
    count("/proc/net/tcp") + count("/proc/net/tcp6")
}

/// A line of /proc/net/tcp: a connection, not a listener and not the memory of one, at one of these local ports.
fn is_open(line: &str, ports: &[u16]) -> bool {
    let mut words = line.split_whitespace().skip(1);
    let port = words.next().and_then(|local| u16::from_str_radix(local.rsplit(':').next()?, 16).ok());
    let state = words.nth(1).unwrap_or_default();
    port.is_some_and(|port| ports.contains(&port)) && !matches!(state, "0A" | "06" | "07")
}

fn run(words: &[&str], input: &str) -> Result<String, Error> {
    let spawned = Command::new(PROGRAM)
        .args(words)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = spawned.map_err(|error| {
        let (message, hint) = if error.kind() == io::ErrorKind::NotFound {
            ("the program `nft` is not there".to_owned(), "install nftables: `apt-get install nftables`")
        } else {
            (format!("`nft` cannot be started: {error}"), "is nftables installed, and may this user run it?")
        };
        fail("failed", message, hint)
    })?;
    let said = |error: io::Error| fail("failed", format!("`nft` did not take its input: {error}"), "try it again");
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(said)?;
    }
    let output = child.wait_with_output().map_err(said)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(SAID).collect();
    Err(if text.contains("Operation not permitted") || !nix::unistd::geteuid().is_root() && text.is_empty() {
        fail("failed", "only root may look at what is captured, or change it", "run it by sudo, or with CAP_NET_ADMIN")
    } else {
        fail(
            "failed",
            format!("nftables refused it: {text}"),
            "does the kernel have nf_tables with NAT (nft_redir, nft_fib_inet)?",
        )
    })
}

fn parse(text: &str) -> Result<Value, Error> {
    serde_json::from_str(text).map_err(|error| {
        fail(
            "failed",
            format!("`nft -j` said what is no JSON: {error}"),
            "this needs nftables 0.9 or newer, built with JSON",
        )
    })
}

fn objects(listed: &Value) -> impl Iterator<Item = &Value> {
    listed["nftables"].as_array().into_iter().flatten()
}

fn read(table: &Value) -> State {
    let elements = |name: &str| -> Vec<&Value> {
        let sets = objects(table).map(|one| &one["set"]).filter(|set| set["name"] == name);
        sets.filter_map(|set| set["elem"].as_array()).flatten().collect()
    };
    let way = |is_meant: fn(&str) -> bool| {
        let rules = || {
            let rules = objects(table).map(|one| &one["rule"]);
            rules.filter(move |rule| rule["chain"].as_str().is_some_and(is_meant))
        };
        let expressions = rules().filter_map(|rule| rule["expr"].as_array()).flatten();
        let redirected = expressions.filter_map(|one| one["counter"]["packets"].as_u64()).sum();
        Way { ruled: rules().next().is_some(), redirected }
    };
    let ports = |set| elements(set).into_iter().filter_map(Value::as_u64).collect::<Vec<u64>>();
    let (v4, v6) = (ports(ANYWHERE), ports(ANYWHERE_V6));
    let of_v4 = v4.iter().map(|port| if v6.contains(port) { format!("*:{port}") } else { format!("0.0.0.0:{port}") });
    let of_v6 = v6.iter().filter(|port| !v4.contains(port)).map(|port| format!("[::]:{port}"));
    let at = [AT_V4, AT_V6].into_iter().flat_map(elements).filter_map(|one| {
        let (ip, port) = (one["concat"][0].as_str()?.parse().ok()?, one["concat"][1].as_u64()?);
        Some(SocketAddr::new(ip, u16::try_from(port).ok()?).to_string())
    });
    State {
        present: true,
        armed: !elements("armed").is_empty(),
        confirmed: !elements("confirmed").is_empty(),
        outgoing: way(|chain| chain != INCOMING),
        incoming: way(|chain| chain == INCOMING),
        targets: of_v4.chain(of_v6).chain(at).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_kernels_state_is_read() {
        let set = |name: &str, elements: Value| json!({"set": {"family": "inet", "name": name, "elem": elements}});
        let rule = |chain: &str, packets: u64| json!({"rule": {"chain": chain, "expr": [{"match": {}}, {"counter": {"packets": packets, "bytes": 60}}]}});
        let table = json!({"nftables": [
            {"metainfo": {}}, {"table": {"family": "inet", "name": "skein"}},
            set("armed", json!([{"elem": {"val": "tcp", "timeout": 15, "expires": 14}}])),
            set("owner", json!([7])),
            {"set": {"family": "inet", "name": "confirmed"}},
            set("ports", json!([80, 81])),
            set("ports6", json!([80, 82])),
            set("ports_v4", json!([{"concat": ["10.0.0.5", 5432]}])),
            set("ports_v6", json!([{"concat": ["fd00::5", 5432]}])),
            rule("captured", 2), rule("output", 3), rule("incoming", 4),
        ]});
        let expected = State {
            present: true,
            armed: true,
            confirmed: false,
            outgoing: Way { ruled: true, redirected: 5 },
            incoming: Way { ruled: true, redirected: 4 },
            targets: ["*:80", "0.0.0.0:81", "[::]:82", "10.0.0.5:5432", "[fd00::5]:5432"].map(str::to_owned).into(),
        };
        assert_eq!(read(&table), expected);
        let nothing = read(&json!({"nftables": []}));
        assert!(!nothing.armed && nothing.outgoing == Way::default() && nothing.targets.is_empty());
    }

    #[test]
    fn connections_at_a_port_are_told_from_listeners_and_memories() {
        let line = |local: &str, state: &str| format!("   0: 0100007F:{local} 0100007F:D431 {state} 00000000:00000000");
        assert!(is_open(&line("3A9A", "01"), &[15002]) && is_open(&line("3A9A", "08"), &[15002]));
        assert!(!is_open(&line("3A9A", "0A"), &[15002]) && !is_open(&line("3A9A", "06"), &[15002]));
        assert!(!is_open(&line("3A9B", "01"), &[15002]) && !is_open("", &[15002]) && !is_open("a b", &[15002]));
    }
}
