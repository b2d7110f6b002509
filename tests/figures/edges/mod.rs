//! The figures of what a node knows of services that it does not call.

mod scoping;

use harness::process::Skein;

use crate::Figure;

pub(crate) fn figures(skein: &Skein) -> Vec<Figure> {
    scoping::figures(skein)
}
