//! The figures of policy: agreement with Istio, many documents, subsets that come and go under load, a trial that ends by itself.

pub(crate) mod documents;
mod live;

use harness::process::Skein;

use crate::Figure;

pub(crate) fn figures(skein: &Skein) -> Vec<Figure> {
    let mut all = agreement();
    all.extend(documents::figures());
    all.extend(live::subsets(skein));
    all.extend(live::many(skein));
    all
}

/// None where the corpus is absent.
fn agreement() -> Vec<Figure> {
    let Some(root) = harness::corpus::root() else { return Vec::new() };
    let (agreed, all) = harness::corpus::Verdicts::of(&root).total();
    vec![Figure::at_most(
        "verdicts_differing",
        (all - agreed) as f64 * 100.0 / all as f64,
        "%",
        1.0,
        "validation cases of Istio's own, direct or wrapped, on which we differ",
    )]
}
