//! What is made of what a node says.

use serde_json::json;

use super::*;
use crate::cli::check::finding::not_well;

const DAY: Millis = 86_400_000;

fn time(day: u64) -> String {
    crate::agent::admin::rfc3339(day * DAY)
}

fn well() -> Said {
    let status = json!({
        "node": "a", "trust_domain": "t.example", "state": "ok", "problems": [],
        "members": {"seen": 2, "expected": 2}, "policy": {"digest": "00", "stale": []},
        "certificates": {"node_ca_begins": time(0), "node_ca_expires": time(30), "leaf_expires": time(11), "enrollers": 3,
                         "enroller_ca_expires": time(365)},
        "root": {"phase": "steady", "settled": true, "root_expires": time(3650)},
        "clock": {"drift_ms": 3, "peers": 2, "bound_ms": 60000},
        "memory_bytes": 1, "gossip_bytes_per_s": 1, "gossip_lanes": {}
    });
    let key = |name: &str| json!({"name": name, "public_key": "x", "roles": [], "recovery": false});
    let mesh = json!({
        "trust_domain": "t.example", "node": "a", "genesis": certs::sign::Digest([0; 32]), "role_set": 1,
        "keys": [key("ann"), key("bob")], "bundle": "", "nodes": []
    });
    let member = |name: &str, own: bool| {
        json!({"name": name, "state": "alive", "address": "", "locality": "", "version": "1.0.0", "since": "",
               "self": own, "rtt_ms": if own { None } else { Some(0.4) }, "policy": null})
    };
    let traffic =
        json!({"node": "a", "window_s": 900, "slot_s": 30, "heard": [], "silent": [], "left_out": 0, "edges": []});
    Said {
        status: serde_json::from_value(status).unwrap(),
        mesh: serde_json::from_value(mesh).unwrap(),
        members: serde_json::from_value(json!([member("a", true), member("b", false)])).unwrap(),
        services: Vec::new(),
        outliers: Vec::new(),
        traffic: serde_json::from_value(traffic).unwrap(),
        pings: Vec::new(),
        concerns: Ok(Concerns::default()),
    }
}

fn bad() -> Said {
    let mut said = well();
    let codes = [
        ("capture_ended", "degraded"),
        ("certificate_expired", "critical"),
        ("clock_drift", "degraded"),
        ("conflict", "degraded"),
        ("draining", "degraded"),
        ("endpoint_spared", "degraded"),
        ("enroller_old", "degraded"),
        ("members_missing", "degraded"),
        ("mesh_nearly_full", "degraded"),
        ("no_enroller", "degraded"),
        ("not_granted", "degraded"),
        ("not_reloaded", "degraded"),
        ("policy_stale", "degraded"),
        ("refused", "critical"),
        ("root_old", "degraded"),
        ("storage_full", "critical"),
        ("task_panicked", "degraded"),
        ("unhealthy_service", "degraded"),
        ("worker_stuck", "critical"),
        ("something_new", "critical"),
    ];
    let problems =
        codes.map(|(code, severity)| json!({"code": code, "message": "m", "hint": "h", "severity": severity}));
    said.status.problems = serde_json::from_value(json!(problems)).unwrap();
    said.status.certificates.enrollers = 1;
    said.status.certificates.leaf_expires = time(9);
    said.status.certificates.enroller_ca_expires = Some(time(12));
    said.status.root.phase = "issuing".into();
    said.status.policy.stale = vec![certs::id::NodeId::new("b").unwrap()];
    said.mesh.keys.truncate(1);
    said.members[1].version = "0.9.0".into();
    said.members[1].rtt_ms = Some(900.0);
    let mut far = said.members[1].clone();
    (far.name, far.rtt_ms) = (certs::id::NodeId::new("c").unwrap(), None);
    said.members.push(far);
    let port = json!({"name": "http", "port": 80, "protocol": "http"});
    said.services = serde_json::from_value(json!([
        {"namespace": "shop", "name": "cart", "ports": [port], "endpoints": 2, "healthy": 0, "panic": true},
    ]))
    .unwrap();
    said.outliers = serde_json::from_value(json!([{
        "service": "shop/cart", "endpoint": "b/shop/cart", "state": "ejected", "reason": "r", "witnesses": [], "until": "",
        "caller": "shop/web", "cluster": "c", "times": 1
    }]))
    .unwrap();
    let party = json!({"namespace": "shop", "service": "web", "version": "v1"});
    said.traffic.edges = serde_json::from_value(json!([{
        "from": party, "to": party, "service": "shop/cart", "protocol": "http", "security": "mutual_tls",
        "requests": 100, "failed": 10, "rate": 1.0, "failing": 0.1, "p50_ms": 1.0, "p90_ms": 1.0, "p99_ms": 1.0,
        "slots": [], "buckets": [], "failures": {}
    }]))
    .unwrap();
    said.pings =
        serde_json::from_value(json!([{"node": "b", "carrier": "tcp", "remote": "", "rtt_ms": 1.0, "lost": null}]))
            .unwrap();
    said.concerns = Ok(serde_json::from_value(json!({
        "heard": ["a", "b"], "silent": ["c"], "ejected": [],
        "problems": [
            {"severity": "critical", "code": "storage_full", "message": "m", "hint": "h", "nodes": ["b"]},
            {"severity": "degraded", "code": "said_here", "message": "m", "hint": "h", "nodes": ["a", "b"]},
        ],
        "certificates": [{"node": "b", "node_ca_expires": time(30), "enroller_ca_expires": time(13)}],
    }))
    .unwrap());
    said
}

