//! What nobody who asks is told (A109): keys, tokens, what the node's secret store holds; and who has no socket to ask by (A108).

use std::{
    collections::{BTreeSet, VecDeque},
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream, process::CommandExt as _},
    path::Path,
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use harness::{
    PATIENCE,
    cluster::{Plan, Service},
    http,
};

use crate::pair;

/// Answers of the administration that pages do not link to.
const PATHS: [&str; 25] = [
    "/metrics",
    "/healthz",
    "/readyz",
    "/v1/status",
    "/v1/mesh",
    "/v1/members",
    "/v1/members/web",
    "/v1/ping/reviews",
    "/v1/services",
    "/v1/endpoints",
    "/v1/routes",
    "/v1/outliers",
    "/v1/limits",
    "/v1/traffic",
    "/v1/events",
    "/v1/identities",
    "/v1/policy",
    "/v1/policy/log",
    "/v1/policy/export",
    "/v1/policy/conflicts",
    "/v1/policy/proposals",
    "/v1/policy/audit",
    "/v1/policy/audit/heads",
    "/v1/concerns",
    "/v1/explain?url=http%3A%2F%2Freviews%2F",
];
/// What the socket says beside these.
const AT_THE_SOCKET: [&str; 3] = ["/v1/policy/history?from=0", "/v1/local/secrets", "/v1/local/capture"];
/// Pages that are looked at.
const PAGES: usize = 200;

/// Every way in which the bytes could be written.
fn spellings(secret: &[u8]) -> Vec<String> {
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    vec![STANDARD.encode(secret), URL_SAFE_NO_PAD.encode(secret), hex.to_uppercase(), hex]
}

/// The keys of a directory: the inner bytes of each PEM, in pieces, so that a part of one is found too.
fn keys(dir: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory").map_while(Result::ok) {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "key") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a key");
        // The root's certificate may stand beside its key.
        let (_, key) = text.split_once("PRIVATE KEY-----").unwrap_or_else(|| panic!("{}: {text}", path.display()));
        let body: String = key.lines().take_while(|line| !line.starts_with("-----")).collect();
        let bytes = STANDARD.decode(&body).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        // The end of the DER of a key without its public half is the secret itself; one with it has the secret within.
        let (from, to) = if bytes.len() > 64 { (36, 68) } else { (bytes.len() - 32, bytes.len()) };
        all.extend(spellings(&bytes[from..to]));
        all.push(body);
    }
    all
}

/// Asks the local socket.
fn at_socket(socket: &Path, path: &str) -> String {
    let mut stream = UnixStream::connect(socket).expect("the socket is served");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: skein\r\nconnection: close\r\n\r\n").expect("it takes a request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

/// What is written in base64 in a text, as it is inside.
fn unpacked(text: &str) -> Vec<u8> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "+/=".contains(c)));
    words.filter(|word| word.len() > 40).filter_map(|word| STANDARD.decode(word).ok()).flatten().collect()
}

