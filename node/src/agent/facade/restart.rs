//! What of the configuration a running node does not take over.

use crate::config::Config;

/// The first key that only a restart can change.
pub(super) fn needed(before: &Config, after: &Config) -> Option<&'static str> {
    let pairs = [
        ("[node] name", before.node == after.node),
        ("[node] trust_domain", before.trust_domain == after.trust_domain),
        ("[node] data_dir", before.data_dir == after.data_dir),
        ("[node] locality", before.locality == after.locality),
        ("[runtime] workers", before.workers == after.workers),
        ("[runtime] drain", before.drain == after.drain),
        ("[runtime] farewell", before.farewell == after.farewell),
        ("[runtime] format", before.log.format == after.log.format),
        ("[mesh] listen", before.mesh.listen == after.mesh.listen),
        ("[mesh] advertise", before.mesh.advertise == after.mesh.advertise),
        ("[mesh] transport", before.mesh.transport == after.mesh.transport),
        ("[admin]", before.admin == after.admin),
        ("[metrics] listen", before.metrics == after.metrics),
        ("[workload] socket", before.workload == after.workload),
        ("[secrets] files", before.files == after.files),
        ("[dns]", before.dns == after.dns),
        ("[capture]", before.capture == after.capture),
    ];
    pairs.into_iter().find(|(_, same)| !same).map(|(key, _)| key)
}
