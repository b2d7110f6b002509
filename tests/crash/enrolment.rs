//! An enroller is killed at every call by which it keeps what became of a token (A71): between "spent" and the reply as well. The guest gets in by
//! the keys that it has, whatever was lost, and nobody else by the same token.

use harness::{
    cluster::{Cluster, Plan, Service},
    process::Skein,
};

use crate::strace::Strace;

/// Kills per kind of system call.
const KILLS: usize = 6;

/// Another machine in the guest's name.
fn thief(cluster: &mut Cluster, guest: &str, token: &str) -> String {
    let name = format!("thief-{guest}");
    cluster.prepare_only(&name, &Plan::default());
    let config = cluster.node(&name).config();
    let text = std::fs::read_to_string(&config).expect("it was written");
    let text = text.replace(&format!("name = \"{name}\""), &format!("name = \"{guest}\""));
    std::fs::write(&config, text).expect("it is ours");
    let file = cluster.file(&format!("{name}.token"), token);
    let refused = cluster.on(&name, &["join", "--token-file", &file.to_string_lossy(), "-o", "json"]);
    refused.error()["error"]["code"].as_str().unwrap_or_default().to_owned()
}

#[test]
#[ignore = "needs strace: cargo test -p tests --test crash -- --ignored --test-threads=1"]
fn a71_an_enroller_that_is_killed_between_spent_and_reply_enrols_one_machine() {
    let skein = Skein::at(env!("CARGO_BIN_EXE_skein-under-test"));
    let mut cluster = Cluster::start(skein, &[("web", Plan::with([Service::client("shop/web")]))]);
    let (mut kills, mut number) = (0, 0);
    for calls in ["pwrite64", "fdatasync,fsync", "write,writev,sendto,sendmsg"] {
        for nth in 1..=KILLS {
            number += 1;
            let guest = format!("guest-{number}");
            let token = cluster.invite(&guest, &Plan::default(), &[]);
            cluster.prepare_only(&guest, &Plan::default());
            let traced = Strace::attach(cluster.node("web").pid(), calls, &format!("signal=KILL:when={nth}"));
            let first = cluster.join_with(&guest, &token);
            if traced.detach() {
                kills += 1;
                cluster.kill("web");
                cluster.run("web");
            } else {
                assert_eq!(first.code, 0, "no kill, and yet {first:?}");
            }
            if first.code != 0 {
                cluster.join_with(&guest, &token).expect_code(0);
            }
            assert_eq!(thief(&mut cluster, &guest, &token), "token_spent", "{calls} {nth}");
        }
    }
    println!("{number} enrolments, {kills} kills");
    assert!(kills > 0, "some call was met");
}
