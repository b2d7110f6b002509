//! Databases of Debian with their own clients, through a mesh of two nodes: PostgreSQL (declared), Redis (found out) and MariaDB
//! (its server speaks first).
//!
//! `apt-get install postgresql redis-server mariadb-server`, then `cargo test -p tests --test databases -- --ignored`.

mod server;

use std::{net::SocketAddr, process::Command};

use harness::{
    cluster::{Cluster, Plan, Service},
    eventually,
    process::Skein,
};

use server::{Server, program};

/// A caller on one node and a database on another.
struct World {
    cluster: Cluster,
    /// Where the caller's client connects.
    door: SocketAddr,
    _server: Server,
}

impl World {
    /// `port` is the service's, and its name begins with `named`.
    fn start(server: Server, named: &str, port: u16) -> Self {
        let upstream = format!(
            "[[upstream]]\nlisten = \"127.0.0.1:0\"\nservice = \"shop/db\"\nport = {port}\nas = \"shop/web\"\n"
        );
        let service = Service {
            ports: vec![port],
            protocol: named.to_owned(),
            target: Some(server.address),
            ..Service::version("shop/db", "v1")
        };
        let web = Plan { extra: upstream, ..Plan::with([Service::client("shop/web")]) };
        let skein = Skein::at(env!("CARGO_BIN_EXE_skein-under-test"));
        let cluster = Cluster::start(skein, &[("web", web), ("db", Plan::with([service]))]);
        cluster.wait_members(harness::PATIENCE);
        cluster.wait_endpoints("shop/db", 1);
        let door = cluster.node("web").upstream("shop/db", port);
        Self { cluster, door, _server: server }
    }

    /// A client that is run so often fails once policy denies the connection, and works again when that is gone.
    fn is_judged(&self, run: impl Fn() -> Result<String, String>) {
        let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: db, namespace: shop}\nspec: {selector: {matchLabels: {app: db}}, action: DENY, rules: [{from: [{source: {namespaces: [shop]}}]}]}\n";
        self.cluster.push("web", policy, &["--wait", "all"]).expect_code(0);
        let denied = run();
        assert!(denied.is_err(), "{denied:?}");
        let delete = ["policy", "delete", "AuthorizationPolicy", "db", "-n", "shop", "--wait", "all"];
        self.cluster.on("web", &delete).expect_code(0);
        eventually("it works again", || run().map(drop));
    }
}

/// What a client prints.
fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[test]
#[ignore = "needs PostgreSQL"]
fn postgresql() {
    let world = World::start(Server::postgresql(), "postgres", 5432);
    let sql = |sql: &str| {
        let (host, port) = (world.door.ip().to_string(), world.door.port().to_string());
        let words = ["-h", &host, "-p", &port, "-U", "postgres", "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql];
        output(Command::new(program("psql")).args(words))
    };
    sql("create table t (n int primary key, s text)").expect("a table");
    sql("insert into t select n, repeat('x', 1000) from generate_series(1, 20000) n").expect("rows");
    assert_eq!(sql("select count(*), sum(length(s)) from t").expect("an answer").trim(), "20000|20000000");
    // Twenty megabytes come back whole.
    assert_eq!(sql("select s from t order by n").expect("all rows").len(), 20_000 * 1_001);
    assert!(sql("select 1/0").expect_err("an error of the server's own").contains("division by zero"));
    world.is_judged(|| sql("select 1"));
}

#[test]
#[ignore = "needs Redis"]
fn redis() {
    // Nothing declares what it speaks.
    let world = World::start(Server::redis(), "cache", 6379);
    let redis = |words: &[&str]| {
        let (host, port) = (world.door.ip().to_string(), world.door.port().to_string());
        output(Command::new(program("redis-cli")).args(["-e", "-h", &host, "-p", &port]).args(words))
    };
    assert_eq!(redis(&["SET", "key", "value"]).expect("an answer").trim(), "OK");
    assert_eq!(redis(&["GET", "key"]).expect("an answer").trim(), "value");
    let long = "y".repeat(100_000);
    redis(&["SET", "long", &long]).expect("an answer");
    assert_eq!(redis(&["GET", "long"]).expect("an answer").trim(), long);
    assert_eq!(
        redis(&[
            "EVAL",
            "for i = 1, 1000 do redis.call('RPUSH', 'list', i) end return redis.call('LLEN', 'list')",
            "0"
        ])
        .expect("an answer")
        .trim(),
        "1000"
    );
    world.is_judged(|| redis(&["PING"]));
}

#[test]
#[ignore = "needs MariaDB"]
fn mariadb() {
    // The port's number says that the server speaks first.
    let world = World::start(Server::mariadb(), "main", 3306);
    let sql = |sql: &str| {
        let (host, port) = (world.door.ip().to_string(), world.door.port().to_string());
        let words = ["--no-defaults", "-h", &host, "-P", &port, "-u", "root", "--skip-ssl", "-N", "-B", "-e", sql];
        output(Command::new(program("mariadb")).args(words))
    };
    sql("create database shop; create table shop.t (n int primary key, s varchar(1000))").expect("a table");
    sql("use shop; insert into t select seq, repeat('z', 1000) from seq_1_to_20000").expect("rows");
    assert_eq!(sql("select count(*), sum(length(s)) from shop.t").expect("an answer").trim(), "20000\t20000000");
    assert_eq!(sql("select s from shop.t order by n").expect("all rows").len(), 20_000 * 1_001);
    world.is_judged(|| sql("select 1"));
}
