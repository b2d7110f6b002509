//! What is done to this node itself.

use axum::{Json, extract::State};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Admin, error::Error};

/// `POST /v1/drain`.
#[derive(Debug, Deserialize)]
pub(super) struct Drain {
    /// False takes requests again.
    drain: bool,
}

/// `POST /v1/local/services/remove`.
#[derive(Debug, Deserialize)]
pub(super) struct Remove {
    /// `NAMESPACE/NAME[/INSTANCE]`.
    service: String,
}

impl Admin {
    /// `POST /v1/drain`.
    pub(super) async fn drain(State(admin): State<Self>, Json(wish): Json<Drain>) -> Result<Json<Value>, Error> {
        admin.agent.drain(wish.drain).await?;
        Ok(Json(json!({"node": admin.agent.node(), "draining": wish.drain})))
    }

    /// `POST /v1/local/services`: one `[[service]]` table in TOML.
    pub(super) async fn service_add(State(admin): State<Self>, text: String) -> Result<Json<Value>, Error> {
        let service = admin.agent.service_add(text).await?;
        Ok(Json(json!({"service": service.name, "instance": service.instance})))
    }

    /// `POST /v1/local/services/remove`.
    pub(super) async fn service_remove(
        State(admin): State<Self>,
        Json(Remove { service }): Json<Remove>,
    ) -> Result<Json<Value>, Error> {
        admin.agent.service_remove(service.clone()).await?;
        Ok(Json(json!({"service": service})))
    }

    /// `POST /v1/leave`: ends the process of a node that an operator retired. The retirement is the signature that this
    /// needs.
    pub(super) fn leave(&self) -> Result<Value, Error> {
        let (state, node) = (self.agent.state(), self.agent.node());
        if !state.grants().get(node).is_some_and(|grant| grant.retired) {
            return Err(Error::new("forbidden", format!("{node} is not retired"))
                .hint("`skein leave` retires it, with an operator's key"));
        }
        // As if the service manager had asked: what is under way is finished.
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM)
            .map_err(|error| Error::new("failed", format!("the process cannot be ended: {error}")))?;
        Ok(json!({"node": node}))
    }
}
