//! Whole meshes of the engines that `skein run` runs, in virtual time under a seeded network: latency, loss, blocked
//! paths, deaths, restarts, liars. The same scenario with the same seed gives the same output, but where chitchat itself repairs.

mod dials;
pub mod network;
mod observe;
pub mod play;
pub mod population;
mod queue;
pub mod report;
pub mod scenario;
pub mod twin;
mod virtual_time;
mod weather;
mod zones;
