//! Writes the snapshot: policy, membership, identity of this node.

pub mod admin;
pub mod checks;
pub mod error;
pub mod state_dir;
pub mod store;
