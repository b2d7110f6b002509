//! Writes the snapshot: policy, membership, identity of this node. [`Agent`] is what the admin interface sees of it.

pub mod admin;
pub mod book;
pub mod checks;
pub mod enrol;
pub mod error;
pub mod event;
mod exchange;
mod facade;
pub mod identity;
pub mod init;
pub mod join;
pub mod receipt;
pub mod state_dir;
pub mod store;
pub mod wire;

pub use facade::{Agent, IdentityFacts, LeafFacts, Pushed, Wait};
