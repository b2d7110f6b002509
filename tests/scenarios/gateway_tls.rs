//! Doors that speak TLS: certificates by server name, from files and from secrets, renewed without an end of service; and clients that
//! must show one.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

use harness::{
    cluster::{Cluster, Service},
    eventually,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa, KeyIdMethod,
    KeyPair, RevokedCertParams, SanType,
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};

use crate::gateway::{CART, at, echo, gateway, mesh, mesh_with, opened, routes, troubles};

/// An authority outside the mesh.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, PEM.
pub(crate) struct Issued {
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority"))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn issue(&self, name: &str, uri: Option<&str>) -> Issued {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names.extend(uri.map(|uri| SanType::URI(uri.try_into().expect("ASCII"))));
        Issued { cert: params.signed_by(&key, &self.0).expect("a certificate").pem(), key: key.serialize_pem() }
    }
}

/// What a client got.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: u16,
    /// The names of the certificate that it was shown.
    pub(crate) names: Vec<String>,
    protocol: Option<Vec<u8>>,
}

pub(crate) struct Client<'a> {
    to: SocketAddr,
    authority: &'a Authority,
    pub(crate) shows: Option<&'a Issued>,
    protocols: &'a [&'a str],
    /// What a proxy port is asked to lead to.
    target: Option<String>,
}

impl<'a> Client<'a> {
    pub(crate) fn new(to: SocketAddr, authority: &'a Authority) -> Self {
        Self { to, authority, shows: None, protocols: &["http/1.1"], target: None }
    }

    /// Through a tunnel to there, for which the address is asked that it was made with.
    pub(crate) fn through(self, target: &str) -> Self {
        Self { target: Some(target.to_owned()), ..self }
    }

    pub(crate) fn connect(&self, name: &str) -> Result<StreamOwned<ClientConnection, TcpStream>, String> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.pem().as_bytes()).expect("PEM")).expect("an authority");
        let builder = ClientConfig::builder().with_root_certificates(roots);
        let mut config = match self.shows {
            None => builder.with_no_client_auth(),
            Some(Issued { cert, key }) => {
                let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).expect("PEM")];
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
                builder.with_client_auth_cert(chain, key).expect("a pair")
            }
        };
        config.alpn_protocols = self.protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let session = ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut stream = TcpStream::connect(self.to).map_err(|error| error.to_string())?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
        if let Some(target) = &self.target {
            tunnel(&mut stream, target)?;
        }
        let mut stream = StreamOwned::new(session, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).map_err(|error| error.to_string())?;
        }
        Ok(stream)
    }

    pub(crate) fn get(&self, name: &str, host: &str, path: &str) -> Result<Got, String> {
        let mut stream = self.connect(name)?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")
            .map_err(|e| e.to_string())?;
        let mut answer = Vec::new();
        // A server that refuses a client's certificate says so at the first read, in TLS 1.3.
        let read = stream.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer);
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| format!("no answer: {read:?}"))?;
        let shown = stream.conn.peer_certificates().and_then(|chain| chain.first()).expect("a certificate").to_vec();
        let names = certs::foreign::Foreign::parse(&shown).expect("a certificate").dns_names;
        Ok(Got { status, names, protocol: stream.conn.alpn_protocol().map(<[u8]>::to_vec) })
    }
}

impl Got {
    /// The names of the certificate that it was shown.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.names.iter().map(String::as_str).collect()
    }
}

/// Asks a proxy port for a tunnel.
fn tunnel(stream: &mut TcpStream, target: &str) -> Result<(), String> {
    write!(stream, "CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n").map_err(|error| error.to_string())?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).map_err(|error| format!("{error} after {:?}", String::from_utf8_lossy(&head)))?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    if head.starts_with("HTTP/1.1 200 ") { Ok(()) } else { Err(head) }
}

