//! A gateway that ends TLS, beside HAProxy and nginx; among slow clients; with many that do nothing; and as a scanner sees it.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use harness::{
    PATIENCE,
    application::Application,
    cluster::{Cluster, Plan, Service},
    eventually_within,
    process::Skein,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};

use super::scan;
use crate::{
    Figure,
    kit::{built, cpu, is_installed, median},
};

const NAME: &str = "shop.example.com";
/// Ends TLS; asks for certificates, too; speaks HTTP.
const PORTS: [u16; 3] = [8443, 8444, 8080];
/// Each peer is measured so often, in turn.
const ROUNDS: usize = 3;
const SECONDS: &str = "5s";
/// A third each sends its head a byte a second, stops within a body, and reads nothing of a long answer.
const SLOW: usize = 5_000;
const IDLE: usize = 10_000;
/// Clients of one address: a node takes 1,000.
const OF_ADDRESS: usize = 900;
/// What the slow ones may: heads, bodies and answers that do not come on end within so many seconds, silences within twice that.
const LIMIT: u64 = 10;
/// Until all of the slow ones have been begun with.
const SETTLED: Duration = Duration::from_secs(3);
/// Parts of a second in which the slow ones send.
const TURNS: usize = 50;
const LONG: usize = 8 << 20;

/// What is measured in a process of its own: its requests a second, and CPU microseconds a request.
struct Run {
    rate: f64,
    cost: f64,
}

/// A door that ends TLS beside HAProxy's and nginx's, and ten thousand idle clients.
pub(super) fn figures() -> Vec<Figure> {
    measured(&[("gateway_tls_cpu_over_haproxy", 1.1), ("gateway_idle_mtls", 1_024.0)], |world| {
        let mut all = world.beside_peers()?;
        all.extend(world.idle_clients()?);
        Ok(all)
    })
}

/// A door with thousands of slow clients.
pub(super) fn slow() -> Vec<Figure> {
    measured(&[("gateway_slow_clients_p99", 2.0)], World::slow_clients)
}

/// A door as a scanner sees it.
pub(super) fn scan() -> Vec<Figure> {
    measured(&[("gateway_scan", 0.0)], |world| Ok(world.scanned()))
}

