//! A connection to one service that carries requests for another (A65): by TLS's server name, by the preface, by the authority.

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, SERVICE_PORT, Service, TRUST_DOMAIN},
    eventually_within, http,
    process::Skein,
};
use node::mesh::{Preface, Protocol};
use rustls::sign::CertifiedKey;
use std::sync::Arc;

use certs::{
    ca::{CaKey, NodeCa},
    id::{SpiffeId, TrustDomain},
    root::bundle_from_pem,
};

use crate::{
    client::{call, member},
    strangers::wall,
};

/// `web` calls; `both` runs two services of different accounts and a third that shares the first one's.
fn mesh() -> Cluster {
    let service = |name: &str, account: &str| Service {
        account: account.into(),
        ..Service::version(&format!("shop/{name}"), "v1")
    };
    let client = Service { account: "web".into(), ..Service::client("shop/web") };
    let both = Plan::with([service("open", "open"), service("closed", "closed"), service("shared", "open")]);
    let skein = Skein::at(env!("CARGO_BIN_EXE_skein-under-test"));
    let cluster = Cluster::start(skein, &[("web", Plan::with([client])), ("both", both)]);
    cluster.wait_endpoints("shop/closed", 1);
    cluster
}

/// What a hostile `web` shows: its own, valid identity.
fn own(cluster: &Cluster) -> Arc<CertifiedKey> {
    let read =
        |name: &str| std::fs::read_to_string(cluster.node("web").dir.join("data").join(name)).expect("a node's file");
    let domain = TrustDomain::new(TRUST_DOMAIN).expect("a name");
    let chain = bundle_from_pem(&read("ca.pem")).expect("certificates");
    let ca = NodeCa::new(&domain, chain, CaKey::from_pem(&read("ca.key")).expect("a key")).expect("a CA");
    let id: SpiffeId = format!("spiffe://{TRUST_DOMAIN}/ns/shop/sa/web").parse().expect("an identity");
    ca.leaf(&id, wall()).expect("a leaf").key
}

/// One request: asked for an account by server name, for a service by preface, for a host by authority.
fn ask(cluster: &Cluster, account: &str, service: &str, host: &str) -> Result<String, String> {
    let name = format!("{account}.shop.{TRUST_DOMAIN}");
    let session = member(cluster.node("both").address("mesh"), "skein-data/1", &name, &own(cluster));
    let preface = Preface {
        service: format!("shop/{service}").parse().expect("a name"),
        instance: None,
        port: SERVICE_PORT,
        source: None,
        protocol: Protocol::Http1,
        extensions: Vec::new(),
    };
    call(session, &preface, &format!("GET /a65 HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"))
}

fn arrived(cluster: &Cluster, at: usize) -> usize {
    cluster.node("both").backends[at].arrivals().len()
}

/// A65: what answers is the service of the preface, only under the identity of its own account, by the policy of that service. The
/// authority picks no application.
#[test]
fn a65_a_connection_to_one_service_is_no_way_to_another() {
    let cluster = mesh();
    let deny = |name: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{action: DENY, selector: {{matchLabels: {{app: {name}}}}}, rules: [{{}}]}}\n"
        )
    };
    cluster.push("web", &deny("closed"), &["--wait", "all"]).expect_code(0);
    cluster.push("web", &deny("shared"), &["--wait", "all"]).expect_code(0);
    eventually_within("the policy holds", PATIENCE, || {
        let answer = http::get(cluster.node("web").outbound(), "closed", "/").map_err(|error| error.to_string())?;
        if answer.status == 403 { Ok(()) } else { Err(format!("{answer:?}")) }
    });
    let (closed, shared) = (arrived(&cluster, 1), arrived(&cluster, 2));
    let fine = ask(&cluster, "open", "open", "open.shop").expect("an answer");
    assert!(fine.starts_with("HTTP/1.1 200"), "{fine}");
    // The identity of one account, a service of another.
    let wrong = ask(&cluster, "open", "closed", "closed.shop").expect("an answer");
    assert!(wrong.starts_with("HTTP/1.1 404"), "{wrong}");
    let wrong = ask(&cluster, "closed", "open", "open.shop").expect("an answer");
    assert!(wrong.starts_with("HTTP/1.1 404"), "{wrong}");
    // The same account: the policy of the service that is called, whatever the authority says.
    for host in ["open.shop", "shared.shop", "closed.shop"] {
        let denied = ask(&cluster, "open", "shared", host).expect("an answer");
        assert!(denied.starts_with("HTTP/1.1 403"), "{host}: {denied}");
        let denied = ask(&cluster, "closed", "closed", host).expect("an answer");
        assert!(denied.starts_with("HTTP/1.1 403"), "{host}: {denied}");
    }
    // The authority of a closed service at an open one reaches the open one's application, and no other.
    let before = arrived(&cluster, 0);
    let named = ask(&cluster, "open", "open", "closed.shop").expect("an answer");
    assert!(named.starts_with("HTTP/1.1 200"), "{named}");
    assert_eq!(arrived(&cluster, 0), before + 1);
    // A name that nobody here has gets no handshake.
    ask(&cluster, "nobody", "open", "open.shop").expect_err("no leaf of that name");
    assert_eq!(
        (arrived(&cluster, 1), arrived(&cluster, 2)),
        (closed, shared),
        "something reached a closed application"
    );
}