pub(crate) fn write_pair(dir: &Path, name: &str, issued: &Issued) -> (String, String) {
    let (cert, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
    std::fs::write(&cert, &issued.cert).expect("writable");
    std::fs::write(&key, &issued.key).expect("writable");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("ours");
    (cert.to_string_lossy().into_owned(), key.to_string_lossy().into_owned())
}

fn server(port: u16, name: &str, hosts: &str, tls: &str) -> String {
    format!("{{port: {{number: {port}, name: {name}, protocol: HTTPS}}, hosts: [{hosts}], tls: {{{tls}}}}}")
}

pub(crate) fn put(cluster: &Cluster, name: &str, pair: Option<&Issued>, ca: Option<&str>) {
    let mut words: Vec<String> =
        ["secret", "put", name, "-n", "istio-system"].iter().map(|word| (*word).to_owned()).collect();
    if let Some(pair) = pair {
        let (cert, key) = write_pair(cluster.path(), name, pair);
        words.extend(["--cert".to_owned(), cert, "--key".to_owned(), key]);
    }
    if let Some(ca) = ca {
        let file = cluster.file(&format!("{name}.ca"), ca).to_string_lossy().into_owned();
        words.extend(["--ca".to_owned(), file]);
    }
    cluster.on("edge", &words.iter().map(String::as_str).collect::<Vec<_>>()).expect_code(0);
}

#[test]
fn certificates_follow_server_names_and_files_and_secrets() {
    let (cluster, authority) = (mesh(), Authority::new());
    let (cert, key) = write_pair(cluster.path(), "file", &authority.issue("file.example.com", None));
    let servers = [
        server(
            8443,
            "file",
            "file.example.com",
            &format!("mode: SIMPLE, serverCertificate: '{cert}', privateKey: '{key}'"),
        ),
        server(8443, "secret", "'*.secret.example.com'", "mode: SIMPLE, credentialName: wild"),
    ];
    let documents = gateway("public", &servers.join(", ")) + &routes("cart", "public", "'*.example.com'", CART);
    cluster.push("shop", &documents, &["--wait", "all"]).expect_code(0);
    opened(&cluster, 8443);
    eventually("the missing secret is told", || {
        let told = troubles(&cluster, "gateway_certificate");
        let is_told =
            told.iter().any(|message| message.contains("servers[1]") && message.contains("skein secret put wild"));
        if is_told { Ok(()) } else { Err(format!("{told:?}")) }
    });
    let client = Client { protocols: &["h2", "http/1.1"], ..Client::new(at(&cluster, 8443), &authority) };
    let plain = Client::new(at(&cluster, 8443), &authority);
    let got = plain.get("file.example.com", "file.example.com", "/").expect("an answer");
    assert_eq!((got.status, &got.names[..]), (200, &["file.example.com".to_owned()][..]), "{got:?}");
    assert_eq!(got.protocol.as_deref(), Some(&b"http/1.1"[..]));
    let arrived = cluster.node("shop").backends[0].arrivals().pop().expect("it arrived");
    assert_eq!(arrived.header("x-forwarded-proto"), Some("https"));
    let stream = client.connect("file.example.com").expect("a handshake");
    assert_eq!(stream.conn.alpn_protocol(), Some(&b"h2"[..]), "HTTP/2 where the client speaks it");
    plain.get("a.secret.example.com", "a.secret.example.com", "/").expect_err("no certificate yet");
    plain.get("other.example.com", "other.example.com", "/").expect_err("no server of that name");
    let got = plain.get("file.example.com", "a.secret.example.com", "/").expect("an answer");
    assert_eq!(got.status, 404, "the host of another server: {got:?}");

    put(&cluster, "wild", Some(&authority.issue("*.secret.example.com", None)), None);
    eventually("the secret is taken", || {
        plain.get("a.secret.example.com", "a.secret.example.com", "/").map(|got| assert_eq!(got.status, 200))
    });
    let listed = cluster.json("edge", &["secret", "list"]);
    assert_eq!(listed[0]["names"][0], "*.secret.example.com", "{listed}");
    assert!(!listed.to_string().contains("PRIVATE"), "{listed}");

    // Renewed in place: what is open goes on, what comes sees the new one.
    let mut kept = plain.connect("file.example.com").expect("a handshake");
    let renewed = authority.issue("file.example.com", Some("https://renewed.example.com"));
    write_pair(cluster.path(), "file", &renewed);
    eventually("the renewed certificate is shown", || {
        let stream = plain.connect("file.example.com")?;
        let shown = stream.conn.peer_certificates().expect("a chain")[0].to_vec();
        let read = certs::foreign::Foreign::parse(&shown).expect("a certificate");
        if read.uris.is_empty() { Err("the old one".to_owned()) } else { Ok(()) }
    });
    kept.write_all(b"GET / HTTP/1.1\r\nhost: file.example.com\r\nconnection: close\r\n\r\n").expect("it is open");
    let mut answer = String::new();
    kept.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    // A broken file changes nothing but what is told.
    std::fs::write(&cert, "rubbish").expect("writable");
    eventually("the broken file is told", || {
        let told = troubles(&cluster, "gateway_certificate");
        let is_told = told.iter().any(|message| message.contains("goes on with what it had"));
        if is_told { Ok(()) } else { Err(format!("{told:?}")) }
    });
    assert_eq!(plain.get("file.example.com", "file.example.com", "/").expect("an answer").status, 200);
}

#[test]
fn clients_show_certificates_where_they_must() {
    let (cluster, authority, others) = (mesh(), Authority::new(), Authority::new());
    let pair = authority.issue("shop.example.com", None);
    put(&cluster, "shop", Some(&pair), Some(&authority.pem()));
    put(&cluster, "bare", Some(&pair), None);
    put(&cluster, "bare-cacert", None, Some(&authority.pem()));
    // Authorities of their own go before those beside the certificate.
    put(&cluster, "both", Some(&pair), Some(&others.pem()));
    put(&cluster, "both-cacert", None, Some(&authority.pem()));
    let servers = [
        server(8443, "must", "shop.example.com", "mode: MUTUAL, credentialName: shop"),
        server(8444, "may", "shop.example.com", "mode: OPTIONAL_MUTUAL, credentialName: bare"),
        server(
            8445,
            "named",
            "shop.example.com",
            "mode: MUTUAL, credentialName: shop, subjectAltNames: ['spiffe://partner/ann']",
        ),
        server(8446, "both", "shop.example.com", "mode: MUTUAL, credentialName: both"),
    ];
    let documents = gateway("public", &servers.join(", ")) + &routes("cart", "public", "shop.example.com", CART);
    cluster.push("shop", &documents, &["--wait", "all"]).expect_code(0);
    for port in [8443, 8444, 8445, 8446] {
        opened(&cluster, port);
    }
    let (bob, ann) = (authority.issue("bob", None), authority.issue("ann", Some("spiffe://partner/ann")));
    let stranger = others.issue("bob", None);
    let ask = |port, shows| {
        let client = Client { shows, ..Client::new(at(&cluster, port), &authority) };
        client.get("shop.example.com", "shop.example.com", "/").map(|got| got.status)
    };
    eventually("the certificates are taken", || ask(8445, Some(&ann)).map(drop));
    assert_eq!(ask(8443, Some(&bob)), Ok(200));
    let arrived = cluster.node("shop").backends[0].arrivals().pop().expect("it arrived");
    let told = arrived.header("x-forwarded-client-cert").expect("the client and the gateway");
    assert!(told.contains("Subject=\"CN=bob\"") && told.contains(";DNS=bob,By="), "{told}");
    assert!(told.ends_with("URI=spiffe://test.example/ns/istio-system/sa/default"), "{told}");
    ask(8443, None).expect_err("no certificate");
    ask(8443, Some(&stranger)).expect_err("of another authority");
    assert_eq!([ask(8444, None), ask(8444, Some(&bob))], [Ok(200), Ok(200)]);
    ask(8444, Some(&stranger)).expect_err("who shows one shows a good one");
    assert_eq!(ask(8445, Some(&ann)), Ok(200));
    ask(8445, Some(&bob)).expect_err("another name");
    assert_eq!(eventually("the last one's, too", || ask(8446, Some(&bob))), 200);
    ask(8446, Some(&stranger)).expect_err("its authority is not asked");
}

/// A server with a wildcard has the hosts of its neighbours, too (A65). Istio serves them on its connections, whatever the neighbour asks of
/// clients.
#[test]
fn a_host_behind_certificates_is_not_served_on_a_connection_that_was_asked_for_none() {
    let (cluster, authority) = (mesh(), Authority::new());
    put(&cluster, "wild", Some(&authority.issue("*.example.com", None)), Some(&authority.pem()));
    let servers = [
        server(8443, "wide", "'*.example.com'", "mode: SIMPLE, credentialName: wild"),
        server(8443, "admin", "admin.example.com", "mode: MUTUAL, credentialName: wild"),
        server(8443, "open", "open.example.com", "mode: SIMPLE, credentialName: wild"),
    ];
    let answers = |name: &str, status: u16| {
        routes(name, "public", &format!("{name}.example.com"), &format!("{{directResponse: {{status: {status}}}}}"))
    };
    let documents =
        gateway("public", &servers.join(", ")) + &answers("www", 201) + &answers("admin", 202) + &answers("open", 203);
    cluster.push("shop", &documents, &["--wait", "all"]).expect_code(0);
    opened(&cluster, 8443);
    let bob = authority.issue("bob", None);
    let anybody = Client::new(at(&cluster, 8443), &authority);
    let member = Client { shows: Some(&bob), ..Client::new(at(&cluster, 8443), &authority) };
    let get = |client: &Client<'_>, name: &str, host: &str| {
        client.get(&format!("{name}.example.com"), host, "/").map(|got| got.status)
    };
    eventually("the certificates are taken", || get(&anybody, "www", "www.example.com").map(drop));
    eventually("and the client's", || get(&member, "admin", "admin.example.com").map(drop));
    assert_eq!(get(&anybody, "www", "www.example.com"), Ok(201));
    assert_eq!(get(&member, "admin", "admin.example.com"), Ok(202));
    for host in ["admin.example.com", "ADMIN.example.com.", "admin.example.com:8443"] {
        for client in [&anybody, &member] {
            assert_eq!(get(client, "www", host), Ok(421), "{host}: its certificate was not asked for");
        }
    }
    get(&anybody, "admin", "admin.example.com").expect_err("no certificate");
    assert_eq!(get(&anybody, "www", "open.example.com"), Ok(203), "which asks for none, as in Istio");
    let mut kept = anybody.connect("www.example.com").expect("a handshake");
    assert_eq!(["www.example.com", "admin.example.com"].map(|host| ask(&mut kept, host)), [Ok(201), Ok(421)]);
}

