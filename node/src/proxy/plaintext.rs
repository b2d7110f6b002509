//! The ports at which services beside this node take callers outside the mesh: they come and go with the configuration.

use super::{
    context::Context,
    inbound, listen,
    local::LocalPort,
    plane::{ApplyError, Listen, Serves},
};
use crate::{
    config::{Service, SpeakerName},
    snapshot::PlaintextPort,
};
use arc_swap::ArcSwap;
use std::{
    collections::{HashMap, HashSet},
    net::{SocketAddr, TcpListener},
    sync::Arc,
};
use tokio::{net::TcpStream, sync::mpsc};
use tokio_util::sync::CancellationToken;

/// What is open, by where the configuration wants it and for what.
#[derive(Debug, Default)]
pub(super) struct Ports(HashMap<Key, Open>);

/// An address; where its port is whichever is free, several may have it, and it is one port's.
type Key = (SocketAddr, Option<LocalPort>);

#[derive(Debug)]
struct Open {
    bound: SocketAddr,
    /// Whose it is changes with the configuration.
    door: Arc<ArcSwap<Door>>,
    close: CancellationToken,
}

/// What an open port is for.
#[derive(Debug)]
pub(super) struct Door {
    port: LocalPort,
    /// It is open no more, or for another port: who is there may end the request under way.
    shut: CancellationToken,
}

/// What is to be open; sockets are there for what is not open yet.
#[derive(Debug)]
pub(super) struct Wanted(Vec<(Key, LocalPort, Option<Bound>)>);

/// Where it is, and the sockets of all workers.
type Bound = (SocketAddr, Vec<TcpListener>);

/// Serves one connection that came in at such a port.
pub(super) async fn serve(context: Arc<Context>, door: Arc<Door>, stream: TcpStream, remote: SocketAddr) {
    let Ok(local) = stream.local_addr() else { return };
    inbound::serve_plaintext(context, &door.port, stream, (remote, local), &door.shut).await;
}

impl Ports {
    /// Binds what the services' ports want and is not open, for so many workers.
    ///
    /// # Errors
    /// An address cannot be had; nothing has changed then.
    pub(super) fn bind(&self, services: &[Service], workers: usize) -> Result<Wanted, ApplyError> {
        let mut wanted = Vec::new();
        for service in services {
            for port in &service.ports {
                let Some(address) = port.plaintext else { continue };
                let port = LocalPort { service: SpeakerName::of(service), number: port.number };
                let key = (address, (address.port() == 0).then(|| port.clone()));
                let bound = match self.0.contains_key(&key) {
                    true => None,
                    false => {
                        let bound = listen::bind(address, workers);
                        Some(bound.map_err(|source| ApplyError::Listen { address, source })?)
                    }
                };
                wanted.push((key, port, bound));
            }
        }
        Ok(Wanted(wanted))
    }

    /// Opens what is wanted, and closes all else: connections of requests after the one under way, those of bytes when they end.
    ///
    /// # Errors
    /// The workers are gone.
    pub(super) async fn take_over(
        &mut self,
        wanted: Wanted,
        workers: &[mpsc::Sender<Listen>],
    ) -> Result<Vec<PlaintextPort>, ApplyError> {
        let keys: HashSet<Key> = wanted.0.iter().map(|(key, ..)| key.clone()).collect();
        self.0.retain(|key, open| {
            let stays = keys.contains(key);
            if !stays {
                open.close.cancel();
                open.door.load().shut.cancel();
            }
            stays
        });
        let mut all = Vec::new();
        for (key, port, fresh) in wanted.0 {
            if let Some((bound, sockets)) = fresh {
                let door = Door { port: port.clone(), shut: CancellationToken::new() };
                let (close, door) = (CancellationToken::new(), Arc::new(ArcSwap::from_pointee(door)));
                for (worker, socket) in workers.iter().zip(sockets) {
                    let serves = Serves::Plaintext(Arc::clone(&door));
                    let listen = Listen { socket, serves, close: close.clone() };
                    worker.send(listen).await.map_err(|_| ApplyError::Stopped)?;
                }
                self.0.insert(key.clone(), Open { bound, door, close });
            } else if let Some(open) = self.0.get(&key)
                && open.door.load().port != port
            {
                let door = Door { port: port.clone(), shut: CancellationToken::new() };
                open.door.swap(Arc::new(door)).shut.cancel();
            }
            let listen = self.0.get(&key).map_or(key.0, |open| open.bound);
            all.push(PlaintextPort { listen, service: port.service, port: port.number });
        }
        Ok(all)
    }
}
