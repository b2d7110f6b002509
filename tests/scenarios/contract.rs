//! What `-o json` prints of every command, beside what `node/docs/json.md` says of it: no field goes, none changes its type.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    contract::{Contract, LISTINGS, ROWS_ELSEWHERE, is_time},
    eventually, http,
    telling::Telling,
};
use serde_json::Value;

use crate::{skein, virtual_service};

/// Commands that other tests compare, where what they take to run is there anyway: `written` in each of these.
const ELSEWHERE: [&str; 8] = [
    "demo",
    "tap",
    "policy sign",
    "policy confirm",
    "ca rotate start",
    "ca rotate advance",
    "ca rotate finish",
    "ca rotate cancel",
];
/// Commands that change the kernel's rules: their one shape is compared by `capture status`.
const AS_ROOT: [&str; 3] = ["capture on", "capture off", "capture confirm"];

const LIMIT: &str = "apiVersion: skein.dev/v1
kind: RateLimit
metadata: {name: calm, namespace: shop}
spec: {selector: {matchLabels: {app: reviews}}, rules: [{limit: {requests: 100000, interval: 1s}}]}
";
const EXTRA: &str = "[[service]]
name = \"extra\"
namespace = \"shop\"
ports = [{ name = \"http\", port = 80, protocol = \"http\", target = \"127.0.0.1:9\" }]
";

/// Runs commands and compares what they print.
struct Compared<'c> {
    contract: Contract,
    cluster: &'c Cluster,
    seen: BTreeSet<String>,
    /// Lists of objects that were printed, and whether one had a row.
    lists: BTreeMap<String, bool>,
    complaints: Vec<String>,
}

impl Compared<'_> {
    fn of(&mut self, line: &str, value: &Value) {
        self.complaints.extend(self.contract.complaints(line, value));
        for (list, is_filled) in self.contract.lists(line, value) {
            *self.lists.entry(list).or_default() |= is_filled;
        }
        self.seen.insert(self.contract.command(line).to_owned());
    }

    fn run(&mut self, node: &str, line: &str) -> Value {
        let words: Vec<&str> = line.split(' ').collect();
        let value = self.cluster.json(node, &words);
        self.of(line, &value);
        value
    }

    /// The same with a file in its line that holds this.
    fn with(&mut self, node: &str, line: &str, name: &str, text: &str) -> Value {
        let file = self.cluster.file(name, text);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
        self.run(node, &line.replace("FILE", &file.to_string_lossy()))
    }
}

/// A caller `web` whose node answers names, and two versions of `shop/reviews`.
fn cluster() -> Cluster {
    let mut cluster = Cluster::new(skein(), "web", &Plan::with([Service::client("shop/web")]));
    // A resolver's file needs a port that stays; the address is this cluster's own.
    let (ip, file) = (cluster.node("web").ip, cluster.node("web").config());
    let text = std::fs::read_to_string(&file).expect("it was written");
    let dns = format!("[dns]\nlisten = \"{ip}:15053\"\nas = \"shop/web\"\n");
    std::fs::write(&file, text + &dns).expect("it can be written again");
    cluster.run("web");
    for version in ["v1", "v2"] {
        cluster.join(version, &Plan::with([Service::version("shop/reviews", version)]));
        cluster.run(version);
    }
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/reviews", 2);
    cluster
}

/// What `init` prints, of another mesh, and what `join` does.
fn begun(cluster: &mut Cluster) -> [Value; 2] {
    let plan = Plan::default();
    let token = cluster.invite("v3", &plan, &[]);
    cluster.prepare_only("v3", &plan);
    let token = cluster.file("v3.token", &token);
    let joined = cluster.json("v3", &["join", "--token-file", &token.to_string_lossy()]);
    cluster.prepare_only("alone", &plan);
    let mut init = cluster.command("alone");
    init.env("SKEIN_OPERATOR", cluster.path().join("alone-operator"));
    init.args(["init", harness::cluster::TRUST_DOMAIN, "--name", "alone", "-o", "json"]);
    let output = init.output().expect("skein can be started");
    [serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}")), joined]
}

#[test]
fn every_result_has_the_fields_that_are_written() {
    let mut cluster = cluster();
    let [init, join] = begun(&mut cluster);
    let contract = Contract::read();
    let (seen, lists, complaints) = Default::default();
    let mut all = Compared { contract, cluster: &cluster, seen, lists, complaints };
    all.of("init", &init);
    all.of("join", &join);
    all.of("run", &cluster.node("web").running.as_ref().expect("it runs").ready);
    change(&mut all);
    for line in LISTINGS {
        all.run("web", line);
    }
    for line in ["limits", "service list", "identity list"] {
        let value = all.run("v1", line);
        assert!(value.as_array().is_some_and(|rows| !rows.is_empty()), "{line}: {value}");
    }
    look(&mut all);
    watched(&mut all);
    trust(&mut all);
    end(&mut all);
    assert!(all.complaints.is_empty(), "{:#?}", all.complaints);
    let elsewhere = |command: &&str| ELSEWHERE.contains(command) || AS_ROOT.contains(command);
    let missing: Vec<&str> = all.contract.commands().filter(|command| !all.seen.contains(*command)).collect();
    let missing: Vec<&str> = missing.into_iter().filter(|command| !elsewhere(command)).collect();
    assert_eq!(missing, [""; 0], "nobody compares what these print");
    // An empty list is of every shape.
    let elsewhere = |list: &str| ROWS_ELSEWHERE.iter().any(|(known, _)| *known == list);
    let empty =
        all.lists.iter().filter(|(list, is_filled)| !**is_filled && !elsewhere(list)).map(|(list, _)| list.as_str());
    assert_eq!(empty.collect::<Vec<_>>(), [""; 0], "nobody compares a row of these");
    for (list, file) in ROWS_ELSEWHERE {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios").join(file));
        let command = list.split(['.', '(']).next().unwrap_or(list).trim();
        let compares =
            |text: &str| ["written(", "run(\"web\", "].iter().any(|call| text.contains(&format!("{call}\"{command}")));
        assert!(text.is_ok_and(|text| compares(&text)), "{file} compares no row of {list}");
    }
}

