//! Two network namespaces joined by a wire: in one the test with its nodes, in the other a machine that is in no mesh.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use harness::eventually;

/// What says that the test runs in the namespace that was made for it.
const INSIDE: &str = "SKEIN_CAPTURE_NAMESPACE";
/// The user whose connections are captured; nodes run as root here.
pub(crate) const USER: u32 = 65_534;
/// The machine outside.
pub(crate) const OUTSIDE: &str = "10.9.0.2";
/// The same by IPv6.
pub(crate) const OUTSIDE_V6: &str = "fd00:9::2";
/// The machine of the test, as that one sees it.
pub(crate) const HERE: &str = "10.9.0.1";
/// The same by IPv6.
pub(crate) const HERE_V6: &str = "fd00:9::1";
/// Where it sends back lines.
pub(crate) const ECHO: u16 = 7000;

/// Where it speaks first.
pub(crate) const GREETS: u16 = 4306;

/// HTTP at 80, HTTP/2 at 9080, lines at [`ECHO`] and at SSH's port, and a server that speaks first at [`GREETS`].
const SERVER: &str = r#"
import http.server, socket, socketserver, threading
class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = b"outside"
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *words): pass
class Line(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile: self.wfile.write(line)
class Greeting(socketserver.StreamRequestHandler):
    def handle(self): self.wfile.write(b"welcome\n"); self.rfile.read()
class Http2(socketserver.StreamRequestHandler):
    def handle(self):
        def frame(kind, flags, stream, body): self.wfile.write(len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body)
        self.rfile.read(24); frame(4, 0, 0, b"")
        while len(head := self.rfile.read(9)) == 9:
            self.rfile.read(int.from_bytes(head[:3], "big"))
            if head[3] == 4 and not head[4] & 1: frame(4, 1, 0, b"")
            stream = int.from_bytes(head[5:], "big")
            if head[3] == 1: frame(1, 4, stream, b"\x88"); frame(0, 1, stream, b"outside")
class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6; allow_reuse_address = True; daemon_threads = True; request_queue_size = 128
servers = [Server(("::", 80), Page), Server(("::", 9080), Http2), Server(("::", 4306), Greeting)] + [Server(("::", port), Line) for port in (22, 7000)]
for server in servers: threading.Thread(target=server.serve_forever).start()
print("ready", flush=True)
"#;

/// A client that sends each line of its standard input and prints what comes back.
const CLIENT: &str = r#"
import socket, sys
stream = socket.create_connection((sys.argv[1], int(sys.argv[2]))).makefile("rw")
for line in sys.stdin:
    stream.write(line); stream.flush(); print(stream.readline(), end="", flush=True)
"#;

/// A client of HTTP/2 that waits for its server's settings before its first request, as gRPC's do: one request on one connection for each
/// authority; it prints the bodies of those that get 200, and `-` for others.
const HTTP2: &str = r#"
import socket, sys
stream = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20).makefile("rwb")
def send(kind, flags, number, body):
    stream.write(len(body).to_bytes(3, "big") + bytes([kind, flags]) + number.to_bytes(4, "big") + body); stream.flush()
def take():
    head = stream.read(9)
    return head[3], head[4], stream.read(int.from_bytes(head[:3], "big"))
stream.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"); send(4, 0, 0, b"")
while take()[0] != 4: pass
send(4, 1, 0, b"")
for place, name in enumerate(sys.argv[3:]):
    name = name.encode()
    send(1, 5, 2 * place + 1, b"\x82\x86\x84\x41" + bytes([len(name)]) + name)
    said, ended = b"", False
    while not ended:
        kind, flags, body = take()
        if kind == 1 and not said: said = b"" if body[:1] == b"\x88" else b"-"
        if kind == 0 and said != b"-": said += body
        ended = kind in (0, 1) and flags & 1
        if kind in (3, 7): said, ended = b"reset", True
    print(said.decode().strip())
"#;

/// What the captured user is told by HTTP/2 on one connection, by authority.
pub(crate) fn http2(host: &str, port: u16, authorities: &[&str]) -> Result<Vec<String>, String> {
    let port = port.to_string();
    let told = as_user("/usr/bin/python3", &[&["-c", HTTP2, host, &port], authorities].concat())?;
    Ok(told.lines().map(str::to_owned).collect())
}

