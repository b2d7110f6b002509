//! Services that name a WorkloadGroup: what it says of them holds on every node, without a word in their files.

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    eventually, http,
};
use serde_json::{Value, json};

use crate::{skein, subsets};

fn group(spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: WorkloadGroup\nmetadata: {{name: reviews, namespace: shop}}\nspec: {spec}\n---\n"
    )
}

/// `reviews` leaves account, check and all labels but `app` to its group.
fn mesh() -> Cluster {
    let reviews = Service {
        group: "reviews".to_owned(),
        account: "reviews".to_owned(),
        labels: vec![("app".to_owned(), "reviews".to_owned())],
        ..Service::version("shop/reviews", "")
    };
    let plans = [("web", Plan::with([Service::client("shop/web")])), ("apps", Plan::with([reviews]))];
    let cluster = Cluster::start(skein(), &plans);
    cluster.wait_members(PATIENCE);
    cluster
}

fn problem(cluster: &Cluster, code: &str) -> Option<String> {
    let status = cluster.json("apps", &["status"]);
    let problems = status["problems"].as_array().cloned().unwrap_or_default();
    problems.iter().find(|one| one["code"] == code).map(|one| one["message"].to_string())
}

fn endpoint(cluster: &Cluster) -> Value {
    cluster.json("web", &["endpoints"])[0].clone()
}

#[test]
fn labels_account_and_readiness_come_from_the_group() {
    let cluster = mesh();
    eventually("the node says what it lacks", || {
        problem(&cluster, "group_unknown").map(drop).ok_or("nothing".to_owned())
    });
    let version = |version: &str| {
        group(&format!(
            "{{metadata: {{labels: {{app: other, version: {version}}}}}, template: {{serviceAccount: reviews, weight: 3}},
              probe: {{httpGet: {{port: 9080, path: /ready}}, periodSeconds: 1, failureThreshold: 1}}}}"
        ))
    };
    let to_v1 = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews, namespace: shop}\nspec: {hosts: [reviews], http: [{route: [{destination: {host: reviews, subset: v1}}]}]}\n";
    // Until its group says as whom it serves, the node may not, and nobody knows the service.
    cluster.push("web", &version("v1"), &["--wait", "all"]).expect_code(0);
    cluster.wait_endpoints("shop/reviews", 1);
    let documents = format!("{}---\n{to_v1}", subsets(&["v1"]));
    cluster.push("web", &documents, &["--wait", "all"]).expect_code(0);
    let get = || http::get(cluster.node("web").outbound(), "reviews", "/").map(|answer| answer.status);
    eventually("the subset has the endpoint", || match get()? {
        200 => Ok(()),
        other => Err(format!("{other}: {}", endpoint(&cluster))),
    });
    let found = endpoint(&cluster);
    assert_eq!(
        (&found["labels"], &found["weight"]),
        (&json!({"app": "reviews", "version": "v1"}), &json!(3)),
        "{found}"
    );
    assert_eq!(found["account"], "shop/reviews", "{found}");
    assert_eq!(problem(&cluster, "group_unknown"), None);

    // The application says by itself when it is ready, where the group asks.
    let backend = &cluster.node("apps").backends[0];
    backend.answer_path_with("/ready", 503);
    eventually("it is not ready", || {
        if endpoint(&cluster)["health"] == "unhealthy" { Ok(()) } else { Err("it is".to_owned()) }
    });
    backend.answer_path_with("/ready", 200);
    eventually("it is ready", || {
        if endpoint(&cluster)["health"] == "healthy" { Ok(()) } else { Err("not yet".to_owned()) }
    });

    cluster.push("web", &version("v2"), &["--wait", "all"]).expect_code(0);
    eventually("the subset is empty", || match get()? {
        503 => Ok(()),
        other => Err(format!("{other}: {}", endpoint(&cluster))),
    });
    let elsewhere = group("{template: {serviceAccount: reviews}, probe: {tcpSocket: {port: 1}}}");
    cluster.push("web", &elsewhere, &["--wait", "all"]).expect_code(0);
    eventually("the node says which port it lacks", || {
        problem(&cluster, "group_probe").map(drop).ok_or("nothing".to_owned())
    });
    let refused = cluster.push("web", &group("{template: {}, probe: {exec: {command: [id]}}}"), &[]);
    assert!(refused.code == 2 && refused.err.contains("`exec`"), "{refused:?}");
}
