//! Doors for what is no HTTP: bytes as they come, bytes out of TLS that ends at the gateway, and TLS that is passed on unopened.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::Arc,
};

use harness::{
    bytes::{Echo, say},
    cluster::{Cluster, Plan, Service},
    eventually,
};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use crate::{
    gateway::{at, gateway, ingress, opened},
    gateway_tls::{Authority, Client, Issued, put},
    skein,
};

/// A gateway, an application of bytes, and one that speaks TLS itself.
fn mesh(echo: &Echo, tls: SocketAddr) -> Cluster {
    let served = |name: &str, protocol: &str, target| Service {
        ports: vec![9000],
        protocol: protocol.to_owned(),
        target: Some(target),
        ..Service::version(name, "v1")
    };
    let services = [served("shop/echo", "tcp", echo.address), served("shop/vault", "tls", tls)];
    let cluster = Cluster::start(skein(), &[("edge", Plan::with([ingress()])), ("shop", Plan::with(services))]);
    cluster.wait_members(harness::PATIENCE);
    cluster.wait_endpoints("shop/echo", 1);
    cluster.wait_endpoints("shop/vault", 1);
    cluster
}

/// An application that shows its own certificate. It gives each connection this answer to the first that it says, or says back all that it hears.
pub(crate) fn tls_application(issued: &Issued, answer: Option<&'static str>) -> SocketAddr {
    let chain = vec![CertificateDer::from_pem_slice(issued.cert.as_bytes()).expect("PEM")];
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("PEM");
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).expect("a pair");
    let config = Arc::new(config);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let session = ServerConnection::new(Arc::clone(&config)).expect("a server");
            std::thread::spawn(move || {
                let mut stream = StreamOwned::new(session, stream);
                let mut bytes = [0; 256];
                while let Ok(length @ 1..) = stream.read(&mut bytes) {
                    let said = answer.map_or(&bytes[..length], str::as_bytes);
                    if stream.write_all(said).is_err() || answer.is_some() {
                        break;
                    }
                }
                stream.conn.send_close_notify();
                drop(stream.flush());
            });
        }
    });
    address
}

fn routes(name: &str, hosts: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{hosts: [{hosts}], gateways: [public], {rules}}}\n"
    )
}

const ECHO: &str = "route: [{destination: {host: echo, port: {number: 9000}}}]";

/// Who answers by TLS, and with what.
fn ask(client: &Client<'_>, name: &str) -> Result<(Vec<String>, String), String> {
    let mut stream = client.connect(name)?;
    stream.write_all(b"ping").map_err(|error| error.to_string())?;
    let mut answer = [0; 4];
    // The application of bytes speaks first.
    stream.read_exact(&mut answer).map_err(|error| error.to_string())?;
    let shown = stream.conn.peer_certificates().and_then(|chain| chain.first()).expect("a certificate").to_vec();
    let names = certs::foreign::Foreign::parse(&shown).expect("a certificate").dns_names;
    Ok((names, String::from_utf8_lossy(&answer).into_owned()))
}

