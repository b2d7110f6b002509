//! The figures of policy: agreement with Istio, many documents, subsets that come and go under load, a trial that ends by itself.

mod documents;
mod live;

use harness::process::Skein;

use crate::Figure;

pub(crate) fn figures(skein: &Skein) -> Vec<Figure> {
    let mut all = documents::figures();
    all.extend(live::subsets(skein));
    all.extend(live::many(skein));
    all
}