/// The first line of a server that speaks first.
pub(crate) fn greeting(host: &str, seconds: u32) -> Result<String, String> {
    let script = "import socket, sys; print(socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3])).makefile().readline())";
    as_user("/usr/bin/python3", &["-c", script, host, &GREETS.to_string(), &seconds.to_string()])
}

/// Runs a test in a network namespace of its own: once to make it, then within it.
pub(crate) fn within(test: &str, body: impl FnOnce(&Place)) {
    if std::env::var_os(INSIDE).is_some() {
        return body(&Place::new());
    }
    let own = std::env::current_exe().expect("a test knows itself");
    let mut again = Command::new("unshare");
    again.args(["--net", "--"]).arg(own).args([test, "--exact", "--ignored", "--nocapture"]).env(INSIDE, "1");
    let output = again.stderr(Stdio::inherit()).output().expect("unshare of util-linux");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains("running 1 test\n"), "{test}: {}\n{told}", output.status);
}

/// The wire and the machine at its other end.
pub(crate) struct Place {
    outside: Child,
    server: Child,
}

impl Place {
    fn new() -> Self {
        let outside = Command::new("unshare").args(["--net", "sleep", "infinity"]).spawn().expect("unshare");
        let pid = outside.id().to_string();
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        eventually("the other machine is there", || {
            if namespace(&pid) == namespace("self") { Err("not yet".to_owned()) } else { Ok(()) }
        });
        let here = "ip link set lo up; ip link add v0 type veth peer name v1; ip addr add 10.9.0.1/24 dev v0; \
                    ip addr add fd00:9::1/64 dev v0 nodad; ip link set v0 up; ip route add default via 10.9.0.2";
        let there = "ip link set lo up; ip addr add 10.9.0.2/24 dev v1; ip addr add fd00:9::2/64 dev v1 nodad; ip link set v1 up";
        run("sh", &["-ec", here]);
        run("ip", &["link", "set", "v1", "netns", &pid]);
        run("nsenter", &["-t", &pid, "-n", "sh", "-ec", there]);
        let mut server = Command::new("nsenter")
            .args(["-t", &pid, "-n", "/usr/bin/python3", "-c", SERVER])
            .stdout(Stdio::piped())
            .spawn()
            .expect("nsenter of util-linux");
        let mut line = String::new();
        BufReader::new(server.stdout.take().expect("piped")).read_line(&mut line).expect("it says that it is ready");
        Self { outside, server }
    }
}

impl Place {
    /// A program of the machine outside, to be given words.
    pub(crate) fn outside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.outside.id().to_string(), "-n", program]);
        command
    }

    /// curl of the machine outside.
    pub(crate) fn curl(&self, words: &[&str]) -> Result<String, String> {
        said(self.outside("curl").args(["-sS", "--fail", "--max-time", "20"]).args(words))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for child in [&mut self.server, &mut self.outside] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn run(program: &str, words: &[&str]) {
    let output = Command::new(program).args(words).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What a program prints that the captured user runs.
pub(crate) fn as_user(program: &str, words: &[&str]) -> Result<String, String> {
    said(Command::new(program).args(words).uid(USER).gid(USER).current_dir("/"))
}

/// What a program prints.
pub(crate) fn said(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// curl of the captured user.
pub(crate) fn curl(words: &[&str]) -> Result<String, String> {
    as_user("curl", &[&["-sS", "--fail", "--max-time", "20"], words].concat())
}

/// A connection that the captured user keeps open.
pub(crate) struct Lasting {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Lasting {
    pub(crate) fn to(host: &str, port: u16) -> Self {
        let mut program = Command::new("/usr/bin/python3");
        program.uid(USER).gid(USER).current_dir("/");
        Self::of(program, host, port)
    }

    /// One that the machine outside keeps open.
    pub(crate) fn from_outside(place: &Place, host: &str, port: u16) -> Self {
        Self::of(place.outside("/usr/bin/python3"), host, port)
    }

    fn of(mut program: Command, host: &str, port: u16) -> Self {
        program.args(["-u", "-c", CLIENT, host, &port.to_string()]);
        let mut child = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, input, output }
    }

    /// Sends a line and gives what comes back.
    pub(crate) fn say(&mut self, line: &str) -> String {
        let mut answer = String::new();
        let sent = writeln!(self.input, "{line}");
        let read = sent.and_then(|()| self.output.read_line(&mut answer));
        read.map_or_else(|error| error.to_string(), |_| answer.trim_end().to_owned())
    }
}

impl Drop for Lasting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
