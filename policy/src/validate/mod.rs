//! Rules between documents: lint's warnings, of which push refuses some.

use crate::{Problem, history::State, hosts::Registry, parse::Located};

/// A destination's host that neither the mesh nor the push defines. Push refuses it unless the code is allowed.
pub const UNKNOWN_HOST: &str = "SKN0301";
/// A destination's subset that neither the mesh nor the push defines. Push refuses it unless the code is allowed.
pub const UNKNOWN_SUBSET: &str = "SKN0302";

/// Complaints about these documents together with those that live in the mesh. All are warnings.
pub fn between(_documents: &[Located], _state: &State, _registry: &dyn Registry) -> Vec<Problem> {
    todo!()
}