/// Asks on a connection that stays open, and gives the status.
fn ask(stream: &mut (impl std::io::Read + std::io::Write), host: &str) -> Result<u16, String> {
    write!(stream, "GET / HTTP/1.1\r\nhost: {host}\r\n\r\n").map_err(|error| error.to_string())?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).map_err(|error| error.to_string())?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
    stream.read_exact(&mut vec![0; length]).map_err(|error| error.to_string())?;
    head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(head)
}

#[test]
fn a_kept_connection_follows_its_server_and_ends_with_it() {
    let (cluster, authority) = (mesh(), Authority::new());
    put(&cluster, "wild", Some(&authority.issue("*.example.com", None)), None);
    let of = |name: &str| server(8443, name, &format!("{name}.example.com"), "mode: SIMPLE, credentialName: wild");
    let answers = |name: &str, status: u16| {
        routes(name, "public", &format!("{name}.example.com"), &format!("{{directResponse: {{status: {status}}}}}"))
    };
    let push = |servers: &[&str]| {
        let servers = servers.iter().map(|name| of(name)).collect::<Vec<_>>().join(", ");
        let documents = gateway("public", &servers) + &answers("a", 201) + &answers("c", 202);
        cluster.push("shop", &documents, &["--wait", "all"]).expect_code(0);
    };
    push(&["a"]);
    opened(&cluster, 8443);
    let client = Client::new(at(&cluster, 8443), &authority);
    let mut kept = eventually("the certificate is taken", || client.connect("a.example.com"));
    assert_eq!(ask(&mut kept, "a.example.com"), Ok(201));
    // Another one in front of it, met in the same way.
    push(&["c", "a"]);
    assert_eq!(ask(&mut kept, "a.example.com"), Ok(201), "the hosts of its own server");
    let mut other = eventually("the new server is met", || client.connect("c.example.com"));
    assert_eq!(ask(&mut other, "c.example.com"), Ok(202));
    push(&["c"]);
    let ended = kept.read(&mut [0]);
    let waits =
        |error: &std::io::Error| matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
    assert!(!ended.as_ref().is_err_and(waits) && !matches!(ended, Ok(1..)), "{ended:?}");
    assert_eq!(ask(&mut other, "c.example.com"), Ok(202));
}

