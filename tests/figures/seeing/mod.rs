//! The figures of seeing: a newcomer's path, what scripts and people get of the command line, what counting costs a request, and a
//! registry of a thousand services.

mod cost;
mod large;
mod listings;
mod machines;
mod newcomer;

use harness::process::Skein;

use crate::Figure;

pub(crate) fn figures(skein: &Skein) -> Vec<Figure> {
    let rooms: [(&str, &dyn Fn() -> Vec<Figure>); 4] = [
        ("newcomer", &|| newcomer::figures(skein)),
        ("listings", &|| listings::figures(skein)),
        ("cost", &|| cost::figures(skein)),
        ("large", &|| large::figures(skein)),
    ];
    // A word after `seeing` names one room, for whoever works on it.
    let only: Vec<String> =
        std::env::args().skip(2).filter(|word| rooms.iter().any(|(name, _)| name == word)).collect();
    let wanted = |name: &str| only.is_empty() || only.iter().any(|word| word == name);
    rooms.iter().filter(|(name, _)| wanted(name)).flat_map(|(_, figures)| figures()).collect()
}
