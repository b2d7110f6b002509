//! Every code by which `skein status` calls something wrong, with its severity and what to do: `node/docs/problems.md` is this table.

use super::api::Health;

/// One code.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// Stable.
    pub code: &'static str,
    /// Of all problems that have it.
    pub severity: Health,
    /// What it means.
    pub about: &'static str,
    /// What to do.
    pub todo: &'static str,
}

const fn critical(code: &'static str, about: &'static str, todo: &'static str) -> Known {
    Known { code, severity: Health::Critical, about, todo }
}

const fn degraded(code: &'static str, about: &'static str, todo: &'static str) -> Known {
    Known { code, severity: Health::Degraded, about, todo }
}

/// All of them, by code.
pub const KNOWN: &[Known] = &[
    degraded(
        "address_not_here",
        "others are told an address of loopback, one that this machine does not have, or one of IPv6 while the mesh port takes IPv4 only",
        "write one by which others reach it into `[mesh] advertise`, or `[::]:15008` into `listen`, and restart the node",
    ),
    degraded(
        "address_refused",
        "an endpoint of a ServiceEntry is at an address that a name must not lead to, or at a port of this node itself: it is not used",
        "write the address itself into the ServiceEntry if it is meant; name the application's own port",
    ),
    degraded(
        "capture_ended",
        "connections are captured no more, and nobody switched that off: applications speak past the mesh",
        "`skein capture on`, or `skein capture off` if that is meant",
    ),
    critical(
        "certificate_expired",
        "the node certificate has ended: no connection opens",
        "start an enroller that has seen this node; it renews by itself",
    ),
    degraded(
        "certificate_old",
        "the node certificate is past two thirds of its life; it is renewed at half",
        "start an enroller, and see that this node reaches it (`skein ping`)",
    ),
    critical(
        "certificate_withdrawn",
        "the root of the node certificate was rotated out: no connection opens",
        "start an enroller that has seen this node; else `skein invite NODE --replace`",
    ),
    degraded(
        "client_tls",
        "certificate files that a DestinationRule names for calls outside are missing or cannot be used",
        "put them where the document says, or `skein secret put`; they are taken by themselves",
    ),
    critical(
        "clock_behind",
        "this machine's clock is more than five minutes behind what certificates of other nodes prove",
        "set the clock, and keep it right by NTP; if it is right and was ahead before, see troubleshooting",
    ),
    degraded(
        "clock_drift",
        "the clock is more than 60 s beside the median of the peers; from five minutes on certificates are refused",
        "set the clock, and keep it right by NTP",
    ),
    critical(
        "clone",
        "another process runs with this node's identity; this one ends",
        "stop the one that is not meant, then start the other ([troubleshooting](troubleshooting.md))",
    ),
    degraded(
        "conflict",
        "a document has several values that were pushed apart from each other, on two sides of a split or at once",
        "`skein policy conflicts` shows them and the command that settles it",
    ),
    degraded(
        "dns_loop",
        "a resolver asks this node what this node asks it; it is left out",
        "name the machine's own servers in `[dns] upstreams`, or let that resolver send only the mesh's names here (`skein dns setup --print`)",
    ),
    degraded(
        "dns_no_resolver",
        "there is no resolver for names outside the mesh: they are answered SERVFAIL",
        "name one in `[dns] upstreams`",
    ),
    degraded("draining", "the node is drained: its services get no new requests", "`skein drain --undo`"),
    degraded(
        "endpoint_spared",
        "an endpoint fails and is used all the same: `maxEjectionPercent` lets none, or no further one, of its cluster go out",
        "write a `maxEjectionPercent` by which one can go out, e.g. 100: without one it is 10, and ejects nobody of fewer than ten endpoints",
    ),
    degraded(
        "enroller_early",
        "the enroller's CA is under a root that is not in use yet: a change of the root broke off",
        "`skein ca rotate advance`; or, to give the change up, `skein ca renew NODE`",
    ),
    critical(
        "enroller_expired",
        "the enroller's CA has ended: nobody joins or renews by this node",
        "`skein ca renew NODE`, with the root's key",
    ),
    degraded(
        "enroller_old",
        "the enroller's CA has less than 60 days, and less than a third of its life",
        "`skein ca renew NODE`, with the root's key",
    ),
    degraded(
        "enroller_retiring",
        "the root of the enroller's CA retires: nobody is certified by it any more",
        "`skein ca renew NODE`, with the new root's key",
    ),
    degraded(
        "enroller_uncertified",
        "operators let the node enrol others, and it has no certificate for that",
        "`skein ca renew NODE`, with the root's key or by files",
    ),
    critical(
        "enroller_withdrawn",
        "the root of the enroller's CA was rotated out: nobody joins by this node",
        "`skein ca renew NODE`, with the root's key",
    ),
    degraded(
        "gateway_certificate",
        "a gateway's server lacks its certificate, cannot read it, or it has ended",
        "`skein secret put NAME`, or put the file where the Gateway says",
    ),
    degraded(
        "gateway_conflict",
        "two servers want one port of this node and cannot share it",
        "give one another port or other hosts, or `bind` them to different addresses",
    ),
    degraded(
        "gateway_not_open",
        "a gateway's port is in use, not allowed to this process, or at no address of this machine",
        "free it, give CAP_NET_BIND_SERVICE, or map it by `[gateway] ports`",
    ),
    critical(
        "group_account",
        "a WorkloadGroup gives a service an account that is no name of one",
        "correct its `serviceAccount`, or write `account` in the `[[service]]`",
    ),
    critical(
        "group_probe",
        "a WorkloadGroup's probe is of a port that the service does not have",
        "correct the probe, or write `check` in the `[[service]]`",
    ),
    critical(
        "group_unknown",
        "a `[[service]]` names a WorkloadGroup that nobody has pushed in its namespace",
        "push it, or take `group` out",
    ),
    degraded(
        "members_missing",
        "nodes that were granted are not seen here",
        "start them, or `skein evict NODE` those that will not come back; is the network split?",
    ),
    degraded(
        "mesh_nearly_full",
        "800 of the 1,000 nodes of one mesh are granted",
        "retire or evict nodes that are gone, or part the mesh",
    ),
    degraded(
        "name_unresolved",
        "a name in a ServiceEntry does not resolve on this machine",
        "correct the name or the resolver; it is tried again",
    ),
    degraded(
        "names_not_open",
        "services have no address on this machine, or a port of theirs is taken there",
        "as the hint says: free the port, or widen `[dns] addresses`",
    ),
    degraded(
        "no_enroller",
        "no enroller is alive: nobody joins, and no node certificate is renewed",
        "start one (`skein members --all` marks them); if all are lost, `skein ca promote NODE` with root.key",
    ),
    degraded(
        "node_not_reached",
        "a node is alive, and at the address that it tells nobody answers requests of this one: a NAT, a firewall, or a wrong `advertise`",
        "let UDP and TCP to its mesh port through; or write an address by which it is reached into its `[mesh] advertise`, and restart it",
    ),
    degraded(
        "node_quarantined",
        "a node signed two different records under one number: nothing that it says counts, and nobody links with it",
        "`skein invite NODE --replace` and join it anew, or `skein evict NODE`; see [troubleshooting](troubleshooting.md)",
    ),
    degraded(
        "not_granted",
        "a service of `skein.toml` is not granted to this node: it waits",
        "`skein grant NODE NS/NAME=SA`, as the hint writes it",
    ),
    degraded(
        "not_reloaded",
        "the configuration was changed and is not in use: it is not valid, or needs a restart",
        "correct the place that is named, then SIGHUP, or restart",
    ),
    critical(
        "policy_refused",
        "this build cannot read changesets that operators signed: a later one wrote them, and they do not hold here",
        "run the version that wrote them, or a later one; nodes of an older one must not stay behind for long",
    ),
    degraded(
        "policy_stale",
        "less than half of the mesh was heard for 15 min: evictions and policy may have passed this node by",
        "is it cut off? `skein members --reach`, firewalls",
    ),
    critical(
        "quarantined",
        "other nodes ignore this one, for it signed two different records under one number: a snapshot of its machine was put back, or a copy of it runs",
        "stop the copy; then join anew with a token of `skein invite NODE --replace`",
    ),
    critical(
        "refused",
        "other nodes refuse this one's certificate",
        "is its clock right? was it evicted, or its name given away? then join anew",
    ),
    critical(
        "role_set_conflict",
        "several RoleSets follow the one in force, signed apart from each other: none of them counts",
        "`skein policy conflicts` shows them, and the commands that sign one which follows all of them",
    ),
    degraded(
        "role_sets_large",
        "the RoleSets have more than half of what a joiner can be shown; with all of it nobody joins",
        "remove operators with `skein operator remove NAME --void documents`",
    ),
    critical(
        "root_expired",
        "the root has ended: no certificate counts",
        "`skein ca rotate start --offline` on the machine of an enroller",
    ),
    degraded("root_old", "the root ends within a year", "`skein ca rotate start`, then `advance`, `finish`"),
    critical(
        "storage_failed",
        "the store was closed after a disk error: traffic goes on, and nothing new is kept",
        "check the disk, then restart the node; or restore `data_dir`",
    ),
    critical(
        "storage_full",
        "there is no space for `data_dir`: traffic goes on, and no push, eviction or revocation counts here",
        "free some space",
    ),
    degraded(
        "task_panicked",
        "a task of the process panicked and was begun again: a request or connection was lost",
        "it is a defect: report it with its place in the log; the problem ends with the next start",
    ),
    degraded(
        "token_keys_missing",
        "the keys of a token issuer could not be fetched: its tokens get 401",
        "the node must reach the URL; its log says why not",
    ),
    degraded(
        "unhealthy_service",
        "a service of this node fails its check",
        "is the application running, and its check right? `skein endpoints NS/NAME`",
    ),
    degraded(
        "unreadable",
        "this build cannot apply a document; what stood before it is in effect, or nothing",
        "run the version for which it was written",
    ),
    critical(
        "unreadable_authority",
        "this build cannot read a RoleSet, a NodeGrant or a Revocation: of a Revocation what can be read holds, else what stood before it, without the keys that a RoleSet removes",
        "run the version for which it was written",
    ),
    critical(
        "unreadable_authorization",
        "this build cannot read a policy of who may call, and nothing older stands in its place: what it may select is closed",
        "run the version for which it was written, or push one that this version reads",
    ),
    critical(
        "worker_stuck",
        "a thread that carries requests or links does not turn: what it has hangs, the node is not ready, and its endpoints are unhealthy",
        "restart the node (systemd does so by itself after 30 s), and report it with the stacks of its threads",
    ),
];

