//! The figures of seeing: a newcomer's path, what scripts and people get of the command line, what counting costs a request, and a
//! registry of a thousand services.

mod cost;
mod large;
mod listings;
mod machines;
mod newcomer;

use harness::process::Skein;

use crate::{Figure, rooms};

pub(crate) fn figures(skein: &Skein) -> Vec<Figure> {
    rooms(&[
        ("newcomer", &|| newcomer::figures(skein)),
        ("listings", &|| listings::figures(skein)),
        ("cost", &|| cost::figures(skein)),
        ("large", &|| large::figures(skein)),
    ])
}
