//! Database servers that a test starts and ends, each in a directory of its own.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use harness::eventually_within;
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, User, geteuid},
};
use tempfile::TempDir;

/// For a server to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server; it ends when dropped.
pub(crate) struct Server {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    child: Child,
    _dir: TempDir,
}

/// Where a program of Debian's packages is.
pub(crate) fn program(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
    let places = versions.map(|version| version.path().join("bin"));
    let places = places.chain(["/usr/bin", "/usr/sbin"].map(PathBuf::from));
    let found = places.map(|place| place.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is not installed: see README.md"))
}

/// As this user, if the test runs as root and there is such a user: no database wants to be root.
fn command(name: &str, user: &str) -> Command {
    let mut command = Command::new(program(name));
    if let Some(user) = unprivileged(user) {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

fn unprivileged(name: &str) -> Option<User> {
    if !geteuid().is_root() {
        return None;
    }
    let user = User::from_name(name).expect("users can be looked up");
    Some(user.unwrap_or_else(|| panic!("there is no user {name}: see README.md")))
}

impl Server {
    pub(crate) fn postgresql() -> Self {
        Self::postgresql_at("127.0.0.1")
    }

    /// One that listens at these addresses, and believes who comes by loopback only.
    pub(crate) fn postgresql_at(addresses: &str) -> Self {
        let dir = directory("postgres");
        let data = dir.path().join("data");
        let mut init = command("initdb", "postgres");
        init.arg("-D").arg(&data).args(["-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8"]);
        finish(&mut init);
        let (address, port) = free();
        let mut server = command("postgres", "postgres");
        server.arg("-D").arg(&data).args(["-p", &port, "-h", addresses, "-F", "-k"]).arg(dir.path());
        Self::start(server, address, dir)
    }

    pub(crate) fn redis() -> Self {
        let dir = directory("redis");
        let (address, port) = free();
        let mut server = command("redis-server", "redis");
        server.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(dir.path());
        Self::start(server, address, dir)
    }

    pub(crate) fn mariadb() -> Self {
        let dir = directory("mysql");
        let data = dir.path().join("data");
        let mut init = command("mariadb-install-db", "mysql");
        init.arg("--no-defaults")
            .arg(option("datadir", &data))
            .args(["--auth-root-authentication-method=normal", "--skip-test-db"]);
        finish(&mut init);
        let (address, port) = free();
        let mut server = command("mariadbd", "mysql");
        server.arg("--no-defaults").arg(option("datadir", &data)).arg(option("socket", &dir.path().join("socket")));
        server.args([format!("--port={port}"), "--bind-address=127.0.0.1".to_owned()]);
        Self::start(server, address, dir)
    }

    fn start(mut command: Command, address: SocketAddr, dir: TempDir) -> Self {
        let log = fs::File::create(dir.path().join("log")).expect("the temporary directory is writable");
        let errors = log.try_clone().expect("a file can be shared");
        command.stdin(Stdio::null()).stdout(log).stderr(errors).current_dir(dir.path());
        let child = command.spawn().expect("it can be started");
        let server = Self { address, child, _dir: dir };
        eventually_within("the server listens", PATIENCE, || {
            TcpStream::connect(address).map(drop).map_err(|error| error.to_string())
        });
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // PostgreSQL ends its connections at SIGINT; the others end at either.
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.child.wait();
    }
}

fn option(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}

fn directory(user: &str) -> TempDir {
    let dir = tempfile::Builder::new().prefix("skein-db-").tempdir().expect("a temporary directory");
    if let Some(user) = unprivileged(user) {
        chown(dir.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("root may");
    }
    dir
}

/// A port that nobody uses just now.
fn free() -> (SocketAddr, String) {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("loopback has free ports");
    let address = listener.local_addr().expect("it is bound");
    (address, address.port().to_string())
}

fn finish(command: &mut Command) {
    let output = command.current_dir("/").output().expect("it can be started");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
