//! Streams for bytes: by TCP where that answers, which costs half per byte, else by QUIC.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{Call, Error, Group, Protocol, Transport, VirtualStream, Worker, adopt};

/// Silence on TCP after which QUIC is tried beside it; half of the call's patience where that is less.
const TCP_ALONE: Duration = Duration::from_secs(1);

impl Worker {
    /// A stream of its own for bytes, which is not kept. Tunnels prefer TCP.
    ///
    /// # Errors
    /// None could be had; nothing was sent.
    pub async fn tunnel(&self, call: &Call<'_>) -> Result<VirtualStream, Error> {
        let shared = &self.shared;
        if shared.mesh.is_closed() {
            return Err(Error::Stopping);
        }
        let group = shared.pool.group(call);
        let transport = shared.mesh.shared.transport;
        if call.preface.protocol != Protocol::Tcp || transport == Transport::Quic {
            return self.prefaced(&group, call).await;
        }
        while let Some(secure) = group.claim() {
            if let Ok(stream) = adopt(&group, secure, call.preface).await {
                return Ok(stream);
            }
        }
        // Where UDP is blocked there is nothing beside TCP.
        if transport == Transport::Tcp || self.is_tcp_only(&group, call) {
            return self.bulk(&group, call).await;
        }
        if shared.mesh.shared.tcp_blocked.contains(call.address) {
            return match self.prefaced(&group, call).await {
                Err(Error::Connect { .. }) => self.bulk(&group, call).await,
                result => result,
            };
        }
        self.raced(&group, call).await
    }

    /// By TCP, and after a silence by QUIC beside it: a firewall may let UDP alone through.
    async fn raced(&self, group: &Arc<Group>, call: &Call<'_>) -> Result<VirtualStream, Error> {
        // Waiting for this node's own limit is no silence of the network.
        let _leave = self.counted(group.dial_permit().await)?;
        let mut bulk = std::pin::pin!(self.over_tcp(group, call));
        let failed = match timeout(TCP_ALONE.min(call.patience / 2), &mut bulk).await {
            Ok(Err(Error::Connect { .. })) => true,
            Ok(result) => return result,
            Err(_) => false,
        };
        let mut quic = std::pin::pin!(self.prefaced(group, call));
        let stream = if failed {
            quic.await?
        } else {
            tokio::select! {
                result = &mut bulk => match result {
                    Err(Error::Connect { .. }) => quic.await?,
                    result => return result,
                },
                result = &mut quic => match result {
                    Ok(stream) => stream,
                    Err(_) => return bulk.await,
                },
            }
        };
        // The group may have dialled a TCP connection meanwhile after all.
        if stream.carrier() == "quic" {
            self.shared.mesh.shared.tcp_blocked.add(call.address);
        }
        Ok(stream)
    }

    /// On a TLS connection that is dialled for it.
    async fn bulk(&self, group: &Arc<Group>, call: &Call<'_>) -> Result<VirtualStream, Error> {
        let _leave = self.counted(group.dial_permit().await)?;
        self.over_tcp(group, call).await
    }
}
