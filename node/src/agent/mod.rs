//! Writes the snapshot: policy, membership, identity of this node. [`Agent`] is what the admin interface sees of it.

pub mod addresses;
pub mod admin;
pub mod book;
pub mod catch_up;
pub mod checks;
pub mod drift;
pub mod enrol;
pub mod error;
pub mod event;
mod exchange;
mod facade;
mod fold;
pub mod hearing;
pub mod identity;
pub mod init;
pub mod join;
pub mod jwks;
pub mod links;
pub mod local;
pub mod members;
pub mod outliers;
pub mod peers;
pub mod receipt;
pub mod renew;
pub mod rotation;
pub mod shares;
pub mod socket;
pub mod state_dir;
pub mod store;
pub mod sync;
pub mod timeline;
pub mod traffic;
pub mod wire;
pub mod workload;
pub mod world;

pub use facade::{Agent, Apply, EnrollerRequest, IdentityFacts, LeafFacts, Pushed, Wait};
