//! Istio's own documents and verdicts, read where they lie.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use policy::{Kind, Severity, parse};

/// `SKEIN_CORPUS`, or `shared/istio/corpus` beside the workspace; `None` where there is none.
pub fn root() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/istio/corpus");
    let root = std::env::var_os("SKEIN_CORPUS").map_or(beside, PathBuf::from);
    root.is_dir().then_some(root)
}

/// Cases on which we differ from Istio, and why.
const DIFFERING: &[(&str, &str)] = &[(
    "virtualservice/wildcarddomainforvirtualserviceboundtogateway-11-ip-address.yaml",
    "the case is of a function for names; Istio's rule for a VirtualService lets addresses through after it",
)];

/// How our validation compares with Istio's.
#[derive(Debug, Default)]
pub struct Verdicts {
    /// By kind: cases that agree, and all cases.
    pub by_kind: BTreeMap<String, (usize, usize)>,
    /// Cases that differ without a reason, with what we say.
    pub wrong: Vec<String>,
}

impl Verdicts {
    /// Every case of a kind that has a place here and whose verdict is Istio's own.
    ///
    /// # Panics
    /// When the corpus is not what it says it is.
    pub fn of(root: &Path) -> Self {
        let table = std::fs::read_to_string(root.join("validation/verdicts.tsv")).expect("a table of verdicts");
        let mut verdicts = Self::default();
        for row in table.lines().skip(1) {
            let columns: Vec<&str> = row.split('\t').collect();
            let (file, kind, verdict, confidence) = (columns[0], columns[1], columns[2], columns[9]);
            if kind.parse::<Kind>().is_err() || !matches!(confidence, "direct" | "wrapped") {
                continue;
            }
            let text = std::fs::read_to_string(root.join("validation").join(file)).expect("a case of the table");
            let parsed = parse::yaml(file, &text, "default");
            let errors: Vec<_> = parsed.problems.iter().filter(|one| one.severity == Severity::Error).collect();
            let (agreed, all) = verdicts.by_kind.entry(kind.to_owned()).or_default();
            *all += 1;
            if errors.is_empty() == (verdict == "valid") {
                *agreed += 1;
            } else if !DIFFERING.iter().any(|(known, _)| *known == file) {
                verdicts.wrong.push(format!("{file}: {verdict}, yet {errors:?}"));
            }
        }
        verdicts
    }

    /// Cases that agree, and all cases.
    pub fn total(&self) -> (usize, usize) {
        self.by_kind.values().fold((0, 0), |(agreed, all), (more, cases)| (agreed + more, all + cases))
    }
}
