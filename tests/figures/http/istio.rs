//! How many of Istio's own cases run here and hold. The tests that judge them are run; this reads what they say.

use std::{collections::BTreeMap, path::Path, process::Command};

use crate::Figure;

/// What a room of tests printed and how it ended.
struct Said {
    text: String,
    passed: usize,
    failed: usize,
}

pub(super) fn figures() -> Vec<Figure> {
    let Some(root) = harness::corpus::root() else {
        let because = "shared/istio/corpus is not beside the workspace (set SKEIN_CORPUS)";
        return [SCENARIOS, TABLES].map(|id| Figure::not_measured(id, "cases", 0.0, because)).into();
    };
    let mut all = scenarios(&root);
    all.extend(tables(&root));
    all
}

const SCENARIOS: &str = "scenarios_differing";
const TABLES: &str = "tables_and_authz_differing";

/// Rooms among the scenarios of which the second figure is.
const ROOMS: [&str; 2] = ["istio::authz::", "istio::tables::"];

fn scenarios(root: &Path) -> Vec<Figure> {
    let without = ["istio::", "--skip", ROOMS[0], "--skip", ROOMS[1]];
    let said = match run("scenarios", &without) {
        Ok(said) => said,
        Err(because) => return vec![Figure::not_measured(SCENARIOS, "tests", 0.0, because)],
    };
    let reasons = refusals(&said.text);
    let ran = number_before(&said.text, "of Istio's scenarios ran");
    let listed: usize = reasons.values().sum();
    let reasons: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let files = files(&root.join("scenarios"));
    vec![
        Figure::at_most(
            SCENARIOS,
            (files - (ran + listed).min(files) + said.failed) as f64,
            "cases",
            0.0,
            format!("of {files} scenarios of Istio's, those that neither ran and held nor are refused by name"),
        ),
        Figure::stated(
            "scenarios_held",
            ran as f64,
            "cases",
            "pushed to a mesh of five nodes, called, and as Istio says",
        ),
        Figure::stated(
            "scenarios_not_applicable",
            listed as f64,
            "cases",
            format!("refused by name: {}", reasons.join("; ")),
        ),
    ]
}

fn tables(root: &Path) -> Vec<Figure> {
    let within = run("corpus", &["tables::", "security::", "outlier::", "rbac::"]);
    let said = within.and_then(|within| Ok((within, run("scenarios", &ROOMS)?)));
    let (within, outside) = match said {
        Ok(said) => said,
        Err(because) => return vec![Figure::not_measured(TABLES, "tests", 0.0, because)],
    };
    let rows: usize = std::fs::read_dir(root.join("tables"))
        .into_iter()
        .flatten()
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok())
        .filter_map(|text| Some(serde_json::from_str::<serde_json::Value>(&text).ok()?.as_array()?.len()))
        .sum();
    let inputs = files(&root.join("authz"));
    let text = &outside.text;
    let seen = number_before(text, "rows of Istio's tables ran");
    let unseen = number_before(text, "cannot be seen from outside");
    let pushed = number_before(text, "of Istio's documents of authz ran");
    let asked = number_before(text, "requests and connections");
    let not_run = rows.saturating_sub(seen + unseen) + inputs.saturating_sub(pushed);
    let passed = within.passed + outside.passed;
    vec![
        Figure::at_most(
            TABLES,
            (within.failed + outside.failed + not_run) as f64,
            "cases",
            0.0,
            format!(
                "{passed} tests passed over the {rows} rows of tables and the {inputs} documents of authz; beside those that failed, \
                 rows and documents that did not run against nodes and have no reason count"
            ),
        ),
        Figure::stated(
            "tables_and_authz_held",
            (seen + pushed) as f64,
            "cases",
            format!(
                "{seen} rows and {pushed} documents, of these by {asked} requests and connections, against nodes; {unseen} rows \
                 that nobody outside can see are listed with reasons"
            ),
        ),
    ]
}

fn files(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.path().is_file()).count()
}

/// Runs a room of tests as `cargo test` does, with what they print.
fn run(test: &str, filters: &[&str]) -> Result<Said, String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are a crate of the workspace");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(workspace).args(["test", "--quiet", "-p", "tests", "--test", test, "--"]);
    let output = command.args(filters).arg("--nocapture").output().map_err(|error| format!("cargo test: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let Some(result) = text.lines().find(|line| line.starts_with("test result:")) else {
        return Err(format!("cargo test --test {test} ran nothing: {}", String::from_utf8_lossy(&output.stderr)));
    };
    let (passed, failed) = (number_before(result, "passed"), number_before(result, "failed"));
    Ok(Said { passed, failed, text })
}

/// The number that stands before these words, 0 where they are not.
fn number_before(text: &str, words: &str) -> usize {
    let before = text.find(words).map_or("", |at| text[..at].trim_end());
    before.rsplit(|letter: char| !letter.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// `NAME[, NAME]: refused, REASON` as the scenarios print it, counted by reason.
fn refusals(text: &str) -> BTreeMap<String, usize> {
    let mut reasons = BTreeMap::new();
    for line in text.lines() {
        if let Some((names, reason)) = line.split_once(": refused, ") {
            *reasons.entry(reason.to_owned()).or_default() += names.split(", ").count();
        }
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_tests_say_is_counted() {
        let text = "running 2 tests\na: refused, a kind\nb, c: refused, a port of tcp\nd: refused, a kind\n27 of Istio's scenarios ran, without\n";
        assert_eq!(number_before(text, "of Istio's scenarios ran"), 27);
        assert_eq!(refusals(text), BTreeMap::from([("a kind".to_owned(), 2), ("a port of tcp".to_owned(), 2)]));
        assert_eq!(number_before(text, "no such words"), 0);
        let closing = "68 rows of Istio's tables ran, 4 cannot be seen from outside\n15 of Istio's documents of authz ran, 700 requests and connections\n";
        let words = [
            "rows of Istio's tables ran",
            "cannot be seen from outside",
            "of Istio's documents of authz ran",
            "requests and connections",
        ];
        assert_eq!(words.map(|words| number_before(closing, words)), [68, 4, 15, 700]);
    }
}
