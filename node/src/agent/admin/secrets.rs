//! The node's own credentials, for those who may open its socket.

use axum::{Json, extract::State};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Admin, error::Error};
use crate::secrets::{Listed, Secret, SecretError};

/// `POST /v1/local/secrets`.
#[derive(Debug, Deserialize)]
pub(super) struct Put {
    namespace: String,
    name: String,
    secret: Secret,
}

/// `POST /v1/local/secrets/remove`.
#[derive(Debug, Deserialize)]
pub(super) struct Remove {
    namespace: String,
    name: String,
}

impl From<SecretError> for Error {
    fn from(error: SecretError) -> Self {
        let message = error.to_string();
        match error {
            SecretError::Invalid(_) => Error::new("bad_secret", message)
                .hint("--cert with --key in PEM, and --ca for the authorities of clients"),
            SecretError::NotFound(_) => Error::new("not_found", message).hint("`skein secret list` shows them"),
            SecretError::Disk(_, _) => Error::new("storage_failed", message).hint("check the data directory"),
        }
    }
}

impl Admin {
    /// `POST /v1/local/secrets`.
    pub(super) async fn secret_put(
        State(admin): State<Self>,
        Json(Put { namespace, name, secret }): Json<Put>,
    ) -> Result<Json<Value>, Error> {
        let told = json!({"namespace": namespace, "name": name});
        let secrets = admin.agent.secrets().clone();
        let put = admin.tasks.blocking(move || secrets.put(&namespace, &name, &secret)).await;
        put.map_err(|error| Error::new("failed", error.to_string()))??;
        Ok(Json(told))
    }

    /// `POST /v1/local/secrets/remove`.
    pub(super) async fn secret_remove(
        State(admin): State<Self>,
        Json(Remove { namespace, name }): Json<Remove>,
    ) -> Result<Json<Value>, Error> {
        let told = json!({"namespace": namespace, "name": name});
        let secrets = admin.agent.secrets().clone();
        let removed = admin.tasks.blocking(move || secrets.remove(&namespace, &name)).await;
        removed.map_err(|error| Error::new("failed", error.to_string()))??;
        Ok(Json(told))
    }

    /// `GET /v1/local/secrets`: nothing of keys.
    pub(super) async fn secret_list(State(admin): State<Self>) -> Result<Json<Vec<Listed>>, Error> {
        let secrets = admin.agent.secrets().clone();
        let listed = admin.tasks.blocking(move || secrets.list()).await;
        Ok(Json(listed.map_err(|error| Error::new("failed", error.to_string()))??))
    }
}
