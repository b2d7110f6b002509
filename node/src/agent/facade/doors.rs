//! What the data plane has open: this node's gateways and names, what keeps others shut, the credentials that they use.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use membership::view::MemberState;

use super::Agent;
use crate::{
    agent::{
        error::{Error, fail},
        event,
        guarded::Asking,
        whereabouts,
    },
    clock,
    mesh::NotReached,
    secrets::Secrets,
    snapshot::{Captures, Doors, PlaintextPort, Trouble},
    tasks::Tasks,
};

/// Nodes that are named as not reached.
const NOT_REACHED: usize = 8;
/// How often it is looked whether a capture's guard is still there.
const GUARD_LOOK: Duration = Duration::from_secs(1);

impl Agent {
    /// What the data plane says of them.
    pub fn doors(&self) -> Arc<Doors> {
        self.inner.sync.world.current().doors()
    }

    /// Where captured connections are taken.
    pub fn captures(&self) -> Arc<Captures> {
        self.inner.sync.world.current().captures()
    }

    /// Where services beside this node take callers outside the mesh.
    pub fn plaintext(&self) -> Arc<Vec<PlaintextPort>> {
        self.inner.sync.world.current().plaintext()
    }

    /// Where this node listens, and no application.
    pub fn listeners(&self) -> Vec<SocketAddr> {
        let world = &self.inner.sync.world;
        world.look_at_own_ports();
        world.own_ports().listeners
    }

    /// True from when the node serves until it begins to stop.
    pub fn is_listening(&self) -> bool {
        self.inner.listening.load(Relaxed)
    }

    /// The guard of a capture asks; the first time, it is watched for as long as it should ask again.
    pub(in crate::agent) fn guarded(&self, token: u32, tasks: &Tasks) -> Asking<'_> {
        let asking = self.inner.guarded.ask(token);
        if asking.is_first {
            let agent = self.clone();
            tasks.detach("capture guard", async move { agent.watch_guard(token).await });
        }
        asking
    }

    /// A capture ended as somebody wished: that of this guard, or whichever there was.
    pub(in crate::agent) fn release(&self, token: Option<u32>) {
        self.inner.guarded.release(token);
    }

    async fn watch_guard(&self, token: u32) {
        while let Some(has_ended) = self.inner.guarded.has_ended(token, clock::uptime()) {
            if has_ended {
                let message = "connections are captured no more, though nobody switched that off";
                return self.inner.sync.events.note(self.now(), event::Kind::CaptureEnded, self.node(), message);
            }
            tokio::time::sleep(GUARD_LOOK).await;
        }
    }

    /// The node's own credentials.
    pub fn secrets(&self) -> &Secrets {
        &self.inner.secrets
    }

    /// What is to be mended of gateways and names, and of the services outside the mesh that are not reached as documents say.
    pub(super) fn troubles_beyond(&self) -> Vec<Error> {
        let (world, current) = (&self.inner.sync.world, self.inner.sync.world.current());
        let (doors, names, resolvers) = (current.doors(), current.names(), current.resolvers());
        let (outside, tls) = (world.outside_troubles(), current.tls_troubles());
        let of_doors = doors.troubles.iter().chain(&names.troubles).chain(&*resolvers);
        let captured = self.inner.guarded.trouble(clock::uptime());
        of_doors.chain(&outside).chain(&*tls).chain(&captured).map(told).collect()
    }

    /// Data workers that do not turn.
    pub(in crate::agent) fn stuck_workers(&self) -> Option<Error> {
        let stuck = self.inner.sync.tasks.stuck();
        let names = stuck.borrow().join(", ");
        (!names.is_empty()).then(|| {
            let message = format!("{names} does not turn: what it carries hangs, and others send nothing here");
            let hint = "restart the node; it is a defect, or the machine holds the thread up: report it with the stacks of its threads";
            fail("worker_stuck", message, hint)
        })
    }

    /// The mesh address that others are told, where it leads them nowhere. One that is configured may be another device's.
    pub(super) fn address_trouble(&self) -> Option<Error> {
        let (view, config) = (self.view(), self.config());
        if let Some(told) = config.mesh.advertise {
            return whereabouts::deaf(told, config.mesh.listen, &self.inner.sync.world.own_ports().machine);
        }
        let told = view.member(self.node())?.addresses.first()?;
        let others = view.members().values().filter(|member| member.id != *self.node() && member.usable());
        let others = others.filter_map(|member| member.addresses.first().copied());
        whereabouts::trouble(*told, &self.inner.sync.world.own_ports().machine, others)
    }
}

impl Agent {
    /// Nodes that live, and at whose addresses requests from here meet nobody.
    pub(super) fn not_reached(&self) -> Vec<Error> {
        let view = self.view();
        let is_told = |one: &NotReached| {
            let member = view.member(&one.node);
            member.is_some_and(|member| member.state == MemberState::Alive && member.addresses.contains(&one.address))
        };
        let trouble = |NotReached { node, address, reason }: NotReached| {
            let link = self.inner.sync.links.to(&node);
            let dials = if link.is_some_and(|link| !link.dialled()) { "dials this node" } else { "is alive" };
            let message =
                format!("{node} {dials}, and at {address}, which it tells, requests from here meet nobody: {reason}");
            let hint = "let UDP and TCP to that address through; or write one by which it is reached into its [mesh] advertise, and restart it";
            fail("node_not_reached", message, hint)
        };
        let lasting = self.inner.sync.mesh.not_reached();
        lasting.into_iter().filter(is_told).take(NOT_REACHED).map(trouble).collect()
    }
}

pub(super) fn told(one: &Trouble) -> Error {
    fail(one.code, &one.message, one.hint)
}
