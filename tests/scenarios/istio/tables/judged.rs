//! How values of policies meet requests: each row is a rule for requests that bear its number in a header, and one of them is sent.

use std::collections::BTreeSet;

use harness::{
    cluster::{SERVICE_PORT, Service},
    http,
    tokens::Issuer,
};
use serde_json::{Value, json};

use super::{EDGE, Mesh, SERVERS, Seen, Tables, text};

const STRINGS: &str = "authz-string-match";
const TEMPLATES: &str = "authz-path-is-template";

/// Namespace and account of who calls; nobody is outside the mesh.
type Caller = (String, String);

/// Where nothing is said of the caller.
fn anybody() -> Caller {
    ("default".to_owned(), "a".to_owned())
}

/// Who sends the request of a row; `None` is somebody without a certificate.
fn caller(row: &Value) -> Option<Caller> {
    let value = text(row, "value");
    match text(row, "field") {
        "principals" if value.starts_with('<') => None,
        // Whatever the name of its trust domain: here it is the mesh's.
        "principals" => {
            let rest = value.split_once("/ns/").map(|(_, rest)| rest).expect("a principal");
            let (namespace, account) = rest.split_once("/sa/").expect("a principal");
            Some((namespace.to_owned(), account.to_owned()))
        }
        "namespaces" => Some((value.to_owned(), "a".to_owned())),
        _ => Some(anybody()),
    }
}

fn all_callers(tables: &Tables) -> BTreeSet<Caller> {
    tables.rows(STRINGS).iter().filter_map(caller).chain([anybody()]).collect()
}

/// Services of callers, and their local ports in the same order.
pub(super) fn callers(tables: &Tables) -> (Vec<Service>, String) {
    let all = all_callers(tables);
    let service = |(namespace, account): &Caller| Service {
        account: account.clone(),
        ..Service::client(&format!("{namespace}/{account}"))
    };
    let upstream = |(namespace, account): &Caller| {
        format!(
            "\n[[upstream]]\nlisten = \"127.0.0.1:0\"\nservice = \"default/judged\"\nport = {SERVICE_PORT}\nas = \"{namespace}/{account}\"\n"
        )
    };
    (all.iter().map(service).collect(), all.iter().map(upstream).collect())
}

/// The issuer and the subject of a row's token, if it shows one.
fn token(row: &Value) -> Option<(&str, &str)> {
    let words = text(row, "value").strip_prefix("iss=").filter(|_| text(row, "field") == "requestPrincipals")?;
    words.split_once(" sub=")
}

/// A rule for a row: what it compares, beside the row's number.
fn rule(number: usize, row: &Value) -> String {
    let pattern = text(row, "pattern");
    let own = match text(row, "field") {
        field @ ("paths" | "hosts" | "methods") => format!("to: [{{operation: {{{field}: ['{pattern}']}}}}]"),
        field @ ("principals" | "namespaces" | "requestPrincipals") => {
            format!("from: [{{source: {{{field}: ['{pattern}']}}}}]")
        }
        key => {
            return format!(
                "{{when: [{{key: '{key}', values: ['{pattern}']}}, {{key: 'request.headers[x-row]', values: ['{number}']}}]}}"
            );
        }
    };
    format!("{{{own}, when: [{{key: 'request.headers[x-row]', values: ['{number}']}}]}}")
}

/// A key of a row's token, which all issuers have.
fn issuer() -> &'static Issuer {
    static ISSUER: std::sync::OnceLock<Issuer> = std::sync::OnceLock::new();
    ISSUER.get_or_init(Issuer::default)
}

