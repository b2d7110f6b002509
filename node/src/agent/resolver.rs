//! The machine's own resolver. It blocks for as long as it likes, 30 s and more where no server answers, so each kind of names has threads
//! of its own: neither the disk nor other names wait.

use std::{
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
};

use crate::tasks::apart::Apart;

/// Names that the configuration writes (nodes of the mesh): a handful.
pub(super) static NODES: Resolver = Resolver::new("names of nodes", 4);

/// Looks names up on so many threads.
#[derive(Debug)]
pub(super) struct Resolver(Apart);

impl Resolver {
    pub(super) const fn new(name: &'static str, at_once: usize) -> Self {
        Self(Apart::new(name, at_once))
    }

    /// The addresses of a host, each with the port. One that is an address waits for nothing.
    pub(super) async fn host(&'static self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![(address, port).into()]);
        }
        let host = host.to_owned();
        self.run(move || Ok((host, port).to_socket_addrs()?.collect())).await
    }

    /// Those of `HOST:PORT`.
    pub(super) async fn host_and_port(&'static self, text: &str) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = text.parse() {
            return Ok(vec![address]);
        }
        let text = text.to_owned();
        self.run(move || Ok(text.to_socket_addrs()?.collect())).await
    }

    /// Whatever asks the resolver, and what belongs to that.
    pub(super) async fn run<T: Send + 'static>(
        &'static self,
        ask: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        self.0.run(ask).await?
    }
}
