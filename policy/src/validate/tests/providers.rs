//! External authorisers.

use super::*;

const POLICY: &str = "---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask}
spec: {action: CUSTOM, provider: {name: opa}, rules: [{}]}
";

fn config(name: &str, how: &str) -> String {
    format!(
        "---\napiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {{name: default}}\n\
         spec: {{extensionProviders: [{{name: {name}, {how}}}]}}\n"
    )
}

fn http(service: &str, port: u16) -> String {
    config("opa", &format!("envoyExtAuthzHttp: {{service: {service}.default.svc.cluster.local, port: {port}}}"))
}

#[test]
fn a_policy_names_an_authoriser_that_is_there() {
    let fields_of = |text: &str, state: &State| -> Vec<String> {
        let parsed = parse::yaml("f.yaml", text, "default");
        assert!(parsed.is_valid(), "{:#?}", parsed.problems);
        let problems = between(&parsed.documents, state, &table());
        problems.into_iter().filter(|one| one.code == codes::UNKNOWN_PROVIDER).map(|one| one.field).collect()
    };
    assert_eq!(fields_of(POLICY, &state_of("")), ["spec.provider.name"]);
    assert!(fields_of(&format!("{POLICY}{}", http("reviews", 9080)), &state_of("")).is_empty());
    assert!(fields_of(POLICY, &state_of(&http("reviews", 9080))).is_empty());
    let other = http("reviews", 9080).replace("opa", "opaa");
    assert_eq!(fields_of(POLICY, &state_of(&other)), ["spec.provider.name"]);
    // A MeshConfig that takes it away says so itself.
    let both = format!("{}{POLICY}", http("reviews", 9080));
    assert_eq!(fields_of(&other, &state_of(&both)), ["spec.extensionProviders"]);
    assert!(refuses_push(codes::UNKNOWN_PROVIDER, Severity::Warning));
    // Lint of a file alone knows nothing of the mesh.
    assert!(fields_of(POLICY, &State::nothing()).is_empty());
}

#[test]
fn an_authoriser_is_a_service_that_can_be_asked() {
    assert!(found(&http("reviews", 9080), &table()).is_empty());
    let said = |text: &str, code| fields(text, &table(), code);
    let field = |name: &str| format!("spec.extensionProviders[0].envoyExtAuthzHttp.{name}");
    assert_eq!(said(&http("revews", 9080), codes::UNKNOWN_HOST), [field("service")]);
    assert_eq!(said(&http("reviews", 80), codes::UNKNOWN_PORT), [field("port")]);
    let grpc = http("reviews", 9080).replace("envoyExtAuthzHttp", "envoyExtAuthzGrpc");
    assert_eq!(said(&grpc, codes::PROVIDER_PORT), ["spec.extensionProviders[0].envoyExtAuthzGrpc.port"]);
}
