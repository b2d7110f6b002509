//! Taps: one JSON object a line for each request that ends, until the asker goes away or the node stops.

use std::convert::Infallible;

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use http::header;

use super::{Admin, error::Error};
use crate::telemetry::{Tapping, Wanted};

impl Admin {
    /// Tells of requests as they end. Only the local socket and operators are offered this: what requests say is nobody else's.
    ///
    /// # Errors
    /// `usage`, or `too_many_requests`.
    pub(super) fn tap(&self, wanted: Wanted) -> Result<Response, Error> {
        wanted.check().map_err(|why| Error::new("usage", why))?;
        let busy = |why: String| Error::new("too_many_requests", why).hint("`skein tap` ends with Ctrl-C");
        let slot =
            self.watches.clone().try_acquire_owned().map_err(|_| busy("too many watches are open".to_owned()))?;
        let tapping = self.telemetry.taps().open(wanted).map_err(busy)?;
        let lines =
            futures_util::stream::unfold((self.clone(), tapping, slot), |(admin, mut tapping, slot)| async move {
                let line = next(&admin, &mut tapping).await?;
                Some((Ok::<_, Infallible>(line), (admin, tapping, slot)))
            });
        Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
    }
}

/// None once the node stops.
async fn next(admin: &Admin, tapping: &mut Tapping) -> Option<Bytes> {
    let tapped = tokio::select! {
        () = admin.tasks.stopping() => return None,
        tapped = tapping.next() => tapped?,
    };
    let mut line = serde_json::to_string(&tapped).ok()?;
    line.push('\n');
    Some(Bytes::from(line))
}
