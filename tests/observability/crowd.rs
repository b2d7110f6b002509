//! A mesh of fifty services that call one another as in a shop of some size: what its drawing must still let a person read.

use std::{fmt::Write as _, net::SocketAddr};

use harness::{
    PATIENCE,
    application::Application,
    cluster::{Cluster, Plan, SERVICE_PORT, Service},
    http::Connection,
    process::Skein,
};

/// Who calls whom: doors at the left, then what they are made of, stores at the right.
const CALLS: [(&str, &str); 50] = [
    ("edge/web", "shop/home shop/search shop/product shop/cart shop/checkout shop/account"),
    ("edge/mobile", "shop/home shop/search shop/product shop/cart shop/checkout shop/account"),
    ("edge/partners", "shop/orders stock/levels"),
    ("edge/admin", "shop/orders stock/warehouse pay/refunds people/users"),
    ("shop/home", "shop/recommend shop/banners people/session"),
    ("shop/search", "shop/index shop/suggest"),
    ("shop/product", "shop/catalog shop/reviews shop/prices stock/levels shop/media"),
    ("shop/cart", "shop/prices shop/catalog people/session stock/levels"),
    ("shop/checkout", "shop/cart shop/orders pay/charge pay/fraud people/addresses shop/shipping"),
    ("shop/account", "people/users people/addresses shop/orders"),
    ("shop/recommend", "shop/catalog data/features"),
    ("shop/banners", "shop/media"),
    ("shop/index", "data/search-1"),
    ("shop/suggest", "data/search-1"),
    ("shop/catalog", "data/products"),
    ("shop/reviews", "shop/ratings people/users"),
    ("shop/ratings", "data/products"),
    ("shop/prices", "shop/discounts data/products"),
    ("shop/discounts", "data/rules"),
    ("shop/media", "data/objects"),
    ("shop/orders", "shop/invoices notify/events data/orders"),
    ("shop/shipping", "stock/warehouse stock/carriers"),
    ("shop/invoices", "data/objects notify/mail"),
    ("stock/levels", "data/stock"),
    ("stock/warehouse", "stock/levels stock/forecast"),
    ("stock/carriers", "notify/events"),
    ("stock/forecast", "data/features"),
    ("pay/charge", "pay/vault pay/ledger pay/bank-one pay/bank-two"),
    ("pay/refunds", "pay/ledger pay/bank-one"),
    ("pay/fraud", "data/features people/users"),
    ("pay/vault", "data/secrets"),
    ("pay/ledger", "data/ledger notify/events"),
    ("pay/bank-one", ""),
    ("pay/bank-two", ""),
    ("people/users", "data/people"),
    ("people/session", "data/sessions"),
    ("people/addresses", "data/people"),
    ("notify/events", "notify/mail notify/push data/queue"),
    ("notify/mail", ""),
    ("notify/push", ""),
    ("data/products", ""),
    ("data/search-1", ""),
    ("data/features", ""),
    ("data/orders", ""),
    ("data/stock", ""),
    ("data/people", ""),
    ("data/sessions", ""),
    ("data/ledger", ""),
    ("data/objects", ""),
    ("data/a-service-with-a-name-that-is-rather-long", "data/queue data/rules data/secrets"),
];
/// What is called by others and calls nobody, beside those above.
const MORE: [&str; 3] = ["data/queue", "data/rules", "data/secrets"];
/// The service that fails now and then.
const FAILING: &str = "pay/bank-two";

/// The mesh; it ends with the value.
pub(crate) struct Crowd {
    cluster: Cluster,
    _applications: Vec<Application>,
}

impl Crowd {
    /// Two nodes, of which one has all the services, and some requests along every call.
    pub(crate) fn start() -> Self {
        let names = || CALLS.iter().map(|(name, _)| *name).chain(MORE);
        let application = Application::start("crowd", 0, None).expect("loopback has free ports");
        let service = |name: &str| Service { target: Some(application.address), ..Service::version(name, "v1") };
        let services: Vec<Service> = names().map(service).collect();
        let mut outbounds = String::new();
        for name in names() {
            // Writing to a string does not fail.
            let _ = write!(outbounds, "[[outbound]]\nhttp = \"127.0.0.1:0\"\nas = \"{name}\"\n");
        }
        let all = Plan { extra: outbounds, ..Plan::with(services) };
        let plans = [("first", Plan::with([Service::client("edge/operator")])), ("all", all)];
        let cluster = Cluster::start(Skein::at(env!("CARGO_BIN_EXE_skein-under-test")), &plans);
        cluster.wait_members(PATIENCE);
        names().for_each(|name| cluster.wait_endpoints(name, 1));
        let faults = format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: bank, namespace: pay}}\nspec:\n  hosts: [{}]\n  http:\n  \
             - fault: {{abort: {{httpStatus: 503, percentage: {{value: 40}}}}}}\n    route: [{{destination: {{host: {}}}}}]\n",
            FAILING.split_once('/').expect("two parts").1,
            FAILING.split_once('/').expect("two parts").1
        );
        cluster.push("first", &faults, &["--wait", "all"]).expect_code(0);
        let crowd = Self { cluster, _applications: vec![application] };
        crowd.call();
        crowd
    }

    /// Where the drawing is.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.cluster.node("first").address("admin")
    }

    /// Every call some times, those of doors more often.
    fn call(&self) {
        let ready = &self.cluster.node("all").running.as_ref().expect("it runs").ready;
        let outbounds = ready["outbound"].as_array().expect("a list");
        for (number, (name, called)) in CALLS.iter().enumerate() {
            let is_own = |one: &&serde_json::Value| one["as"] == *name;
            let own = outbounds.iter().rev().find(is_own).unwrap_or_else(|| panic!("{name} has a port: {ready}"));
            let via: SocketAddr = own["listen"].as_str().and_then(|at| at.parse().ok()).expect("an address");
            let mut connection = Connection::open(via).expect("it listens");
            for target in called.split_whitespace() {
                let (namespace, short) = target.split_once('/').expect("two parts");
                let host = format!("{short}.{namespace}:{SERVICE_PORT}");
                for _ in 0..if number < 4 { 60 } else { 15 } {
                    connection.request("GET", &host, "/", &[], b"").unwrap_or_else(|error| panic!("{host}: {error}"));
                }
            }
        }
    }
}
