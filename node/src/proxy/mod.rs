//! Reads the snapshot: requests in and out.

pub mod failure;
mod http;