#[test]
fn a_certificate_of_another_name_ends_no_connection_and_one_that_is_not_there_no_service() {
    let (cluster, authority) = (mesh(), Authority::new());
    let pair = |uri: &str| authority.issue("shop.example.com", Some(uri));
    put(&cluster, "one", Some(&pair("https://one.example.com")), None);
    put(&cluster, "three", Some(&pair("https://three.example.com")), None);
    let push = |tls: &str| {
        let servers = server(8443, "shop", "shop.example.com", tls);
        let routes = routes("shop", "public", "shop.example.com", "{directResponse: {status: 201}}");
        cluster.push("shop", &(gateway("public", &servers) + &routes), &["--wait", "all"]).expect_code(0);
    };
    push("mode: SIMPLE, credentialName: one");
    opened(&cluster, 8443);
    let client = Client::new(at(&cluster, 8443), &authority);
    let mut kept = eventually("the certificate is taken", || client.connect("shop.example.com"));
    assert_eq!(ask(&mut kept, "shop.example.com"), Ok(201));
    push("mode: SIMPLE, credentialName: three, minProtocolVersion: TLSV1_3");
    assert_eq!(ask(&mut kept, "shop.example.com"), Ok(201), "before the other is read");
    let shown = |client: &Client<'_>| {
        let stream = client.connect("shop.example.com")?;
        let shown = stream.conn.peer_certificates().expect("a chain")[0].to_vec();
        Ok::<_, String>(certs::foreign::Foreign::parse(&shown).expect("a certificate").uris)
    };
    eventually("the other certificate is shown", || {
        let uris = shown(&client).expect("some certificate is always shown");
        if uris == ["https://three.example.com"] { Ok(()) } else { Err(format!("{uris:?}")) }
    });
    assert_eq!(ask(&mut kept, "shop.example.com"), Ok(201), "and after");

    push("mode: SIMPLE, credentialName: two");
    eventually("the missing secret is told", || {
        let told = troubles(&cluster, "gateway_certificate");
        let is_told =
            |message: &String| message.contains("skein secret put two") && message.contains("goes on with what it had");
        if told.iter().any(is_told) { Ok(()) } else { Err(format!("{told:?}")) }
    });
    assert_eq!(shown(&client).expect("a handshake"), ["https://three.example.com"]);
    assert_eq!(ask(&mut kept, "shop.example.com"), Ok(201));

    // Who may come in is what the document says, even while that cannot be read.
    push("mode: MUTUAL, credentialName: two");
    let ended = kept.read(&mut [0]);
    assert!(!matches!(ended, Ok(1..)), "{ended:?}");
    client.get("shop.example.com", "shop.example.com", "/").expect_err("without a certificate");
}

