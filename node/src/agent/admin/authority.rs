//! What makes this node an enroller: a request for its CA, and the certificate that the root's holder made of it. Neither needs a
//! secret: the request is public, and the certificate proves itself.

use axum::{
    Json,
    extract::{Query, State},
};
use certs::{ca::request_to_pem, root::bundle_from_pem};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Admin, api, error::Error, rfc3339};

/// `POST /v1/ca/certificate`.
#[derive(Debug, Deserialize)]
pub(super) struct Certificate {
    /// PEM.
    certificate: String,
}

/// Where a page of `GET /v1/policy/history` begins.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    from: Option<usize>,
}

/// Bytes of what was signed that one page holds, unless one changeset alone has more.
const PAGE_BYTES: usize = 2 << 20;

impl Admin {
    /// `POST /v1/ca/request`: the first one makes the key, hence no GET.
    pub(super) async fn ca_request(State(admin): State<Self>) -> Result<Json<api::EnrollerRequest>, Error> {
        let made = admin.agent.enroller_request().await?;
        Ok(Json(api::EnrollerRequest {
            node: made.node,
            epoch: made.epoch,
            life_s: made.life.as_secs(),
            request: request_to_pem(&made.request),
        }))
    }

    /// `POST /v1/ca/certificate`.
    pub(super) async fn ca_certificate(
        State(admin): State<Self>,
        Json(Certificate { certificate }): Json<Certificate>,
    ) -> Result<Json<Value>, Error> {
        let bad = |message: String| Error::new("bad_request", message).hint("give what `skein ca sign` printed");
        let mut certificates = bundle_from_pem(&certificate).map_err(|error| bad(error.to_string()))?;
        if certificates.len() != 1 {
            return Err(bad(format!("{} certificates; an enroller CA has one", certificates.len())));
        }
        let ends = admin.agent.enrols(certificates.swap_remove(0)).await?;
        Ok(Json(json!({"node": admin.agent.node(), "enroller_ca_expires": rfc3339(ends)})))
    }

    /// `GET /v1/policy/history?from=N`: what operators ever signed, page by page, for whoever replaces the RoleSet.
    pub(super) async fn signed(
        State(admin): State<Self>,
        Query(Page { from }): Query<Page>,
    ) -> Result<Json<api::Signed>, Error> {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        // Who does not know of pages would take the first one for all.
        let from = from.ok_or_else(|| {
            Error::new("bad_request", "`from` is missing: the history is given page by page")
                .hint("use the version of skein that the node runs")
        })?;
        let (page, next) = admin.agent.signed(from, PAGE_BYTES).await?;
        Ok(Json(api::Signed { changesets: page.iter().map(|bytes| STANDARD.encode(bytes)).collect(), next }))
    }
}
