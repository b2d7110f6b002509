//! A node is killed at every system call of a push, of a compaction and of an enrolment, and its disk fails: nothing that was acknowledged is lost.
//!
//! Needs `strace` and the right to trace: `cargo test -p tests --test crash -- --ignored --test-threads=1`.

mod compaction;
mod enrolment;
mod strace;

use harness::{
    cluster::{Cluster, Plan, Service},
    eventually, http,
    process::{Output, Skein},
};
use serde_json::Value;
use strace::Strace;

const NODE: &str = "reviews-v1";
/// What a store writes with, and what an answer leaves by.
const STORAGE: &str = "pwrite64,write,writev,fdatasync,fsync,ftruncate,fallocate,sendto,sendmsg";
/// Kills per kind of system call at most.
const MOST: usize = 60;
/// The matrix ends when so many pushes in a row met no kill: there are no further calls to meet.
const UNHARMED: usize = 3;

fn cluster() -> Cluster {
    let skein = Skein::at(env!("CARGO_BIN_EXE_skein-under-test"));
    let cluster = Cluster::start(skein, &[(NODE, Plan::with([Service::version("shop/reviews", "v1")]))]);
    cluster.wait_endpoints("shop/reviews", 1);
    cluster
}

/// A document of its own for each push, so that every acknowledged one can be found again.
fn document(number: usize) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: route-{number}, namespace: shop}}\nspec:\n  hosts: [host-{number}.example.com]\n  http:\n  - directResponse: {{status: 204}}\n"
    )
}

fn push(cluster: &Cluster, number: usize) -> Output {
    cluster.push(NODE, &document(number), &["--wait", "local", "--timeout", "10s", "--allow", "SKN0307"])
}

fn pid(cluster: &Cluster) -> u32 {
    cluster.node(NODE).running.as_ref().expect("it runs").pid()
}

fn names(cluster: &Cluster) -> Vec<String> {
    let listed = cluster.json(NODE, &["policy", "list"]);
    let all = listed.as_array().expect("a list");
    all.iter().filter_map(|document| document["name"].as_str().map(str::to_owned)).collect()
}

fn assert_all_there(cluster: &Cluster, acknowledged: &[usize], when: &str) {
    let there = names(cluster);
    for number in acknowledged {
        assert!(there.contains(&format!("route-{number}")), "{when}: acknowledged push {number} is lost: {there:?}");
    }
}

/// Kills the node at the first, second, third... call of this kind that a push makes; gives the number of kills.
fn kill_at_every(cluster: &mut Cluster, calls: &str, next: &mut usize, acknowledged: &mut Vec<usize>) -> usize {
    let (mut kills, mut unharmed) = (0, 0);
    for nth in 1..=MOST {
        *next += 1;
        let traced = Strace::attach(pid(cluster), calls, &format!("signal=KILL:when={nth}"));
        let pushed = push(cluster, *next);
        if pushed.code == 0 {
            acknowledged.push(*next);
        }
        let killed = traced.detach();
        if killed {
            kills += 1;
            unharmed = 0;
            cluster.kill(NODE);
            cluster.run(NODE);
        } else {
            assert_eq!(pushed.code, 0, "no kill, and yet {pushed:?}");
            unharmed += 1;
        }
        assert_all_there(cluster, acknowledged, &format!("{calls} {nth}"));
        if unharmed == UNHARMED {
            break;
        }
    }
    kills
}

#[test]
#[ignore = "needs strace: cargo test -p tests --test crash -- --ignored --test-threads=1"]
fn a_kill_at_any_system_call_of_a_push_loses_nothing_acknowledged() {
    let mut cluster = cluster();
    let (mut next, mut acknowledged) = (0, Vec::new());
    for calls in STORAGE.split(',').chain(["all"]) {
        let kills = kill_at_every(&mut cluster, calls, &mut next, &mut acknowledged);
        println!("{calls}: {kills} kills");
    }
    println!("{next} pushes, {} acknowledged, 0 of these lost", acknowledged.len());
    assert!(!acknowledged.is_empty() && acknowledged.len() < next, "the matrix met pushes of both ends");
    // And the store takes further pushes.
    push(&cluster, next + 1).expect_code(0);
}

fn error_code(output: &Output) -> Value {
    output.error()["error"]["code"].clone()
}

fn traffic_flows(cluster: &Cluster) {
    let outbound = cluster.node(NODE).outbound();
    for _ in 0..10 {
        let answer = http::get(outbound, "reviews.shop", "/").expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

#[test]
#[ignore = "needs strace: cargo test -p tests --test crash -- --ignored --test-threads=1"]
fn a_disk_that_fails_refuses_pushes_and_harms_no_traffic() {
    let mut cluster = cluster();
    push(&cluster, 1).expect_code(0);
    let mut acknowledged = vec![1];
    let mut next = 1;
    for (calls, error, code) in [
        ("pwrite64", "ENOSPC", "storage_full"),
        ("pwrite64", "EIO", "storage_failed"),
        ("fsync,fdatasync", "ENOSPC", "storage_failed"),
        ("fsync,fdatasync", "EIO", "storage_failed"),
    ] {
        let traced = Strace::attach(pid(&cluster), calls, &format!("error={error}:when=1+"));
        next += 1;
        let refused = push(&cluster, next);
        traffic_flows(&cluster);
        traced.detach();
        assert_ne!(refused.code, 0, "{calls} {error}: {refused:?}");
        assert_eq!(error_code(&refused), code, "{calls} {error}: {refused:?}");
        traffic_flows(&cluster);
        assert_all_there(&cluster, &acknowledged, error);
        next += 1;
        let after = push(&cluster, next);
        if code == "storage_full" {
            assert_eq!(after.code, 0, "room again, and yet {after:?}");
        } else {
            assert_eq!(error_code(&after), "storage_failed", "a failed disk takes nothing until restart: {after:?}");
            cluster.terminate(NODE);
            cluster.run(NODE);
            next += 1;
            push(&cluster, next).expect_code(0);
        }
        acknowledged.push(next);
        assert_all_there(&cluster, &acknowledged, error);
        eventually("the service is healthy again", || match cluster.healthy(NODE, "shop/reviews") {
            1 => Ok(()),
            seen => Err(format!("{seen} healthy")),
        });
    }
}
