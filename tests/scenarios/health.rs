//! How a node finds out that an application beside it is well.

use harness::{
    PATIENCE,
    backend::Backend,
    cluster::{Cluster, Plan, SERVICE_PORT, Service},
    eventually, http,
};

use crate::skein;

/// As Spring has it: requests at one port, `/actuator/health` at another that nobody else shall reach.
#[test]
fn a_check_may_ask_where_nobody_can_call() {
    let health = Backend::start("127.0.0.1:0".parse().expect("an address"), "up").expect("a free port");
    let check = format!(
        "{{ http = \"/actuator/health\", target = \"{}\", interval = \"100ms\", rise = 1, fall = 1 }}",
        health.address
    );
    let plans = [
        ("web", Plan::with([Service::client("shop/web")])),
        ("cart", Plan::with([Service { check, ..Service::version("shop/cart", "v1") }])),
    ];
    let cluster = Cluster::start(skein(), &plans);
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/cart", 1);
    assert!(health.arrivals().iter().all(|arrival| arrival.line().contains(" /actuator/health ")));

    health.answer_with(503);
    eventually("it is unhealthy", || {
        let rows = cluster.json("web", &["endpoints", "shop/cart"]);
        let says = rows[0]["reason"].as_str().is_some_and(|reason| reason.contains("503"));
        if rows[0]["health"] == "unhealthy" && says { Ok(()) } else { Err(rows.to_string()) }
    });
    health.answer_with(200);
    cluster.wait_endpoints("shop/cart", 1);
    let call = |port: u16| http::get(cluster.node("web").outbound(), &format!("cart:{port}"), "/");
    assert_eq!(call(SERVICE_PORT).map(|answer| answer.status), Ok(200));
    assert_eq!(call(health.address.port()).map(|answer| answer.status), Ok(404), "the mesh has no such port");
}
