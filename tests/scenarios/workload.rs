//! The SPIFFE Workload API as applications meet it: by the published Rust crate, by the published Python client, and by requests that
//! neither would send.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::{Stream, StreamExt as _};
use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service, TRUST_DOMAIN},
    eventually,
};
use nix::sys::signal::Signal;
use spiffe::{WorkloadApiClient, WorkloadApiError, X509Svid};

use crate::skein;

mod interop;
mod raw;

/// The user who runs these tests.
fn own() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// A node that runs `shop/web` for the users named, and `shop/other` for nobody. The directory holds the socket.
fn node(uids: &[u32]) -> (Cluster, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let web = Service { account: "web".into(), uids: uids.to_vec(), ..Service::client("shop/web") };
    let other = Service { account: "other".into(), ..Service::client("shop/other") };
    let extra = format!("[workload]\nsocket = \"{}\"\n", socket(&dir).display());
    let plan = Plan { extra, ..Plan::with([web, other]) };
    (Cluster::start(skein(), &[("first", plan)]), dir)
}

fn socket(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join("workload.sock")
}

/// Runs an application of the test's own.
fn application<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work)
}

async fn connect(socket: &Path) -> WorkloadApiClient {
    WorkloadApiClient::connect_to(format!("unix:{}", socket.display())).await.expect("the socket is there")
}

/// The next of a stream, or a panic after the patience.
async fn next<T>(stream: &mut (impl Stream<Item = T> + Unpin)) -> T {
    let next = tokio::time::timeout(PATIENCE, stream.next()).await;
    next.expect("something new within the patience").expect("the stream goes on")
}

fn id(account: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/shop/sa/{account}")
}

fn base64(der: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(der)
}