/// What is measured; or that these are not.
fn measured(bounds: &[(&'static str, f64)], measure: impl Fn(&World) -> Result<Vec<Figure>, String>) -> Vec<Figure> {
    let world = || {
        let lacking: Vec<&str> = ["wrk", "haproxy", "nginx"].into_iter().filter(|tool| !is_installed(tool)).collect();
        if !lacking.is_empty() {
            return Err(format!("missing {}", lacking.join(", ")));
        }
        let skein = Skein::at(built().ok_or("missing the node: cargo build --release")?);
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|error| error.to_string())?;
        setrlimit(Resource::RLIMIT_NOFILE, most, most).map_err(|error| error.to_string())?;
        Ok(World::start(skein, application(1_024)?, application(LONG)?))
    };
    world().and_then(|world| measure(&world)).unwrap_or_else(|because| {
        let lacks = |(id, bound): &(&'static str, f64)| {
            Figure::not_measured(*id, "", *bound, format!("not measured: {because}"))
        };
        bounds.iter().map(lacks).collect()
    })
}

fn application(bytes: usize) -> Result<Application, String> {
    Application::start(&"x".repeat(bytes), 0, None).map_err(|error| format!("no application: {error}"))
}

struct World {
    cluster: Cluster,
    short: Application,
    /// Dropped with it.
    _long: Application,
    authority: CertifiedIssuer<'static, KeyPair>,
    /// Certificate, key, and both in one.
    files: [PathBuf; 3],
}

impl World {
    fn start(skein: Skein, short: Application, long: Application) -> Self {
        let labels = vec![("istio".to_owned(), "ingressgateway".to_owned())];
        let services = [
            Service { labels, ..Service::client("istio-system/ingress") },
            Service { target: Some(short.address), ..Service::version("shop/cart", "v1") },
            Service { target: Some(long.address), ..Service::version("shop/long", "v1") },
        ];
        let cluster = Cluster::start(skein, &[("edge", Plan::with(services))]);
        cluster.wait_endpoints("shop/cart", 1);
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority");
        let authority =
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
        let (cert, key) = issue(&authority, NAME);
        let both = format!("{cert}{key}");
        let files =
            [("cert.pem", &cert), ("key.pem", &key), ("both.pem", &both)].map(|(name, text)| cluster.file(name, text));
        private(&files[1]);
        let ca = cluster.file("ca.pem", &authority.pem());
        let [simple, mutual, plain] = PORTS;
        let pair = format!("serverCertificate: '{}', privateKey: '{}'", files[0].display(), files[1].display());
        let documents = format!(
            "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: public, namespace: shop}}\nspec:\n  selector: {{istio: ingressgateway}}\n  servers:\n\
             \x20 - {{port: {{number: {simple}, name: simple, protocol: HTTPS}}, hosts: ['*'], tls: {{mode: SIMPLE, {pair}}}}}\n\
             \x20 - {{port: {{number: {mutual}, name: mutual, protocol: HTTPS}}, hosts: ['*'], tls: {{mode: MUTUAL, {pair}, caCertificates: '{}'}}}}\n\
             \x20 - {{port: {{number: {plain}, name: plain, protocol: HTTP}}, hosts: ['*']}}\n\
             ---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: all, namespace: shop}}\nspec:\n  hosts: ['*']\n  gateways: [public]\n  http:\n\
             \x20 - {{match: [{{uri: {{prefix: /long}}}}], route: [{{destination: {{host: long}}}}]}}\n  - {{route: [{{destination: {{host: cart}}}}]}}\n\
             ---\napiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {{name: default}}\nspec: {{limits: {{headerTimeout: {LIMIT}s, requestBodyIdle: {LIMIT}s, streamIdle: {LIMIT}s}}}}\n",
            ca.display()
        );
        cluster.push("edge", &documents, &["--wait", "all"]).expect_code(0);
        for port in PORTS {
            eventually_within(&format!("port {port} answers"), PATIENCE, || {
                TcpStream::connect((cluster.node("edge").ip, port)).map_err(|error| error.to_string())
            });
        }
        Self { cluster, short, _long: long, authority, files }
    }

    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.cluster.node("edge").ip, port)
    }

    fn pid(&self) -> u32 {
        self.cluster.node("edge").pid()
    }

    fn resident(&self) -> f64 {
        self.cluster.node("edge").resident() as f64 / 1_048_576.0
    }

    /// Requests over kept connections, each peer with one thread.
    fn beside_peers(&self) -> Result<Vec<Figure>, String> {
        let haproxy = haproxy(self, self.short.address)?;
        let nginx = nginx(self, self.short.address)?;
        let (mut runs, own) = ([Vec::new(), Vec::new(), Vec::new()], self.at(PORTS[0]));
        for _ in 0..ROUNDS {
            let peers = [(own, self.pid()), (haproxy.at, haproxy.child.id()), (nginx.at, nginx.child.id())];
            for (runs, (at, pid)) in runs.iter_mut().zip(peers) {
                runs.push(load(at, pid)?);
            }
        }
        let [skein, haproxy, nginx] = &runs;
        let over = |other: &[Run], of: fn(&Run) -> f64| {
            median(skein.iter().zip(other).map(|(own, other)| of(own) / of(other))).unwrap_or(f64::NAN)
        };
        let stated = |id, value: Option<f64>, unit| {
            Figure::stated(id, value.unwrap_or(f64::NAN), unit, "of that, absolute: this machine's, now")
        };
        let how = "a door that ends TLS, 64 kept connections, 1 KiB, two threads each";
        Ok(vec![
            Figure::at_most(
                "gateway_tls_cpu_over_haproxy",
                over(haproxy, |run| run.cost),
                "times",
                1.10,
                format!("{how}: CPU a request over HAProxy's"),
            ),
            Figure::at_least(
                "gateway_tls_requests_over_haproxy",
                over(haproxy, |run| run.rate),
                "times",
                0.91,
                format!("{how}: requests a second over HAProxy's"),
            ),
            Figure::stated(
                "gateway_tls_cpu_over_nginx",
                over(nginx, |run| run.cost),
                "times",
                format!("{how}, nginx one: CPU a request over nginx's"),
            ),
            stated("gateway_tls_cpu", median(skein.iter().map(|run| run.cost)), "us"),
            stated("gateway_tls_requests", median(skein.iter().map(|run| run.rate)), "1/s"),
        ])
    }

    /// What others wait while thousands are slow, and how many of those are still there when their time is over.
    fn slow_clients(&self) -> Result<Vec<Figure>, String> {
        let at = self.at(PORTS[2]);
        let quiet = p99(at)?;
        let mut slow = Vec::with_capacity(SLOW);
        for number in 0..SLOW {
            let mut stream = connect(at, number)?;
            let begin = match number % 3 {
                0 => format!("GET / HTTP/1.1\r\nhost: {NAME}\r\nx: "),
                1 => format!("POST / HTTP/1.1\r\nhost: {NAME}\r\ncontent-length: 1000\r\n\r\nabc"),
                _ => format!("GET /long HTTP/1.1\r\nhost: {NAME}\r\n\r\n"),
            };
            stream.write_all(begin.as_bytes()).map_err(|error| format!("a slow client: {error}"))?;
            stream.set_nonblocking(true).map_err(|error| error.to_string())?;
            slow.push(stream);
        }
        let drip = std::thread::spawn(move || {
            // Longer than any limit lasts, and a bit.
            for turn in 0..usize::try_from(LIMIT * 3).unwrap_or(0) * TURNS {
                // Each once a second, and not all at the same moment.
                for head in slow.iter_mut().step_by(3).skip(turn % TURNS).step_by(TURNS) {
                    let _ = head.write(b"y");
                }
                std::thread::sleep(Duration::from_secs(1) / u32::try_from(TURNS).unwrap_or(1));
            }
            slow.iter_mut().filter_map(is_open).count()
        });
        // That thousands come at once is another matter than that they stay.
        std::thread::sleep(SETTLED);
        let crowded = p99(at)?;
        let left = drip.join().map_err(|_| "the slow clients panicked")?;
        let how = format!("{SLOW} clients slow in heads, bodies and reading");
        Ok(vec![
            Figure::at_most(
                "gateway_slow_clients_p99",
                crowded / quiet,
                "times",
                2.0,
                format!(
                    "p99 of others ({crowded:.2} ms) beside {how}, {} s after they came, over p99 without them ({quiet:.2} ms)",
                    SETTLED.as_secs()
                ),
            ),
            Figure::at_most(
                "gateway_slow_clients_left",
                left as f64,
                "clients",
                0.0,
                format!("of {how}: open after {} s, where a silence may last {} s", LIMIT * 3, LIMIT * 2),
            ),
        ])
    }

    fn idle_clients(&self) -> Result<Vec<Figure>, String> {
        let config = Arc::new(self.client()?);
        let at = self.at(PORTS[1]);
        let before = self.resident();
        let mut kept = Vec::with_capacity(IDLE);
        for number in 0..IDLE {
            let name = ServerName::try_from(NAME).map_err(|error| error.to_string())?;
            let session = ClientConnection::new(Arc::clone(&config), name).map_err(|error| error.to_string())?;
            let mut stream = StreamOwned::new(session, connect(at, number)?);
            if number % 1_000 == 0 {
                request(&mut stream)?;
            }
            while stream.conn.is_handshaking() {
                stream.conn.complete_io(&mut stream.sock).map_err(|error| format!("handshake {number}: {error}"))?;
            }
            kept.push(stream);
        }
        // What is silent for the limit ends: it must not have come to that.
        let after = self.resident();
        request(kept.last_mut().ok_or("no client")?)?;
        Ok(vec![
            Figure::at_most(
                "gateway_idle_mtls",
                after,
                "MiB",
                1_024.0,
                format!("resident memory with {IDLE} idle connections of clients that showed certificates"),
            ),
            Figure::stated(
                "gateway_idle_mtls_each",
                (after - before) * 1_024.0 / IDLE as f64,
                "KiB",
                "what each of them takes",
            ),
        ])
    }

    fn client(&self) -> Result<ClientConfig, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let mut roots = RootCertStore::empty();
        let pem = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| text(&error));
        roots.add(pem(&self.authority.pem())?).map_err(|error| text(&error))?;
        let (cert, key) = issue(&self.authority, "client");
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| text(&error))?;
        let builder = ClientConfig::builder().with_root_certificates(roots);
        builder.with_client_auth_cert(vec![pem(&cert)?], key).map_err(|error| text(&error))
    }

    /// All that sslyze finds, and Mozilla's intermediate configuration as it judges that: protocols, ciphers, curves, certificate.
    fn scanned(&self) -> Vec<Figure> {
        let unmeasured =
            |why: String| vec![Figure::not_measured("gateway_scan", "findings", 0.0, format!("not measured: {why}"))];
        if !is_installed("sslyze") {
            return unmeasured("missing sslyze (pip install sslyze)".to_owned());
        }
        let (target, report) = (self.at(PORTS[0]).to_string(), self.cluster.path().join("scan.json"));
        let output = Command::new("sslyze")
            .args(["--mozilla_config=intermediate", "--early_data", "--json_out"])
            .arg(&report)
            .arg(&target)
            .output();
        let output = match output {
            Ok(output) => output,
            Err(error) => return unmeasured(format!("sslyze cannot start: {error}")),
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
        let Some(report) = std::fs::read(&report).ok().and_then(|report| serde_json::from_slice(&report).ok()) else {
            return unmeasured(format!("sslyze left no report: {said}"));
        };
        // What the configuration lacks is listed at the end. That no browser knows this test's own authority is no finding.
        let Some((_, verdict)) = text.split_once("COMPLIANCE AGAINST") else {
            return unmeasured(format!("sslyze does not judge: {said}"));
        };
        let listed = verdict.lines().map(str::trim).filter_map(|line| line.strip_prefix("* "));
        let mut findings: Vec<String> =
            listed.filter(|line| !line.starts_with("certificate_path_validation")).map(str::to_owned).collect();
        findings.extend(scan::findings(&report));
        let how = format!("findings of sslyze, and by Mozilla's intermediate configuration: {}", findings.join("; "));
        vec![Figure::at_most("gateway_scan", findings.len() as f64, "findings", 0.0, how)]
    }
}

