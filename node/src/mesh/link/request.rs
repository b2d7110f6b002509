//! What this node asks over a link, and how long it waits for the reply.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::sync::oneshot;

use super::{Kind, LinkError, PeerLink, Shared, Thing, lock};
use crate::clock;

/// Our own requests that wait for replies.
const MAX_PENDING: usize = 256;
/// Longest time for a reply whose pieces go on coming: 4 MiB at 14 KiB/s.
const LONGEST_REPLY: Duration = Duration::from_secs(300);

impl PeerLink {
    /// Asks the peer and waits for its reply.
    ///
    /// # Errors
    /// The link closed, the peer refused, or no reply came in time.
    pub async fn request(&self, kind: u16, body: Bytes, within: Duration) -> Result<Bytes, LinkError> {
        self.ask(kind, body, within, within).await
    }

    /// The same for a reply that may be long, where the way may be slow: its time begins anew with every piece of a reply that comes, for
    /// five minutes at most.
    ///
    /// # Errors
    /// The same.
    pub async fn request_long(&self, kind: u16, body: Bytes, within: Duration) -> Result<Bytes, LinkError> {
        self.ask(kind, body, within, LONGEST_REPLY.max(within)).await
    }

    async fn ask(&self, kind: u16, body: Bytes, within: Duration, most: Duration) -> Result<Bytes, LinkError> {
        let shared = self.shared();
        let id = shared.next_request.fetch_add(1, Relaxed);
        let (told, reply) = oneshot::channel();
        {
            let mut pending = lock(&shared.pending);
            if pending.len() >= MAX_PENDING {
                return Err(LinkError::Full);
            }
            pending.insert(id, told);
        }
        let _forget = Forget { shared, id };
        let mut bytes = BytesMut::with_capacity(2 + body.len());
        bytes.put_u16(kind);
        bytes.put(body);
        shared.push(Thing { kind: Kind::Request, id, bytes: bytes.freeze() })?;
        tokio::select! {
            reply = reply => match reply {
                Ok(Some(reply)) => Ok(reply),
                Ok(None) => Err(LinkError::Refused),
                Err(_) => Err(shared.end()),
            },
            () = shared.no_piece(within, most) => Err(LinkError::Timeout(within)),
            () = shared.closed.cancelled() => Err(shared.end()),
        }
    }
}

impl Shared {
    /// Waits until no piece of a reply has come for so long, or until the longest time is over.
    async fn no_piece(&self, within: Duration, most: Duration) {
        let begun = clock::uptime();
        let since = |then: u64| Duration::from_millis(clock::uptime().saturating_sub(then));
        loop {
            let quiet = since(begun.max(self.replied.load(Relaxed)));
            let left = within.saturating_sub(quiet).min(most.saturating_sub(since(begun)));
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }
}

/// Forgets a request that nobody waits for any more.
struct Forget<'a> {
    shared: &'a Shared,
    id: u32,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(&self.shared.pending).remove(&self.id);
    }
}