/// One block of a PEM file.
fn pem(label: &str, der: &[u8]) -> String {
    let text = base64(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn chain(svid: &X509Svid) -> String {
    svid.cert_chain().iter().map(|certificate| pem("CERTIFICATE", certificate.as_bytes())).collect()
}

fn leafs(cluster: &Cluster, life: &str) {
    let config = format!(
        "apiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {{name: default}}\nspec: {{certificates: {{leaf: {life}}}}}\n"
    );
    cluster.push("first", &config, &[]).expect_code(0);
}

/// Changes skein.toml and has it read again.
fn reconfigure(cluster: &Cluster, change: impl Fn(&str) -> String) {
    let file = cluster.node("first").config();
    let text = std::fs::read_to_string(&file).expect("it is there");
    let changed = change(&text);
    assert_ne!(text, changed);
    std::fs::write(&file, changed).expect("it is ours");
    cluster.node("first").running.as_ref().expect("it runs").signal(Signal::SIGHUP);
}

#[test]
fn an_application_gets_its_own_identity_and_nobody_elses() {
    let (cluster, dir) = node(&[own()]);
    let bundle = cluster.on("first", &["ca", "bundle"]).expect_code(0).out;
    application(async {
        let client = connect(&socket(&dir)).await;
        let svids = client.fetch_all_x509_svids().await.expect("an identity");
        assert_eq!(svids.len(), 1, "{svids:?}");
        let svid = &svids[0];
        assert_eq!((svid.spiffe_id().to_string(), svid.hint()), (id("web"), Some("shop/web")));
        let bundles = client.fetch_x509_bundles().await.expect("the bundle");
        let roots = bundles.get(svid.spiffe_id().trust_domain()).expect("of this trust domain");
        let roots: String = roots.authorities().iter().map(|root| pem("CERTIFICATE", root.as_bytes())).collect();
        assert_eq!(roots, bundle);
        // By the verifier of every handshake of the mesh.
        let file = cluster.file("chain.pem", &chain(svid));
        let bundle = cluster.file("bundle.pem", &bundle);
        for role in ["client", "server"] {
            let (file, bundle) = (file.to_string_lossy(), bundle.to_string_lossy());
            let words = ["identity", "verify", &file, "--bundle", &bundle, "--role", role, "--expect", &id("web")];
            cluster.on("first", &words).expect_code(0);
        }
        // Each call has a key of its own.
        let again = client.fetch_x509_svid().await.expect("an identity");
        assert_ne!(again.private_key().as_bytes(), svid.private_key().as_bytes());
        let jwt = client.fetch_jwt_bundles().await.expect_err("there are none");
        assert!(jwt.to_string().contains("no JWT-SVIDs"), "{jwt}");
        let jwt = client.fetch_jwt_svid(["a"], None).await.expect_err("there are none");
        assert!(jwt.to_string().contains("no JWT-SVIDs"), "{jwt}");
    });
    let listed = cluster.json("first", &["identity", "list"]);
    let listed = listed.as_array().expect("a list");
    let theirs: Vec<_> = listed.iter().filter(|one| one["uid"] == own()).collect();
    assert!(theirs.len() == 2 && theirs.iter().all(|one| one["id"] == id("web")), "{listed:?}");
    assert!(listed.iter().any(|one| one["id"] == id("other") && one["uid"].is_null()), "{listed:?}");
}

#[test]
fn a_user_whom_no_service_names_gets_nothing() {
    let (cluster, dir) = node(&[own() + 1]);
    application(async {
        let client = connect(&socket(&dir)).await;
        let refused = client.fetch_x509_svid().await.expect_err("no identity");
        assert!(
            matches!(refused, WorkloadApiError::NoIdentityIssued | WorkloadApiError::PermissionDenied(_)),
            "{refused}"
        );
        let refused = client.fetch_x509_bundles().await.expect_err("no identity, no bundle");
        assert!(
            matches!(refused, WorkloadApiError::NoIdentityIssued | WorkloadApiError::PermissionDenied(_)),
            "{refused}"
        );
    });
    let listed = cluster.json("first", &["identity", "list"]).to_string();
    assert!(!listed.contains(&format!("\"uid\":{}", own())), "{listed}");
}

#[test]
fn a_stream_follows_rotation_configuration_and_grant() {
    let (cluster, dir) = node(&[own()]);
    leafs(&cluster, "10s");
    application(async {
        let client = connect(&socket(&dir)).await;
        let mut stream = client.stream_x509_contexts().await.expect("an identity");
        let mut keys = std::collections::BTreeSet::new();
        for _ in 0..2 {
            let context = next(&mut stream).await.expect("a context");
            let svid = context.default_svid().expect("one").clone();
            assert_eq!(svid.spiffe_id().to_string(), id("web"));
            assert!(keys.insert(svid.private_key().as_bytes().to_vec()), "a key was used twice");
        }
        // A second service for this user: both, in the configuration's order.
        reconfigure(&cluster, |text| {
            text.replace("account = \"other\"", &format!("account = \"other\"\nuids = [{}]", own()))
        });
        let both = loop {
            let context = next(&mut stream).await.expect("a context");
            let ids: Vec<_> = context.svids().iter().map(|svid| svid.spiffe_id().to_string()).collect();
            if ids.len() > 1 {
                break ids;
            }
        };
        assert_eq!(both, [id("web"), id("other")]);
        // What is no longer granted is no longer handed out.
        cluster.on("first", &["grant", "first", "--remove", "shop/web=web"]).expect_code(0);
        loop {
            let context = next(&mut stream).await.expect("a context");
            let ids: Vec<_> = context.svids().iter().map(|svid| svid.spiffe_id().to_string()).collect();
            if ids == [id("other")] {
                break;
            }
        }
        cluster.on("first", &["grant", "first", "--remove", "shop/other=other"]).expect_code(0);
        let ended = loop {
            if let Err(error) = next(&mut stream).await {
                break error;
            }
        };
        assert!(matches!(ended, WorkloadApiError::NoIdentityIssued | WorkloadApiError::PermissionDenied(_)), "{ended}");
    });
    assert!(cluster.log("first").contains("an application got an identity"));
}

#[test]
fn what_operators_revoke_is_replaced_or_taken_away_at_once() {
    let (cluster, dir) = node(&[own()]);
    application(async {
        let client = connect(&socket(&dir)).await;
        let mut stream = client.stream_x509_contexts().await.expect("an identity");
        let mut bundles = client.stream_x509_bundles().await.expect("the bundle");
        next(&mut bundles).await.expect("one");
        let first = next(&mut stream).await.expect("a context").default_svid().expect("one").clone();
        // One key leaked: another comes in its place.
        let path: Vec<_> = first.cert_chain().iter().map(|certificate| certificate.as_bytes().to_vec()).collect();
        let key = certs::verify::describe(&path).expect("a chain of the mesh")[0].key.to_string();
        cluster.on("first", &["revoke", "--key", &key]).expect_code(0);
        let second = next(&mut stream).await.expect("a context").default_svid().expect("one").clone();
        assert_eq!(second.spiffe_id(), first.spiffe_id());
        assert_ne!(second.private_key().as_bytes(), first.private_key().as_bytes());
        // The account is out.
        cluster.on("first", &["revoke", "shop/web"]).expect_code(0);
        let ended = next(&mut stream).await.expect_err("it is revoked");
        assert!(matches!(ended, WorkloadApiError::NoIdentityIssued | WorkloadApiError::PermissionDenied(_)), "{ended}");
        let again = client.fetch_x509_svid().await.expect_err("it is revoked");
        assert!(matches!(again, WorkloadApiError::NoIdentityIssued | WorkloadApiError::PermissionDenied(_)), "{again}");
    });
}

#[test]
fn a_further_root_reaches_applications_at_once() {
    let (cluster, dir) = node(&[own()]);
    let mut set = cluster.json("first", &["policy", "get", "RoleSet", "default"]);
    let held = certs::root::bundle_from_pem(&cluster.on("first", &["ca", "bundle"]).expect_code(0).out).expect("roots");
    let further =
        certs::root::Root::generate(&TRUST_DOMAIN.parse().expect("a name"), node::clock::wall()).certificate();
    let wanted: Vec<Vec<u8>> = held.into_iter().chain([further]).collect();
    set["spec"]["bundle"] = wanted.iter().map(|der| base64(der)).collect();
    application(async {
        let client = connect(&socket(&dir)).await;
        let mut bundles = client.stream_x509_bundles().await.expect("the bundle");
        let mut contexts = client.stream_x509_contexts().await.expect("an identity");
        let roots = |set: &spiffe::X509BundleSet| {
            let all = set.iter().flat_map(|(_, bundle)| bundle.authorities().to_vec());
            all.map(|root| root.as_bytes().to_vec()).collect::<Vec<_>>()
        };
        assert_eq!(roots(&next(&mut bundles).await.expect("one")), wanted[..1]);
        assert_eq!(roots(next(&mut contexts).await.expect("one").bundle_set()), wanted[..1]);
        cluster.push("first", &set.to_string(), &[]).expect_code(0);
        assert_eq!(roots(&next(&mut bundles).await.expect("one")), wanted);
        assert_eq!(roots(next(&mut contexts).await.expect("one").bundle_set()), wanted);
    });
}

#[test]
fn a_reader_that_does_not_read_holds_nobody_up() {
    let (cluster, dir) = node(&[own()]);
    leafs(&cluster, "10s");
    application(async {
        let slow = connect(&socket(&dir)).await;
        let mut stream = slow.stream_x509_svids().await.expect("an identity");
        let first = next(&mut stream).await.expect("one");
        // Others are served meanwhile; leafs come and go.
        let client = connect(&socket(&dir)).await;
        let mut others = client.stream_x509_svids().await.expect("an identity");
        for _ in 0..2 {
            next(&mut others).await.expect("one");
        }
        let later = next(&mut stream).await.expect("one");
        assert_ne!(later.leaf(), first.leaf());
    });
}

#[test]
fn calls_of_one_user_are_bounded_and_come_free_again() {
    const CALLS: usize = 128;
    let (_cluster, dir) = node(&[own()]);
    application(async {
        let mut streams = Vec::new();
        let mut clients = Vec::new();
        while streams.len() < CALLS {
            let client = connect(&socket(&dir)).await;
            for _ in 0..16 {
                streams.push(client.stream_x509_bundles().await.expect("within the limit"));
            }
            clients.push(client);
        }
        let client = connect(&socket(&dir)).await;
        let full = client.fetch_x509_svid().await.expect_err("one too many");
        assert!(full.to_string().contains("more than 128 calls"), "{full}");
        drop(streams);
        drop(clients);
        let deadline = tokio::time::timeout(PATIENCE, async {
            while client.fetch_x509_svid().await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        deadline.await.expect("places come free");
    });
}

#[test]
fn the_socket_is_everybodys_and_goes_with_the_node() {
    use std::os::unix::fs::PermissionsExt as _;
    let (mut cluster, dir) = node(&[own()]);
    let ready = &cluster.node("first").running.as_ref().expect("it runs").ready;
    assert_eq!(ready["workload"].as_str(), socket(&dir).to_str(), "{ready}");
    let mode = std::fs::metadata(socket(&dir)).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o666);
    application(async {
        let client = connect(&socket(&dir)).await;
        let mut stream = client.stream_x509_svids().await.expect("an identity");
        next(&mut stream).await.expect("one");
        assert!(cluster.terminate("first").is_some_and(|status| status.success()));
        let ended = next(&mut stream).await.expect_err("the node stops");
        assert!(!matches!(ended, WorkloadApiError::PermissionDenied(_)), "{ended}");
    });
    eventually("the socket is gone", || if socket(&dir).exists() { Err(String::new()) } else { Ok(()) });
    // No command that the local socket offers hands out keys.
    cluster.run("first");
    let file = cluster.file(
        "service.toml",
        "[[service]]\nname = \"web\"\nnamespace = \"shop\"\naccount = \"web\"\ninstance = \"x\"\nuids = [1]\n",
    );
    let refused = cluster.on("first", &["service", "add", &file.to_string_lossy(), "-o", "json"]);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(
        refused.error()["error"]["message"].as_str().is_some_and(|text| text.contains("private keys")),
        "{refused:?}"
    );
}

/// By PyPI's `spiffe`: SKEIN_PYTHON names an interpreter that has it.
#[test]
#[ignore = "needs Python with the package `spiffe`: python3 -m venv V && V/bin/pip install spiffe && SKEIN_PYTHON=V/bin/python cargo test -p tests --test scenarios python -- --ignored"]
fn the_python_client_gets_the_same() {
    let python = std::env::var("SKEIN_PYTHON").expect("SKEIN_PYTHON names an interpreter with the package `spiffe`");
    let (cluster, dir) = node(&[own()]);
    leafs(&cluster, "10s");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/workload/client.py");
    let ran = std::process::Command::new(python)
        .arg(script)
        .env("SPIFFE_ENDPOINT_SOCKET", format!("unix:{}", socket(&dir).display()))
        .output()
        .expect("the interpreter runs");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}\n{}", String::from_utf8_lossy(&ran.stderr));
    let wanted = format!("svid {0}\nbundle 1\nrotated {0}\njwt refused\n", id("web"));
    assert_eq!(said, wanted);
}
