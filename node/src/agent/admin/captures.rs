//! What `skein capture` and its guard must know of the node, for those who may open its socket.

use std::{io, time::Duration};

use axum::{
    Json,
    extract::{Query, State},
};
use serde::Deserialize;

use super::{Admin, api, error::Error};
use crate::capture;

/// How long a guard waits for news before it asks again: so it sees that the node still answers.
const NEWS: Duration = Duration::from_secs(2);
/// How often it is looked for them.
const LOOK: Duration = Duration::from_millis(50);

/// Whether to wait for news, and which guard asks for them.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Ask {
    #[serde(default)]
    news: bool,
    guard: Option<u32>,
}

/// Whose capture ended; none is whichever there was.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Ended {
    guard: Option<u32>,
}

impl Admin {
    /// `GET /v1/local/capture`; with `news=true` once the node leaves, or after a while.
    pub(super) async fn capture(
        State(admin): State<Self>,
        Query(Ask { news, guard }): Query<Ask>,
    ) -> Result<Json<api::Capture>, Error> {
        let _asking = guard.map(|token| admin.agent.guarded(token, &admin.tasks));
        if news {
            let leaves = async {
                while admin.agent.is_listening() {
                    tokio::time::sleep(LOOK).await;
                }
            };
            drop(tokio::time::timeout(NEWS, leaves).await);
        }
        admin.captured().await.map(Json)
    }

    /// `POST /v1/local/capture/ended`: somebody wished it so.
    pub(super) async fn capture_ended(
        State(admin): State<Self>,
        Query(Ended { guard }): Query<Ended>,
    ) -> Result<Json<api::Capture>, Error> {
        admin.agent.release(guard);
        admin.captured().await.map(Json)
    }

    async fn captured(&self) -> Result<api::Capture, Error> {
        let (config, captures) = (self.agent.config(), self.agent.captures());
        if captures.listen.is_empty() {
            let hint = "write [capture] into its configuration and restart it; the keys have defaults";
            return Err(Error::new("bad_config", "this node takes no captured connections").hint(hint));
        }
        let ports = [Some(config.mesh.listen), config.mesh.advertise, Some(config.admin.listen), config.metrics];
        let mut spared: Vec<u16> = ports.into_iter().flatten().map(|at| at.port()).filter(|port| *port > 0).collect();
        spared.sort_unstable();
        spared.dedup();
        let inbound = match captures.incoming.as_slice() {
            [] => None,
            listen => {
                // The kernel's list may be long.
                let listening = self.tasks.blocking(capture::listening).await.map_err(io::Error::other).flatten();
                let (targets, unknown) = match listening {
                    Ok(all) => (capture::targets(&config.services, &all, &self.agent.listeners()), None),
                    Err(error) => (Vec::new(), Some(error.to_string())),
                };
                Some(api::Inbound { listen: listen.to_vec(), targets, unknown })
            }
        };
        Ok(api::Capture {
            listen: captures.listen.clone(),
            services: config.dns.as_ref().map(|dns| dns.addresses.to_string()),
            spared,
            inbound,
            uid: nix::unistd::geteuid().as_raw(),
            leaving: !self.agent.is_listening(),
        })
    }
}
