//! What is allowed and where it goes. Pure: time and randomness come in as arguments, nothing here waits.
//!
//! Text becomes a [`document::Document`] in [`parse`]; changesets fold to a [`history::State`]; a state compiles to what the
//! proxy reads ([`compile::Compiled`]), and [`route::route`] finds a request's route in it. [`authorize::Authorizer`] says who may do
//! what at a workload.

pub mod authorize;
pub mod changeset;
pub mod codes;
pub mod compile;
mod decode;
pub mod document;
pub mod headers;
pub mod history;
pub mod hosts;
pub mod kinds;
pub mod normalize;
pub mod operator;
pub mod parse;
pub mod problem;
pub mod retry;
pub mod route;
pub mod schema;
#[cfg(test)]
mod testing;
pub mod token;
mod tree;
pub mod validate;

pub use decode::nearest;
pub use document::{Document, DocumentId, Kind, Spec};
pub use hosts::Registry;
pub use problem::{Problem, Severity};
