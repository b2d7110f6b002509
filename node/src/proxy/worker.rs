//! One data worker: its listeners, the streams of other nodes, its end.

use super::{context::Context, errand, inbound, listen, plane::Seat};
use crate::mesh;
use std::{sync::Arc, time::Duration};

/// How often idle connections to applications are looked through.
const SWEEP: Duration = Duration::from_secs(10);

/// How long a drained worker waits for [`super::DataPlane::end`] beyond the time that other workers may take to drain: its runtime
/// drives connections to other nodes, which must hear of their end.
const LINGER: Duration = Duration::from_secs(5);

/// Runs one data worker until the data plane drains, then for at most `drain` until its requests have ended, and then
/// until [`super::DataPlane::end`].
pub async fn run_worker(seat: Seat, mesh: mesh::data::Worker, drain: Duration) {
    let Seat { index, shared, mut commands, errands } = seat;
    let context = Arc::new(Context::new(index, &shared, mesh.clone()));
    let mut ended = shared.ended.subscribe();
    let streams = streams(Arc::clone(&context), mesh);
    let sweep = sweep(Arc::clone(&context));
    let watch = inbound::watch_rules(Arc::clone(&context));
    let errands = errands.map(|errands| errand::run(Arc::clone(&context), errands));
    // To the very end: the last spans go to their collectors when all requests have ended.
    let mut errands = std::pin::pin!(async move {
        if let Some(errands) = errands {
            errands.await;
        }
        std::future::pending::<()>().await;
    });
    let mut background = std::pin::pin!(async { tokio::join!(streams, sweep, watch) });
    loop {
        tokio::select! {
            _ = background.as_mut() => break,
            () = errands.as_mut() => {}
            () = context.draining() => break,
            command = commands.recv() => match command {
                Some(listen) => open(&context, listen),
                None => break,
            },
        }
    }
    drop(commands);
    context.open.close();
    // Streams that came before the mesh drained are still served.
    let requests = async {
        tokio::select! {
            _ = background => {}
            () = errands.as_mut() => {}
            () = context.open.wait() => {}
        }
    };
    if tokio::time::timeout(drain, requests).await.is_err() {
        tracing::warn!(
            worker = index,
            connections = context.open.len(),
            "connections were cut at the end of the drain"
        );
        context.cutting.cancel();
    }
    shared.drained.send_modify(|workers| *workers += 1);
    let end = async {
        tokio::select! {
            _ = ended.wait_for(|ended| *ended) => {}
            () = errands.as_mut() => {}
        }
    };
    drop(tokio::time::timeout(drain + LINGER, end).await);
}

fn open(context: &Arc<Context>, listen: super::plane::Listen) {
    match tokio::net::TcpListener::from_std(listen.socket) {
        Ok(socket) => {
            let (accepting, socket) = (Arc::clone(context), Arc::new(socket));
            // Kept: what comes to this socket waits for nobody else.
            context.tasks.kept("listener", move || {
                listen::accept(Arc::clone(&accepting), Arc::clone(&socket), listen.serves.clone(), listen.close.clone())
            });
        }
        Err(error) => tracing::error!(%error, "a listening socket was not taken by the runtime"),
    }
}

/// Serves streams of other nodes as long as the mesh gives any; once this node knows what it missed.
async fn streams(context: Arc<Context>, mesh: mesh::data::Worker) {
    context.serving().await;
    while let Some(incoming) = mesh.accept().await {
        let served = context.open.track_future(inbound::serve(Arc::clone(&context), incoming));
        context.tasks.detach("stream of another node", served);
    }
    // The mesh is closed; applications on this node go on reaching each other.
    std::future::pending::<()>().await;
}

async fn sweep(context: Arc<Context>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        context.apps.sweep();
    }
}
