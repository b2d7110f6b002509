//! The data planes of several nodes in one process: an application's bytes in, another application's bytes out.

mod authorization;
mod backend;
mod client;
mod forwarding;
mod framing;
mod http2;
mod routing;
mod world;