fn issue(authority: &CertifiedIssuer<'static, KeyPair>, name: &str) -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2026, 12, 31);
    (params.signed_by(&key, authority).expect("a certificate").pem(), key.serialize_pem())
}

fn private(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("own files");
}

/// Each from an address that has not too many.
fn connect(to: SocketAddr, number: usize) -> Result<TcpStream, String> {
    let host = u8::try_from(number / OF_ADDRESS + 1).unwrap_or(u8::MAX);
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).map_err(|e| e.to_string())?;
    let from = SocketAddr::from((Ipv4Addr::new(127, 77, 0, host), 0));
    socket.bind(&from.into()).map_err(|error| format!("{from}: {error}"))?;
    socket.connect(&to.into()).map_err(|error| format!("client {number}: {error}"))?;
    Ok(socket.into())
}

/// `Some` while nobody has ended it. What came is read, as far as it is there.
fn is_open(stream: &mut TcpStream) -> Option<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Some(()),
            Err(_) => return None,
        }
    }
}

fn request(stream: &mut StreamOwned<ClientConnection, TcpStream>) -> Result<(), String> {
    write!(stream, "GET / HTTP/1.1\r\nhost: {NAME}\r\n\r\n").map_err(|error| error.to_string())?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).map_err(|error| format!("no answer: {error}"))?;
    if answer.ends_with(b"200") { Ok(()) } else { Err(format!("not 200: {}", String::from_utf8_lossy(&answer))) }
}