/// The policy of all rows, and the issuers of their tokens.
pub(super) fn documents(tables: &Tables) -> String {
    let strings = tables.rows(STRINGS).iter().enumerate().map(|(number, row)| rule(number, row));
    let templates = tables.rows(TEMPLATES).iter().enumerate().map(|(number, row)| {
        let (path, number) = (text(row, "path"), number + tables.rows(STRINGS).len());
        format!(
            "{{to: [{{operation: {{paths: ['/{path}']}}}}], when: [{{key: 'request.headers[x-row]', values: ['{number}']}}]}}"
        )
    });
    let rules = strings.chain(templates).collect::<Vec<_>>().join(", ");
    let issuers: BTreeSet<&str> =
        tables.rows(STRINGS).iter().filter_map(|row| token(row).map(|(issuer, _)| issuer)).collect();
    let keys = issuer().keys();
    let issuers: Vec<String> = issuers.iter().map(|issuer| format!("{{issuer: '{issuer}', jwks: '{keys}'}}")).collect();
    let selector = "selector: {matchLabels: {app: judged}}";
    format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: users, namespace: default}}\nspec: {{{selector}, jwtRules: [{}]}}\n---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: rows, namespace: default}}\nspec: {{{selector}, rules: [{rules}]}}\n---\n",
        issuers.join(", ")
    )
}

/// Sends what each row says.
pub(super) fn check(mesh: &Mesh, tables: &Tables, seen: &mut Seen) {
    mesh.judged().forget();
    let callers: Vec<Caller> = all_callers(tables).into_iter().collect();
    let ask = |caller: Option<&Caller>, (method, host, path): (&str, &str, &str), headers: &[(&str, &str)]| {
        let via = match caller {
            None => mesh.cluster.node(SERVERS).plaintext("default/judged", SERVICE_PORT),
            Some(caller) => {
                let place = callers.binary_search(caller).expect("it is among them");
                let ready = &mesh.cluster.node(EDGE).running.as_ref().expect("it runs").ready;
                let listen = ready["upstream"][place]["listen"].as_str().and_then(|text| text.parse().ok());
                listen.unwrap_or_else(|| panic!("no upstream {place} in {ready}"))
            }
        };
        let mut connection = http::Connection::open(via).expect("it listens");
        let answer = connection.request(method, host, path, headers, b"").expect("an answer");
        match (answer.status, answer.text().as_str()) {
            (200, "servers default/judged") => true,
            (403, "RBAC: access denied") => false,
            _ => panic!("{method} {host} {path} {headers:?}: {answer:?}"),
        }
    };
    let odd = ("GET", "judged", "/odd");
    assert!(!ask(Some(&anybody()), odd, &[("x", "foobar")]), "without a row's number nothing is let in");
    let mut let_in = 0;
    for (number, row) in tables.rows(STRINGS).iter().enumerate() {
        let (value, number) = (text(row, "value"), number.to_string());
        let (mut head, mut headers) = (odd, vec![("x-row", number.as_str())]);
        match text(row, "field") {
            "paths" => head.2 = value,
            "hosts" => head.1 = value,
            "methods" => head.0 = value,
            "principals" | "namespaces" | "requestPrincipals" => {}
            key => {
                let name = key.strip_prefix("request.headers[").and_then(|rest| rest.strip_suffix(']'));
                headers.push((name.expect("a new field"), value));
            }
        }
        let bearer = token(row).map(|(iss, sub)| issuer().token(&json!({"iss": iss, "sub": sub})));
        let bearer = bearer.map(|token| format!("Bearer {token}"));
        headers.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
        let found = ask(caller(row).as_ref(), head, &headers);
        let_in += usize::from(found);
        seen.row(STRINGS, row, found == (row["match"] == true), &format!("let in: {found}"));
    }
    for (number, row) in tables.rows(TEMPLATES).iter().enumerate() {
        let (path, number) = (text(row, "path"), (number + tables.rows(STRINGS).len()).to_string());
        let headers = [("x-row", number.as_str())];
        let ask = |path: &str| ask(Some(&anybody()), ("GET", "judged", path), &headers);
        // One segment stands for `{*}`, and no more; in a template alone.
        let filled = |one: &str| format!("/{}", path.replace("{**}", "x/y").replace("{*}", one).replace('*', "x/y"));
        let found = [ask(&filled("x")), ask(&filled("x/y"))];
        let_in += found.iter().filter(|one| **one).count();
        let wanted = [true, row["template"] != true];
        seen.row(TEMPLATES, row, found == wanted, &format!("one segment and two let in: {found:?}"));
    }
    let arrived = mesh.judged().arrivals().len();
    assert_eq!(arrived, let_in, "what is refused reaches no application");
}
