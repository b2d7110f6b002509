//! Lint without a mesh: what is wrong, where, and what an author has silenced.

use std::path::Path;

use harness::process::Output;
use serde_json::Value;

use crate::{skein, virtual_service};

pub(crate) fn lint(folder: &Path, more: &[&str]) -> Output {
    let output = skein().command().args(["policy", "lint"]).arg(folder).args(more).env("HOME", folder).output();
    let output = output.expect("skein can be started");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Output { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

#[test]
fn what_push_refuses_lint_names_and_one_file_hides_no_other() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let write = |name: &str, text: &[u8]| std::fs::write(folder.path().join(name), text).expect("a file");
    write("a.yaml", b"# nothing yet\n");
    let empty = lint(folder.path(), &["-o", "json"]).expect_code(2);
    assert_eq!(empty.error()["error"]["code"], "usage", "{empty:?}");
    write("b.yaml", b"apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {}\n");
    let pod = lint(folder.path(), &[]).expect_code(0).out;
    assert!(pod.contains("b.yaml:1: Pod is Kubernetes' kind") && pod.contains("refused by push"), "{pod}");
    assert!(pod.contains("2 of 2 files are valid; push refuses 1 of them"), "{pod}");
    let named =
        skein().command().args(["policy", "lint", "-f"]).arg(folder.path()).output().expect("it can be started");
    assert_eq!(String::from_utf8_lossy(&named.stdout), pod, "named as push and plan take it");
    write("c.yaml", b"\xff\xfe\x00");
    write("d.yaml", b"apiVersion: networking.istio.io/v1\nkind: VirtualServise\nmetadata: {name: x}\nspec: {}\n");
    let both = lint(folder.path(), &[]).expect_code(2);
    let said = format!("{}{}", both.out, both.err);
    assert!(said.contains("c.yaml is not UTF-8 text") && said.contains("VirtualServise"), "{said}");
}

#[test]
fn warnings_are_shown_counted_and_silenced() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
    let route = "  - fault: {abort: {httpStatus: 503, percentage: {value: 1}}}\n    route:\n    - destination: {host: reviews}\n";
    let newer = virtual_service(route).replacen("name: reviews", "name: younger", 1);
    write("a.yaml", &virtual_service(route));
    write("b.yaml", &newer);
    let shown = lint(folder.path(), &[]).expect_code(0).out;
    for word in
        ["warning[SKN0203]", "b.yaml", "warning[SKN0305]", "shop/reviews claims", "2 of 2 files are valid", " hint: "]
    {
        assert!(shown.contains(word), "`{word}` is not in {shown}");
    }
    let strict = lint(folder.path(), &["--strict", "-o", "json"]).expect_code(3);
    assert_eq!(strict.error()["error"]["code"], "warnings", "{strict:?}");
    let entries = strict.json();
    let codes = |entry: &Value| -> Vec<String> {
        let problems = entry["problems"].as_array().expect("a list");
        problems.iter().map(|one| format!("{} {}", one["code"], one["severity"]).replace('"', "")).collect()
    };
    // The one that wins is told of the other, and that is no warning.
    assert_eq!(codes(&entries[0]), ["SKN0203 warning", "SKN0305 info"], "{entries}");
    assert_eq!(codes(&entries[1]), ["SKN0203 warning", "SKN0305 warning"], "{entries}");

    let silent = |text: &str, codes: &str| {
        text.replacen("metadata:\n", &format!("metadata:\n  annotations:\n    skein.dev/lint-ignore: \"{codes}\"\n"), 1)
    };
    write("a.yaml", &silent(&virtual_service(route), "SKN0203"));
    write("b.yaml", &silent(&newer, "SKN0203, SKN0305"));
    lint(folder.path(), &["--strict"]).expect_code(0);
    write("b.yaml", &silent(&newer, "SKN0203, SKN0305, SKN0101").replace("fault", "fautl"));
    let invalid = lint(folder.path(), &["-o", "json"]).expect_code(2);
    assert_eq!(codes(&invalid.json()[1]), ["SKN0101 error"], "{invalid:?}");
}

#[test]
fn an_end_that_has_passed_is_a_warning() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let ending = |end: &str| {
        let annotated = format!("metadata:\n  annotations:\n    skein.dev/expires: \"{end}\"\n");
        let text =
            virtual_service("  - route:\n    - destination: {host: reviews}\n").replacen("metadata:\n", &annotated, 1);
        std::fs::write(folder.path().join("a.yaml"), text).expect("a file");
        lint(folder.path(), &["--strict", "-o", "json"])
    };
    let told = ending("2020-01-01T00:00:00Z").expect_code(3).json();
    let problem = &told[0]["problems"][0];
    assert_eq!(
        (&problem["code"], &problem["severity"], &problem["line"]),
        (&"SKN0169".into(), &"warning".into(), &5.into())
    );
    assert_eq!(told[0]["valid"], true, "{told}");
    ending("2500-01-01T00:00:00Z").expect_code(0);
}

#[test]
fn a_schema_is_printed_without_a_mesh() {
    let output = skein().command().args(["policy", "schema", "vs"]).output().expect("skein can be started");
    let schema: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&schema["title"], &schema["additionalProperties"]), (&"VirtualService".into(), &false.into()));
}

#[test]
fn lint_fails_where_push_is_sure_to_refuse() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
    let route = virtual_service("  - route:\n    - destination: {host: reviews}\n");
    let unbuilt = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: edge}\nspec:\n  selector: {a: b}\n  servers:\n  \
                   - port: {number: 443, name: tls, protocol: TLS}\n    hosts: ['*.local']\n    tls: {mode: AUTO_PASSTHROUGH}\n";
    write("a.yaml", unbuilt);
    let output = lint(folder.path(), &["-o", "json"]).expect_code(2);
    let entry = &output.json()[0];
    assert_eq!((&entry["valid"], &entry["refused"]), (&true.into(), &true.into()), "{entry}");
    let shown = lint(folder.path(), &[]).expect_code(2);
    assert!(shown.out.contains("error[SKN0102]") && shown.out.contains("push refuses 1 of them"), "{shown:?}");

    write("a.yaml", &format!("{route}---\n{route}"));
    let twins = lint(folder.path(), &[]).expect_code(2).out;
    assert!(twins.contains("error[SKN0010]") && twins.contains("stands twice, before on line 1"), "{twins}");
    write("a.yaml", &route);
    write("b.yaml", &route);
    let apart = lint(folder.path(), &["--strict"]).expect_code(0).out;
    assert!(apart.contains("note[SKN0010]") && apart.contains("a.yaml:1"), "{apart}");
}
