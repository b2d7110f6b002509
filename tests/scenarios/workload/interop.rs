//! Programs that know nothing of Skein: openssl serves TLS with an SVID, curl and openssl believe the mesh's bundle.

use std::{
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use harness::{cluster::Cluster, eventually};

use super::{application, chain, connect, node, own, pem, socket};

/// Where curl or openssl are missing, says so; CI has them, and what it skips there nobody would see.
fn missing() -> bool {
    let there = |program: &str, word: &str| {
        Command::new(program).arg(word).output().is_ok_and(|output| output.status.success())
    };
    let all = there("openssl", "version") && there("curl", "--version");
    if !all {
        assert!(std::env::var_os("CI").is_none(), "openssl or curl is missing in CI");
        eprintln!("skipped: needs openssl and curl");
    }
    !all
}

/// `openssl s_server` with a leaf, the rest of its path, and its key; ends with the value.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    /// `port` is one that nobody else has at the node's address.
    fn start(cluster: &Cluster, port: u16, (name, chain, key): (&str, &str, &str)) -> Self {
        let (chain, key) = (cluster.file(&format!("{name}.pem"), chain), cluster.file(&format!("{name}.key"), key));
        let free = SocketAddr::new(cluster.node("first").ip, port);
        let child = Command::new("openssl")
            .args(["s_server", "-www", "-accept", &free.to_string()])
            .args([Path::new("-cert"), &chain, Path::new("-cert_chain"), &chain, Path::new("-key"), &key])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl runs");
        let server = Self { child, address: free };
        eventually("openssl serves", || TcpStream::connect(free).map(drop).map_err(|error| error.to_string()));
        server
    }

    fn get(&self, name: &str, bundle: &Path) -> Output {
        let (ip, port) = (self.address.ip(), self.address.port());
        Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "20", "--noproxy", "*"])
            .args(["--resolve", &format!("{name}:{port}:{ip}"), "--cacert"])
            .arg(bundle)
            .arg(format!("https://{name}:{port}/"))
            .output()
            .expect("curl runs")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn verify(chain: &Path, name: &str, bundle: &Path) -> Output {
    let mut command = Command::new("openssl");
    command.args(["verify", "-x509_strict", "-purpose", "sslserver", "-CAfile"]).arg(bundle);
    command.arg("-untrusted").arg(chain).args(["-verify_hostname", name]).arg(chain);
    command.output().expect("openssl runs")
}

/// What a thief of the node's CA key makes for a name that the node was not granted: right but for the name.
fn outside(cluster: &Cluster, name: &str) -> (String, String) {
    let data = cluster.node("first").dir.join("data");
    let read = |name: &str| std::fs::read_to_string(data.join(name)).expect("a running node's file");
    let cas = read("ca.pem");
    let authority = rcgen::KeyPair::from_pem(&read("ca.key")).expect("a key");
    let issuer = rcgen::Issuer::from_ca_cert_pem(&cas, authority).expect("the node CA comes first");
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a name");
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let leaf = params.signed_by(&key, &issuer).expect("signed");
    (leaf.pem() + &cas, key.serialize_pem())
}

#[test]
fn curl_and_openssl_believe_a_service_by_its_name_and_no_other() {
    if missing() {
        return;
    }
    let (cluster, dir) = node(&[own()]);
    let bundle: PathBuf = cluster.file("bundle.pem", &cluster.on("first", &["ca", "bundle"]).expect_code(0).out);
    let svid = application(async { connect(&socket(&dir)).await.fetch_x509_svid().await.expect("an identity") });
    let (path, key) = (chain(&svid), pem("PRIVATE KEY", svid.private_key().as_bytes()));
    let server = Server::start(&cluster, 15443, ("svid", &path, &key));
    let own = server.get("web.shop.test.example", &bundle);
    assert!(own.status.success(), "{}", String::from_utf8_lossy(&own.stderr));
    let judged = verify(&cluster.path().join("svid.pem"), "web.shop.test.example", &bundle);
    assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stderr));
    // The same server by another name.
    let other = server.get("other.shop.test.example", &bundle);
    assert_eq!(other.status.code(), Some(60), "{}", String::from_utf8_lossy(&other.stderr));
    // A name outside the node's name constraints, certified by the node's own CA key.
    let name = "payments.bank.test.example";
    let (path, key) = outside(&cluster, name);
    let server = Server::start(&cluster, 15444, ("outside", &path, &key));
    let refused = server.get(name, &bundle);
    assert_eq!(refused.status.code(), Some(60), "{}", String::from_utf8_lossy(&refused.stderr));
    let judged = verify(&cluster.path().join("outside.pem"), name, &bundle);
    let said = String::from_utf8_lossy(&judged.stderr).into_owned();
    assert!(!judged.status.success() && said.contains("permitted subtree violation"), "{said}");
    // The same certificate for a name within them holds: it was refused for the name and nothing else.
    let name = "web.shop.test.example";
    let (path, key) = outside(&cluster, name);
    let server = Server::start(&cluster, 15445, ("inside", &path, &key));
    let taken = server.get(name, &bundle);
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
}
