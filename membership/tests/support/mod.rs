//! What the tests of this crate share.

#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod crowd;
pub(crate) mod sim;
pub(crate) mod world;
