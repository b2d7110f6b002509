//! One machine's Skein process: proxy and agent in one.

pub mod accounts;
pub mod agent;
pub mod allocator;
pub mod app;
pub mod balance;
pub mod capture;
pub mod cli;
pub mod clock;
pub mod config;
mod connect;
pub mod demo;
pub mod descriptors;
pub mod dns;
pub mod error;
pub mod http1;
mod lock;
pub mod logging;
pub mod mesh;
pub mod proxy;
pub mod secrets;
pub mod snapshot;
mod spare;
pub mod tasks;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod web;
