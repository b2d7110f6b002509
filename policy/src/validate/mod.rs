//! Rules between documents: lint's warnings, of which push refuses some.

use crate::{Problem, history::State, hosts::Registry, parse::Located};

pub use crate::codes::{UNKNOWN_HOST, UNKNOWN_SUBSET};

/// Complaints about these documents together with those that live in the mesh. All are warnings.
pub fn between(_documents: &[Located], _state: &State, _registry: &dyn Registry) -> Vec<Problem> {
    todo!()
}
