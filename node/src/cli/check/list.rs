//! Every check: its stable name, what it looks at, what to do about it.

use serde::Serialize;

/// One check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    /// `GROUP.NAME`, stable.
    pub(super) id: &'static str,
    /// What is looked at.
    pub(super) about: &'static str,
    /// What to do where it is not well.
    pub(super) hint: &'static str,
    /// Whether it makes sense before the machine has joined.
    pub(super) before: bool,
}

const fn before(id: &'static str, about: &'static str, hint: &'static str) -> Check {
    Check { id, about, hint, before: true }
}

const fn after(id: &'static str, about: &'static str, hint: &'static str) -> Check {
    Check { id, about, hint, before: false }
}

/// All of them, in the order of a walk from the machine to the mesh.
pub(super) const CHECKS: &[Check] = &[
    before("machine.kernel", "Linux 4.5 or newer: it parts one UDP port among workers", "run a newer kernel"),
    before(
        "machine.files",
        "the limit on open files leaves room for connections",
        "set LimitNOFILE=65536 in the unit, or `ulimit -n`",
    ),
    before(
        "machine.steering",
        "the kernel lets workers share the UDP port by a filter",
        "allow SO_ATTACH_REUSEPORT_CBPF in the sandbox; else one worker takes all of QUIC",
    ),
    before("machine.receive_buffer", "UDP sockets may have buffers of 2 MiB", "sysctl -w net.core.rmem_max=2097152"),
    before(
        "machine.backlog",
        "the kernel queues 1,024 connections before they are accepted",
        "sysctl -w net.core.somaxconn=1024",
    ),
    before("machine.memory", "128 MiB of memory are free", "free some, or raise the limit of the container"),
    before(
        "machine.clock",
        "the clock shows a time of this century's middle",
        "start NTP: certificates are judged by the clock",
    ),
    before(
        "disk.space",
        "the disk of the state has room",
        "free some space: pushes are refused while the disk is full",
    ),
    before("disk.inodes", "the disk of the state has inodes", "remove small files: nothing is written without inodes"),
    before(
        "disk.writable",
        "the state directory can be written and synced",
        "give it to the user who runs skein, on a disk that is not read-only",
    ),
    before(
        "disk.lasting",
        "the state lies on a disk of this machine",
        "put data_dir on a local disk: memory is lost at reboot, network disks lie about what is durable",
    ),
    before(
        "configuration.present",
        "there is a configuration",
        "`skein init` founds a mesh, `skein join` enters one; both write it",
    ),
    before("configuration.valid", "the configuration can be read", "correct the place that is named"),
    before(
        "configuration.private",
        "only its owner may write the configuration",
        "chmod go-w it: whoever writes it may run services as this node",
    ),
    before("configuration.workers", "there are no more workers than processors", "leave out [runtime] workers"),
    before(
        "configuration.advertise",
        "others are told an address that they can reach",
        "set [mesh] advertise to this machine's address",
    ),
    before(
        "configuration.ephemeral",
        "the ports lie outside those that the kernel gives to others",
        "choose lower ports, or sysctl net.ipv4.ip_local_reserved_ports",
    ),
    before(
        "configuration.outbound",
        "applications' ports are open to this machine alone",
        "listen on 127.0.0.1: whoever reaches the port speaks as the service",
    ),
    before("configuration.admin", "the pages are open to named networks only", "narrow [admin] allow"),
    before(
        "configuration.socket",
        "the path of the local socket is short enough and leads into a directory",
        "choose a shorter path, in a directory that the user who runs skein may write",
    ),
    before("configuration.peers", "names of peers resolve", "correct [mesh] peers, or the resolver"),
    after("configuration.granted", "every configured service is granted to this node", "skein grant NODE NS/NAME"),
    before(
        "ports.mesh",
        "the mesh port is free, on UDP and TCP",
        "stop the process that has it, or choose another [mesh] listen",
    ),
    before(
        "ports.admin",
        "the port of the pages is free",
        "stop the process that has it, or choose another [admin] listen",
    ),
    before(
        "ports.metrics",
        "the scrapers' port is free",
        "stop the process that has it, or choose another [metrics] listen",
    ),
    before(
        "ports.applications",
        "the ports for applications are free",
        "stop the process that has them, or choose others",
    ),
    before(
        "ports.captured",
        "the ports to which the kernel brings connections are free",
        "stop the process that has them, or choose others in [capture]",
    ),
    before(
        "ports.plaintext",
        "the ports for callers outside the mesh are free",
        "stop the process that has them, or choose another plaintext of the [[service]] port",
    ),
    before(
        "ports.dns",
        "the port for names is free, on UDP and TCP",
        "stop the process that has it, or choose another [dns] listen",
    ),
    before(
        "names.machine",
        "this machine asks its node for the mesh's names",
        "`skein dns setup --print` says what to write; the node must run",
    ),
    before(
        "applications.answer",
        "the applications beside this node accept connections",
        "start them, or correct `target` of their ports",
    ),
    after(
        "state.joined",
        "this machine is a node of a mesh",
        "get a token by `skein invite NODE` and give it to `skein join -`",
    ),
    after(
        "state.owner",
        "the state is of the node that the configuration names",
        "correct [node], or name another data_dir",
    ),
    after("keys.permissions", "keys can be read by their owner alone", "chmod 700 the directory and 600 the files"),
    after(
        "operator.directory",
        "the operator's keys and what they know are complete",
        "restore the directory from where it was stored",
    ),
    after(
        "operator.root_key",
        "the root's key does not lie on a node",
        "move it to a place that this machine cannot reach; running nodes do not need it",
    ),
    after(
        "operator.recovery_key",
        "the recovery key does not lie beside the operator's",
        "move it away: it is for the day on which this machine is lost",
    ),
    after("operator.sealed", "the operator's key lies under a passphrase", "skein operator seal"),
    after(
        "operator.several",
        "more than one operator may sign",
        "skein operator add NAME KEY, or keep recovery.key safe, away from this machine",
    ),
    after("node.answers", "a node answers", "is it running (`skein run`)? say whom to ask with --node"),
    after("node.version", "this program is of the node's version", "use the skein that the node runs"),
    after("node.capture", "what was captured is captured", "skein capture on"),
    after("node.draining", "the node takes new requests", "skein drain --undo"),
    after("node.tasks", "no task of the node has panicked", "see its log for the place, and report the defect"),
    after(
        "node.refused",
        "other nodes let this one in",
        "was it evicted, or its name given to another machine? then join anew",
    ),
    after(
        "node.reloaded",
        "the node took its files when it was last told to",
        "correct the place that is named, then send the process SIGHUP, or restart it where it says so",
    ),
    after("node.problems", "the node finds nothing else wrong with itself", "see its log"),
    after(
        "trust.enrollers",
        "three enrollers are alive",
        "while none lives nobody joins and no node CA is renewed: make more by `skein ca promote NODE`",
    ),
    after("trust.node_ca", "the node CA is renewed in time", "is an enroller alive? nodes renew by themselves"),
    after(
        "trust.leaf",
        "the node's own certificate has not ended",
        "is the clock right? leafs are made by the node itself",
    ),
    after("trust.enroller_ca", "the enroller CA lasts", "with the root's key: skein ca renew NODE"),
    after("trust.root", "the root lasts", "skein ca rotate start"),
    after("trust.root_change", "no change of the root is half done", "`skein ca rotate status` says what is next"),
    after(
        "trust.expiring",
        "nothing that people must renew ends within --fail-if-expiring",
        "skein ca renew NODE for an enroller, skein ca rotate start for the root",
    ),
    after("clock.drift", "the clock is beside the median of peers", "start NTP on this machine"),
    after("mesh.members", "every granted node is seen", "start them; `skein evict NODE` takes one out for good"),
    after("mesh.size", "the mesh has room", "retire or evict nodes that are gone, or part the mesh in two"),
    after(
        "mesh.problems",
        "other nodes say that nothing is amiss with them",
        "`skein status --mesh` shows each with a hint",
    ),
    after(
        "mesh.versions",
        "all nodes run one version",
        "upgrade the others: neighbouring versions work together, for a while",
    ),
    after(
        "mesh.policy",
        "all nodes hold the same policy",
        "it spreads within seconds: is a node cut off? look at `skein members`",
    ),
    after(
        "mesh.conflicts",
        "no two pushes contradict each other",
        "`skein policy conflicts` shows the command that settles it",
    ),
    after(
        "mesh.links",
        "this node has a link with every other",
        "is the mesh port open between them, on UDP and TCP? `skein ping NODE`",
    ),
    after(
        "mesh.carrier",
        "up to eight other nodes are reached over QUIC",
        "is the mesh port open for UDP? if it is, UDP was slow when the link was made, and a restart makes it anew; TLS over TCP works, too",
    ),
    after("mesh.round_trips", "round trips are below 250 ms", "`skein ping NODE`: is the path loaded?"),
    after(
        "services.endpoints",
        "every service has a healthy endpoint",
        "`skein endpoints NS/NAME` says why they are not",
    ),
    after(
        "services.local",
        "the services beside the node are healthy",
        "is the application running, and its check right?",
    ),
    after(
        "services.panic",
        "no service has so few healthy endpoints that all are used",
        "`skein endpoints NS/NAME` says why they are not",
    ),
    after("services.ejected", "no endpoint is left out because it fails", "`skein outliers` says which and why"),
    after(
        "services.failing",
        "fewer than one request in ten fails",
        "`skein top` and the pages show which; `skein explain URL` why",
    ),
];

/// A check by its name.
pub(super) fn known(id: &str) -> Option<&'static Check> {
    CHECKS.iter().find(|check| check.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_everything_is_said() {
        assert!(CHECKS.len() >= 40);
        for (number, check) in CHECKS.iter().enumerate() {
            assert!(CHECKS[..number].iter().all(|other| other.id != check.id), "{} twice", check.id);
            assert!(
                check.id.split('.').count() == 2 && !check.about.is_empty() && !check.hint.is_empty(),
                "{}",
                check.id
            );
        }
    }
}