#[test]
fn a109_no_answer_holds_a_key_or_a_token() {
    let cluster = pair();
    let web = cluster.node("web");
    let mut secrets = keys(&web.dir.join("data"));
    assert!(secrets.len() >= 10, "the keys of a node: {}", secrets.len());
    secrets.extend(keys(&cluster.operator()));
    // An invite that is open, and what the node's own store holds.
    let token = cluster.invite("later", &Plan::with([Service::client("shop/later")]), &[]);
    secrets.push(token.trim().to_owned());
    let secret = token.trim().parse::<certs::join::Token>().expect("a token").secret;
    let secret = certs::codec::encode(&secret);
    secrets.extend(spellings(&secret));
    let made = rcgen::generate_simple_self_signed(vec!["shop.example.com".to_owned()]).expect("a certificate");
    let (cert, key) =
        (cluster.file("cert.pem", &made.cert.pem()), cluster.file("door.pem", &made.signing_key.serialize_pem()));
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    cluster.on("web", &["secret", "put", "door", "-n", "shop", "--cert", &cert, "--key", &key]).expect_code(0);
    secrets.push(STANDARD.encode(made.signing_key.serialized_der()));
    let headers = [("authorization", "Bearer seldom-seen-word")];
    http::get_with(web.outbound(), "reviews", "/?access_token=seldom-seen-word", &headers).expect("an answer");
    secrets.push("seldom-seen-word".to_owned());

    // A document that holds what signs is shown to whoever may open the socket, and at the loopback port without that.
    let (shared, keys) =
        ([b'A'; 32], |k: &str| format!("{{\\\"keys\\\": [{{\\\"kty\\\": \\\"oct\\\", \\\"k\\\": \\\"{k}\\\"}}]}}"));
    let shared = URL_SAFE_NO_PAD.encode(shared);
    let users = format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: users, namespace: shop}}\nspec: {{selector: {{matchLabels: {{app: nobody}}}}, jwtRules: [{{issuer: i, jwks: \"{}\"}}]}}\n",
        keys(&shared)
    );
    let refused = cluster.push("web", &users, &[]);
    assert!(refused.err.contains("SKN0337"), "{refused:?}");
    cluster.push("web", &users, &["--allow", "SKN0337"]).expect_code(0);
    let log = cluster.json("web", &["policy", "log"]);
    let changeset = log[0]["changeset"].as_str().expect("it is the newest").to_owned();
    let document = "/v1/policy/RequestAuthentication/shop/users".to_owned();

    let admin = web.address("admin");
    assert!(at_socket(&web.dir.join("agent.sock"), &document).contains(&shared), "the socket tells all of it");
    let mut due: VecDeque<String> = PATHS.iter().map(|path| (*path).to_owned()).collect();
    due.push_back("/".to_owned());
    let as_then = [format!("{document}?at={changeset}"), format!("/v1/policy/changesets/{changeset}"), document];
    due.extend(as_then.clone());
    let mut signed = vec![format!("/v1/policy/changesets/{changeset}/proof")];
    signed.push("/v1/policy/proof/RequestAuthentication/shop/users".to_owned());
    for path in &signed {
        let answer = http::get(admin, &admin.to_string(), path).expect("an answer");
        assert!([400, 404].contains(&answer.status), "{path}: {answer:?}");
    }
    let (mut seen, mut answered) = (BTreeSet::new(), 0);
    while let Some(path) = due.pop_front().filter(|_| seen.len() < PAGES) {
        if !seen.insert(path.clone()) {
            continue;
        }
        let answer = http::get(admin, &admin.to_string(), &path).expect("an answer");
        answered += usize::from(answer.status == 200);
        let text = answer.text();
        let found = secrets.iter().find(|secret| text.contains(secret.as_str()));
        assert!(found.is_none() && !text.contains("PRIVATE KEY"), "{path} tells {found:?}");
        assert!(!text.contains(&shared), "{path} tells what signs tokens");
        assert!(answer.status == 200 || !as_then.contains(&path), "{path}: {answer:?}");
        let links = text.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next());
        due.extend(links.filter(|link| link.starts_with('/')).map(|link| link.replace("&amp;", "&")));
    }
    assert!(answered > PATHS.len(), "{answered} of {seen:?}");
    let socket = web.dir.join("agent.sock");
    for path in PATHS.iter().chain(&AT_THE_SOCKET) {
        let text = at_socket(&socket, path);
        assert!(text.starts_with("HTTP/1.1 200 ") || path.ends_with("capture"), "{path}: {text}");
        assert!(!secrets.iter().any(|secret| text.contains(secret.as_str())), "{path}: {text}");
        assert!(!unpacked(&text).windows(secret.len()).any(|bytes| bytes == secret), "{path}: {text}");
    }
    for words in [
        &["status"][..],
        &["status", "--mesh"],
        &["members"],
        &["events"],
        &["ca", "show"],
        &["identity", "show"],
        &["check"],
        &["explain", "http://reviews/"],
        &["policy", "conflicts"],
        &["policy", "proposals"],
        &["policy", "log"],
    ] {
        // By the socket, and at the other node as an operator.
        for more in [&["-o", "json"][..], &["-o", "json", "--node", "reviews"]] {
            let said = cluster.on("web", &[words, more].concat());
            let text = format!("{}{}", said.out, said.err);
            assert!(
                !text.is_empty() && !secrets.iter().any(|secret| text.contains(secret.as_str())),
                "{words:?}: {text}"
            );
        }
    }
    let log = cluster.log("web");
    assert!(!secrets.iter().any(|secret| log.contains(secret.as_str())), "{log}");
}

/// A108: a local user who is not in the socket's group administers nothing by it. Only root can become somebody else to show it.
#[test]
fn a108_another_user_of_the_machine_has_no_socket() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let cluster = pair();
    let socket = cluster.node("web").dir.join("agent.sock");
    // What is in the way above it is not what is to be shown.
    for folder in socket.ancestors().skip(1).take_while(|folder| folder.starts_with(cluster.path())) {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    }
    let skein = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(skein.path(), std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    let program = skein.path().join("skein");
    std::fs::copy(env!("CARGO_BIN_EXE_skein-under-test"), &program).expect("it can be copied");
    let ask = |user: u32| {
        let node = format!("unix:{}", socket.display());
        let mut command = std::process::Command::new(&program);
        command
            .args(["status", "-o", "json", "--node", &node])
            .env_clear()
            .env("HOME", "/nonexistent")
            .uid(user)
            .gid(user);
        let said = command.output().expect("it starts");
        (said.status.success(), String::from_utf8_lossy(&said.stderr).into_owned())
    };
    assert!(ask(0).0, "root is let in: {}", ask(0).1);
    let (is_answered, why) = ask(65_534);
    assert!(!is_answered && why.to_lowercase().contains("permission denied"), "{why}");
}
