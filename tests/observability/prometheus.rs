//! A Prometheus that scrapes by the configuration that is shipped, but oftener, and whom the test names.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use harness::{eventually_within, http};
use serde_json::Value;
use tempfile::TempDir;

/// A server; it ends when dropped, before its directory does.
pub(crate) struct Prometheus {
    at: SocketAddr,
    _child: Running,
    _dir: TempDir,
}

/// Where a program of Debian's package is.
pub(crate) fn program(name: &str) -> PathBuf {
    let found =
        ["/usr/bin", "/usr/local/bin"].map(|dir| Path::new(dir).join(name)).into_iter().find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is not installed: see README.md"))
}

impl Prometheus {
    /// Asks these nodes whom to scrape.
    pub(crate) fn start(shipped: &Path, nodes: &[SocketAddr]) -> Self {
        let dir = tempfile::Builder::new().prefix("skein-prometheus-").tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join("rules")).expect("the temporary directory is writable");
        for name in ["nodes.yml", "traffic.yml"] {
            let text = fs::read_to_string(shipped.join("rules").join(name)).expect("rules are shipped");
            fs::write(dir.path().join("rules").join(name), text).expect("the temporary directory is writable");
        }
        let text = fs::read_to_string(shipped.join("prometheus.yml")).expect("a configuration is shipped");
        let file = dir.path().join("prometheus.yml");
        fs::write(&file, pointed_at(&text, nodes)).expect("the temporary directory is writable");
        let log = dir.path().join("log");
        let written = fs::File::create(&log).expect("the temporary directory is writable");
        let mut command = Command::new(program("prometheus"));
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()));
        // A port that was free a moment ago may be a connection's of the mesh by now: it takes one, and says which.
        command.arg("--web.listen-address=127.0.0.1:0");
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(written).spawn().expect("it can be started");
        let mut child = Running(child);
        let at = eventually_within("Prometheus is ready", Duration::from_secs(60), || {
            let log = fs::read_to_string(&log).map_err(|error| error.to_string())?;
            if let Some(ended) = child.0.try_wait().map_err(|error| error.to_string())? {
                panic!("Prometheus ended, {ended}:\n{log}");
            }
            let at = listening(&log).ok_or_else(|| log.clone())?;
            let answer = http::get(at, &at.to_string(), "/-/ready")?;
            if answer.status == 200 { Ok(at) } else { Err(format!("{}\n{log}", answer.text())) }
        });
        Self { at, _child: child, _dir: dir }
    }

    fn ask(&self, path: &str) -> Result<Value, String> {
        let answer = http::get(self.at, &self.at.to_string(), path)?;
        let body: Value =
            serde_json::from_slice(&answer.body).map_err(|error| format!("{error}: {}", answer.text()))?;
        if body["status"] == "success" { Ok(body["data"].clone()) } else { Err(body.to_string()) }
    }

    /// What an expression gives now.
    pub(crate) fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        let mut path = "/api/v1/query?query=".to_owned();
        for byte in expression.bytes() {
            let _ = write!(path, "%{byte:02X}");
        }
        Ok(self.ask(&path)?["result"].as_array().cloned().unwrap_or_default())
    }

    /// Whether an expression gives a number; one that does not parse is an error of the test.
    pub(crate) fn has_data(&self, expression: &str) -> bool {
        let found = self.query(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
        found.iter().any(|one| one["value"][1].as_str().is_some_and(|value| value != "NaN"))
    }

    /// Whom it scrapes.
    pub(crate) fn targets(&self) -> Vec<Value> {
        let data = self.ask("/api/v1/targets?state=active").expect("an answer");
        data["activeTargets"].as_array().cloned().unwrap_or_default()
    }

    /// All rules, with how they fare.
    pub(crate) fn rules(&self) -> Vec<Value> {
        let data = self.ask("/api/v1/rules").expect("an answer");
        let groups = data["groups"].as_array().cloned().unwrap_or_default();
        groups.iter().filter_map(|group| group["rules"].as_array().cloned()).flatten().collect()
    }
}

/// A process; it ends when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The shipped configuration with other nodes to ask, and seconds for its intervals.
fn pointed_at(text: &str, nodes: &[SocketAddr]) -> String {
    let (url, path) =
        ("  - url: http://skein:15020/v1/prometheus-targets\n    refresh_interval: 30s\n", "/v1/prometheus-targets");
    let mut urls = String::new();
    for node in nodes {
        let _ = writeln!(urls, "  - url: http://{node}{path}\n    refresh_interval: 1s");
    }
    let (interval, timeout) = ("_interval: 15s", "scrape_timeout: 15s");
    let found = [url, interval, timeout].map(|part| text.matches(part).count());
    assert_eq!(found, [1, 2, 1], "{text}");
    // A timeout may not be longer than the interval.
    text.replace(url, &urls).replace(interval, "_interval: 1s").replace(timeout, "scrape_timeout: 1s")
}

/// Where it says that it listens.
fn listening(log: &str) -> Option<SocketAddr> {
    let said = log.lines().find_map(|line| line.split_once("msg=\"Listening on\" address="))?;
    said.1.trim().parse().ok()
}