/// Every finding of this file, provoked.
pub(in crate::cli::check) fn provoked() -> Vec<Finding> {
    let mut findings = bad().judge("1.0.1", 10 * DAY, Some(Duration::from_secs(30 * 86_400)));
    findings.push(Finding::of("node.answers", Verdict::Error, &Error::new("unreachable", "nobody answers")));
    findings
}

#[test]
fn a_mesh_that_is_well_has_nothing_to_mend() {
    let month = Duration::from_secs(30 * 86_400);
    assert_eq!(not_well(&well().judge("1.0.0", 10 * DAY, Some(month))), []);
}

#[test]
fn who_is_silent_is_named_and_an_earlier_node_costs_one_check() {
    let found = |concerns: Result<Concerns>| {
        let findings = Said { concerns, ..well() }.judge("1.0.0", 10 * DAY, None);
        assert!(findings.len() > 20, "the others are judged all the same");
        let bad: Vec<_> = findings.into_iter().filter(|one| one.verdict != Verdict::Ok).collect();
        assert_eq!(bad.len(), 1, "{bad:?}");
        (bad[0].verdict, bad[0].code.clone(), bad[0].message.clone())
    };
    let silent = ["n1", "n2", "n3", "n4", "n5", "n6"].map(|name| certs::id::NodeId::new(name).unwrap());
    let (verdict, code, message) = found(Ok(Concerns { silent: silent.to_vec(), ..Concerns::default() }));
    assert_eq!((verdict, code.as_str()), (Verdict::Warning, "mesh_problems"));
    assert_eq!(message, "alive and silent when asked: n1, n2, n3, n4, n5 and 1 more");
    let few = Concerns { silent: silent[..1].to_vec(), unasked: 9, ..Concerns::default() };
    assert!(found(Ok(few)).2.ends_with("n1; 9 more were not asked, of a mesh this large"));
    let (verdict, code, message) = found(Err(Error::new("not_found", "nothing is at /v1/concerns")));
    assert_eq!((verdict, code.as_str()), (Verdict::Warning, "mesh_problems_unknown"));
    assert_eq!(message, "a (version 1.0.0) does not tell what others say of themselves: nothing is at /v1/concerns");
}

#[test]
fn expiry_says_whose_certificates_it_did_not_see() {
    let month = Some(Duration::from_secs(30 * 86_400));
    let found = |concerns: Result<Concerns>| {
        let findings = Said { concerns, ..well() }.judge("1.0.0", 10 * DAY, month);
        let one = findings.into_iter().find(|one| one.id == "trust.expiring").unwrap();
        (one.verdict, one.message)
    };
    let (verdict, message) = found(Err(Error::new("not_found", "nothing is here")));
    assert_eq!(verdict, Verdict::Warning);
    assert!(message.ends_with("a does not tell of the certificates of other nodes"), "{message}");
    let silent = vec![certs::id::NodeId::new("b").unwrap()];
    let (verdict, message) = found(Ok(Concerns { silent, ..Concerns::default() }));
    assert_eq!(verdict, Verdict::Warning);
    assert!(message.ends_with("; the certificates of b were not seen"), "{message}");
    let (verdict, message) = found(Ok(Concerns { unasked: 9, ..Concerns::default() }));
    assert_eq!(verdict, Verdict::Ok, "a large mesh is always a sample");
    assert!(message.contains("9 more nodes"), "{message}");
}

#[test]
fn a_node_ca_counts_as_expiring_only_when_it_should_have_been_renewed() {
    let month = Some(Duration::from_secs(30 * 86_400));
    let late = not_well(&well().judge("1.0.0", 16 * DAY, month));
    assert!(
        late.contains(&("trust.expiring", Verdict::Error)) && late.contains(&("trust.node_ca", Verdict::Warning)),
        "{late:?}"
    );
}

#[test]
fn what_the_node_says_keeps_its_own_code_and_hint() {
    let findings = provoked();
    let of = |code: &str| findings.iter().find(|one| one.code == code).unwrap();
    assert_eq!((of("something_new").id, of("something_new").verdict), ("node.problems", Verdict::Error));
    assert_eq!((of("members_missing").id, &*of("members_missing").hint), ("mesh.members", "h"));
    assert_eq!(of("few_enrollers").verdict, Verdict::Warning);
    let by_id = |id: &str| findings.iter().find(|one| one.id == id).unwrap();
    assert_eq!(by_id("mesh.problems").message, "b: m [storage_full]; alive and silent when asked: c");
    assert_eq!(by_id("mesh.problems").verdict, Verdict::Error);
    let expiring = &by_id("trust.expiring").message;
    assert!(
        expiring.contains("the enroller CA ends in") && expiring.contains("the enroller CA of b ends in"),
        "{expiring}"
    );
}