/// What is watched is what is listed, with the time at which it was so.
fn watched(all: &mut Compared<'_>) {
    for (line, list) in [("members", Some("members")), ("status", None), ("status --mesh", None)] {
        let words: Vec<&str> = line.split(' ').chain(["--watch", "-o", "json"]).collect();
        let watch = Telling::start(all.cluster, "web", &words);
        watch.until("a line", |lines| !lines.is_empty());
        let mut told: Value = serde_json::from_str(&watch.out()[0]).expect("JSON");
        let object = told.as_object_mut().expect("an object");
        let time = object.remove("observed_at");
        assert!(time.as_ref().and_then(Value::as_str).is_some_and(is_time), "{line}: {time:?}");
        let value = list.map_or_else(|| told.clone(), |list| told[list].clone());
        all.of(line, &value);
    }
}

/// What changes the mesh, and requests, so that there is something to look at.
fn change(all: &mut Compared<'_>) {
    let routes = virtual_service("  - route:\n    - destination: {host: reviews}\n");
    for line in ["policy lint FILE", "policy plan FILE", "policy push FILE --dry-run", "policy push FILE --wait all"] {
        all.with("web", line, "routes.yaml", &routes);
    }
    // Of a document that is valid and means nothing there is a row in `problems`.
    let never =
        virtual_service("  - match: [{uri: {exact: '/a?b'}}]\n    route:\n    - destination: {host: reviews}\n");
    let warned = all.with("web", "policy lint FILE", "never.yaml", &never);
    assert!(warned[0]["problems"].as_array().is_some_and(|problems| !problems.is_empty()), "{warned}");
    all.with("web", "policy push FILE --wait all", "limit.yaml", LIMIT);
    all.run("web", "grant v1 shop/extra --wait all");
    all.with("v1", "service add FILE", "extra.toml", EXTRA);
    eventually("the requests are seen", || {
        http::get(all.cluster.node("web").outbound(), "reviews.shop:9080", "/").expect("an answer");
        let told = all.cluster.json("web", &["top"]);
        if told["edges"].as_array().is_some_and(|edges| !edges.is_empty()) { Ok(()) } else { Err(told.to_string()) }
    });
}

/// What is looked at by name.
fn look(all: &mut Compared<'_>) {
    let newest = |log: &Value| log[0]["changeset"].as_str().expect("an id").to_owned();
    let first = newest(&all.run("web", "policy log"));
    all.run("web", &format!("policy show {first}"));
    all.run("web", &format!("policy export --dir {}", all.cluster.path().join("exported").display()));
    all.run("web", "policy delete RateLimit calm -n shop");
    let deleted = newest(&all.run("web", "policy log"));
    all.run("web", &format!("policy revert {deleted}"));
    all.run("web", "dns setup --print");
    all.run("web", "capture status");
    all.with("web", "sim run FILE", "few.toml", "nodes = 3\nduration = \"2s\"\n");
    let shown = rcgen::generate_simple_self_signed(["shop.example".to_owned()]).expect("a certificate");
    let cert = all.cluster.file("shop.crt", &shown.cert.pem());
    let put = format!("secret put shop -n shop --cert {} --key FILE", cert.display());
    all.with("web", &put, "shop.key", &shown.signing_key.serialize_pem());
    all.run("web", "secret list");
    all.run("web", "secret remove shop -n shop");
}

/// Keys and certificates.
fn trust(all: &mut Compared<'_>) {
    let chain = all.run("web", "identity show shop/default")["chain"].as_str().expect("PEM").to_owned();
    let bundle = all.run("web", "ca bundle")["bundle"].as_str().expect("PEM").to_owned();
    let bundle = all.cluster.file("bundle.pem", &bundle);
    all.with("web", &format!("identity verify FILE --bundle {}", bundle.display()), "chain.pem", &chain);
    let made = all.run("web", &format!("operator new {}", all.cluster.path().join("ann").display()));
    all.run("web", &format!("operator add ann {} --recovery", made["public_key"].as_str().expect("a key")));
    all.run("web", "operator remove ann --recovery");
    all.run("web", &format!("operator restore {}", all.cluster.path().join("restored").display()));
    all.run("web", "ca promote v1");
    all.run("web", "ca renew v1");
    let request = all.cluster.on("v1", &["ca", "csr"]).expect_code(0).out;
    all.run("v1", "ca csr");
    all.with("web", "ca sign FILE", "v1.csr", &request);
    all.with("web", "operator seal --new-passphrase-file FILE", "word.txt", "correct horse battery staple\n");
    all.with("web", "operator unseal --passphrase-file FILE", "word.txt", "correct horse battery staple\n");
}

/// What takes the mesh apart.
fn end(all: &mut Compared<'_>) {
    all.run("web", "invite v9 --no-service");
    all.run("v1", "service remove shop/extra");
    all.run("v1", "drain");
    all.run("v1", "drain --undo");
    all.run("web", "revoke shop/nobody");
    all.run("web", "evict v9");
    all.run("v2", "leave");
}