/// A peer's process; ends with it.
struct Peer {
    child: Child,
    at: SocketAddr,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn haproxy(world: &World, backend: SocketAddr) -> Result<Peer, String> {
    let (at, both) = (free()?, world.files[2].display());
    let config = format!(
        "global\n  maxconn 4000\n  nbthread 2\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  http-reuse always\n\
         listen a\n  bind {at} ssl crt {both}\n  server s {backend}\n"
    );
    let file = world.cluster.file("haproxy.cfg", &config);
    peer("haproxy", &["-db".as_ref(), "-f".as_ref(), file.as_os_str()], at)
}

fn nginx(world: &World, backend: SocketAddr) -> Result<Peer, String> {
    let (at, [cert, key, _], dir) = (free()?, &world.files, world.cluster.path().display());
    let config = format!(
        "daemon off; master_process off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/nginx.log;\nevents {{ worker_connections 4096; }}\nhttp {{\n  access_log off; keepalive_requests 100000000;\n\
         \x20 client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;\n\
         \x20 upstream u {{ server {backend}; keepalive 64; keepalive_requests 100000000; }}\n\
         \x20 server {{ listen {at} ssl; ssl_certificate {}; ssl_certificate_key {}; location / {{ proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }}\n}}\n",
        cert.display(),
        key.display()
    );
    let file = world.cluster.file("nginx.conf", &config);
    peer("nginx", &["-c".as_ref(), file.as_os_str()], at)
}

fn peer(program: &str, words: &[&std::ffi::OsStr], at: SocketAddr) -> Result<Peer, String> {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let started =
        Command::new(program).args(words).env("PATH", path).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let peer = Peer { child: started.map_err(|error| format!("{program}: {error}"))?, at };
    eventually_within(&format!("{program} listens"), PATIENCE, || {
        TcpStream::connect(at).map_err(|error| error.to_string())
    });
    Ok(peer)
}

fn free() -> Result<SocketAddr, String> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    listener.local_addr().map_err(|error| error.to_string())
}

