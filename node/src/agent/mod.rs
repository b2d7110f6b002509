//! Writes the snapshot: policy, membership, identity of this node.

pub mod admin;
