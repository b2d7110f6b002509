//! Istio's Bookinfo, written anew: productpage asks details and reviews, reviews v2 and v3 ask ratings. Every call
//! goes through the HTTP proxy port of the node beside the caller.

mod call;
mod details;
mod page;
mod productpage;
mod ratings;
mod reviews;
mod session;

use std::net::SocketAddr;
use std::str::FromStr;

use axum::Router;
use axum::response::IntoResponse;
use http::{HeaderName, HeaderValue, StatusCode, header};
use tokio::net::TcpListener;

pub(crate) use call::{ATTEMPTS, VIA};

/// The port that every Bookinfo service has in the mesh.
pub(crate) const PORT: u16 = 9080;

/// One of the sample's services in one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum App {
    /// The page that a browser sees.
    Productpage,
    /// Facts about the book.
    Details,
    /// What readers wrote: v1 without stars, v2 with black ones, v3 with red ones.
    Reviews(reviews::Version),
    /// The stars.
    Ratings,
}

impl App {
    /// All of them, callers first.
    pub(crate) const ALL: [Self; 6] = [
        Self::Productpage,
        Self::Details,
        Self::Reviews(reviews::Version::V1),
        Self::Reviews(reviews::Version::V2),
        Self::Reviews(reviews::Version::V3),
        Self::Ratings,
    ];

    /// The name of its node, and what `demo app` takes.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Productpage => "productpage",
            Self::Details => "details",
            Self::Reviews(reviews::Version::V1) => "reviews-v1",
            Self::Reviews(reviews::Version::V2) => "reviews-v2",
            Self::Reviews(reviews::Version::V3) => "reviews-v3",
            Self::Ratings => "ratings",
        }
    }

    /// The service's name in the mesh.
    pub(crate) fn service(self) -> &'static str {
        match self {
            Self::Productpage => "productpage",
            Self::Details => "details",
            Self::Reviews(_) => "reviews",
            Self::Ratings => "ratings",
        }
    }

    /// The value of its label `version`.
    pub(crate) fn version(self) -> &'static str {
        match self {
            Self::Reviews(version) => version.label(),
            Self::Productpage | Self::Details | Self::Ratings => "v1",
        }
    }

    /// What it calls itself in answers, as a pod's name does in Istio's.
    pub(crate) fn pod(self) -> String {
        format!("{}-{}", self.service(), self.version())
    }

    /// Its requests and answers; calls go to the proxy port at `proxy`.
    fn router(self, proxy: SocketAddr) -> Router {
        match self {
            Self::Productpage => productpage::router(self, proxy),
            Self::Details => details::router(self),
            Self::Reviews(version) => reviews::router(self, version, proxy),
            Self::Ratings => ratings::router(self),
        }
    }
}

impl FromStr for App {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|app| app.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("no sample service is called {name:?}; there are {names}")
        })
    }
}

/// Serves `app` until `stop` comes, then finishes the requests that are under way.
///
/// # Errors
/// The listener broke.
pub(crate) async fn serve(
    app: App,
    listener: TcpListener,
    proxy: SocketAddr,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    use axum::serve::ListenerExt;
    // A connection whose delay cannot be switched off still works.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    axum::serve(listener, app.router(proxy)).with_graceful_shutdown(stop).await
}

/// A JSON answer.
fn json(status: StatusCode, body: &impl serde::Serialize) -> axum::response::Response {
    let body = serde_json::to_string(body).unwrap_or_else(|e| format!("{{\"error\":\"{e}\"}}"));
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// The header that tells which instances answered.
fn via(value: &str) -> (HeaderName, HeaderValue) {
    let value = HeaderValue::from_str(value).unwrap_or_else(|_| HeaderValue::from_static("unknown"));
    (HeaderName::from_static(VIA), value)
}

#[cfg(test)]
mod tests;