fn wrk(more: &[&str], url: &str) -> Result<String, String> {
    let output = Command::new("wrk").args(["-t1", "-d", SECONDS]).args(more).arg(url).output();
    let output = output.map_err(|error| format!("wrk: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() { Ok(text) } else { Err(format!("wrk: {text}")) }
}

fn load(at: SocketAddr, pid: u32) -> Result<Run, String> {
    let url = format!("https://{at}/");
    let before = cpu(pid);
    let text = wrk(&["-c64"], &url)?;
    let used = cpu(pid) - before;
    let word = |line: &str| line.split_whitespace().next().and_then(|word| word.parse::<f64>().ok());
    let requests = text.lines().find(|line| line.contains(" requests in ")).and_then(word);
    let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:")).and_then(word);
    let (Some(requests), Some(rate)) = (requests, rate) else { return Err(format!("wrk says {text:?}")) };
    if text.contains("Non-2xx") {
        return Err(format!("{at} refuses: {text:?}"));
    }
    Ok(Run { rate, cost: used * 1e6 / requests })
}

/// Milliseconds.
fn p99(at: SocketAddr) -> Result<f64, String> {
    let text = wrk(&["-c8", "--latency"], &format!("http://{at}/"))?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("99%")).ok_or("wrk says no p99")?.trim();
    let unit = line.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == '.');
    let times = match unit {
        "us" => 0.001,
        "ms" => 1.0,
        "s" => 1_000.0,
        other => return Err(format!("wrk's unit {other:?}")),
    };
    line.strip_suffix(unit)
        .and_then(|number| number.parse::<f64>().ok())
        .map(|number| number * times)
        .ok_or_else(|| format!("wrk says {line:?}"))
}