/// How bad what has this code is.
pub(super) fn severity(code: &str) -> Health {
    let known = KNOWN.iter().find(|known| known.code == code);
    debug_assert!(known.is_some(), "{code} is not among the codes of problems");
    known.map_or(Health::Critical, |known| known.severity)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "# Codes of problems

`skein status` and `skein status --mesh` name each problem by a code that never changes its meaning, in `problems[].code` with `-o json`, at the
alerts `SkeinProblemCritical` and `SkeinProblemDegraded` ([prometheus.md](prometheus.md)) and on the Overview page. Beside each stands what is wrong there and then,
and the command that mends it; this table, which a test compares with the program's own, says what the code means. Critical is what takes traffic or trust away
now; what is called a warning here is `degraded` in JSON and in metrics. Codes of documents are in [codes.md](codes.md), what `skein check` looks at is printed by `skein check --list`.

| code | severity | means | do |
|---|---|---|---|
";

    #[test]
    fn the_page_of_problems_is_the_table() {
        let row = |one: &Known| {
            let severity = if one.severity == Health::Critical { "critical" } else { "warning" };
            format!("| `{}` | {severity} | {} | {} |\n", one.code, one.about, one.todo)
        };
        let made = format!("{HEAD}{}", KNOWN.iter().map(row).collect::<String>());
        let kept =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/problems.md")).unwrap_or_default();
        assert!(kept == made, "write this as node/docs/problems.md:\n{made}");
    }

    #[test]
    fn each_code_stands_once_in_order() {
        assert!(KNOWN.is_sorted_by(|one, next| one.code < next.code));
    }
}
