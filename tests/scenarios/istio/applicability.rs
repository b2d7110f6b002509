//! Which calls do not run here, and what some scenarios need beside their own documents.

/// Ports of workloads that documents name: the scenario, what it writes, whose it is. Here an application listens where there is room.
pub(super) const OWN_PORTS: &[(&str, &str, &str)] = &[("mtls-port-disable", "    80:\n", "httpbin.bar")];

/// `httpbin.legacy`, `sleep.legacy`: of the namespace that is outside the mesh. Calls from there into the mesh run, in plaintext. Calls
/// to it do not: Istio passes on what it captures, and a proxy port refuses hosts that the mesh does not know, which is checked.
pub(super) fn is_outside(name: &str) -> bool {
    name.ends_with(".legacy")
}

/// What is pushed with a scenario's documents, where Istio has said it in another place than the scenario's documents.
pub(super) const BESIDE: &[(&str, &str)] = &[
    // Its notes: slashes are not merged, as Istio's own tests have it. Skein merges them unless told otherwise.
    (
        "authz-path-template",
        "apiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {pathNormalization: {normalization: BASE}}\n",
    ),
    // Istio has no kind for it, and the scenario describes an EnvoyFilter in a comment: 4 tokens, 4 more each minute, for
    // all of the workload's inbound requests of one proxy, with a header of its own on the refusal.
    (
        "ratelimit-local",
        "apiVersion: skein.dev/v1\nkind: RateLimit\nmetadata: {name: productpage, namespace: default}\nspec: {selector: {matchLabels: {app: productpage}}, rules: [{limit: {requests: 4, interval: 60s}, scope: node, responseHeaders: {x-local-rate-limit: 'true'}}]}\n",
    ),
];

/// Whom the calls of a scenario mean that do not say it: the workload that its documents select.
pub(super) const CALLED: &[(&str, &str)] =
    &[("jwt-deny-missing", "httpbin.foo"), ("jwt-deny-missing-path", "httpbin.foo")];

/// What the node of the service must have logged by a scenario's end.
pub(super) const LOGGED: &[(&str, &[&str])] =
    &[("authz-dry-run", &["a policy on trial would deny", "AuthorizationPolicy foo/deny-path-headers"])];
