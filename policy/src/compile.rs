//! Documents -> what the proxy reads, per host; what did not change is taken over from the previous one.

use std::sync::Arc;

use crate::history::State;

/// What the proxy reads. Immutable.
#[derive(Debug, Default)]
pub struct Compiled {}

impl Compiled {
    /// Compiles a state; routes whose documents did not change are shared with `previous`.
    pub fn build(_state: &State, _previous: Option<&Arc<Compiled>>) -> Compiled {
        todo!()
    }
}