/// An empty list, or one of a certificate that nobody has.
fn revoked(authority: &Authority, number: u64) -> String {
    let time = rcgen::date_time_ymd(2020, 1, 1);
    let one = RevokedCertParams {
        serial_number: number.into(),
        revocation_time: time,
        reason_code: None,
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: time,
        next_update: rcgen::date_time_ymd(2100, 1, 1),
        crl_number: number.into(),
        issuing_distribution_point: None,
        revoked_certs: if number == 0 { Vec::new() } else { vec![one] },
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(&authority.0).expect("a list").pem().expect("PEM")
}

#[test]
fn a_websocket_ends_when_its_client_would_have_to_show_something_else() {
    let (cluster, authority) =
        (mesh_with([Service { target: Some(echo()), ..Service::version("shop/chat", "v1") }]), Authority::new());
    cluster.wait_endpoints("shop/chat", 1);
    let (cert, key) = write_pair(cluster.path(), "chat", &authority.issue("chat.example.com", None));
    let file = |name: &str, text: &str| cluster.file(name, text).to_string_lossy().into_owned();
    let (ca, crl) = (file("ca.pem", &authority.pem()), file("crl.pem", &revoked(&authority, 0)));
    let push = |mode: &str| {
        let tls = format!("mode: {mode}, serverCertificate: '{cert}', privateKey: '{key}'");
        let chat = "{route: [{destination: {host: chat}}]}";
        let documents = gateway("public", &server(8443, "chat", "chat.example.com", &tls))
            + &routes("chat", "public", "chat.example.com", chat);
        cluster.push("shop", &documents, &["--wait", "all"]).expect_code(0);
    };
    let shown = authority.issue("bob", None);
    let client = Client { shows: Some(&shown), ..Client::new(at(&cluster, 8443), &authority) };
    let talk = || {
        let mut socket = client.connect("chat.example.com")?;
        let ask = "GET / HTTP/1.1\r\nhost: chat.example.com\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        socket.write_all(ask.as_bytes()).map_err(|error| error.to_string())?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            socket.read_exact(&mut byte).map_err(|error| error.to_string())?;
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        if head.starts_with("HTTP/1.1 101") { Ok(socket) } else { Err(head) }
    };
    let ends = |mut socket: StreamOwned<ClientConnection, TcpStream>, what: &str| {
        let end = socket.read(&mut [0]);
        let waits = |error: &std::io::Error| {
            matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
        };
        assert!(!end.as_ref().is_err_and(waits) && !matches!(end, Ok(1..)), "{what}: {end:?}");
    };
    push(&format!("MUTUAL, caCertificates: '{ca}', caCrl: '{crl}'"));
    opened(&cluster, 8443);
    let mut socket = eventually("the certificate is taken", talk);
    let idle = eventually("another connection comes in", || client.connect("chat.example.com"));
    file("crl.pem", &revoked(&authority, 1));
    ends(idle, "another list of revoked certificates");
    socket.write_all(b"still here").expect("what is under way has its time");
    let mut said = [0; 10];
    socket.read_exact(&mut said).expect("an echo");
    assert_eq!(&said, b"still here");
    push("SIMPLE");
    ends(socket, "no certificate is asked for");
    let socket = eventually("everybody comes in", talk);
    push(&format!("MUTUAL, caCertificates: '{ca}'"));
    ends(socket, "one is asked for again");
}
