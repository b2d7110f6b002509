//! The end of a node: until when it runs, and what it still does then.

use super::process::{Signals, Wish};
use crate::{
    agent::{Agent, members::Members},
    clock::monotonic,
    config::Config,
    mesh::Mesh,
    proxy::DataPlane,
    tasks::Tasks,
};
use membership::engine::Event;
use std::time::Duration;

/// How long the last spans have to get to their collectors.
const LAST_EXPORTS: Duration = Duration::from_secs(1);
/// How long the access log has to write its last lines.
const LAST_LINES: Duration = Duration::from_secs(1);
/// How long data workers have to end once the mesh is closed.
const LAST_THREADS: Duration = Duration::from_secs(1);
/// Two signals within this time are one.
const SAME_SIGNAL: Duration = Duration::from_millis(100);

/// Lives until a signal or the death of a task that the node needs.
pub(super) async fn until_told(agent: &Agent, signals: &mut Signals, tasks: &Tasks) {
    loop {
        let wish = tokio::select! {
            wish = signals.next() => wish,
            () = tasks.stopping() => return,
        };
        match wish {
            Wish::Stop => return,
            // Beside: a reload that takes long keeps nobody from stopping the node.
            Wish::Reload => {
                let agent = agent.clone();
                tasks.detach("reload", async move { agent.reload_by_signal().await });
            }
        }
    }
}

/// Says that the node leaves, finishes what is under way, tells peers that their connections end.
pub(super) async fn farewell(
    config: &Config,
    members: &Members,
    mesh: &Mesh,
    plane: &DataPlane,
    threads: Vec<std::thread::JoinHandle<()>>,
    tasks: &Tasks,
) {
    tracing::info!(
        "leaving: answering for {:?}, then finishing requests for at most {:?}",
        config.farewell,
        config.drain
    );
    plane.leave();
    members.tell(Event::Leaving).await;
    // Others have this time to hear that this node leaves, before it refuses anything.
    tokio::time::sleep(config.farewell).await;
    tasks.stop();
    mesh.drain();
    plane.drain();
    if tokio::time::timeout(config.drain + Duration::from_secs(1), plane.drained()).await.is_err() {
        tracing::warn!("requests were cut: they took longer than {:?}", config.drain);
    }
    plane.exported(LAST_EXPORTS).await;
    // The workers drive connections to other nodes, so they end after these have heard.
    mesh.close().await;
    plane.end();
    let joined = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|thread| drop(thread.join())));
    drop(tokio::time::timeout(LAST_THREADS, joined).await);
    plane.log_written(LAST_LINES).await;
}

/// A second wish to stop; what follows the first at once is the same one, sent to process and group.
pub(super) async fn another(signals: &mut Signals) {
    let begun = monotonic();
    while signals.next().await != Wish::Stop || monotonic().duration_since(begun) < SAME_SIGNAL {}
}