#[test]
fn bytes_find_their_application_behind_every_kind_of_door() {
    let authority = Authority::new();
    let own = authority.issue("vault.example.com", None);
    let echo = Echo::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), "echo").expect("a free port");
    let cluster = mesh(&echo, tls_application(&own, None));
    put(&cluster, "ended", Some(&authority.issue("ended.example.com", None)), None);
    let servers = [
        "{port: {number: 9100, name: tcp, protocol: TCP}, hosts: ['*']}",
        "{port: {number: 9443, name: tls, protocol: TLS}, hosts: [ended.example.com], tls: {mode: SIMPLE, credentialName: ended}}",
        "{port: {number: 9443, name: unopened, protocol: TLS}, hosts: [vault.example.com], tls: {mode: PASSTHROUGH}}",
    ];
    let documents = [
        gateway("public", &servers.join(", ")),
        routes("bytes", "'*'", &format!("tcp: [{{match: [{{port: 9100}}], {ECHO}}}]")),
        routes("ended", "ended.example.com", &format!("tcp: [{{match: [{{port: 9443}}], {ECHO}}}]")),
        routes(
            "vault",
            "vault.example.com",
            "tls: [{match: [{port: 9443, sniHosts: [vault.example.com]}], route: [{destination: {host: vault, port: {number: 9000}}}]}]",
        ),
    ];
    cluster.push("shop", &documents.concat(), &["--wait", "all"]).expect_code(0);
    assert_eq!([opened(&cluster, 9100), opened(&cluster, 9443)], ["tcp", "tls"]);

    assert_eq!(say(at(&cluster, 9100), "hello").as_deref(), Ok("echo\nhello"));
    let client = Client::new(at(&cluster, 9443), &authority);
    eventually("the certificate is read", || ask(&client, "ended.example.com").map(drop));
    let ended = ask(&client, "ended.example.com").expect("an answer");
    assert_eq!(ended, (vec!["ended.example.com".to_owned()], "echo".to_owned()), "TLS ends at the gateway");
    let unopened = ask(&client, "vault.example.com").expect("an answer");
    assert_eq!(unopened, (vec!["vault.example.com".to_owned()], "ping".to_owned()), "TLS ends at the application");
    assert!(ask(&client, "other.example.com").is_err(), "nothing is served under that name");

    // Policy at the gateway: new connections come to nothing, and those under way end.
    let mut live = client.connect("vault.example.com").expect("it is open");
    live.write_all(b"ping").expect("it is open");
    live.read_exact(&mut [0; 4]).expect("an answer");
    let deny = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: closed, namespace: istio-system}\nspec: {selector: {matchLabels: {istio: ingressgateway}}, action: DENY, rules: [{to: [{operation: {ports: ['9443']}}]}]}\n";
    cluster.push("shop", deny, &["--wait", "all"]).expect_code(0);
    assert!(!matches!(live.read(&mut [0; 4]), Ok(1..)), "it ends");
    assert!(ask(&client, "vault.example.com").is_err());
    assert!(ask(&client, "ended.example.com").is_err());
    assert_eq!(say(at(&cluster, 9100), "hello").as_deref(), Ok("echo\nhello"), "another port");
}

/// The port stays, and so does what other servers of it let in.
#[test]
fn tls_that_is_passed_on_ends_with_its_server() {
    let authority = Authority::new();
    let own = authority.issue("*.example.com", None);
    let echo = Echo::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), "echo").expect("a free port");
    let cluster = mesh(&echo, tls_application(&own, None));
    put(&cluster, "ended", Some(&authority.issue("ended.example.com", None)), None);
    let server = |name: &str, tls: &str| {
        format!(
            "{{port: {{number: 9443, name: {name}, protocol: TLS}}, hosts: [{name}.example.com], tls: {{mode: {tls}}}}}"
        )
    };
    let passed = |name: &str| server(name, "PASSTHROUGH");
    let ended = |name: &str| server(name, "SIMPLE, credentialName: ended");
    let vault = |name: &str| {
        let sni = format!("match: [{{port: 9443, sniHosts: [{name}.example.com]}}]");
        let rules = format!("tls: [{{{sni}, route: [{{destination: {{host: vault, port: {{number: 9000}}}}}}]}}]");
        routes(name, &format!("{name}.example.com"), &rules)
    };
    let push = |servers: &[String]| {
        let documents = [gateway("public", &servers.join(", ")), vault("vault"), vault("other")];
        cluster.push("shop", &documents.concat(), &["--wait", "all"]).expect_code(0);
    };
    push(&[passed("vault"), passed("other")]);
    assert_eq!(opened(&cluster, 9443), "tls");
    let client = Client::new(at(&cluster, 9443), &authority);
    let live = |name: &str| {
        let mut live = eventually("it is open", || client.connect(&format!("{name}.example.com")));
        speaks(&mut live, name);
        live
    };
    let (mut first, mut other) = (live("vault"), live("other"));
    push(&[passed("other")]);
    ends(&mut first, "nothing is served under its name");
    speaks(&mut other, "the server that stays");
    push(&[passed("other"), passed("vault")]);
    let mut again = live("vault");
    push(&[passed("other"), ended("vault")]);
    ends(&mut again, "TLS ends at the gateway now");
    speaks(&mut other, "the server that stays");
}

fn ends(stream: &mut impl Read, what: &str) {
    match stream.read(&mut [0; 4]) {
        Ok(0) => {}
        Err(error) if error.kind() != ErrorKind::WouldBlock => {}
        other => panic!("{what}: {other:?}"),
    }
}

fn speaks(stream: &mut (impl Read + Write), what: &str) {
    let mut answer = [0; 4];
    let said = stream.write_all(b"ping").and_then(|()| stream.read_exact(&mut answer));
    assert!(said.is_ok() && answer == *b"ping", "{what}: {said:?}");
}
