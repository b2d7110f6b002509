//! Machines whose clocks were wrong for a while: once they are right, everybody is back.

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    eventually_within,
};

use crate::skein;

fn mesh() -> Cluster {
    let plans = [
        ("first", Plan::with([Service::client("shop/web")])),
        ("second", Plan::with([Service::version("shop/reviews", "v1")])),
        ("third", Plan::with([Service::client("shop/cart")])),
    ];
    let cluster = Cluster::start(skein(), &plans);
    cluster.wait_members(PATIENCE);
    cluster
}

/// As of two machines of one host. What they see of each other meanwhile is dated in the future, and binds neither of them.
#[test]
fn two_that_were_ahead_together_are_back_once_their_clocks_are_right() {
    let mut cluster = mesh();
    let both = ["first", "second"];
    both.iter().for_each(|name| cluster.kill(name));
    cluster.clock_offset = "5d".to_owned();
    both.iter().for_each(|name| cluster.run(name));
    for name in both {
        eventually_within(&format!("{name} has compared its clock with the other's"), PATIENCE, || {
            let told = cluster.json(name, &["status"]);
            if told["clock"]["peers"] == 1 { Ok(()) } else { Err(told["clock"].to_string()) }
        });
    }
    for name in both {
        assert!(cluster.terminate(name).is_some_and(|status| status.success()), "{}", cluster.log(name));
    }
    cluster.clock_offset.clear();
    both.iter().for_each(|name| cluster.run(name));
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/reviews", 1);
}

/// As of a machine that takes the time from a satellite whose counter ran over.
#[test]
fn one_that_started_years_ahead_is_back_once_its_clock_is_right() {
    let mut cluster = mesh();
    cluster.kill("second");
    cluster.clock_offset = "800d".to_owned();
    let _ = cluster.try_run("second");
    cluster.kill("second");
    cluster.clock_offset.clear();
    cluster.run("second");
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/reviews", 1);
}
