//! Messages that an engine sends, over the link that was heard last.

use std::sync::Arc;

use certs::id::NodeId;

use super::{Effect, Engine, Lane, LinkId};
use crate::message::Message;

impl Engine {
    pub(super) fn send(&mut self, to: &NodeId, lane: Lane, message: &Message) {
        if let Some(link) = self.links.to(to) {
            self.send_over(to, link, lane, message);
        }
    }

    pub(super) fn send_bytes(&mut self, to: &NodeId, lane: Lane, bytes: Arc<[u8]>) {
        if let Some(link) = self.links.to(to) {
            self.out.push(Effect::Send { to: to.clone(), link, lane, bytes });
        }
    }

    pub(super) fn send_over(&mut self, to: &NodeId, link: LinkId, lane: Lane, message: &Message) {
        self.out.push(Effect::Send { to: to.clone(), link, lane, bytes: message.encode().into() });
    }

    pub(super) fn broadcast(&mut self, lane: Lane, message: &Message) {
        let bytes: Arc<[u8]> = message.encode().into();
        for to in self.links.linked() {
            if let Some(link) = self.links.to(to) {
                self.out.push(Effect::Send { to: to.clone(), link, lane, bytes: bytes.clone() });
            }
        }
    }
}
