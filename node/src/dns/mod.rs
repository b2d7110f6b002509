//! Names of services for applications that resolve them: a small DNS server on loopback, which answers for the mesh and passes
//! everything else on to the machine's own resolvers.
//!
//! [`Addresses`] gives each service a loopback address, [`answer`] makes of a query what is to be done with it; both are pure. The data
//! plane listens at the addresses (`proxy::loopback`). [`Server`] has the sockets, [`upstream`] the resolvers behind it.

mod addresses;
mod answer;
mod server;
mod upstream;

pub use addresses::Addresses;
pub use server::{Server, Sockets};
