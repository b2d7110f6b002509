//! One fetch of a key set: HTTP or HTTPS, with the machine's own list of authorities, no redirects, bounded in size and time. Names mean
//! no more here than in ServiceEntries (attack case A107), but for those of the mesh's services, which are asked through the mesh.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use certs::id::ServiceName;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use policy::{
    hosts,
    token::{KeySet, Site, Source},
};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{
    agent::{
        outside::{OwnPorts, refused},
        resolver::Resolver,
    },
    clock,
    config::SpeakerName,
    connect,
    http1::client::{Connection, Io},
    snapshot::Snapshot,
    tasks::Tasks,
    telemetry::Errand,
};

/// Bytes of an answer at most.
const MAX_BODY: usize = 1 << 20;
/// One for each fetch. A fetch whose time is over leaves its look running: the next one waits for that, and for nothing else.
static RESOLVER: Resolver = Resolver::new("names of issuers", super::AT_ONCE);
/// Where OpenID discovery looks, below the issuer.
const DISCOVERY: &str = "/.well-known/openid-configuration";

/// See the module.
pub(super) struct Fetcher {
    tasks: Tasks,
    errands: mpsc::Sender<Errand>,
}

impl Fetcher {
    pub(super) fn new(tasks: Tasks, errands: mpsc::Sender<Errand>) -> Self {
        Self { tasks, errands }
    }

    /// The keys of a source. Nothing is asked at the node's `own` ports. The mesh is asked as it is now, in the names of services.
    ///
    /// # Errors
    /// Why there are none, for people.
    pub(super) async fn keys(
        &self,
        source: &Source,
        time: Duration,
        own: &OwnPorts,
        mesh: Option<(&Snapshot, &[SpeakerName])>,
    ) -> Result<KeySet, String> {
        let (Site::Url(written) | Site::Issuer(written)) = &source.site;
        let (namespace, until) = (&*source.namespace, clock::monotonic() + time);
        let asking = Asking { written: host_of(written), own, mesh, namespace, until };
        let all = async {
            let url = match &source.site {
                Site::Url(url) => url.clone(),
                Site::Issuer(issuer) => self.discover(issuer, &asking).await?,
            };
            let text = self.get(&url, &asking).await?;
            KeySet::read(&text).map_err(|why| format!("{url}: {why}"))
        };
        timeout(time, all).await.unwrap_or_else(|_| Err(format!("no answer within {time:?}")))
    }

    async fn discover(&self, issuer: &str, asking: &Asking<'_>) -> Result<String, String> {
        let url = format!("{}{DISCOVERY}", issuer.trim_end_matches('/'));
        let text = self.get(&url, asking).await?;
        let json: serde_json::Value = serde_json::from_str(&text).map_err(|_| format!("{url}: not JSON"))?;
        let found = json.get("jwks_uri").and_then(serde_json::Value::as_str);
        let found = found.ok_or_else(|| format!("{url}: no `jwks_uri`"))?;
        if may_lead(&url, found) {
            return Ok(found.to_owned());
        }
        Err(format!("{url}: its `jwks_uri` is `{found}`: keys of an issuer with https come by https"))
    }

    async fn get(&self, url: &str, asking: &Asking<'_>) -> Result<String, String> {
        self.get_from(url, asking).await.map_err(|why| format!("{url}: {why}"))
    }

    async fn get_from(&self, url: &str, asking: &Asking<'_>) -> Result<String, String> {
        let uri: Uri = url.parse().map_err(|_| "not a URL")?;
        let authority = uri.authority().ok_or("not a URL")?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err("neither http nor https".to_owned()),
        };
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        if let Some((speakers, service)) = asking.service(host, port)? {
            if is_tls {
                return Err(format!(
                    "`{host}` is a service of the mesh: ask it by http, which goes there by mutual TLS"
                ));
            }
            return self.ask_mesh(asking.until, speakers, &service, (port, &uri)).await;
        }
        let addresses = asking.addresses(host, port).await?;
        let stream = connect::first(&addresses, asking.until).await?;
        if !is_tls {
            return self.ask(stream, &uri).await;
        }
        let name = ServerName::try_from(host.to_owned()).map_err(|_| "not a name that a certificate could have")?;
        let stream = connector().await?.connect(name, stream).await.map_err(|error| error.to_string())?;
        self.ask(stream, &uri).await
    }

    /// Policy may allow one service what it denies another: who comes first and is answered asks for all.
    async fn ask_mesh(
        &self,
        until: Instant,
        speakers: &[SpeakerName],
        service: &ServiceName,
        at: (u16, &Uri),
    ) -> Result<String, String> {
        let mut refused = Vec::new();
        for (speaker, further) in speakers.iter().zip((1..=speakers.len()).rev()) {
            match self.ask_as(speaker, connect::part(until, further), service, at).await {
                Ok(text) => return Ok(text),
                Err(why) => refused.push(format!("{why} (in the name of {speaker})")),
            }
        }
        Err(refused.join(", "))
    }

    async fn ask_as(
        &self,
        speaker: &SpeakerName,
        timeout: Duration,
        service: &ServiceName,
        (port, uri): (u16, &Uri),
    ) -> Result<String, String> {
        let request = request(uri).body(Bytes::new()).map_err(|error| error.to_string())?;
        let (answer, answered) = oneshot::channel();
        let (speaker, service) = (speaker.clone(), service.clone());
        let errand = Errand { speaker, service, port, timeout, request, answer };
        self.errands.send(errand).await.map_err(|_| "the node ends")?;
        let answer = answered.await.unwrap_or_else(|_| Err("the node ends".to_owned()))?;
        if answer.status != StatusCode::OK {
            return Err(format!("answers {}", answer.status));
        }
        String::from_utf8(answer.body.to_vec()).map_err(|_| "not text".to_owned())
    }

    async fn ask<I: Io>(&self, io: I, uri: &Uri) -> Result<String, String> {
        let host = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
        // Credentials in a URL are nobody's host.
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        let (parts, ()) =
            request(uri).header(header::HOST, host).body(()).map_err(|error| error.to_string())?.into_parts();
        let response = Connection::new(io).send(&parts, Empty::<Bytes>::new(), &self.tasks).await;
        let response = response.map_err(|error| error.to_string())?;
        if response.status() != StatusCode::OK {
            return Err(format!("answers {}", response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        let body = body.map_err(|error| format!("the answer broke off or is too long: {error}"))?;
        String::from_utf8(body.to_bytes().to_vec()).map_err(|_| "not text".to_owned())
    }
}

fn request(uri: &Uri) -> http::request::Builder {
    Request::get(uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str))
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, concat!("skein/", env!("CARGO_PKG_VERSION")))
}

/// What holds for all requests of one fetch.
struct Asking<'a> {
    /// Its services, and who may ask them.
    mesh: Option<(&'a Snapshot, &'a [SpeakerName])>,
    /// Whose services a short name means.
    namespace: &'a str,
    /// When the time is over.
    until: Instant,
    /// The host that the document names.
    written: Option<String>,
    own: &'a OwnPorts,
}

impl Asking<'_> {
    /// The service of the mesh that a host means, and who asks it; `None` if it means none.
    fn service(&self, host: &str, port: u16) -> Result<Option<(&[SpeakerName], ServiceName)>, String> {
        let Some((snapshot, speakers)) = self.mesh else { return Ok(None) };
        let Some(name) = hosts::named(host, self.namespace) else { return Ok(None) };
        let Some(service) = snapshot.services.get(&name) else { return Ok(None) };
        if !service.ports.iter().any(|known| known.number == port) {
            return Err(format!("the service {name} of the mesh has no port {port}"));
        }
        Ok(Some((speakers, name)))
    }

    /// Where a host is. An address that the document writes out is meant; what a name or an answer gives may not be this machine's.
    async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
        let found = RESOLVER.host(host, port).await.map_err(|error| error.to_string())?;
        let is_meant = host.parse::<IpAddr>().is_ok() && self.written.as_deref() == Some(host);
        let (mut allowed, mut why) = (Vec::new(), "it has no address".to_owned());
        for address in found {
            let what = refused(host, address.ip()).filter(|_| !is_meant);
            match what.or_else(|| self.own.contains(address).then_some("a port of this node itself")) {
                None => allowed.push(address),
                Some(what) => why = format!("`{host}` is {address}, {what}: it is not asked"),
            }
        }
        if allowed.is_empty() { Err(why) } else { Ok(allowed) }
    }
}

fn host_of(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    Some(uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned())
}

/// What https says is not left to whoever listens on the way.
fn may_lead(from: &str, to: &str) -> bool {
    let is_https = |url: &str| url.parse::<Uri>().is_ok_and(|uri| uri.scheme_str() == Some("https"));
    !is_https(from) || is_https(to)
}

/// Reads the machine's list of authorities each time: fetches are rare, and the list may have changed.
async fn connector() -> Result<TlsConnector, String> {
    let loaded = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
    let loaded = loaded.map_err(|error| error.to_string())?;
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(loaded.certs);
    if added == 0 {
        return Err("this machine has no list of authorities: install ca-certificates, or set SSL_CERT_FILE".to_owned());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    /// Answers every request with what `answer` makes of its path.
    async fn server(tasks: &Tasks, answer: impl Fn(&str, u16) -> String + Send + 'static) -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tasks.detach("server", async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).await.unwrap();
                let text = String::from_utf8_lossy(&request[..length]).into_owned();
                let path = text.split(' ').nth(1).unwrap_or_default();
                stream.write_all(answer(path, port).as_bytes()).await.unwrap();
            }
        });
        port
    }

    fn ok(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    fn fetcher(tasks: Tasks) -> Fetcher {
        Fetcher::new(tasks, mpsc::channel(1).0)
    }

    fn source(site: Site) -> Source {
        Source { namespace: "shop".to_owned(), site }
    }

    const KEYS: &str = r#"{"keys": [{"kty": "oct", "k": "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE"}]}"#;

    #[tokio::test]
    async fn keys_are_fetched_and_found_by_discovery() {
        let tasks = Tasks::new();
        let port = server(&tasks, |path, port| match path {
            "/i/.well-known/openid-configuration" => ok(&format!(r#"{{"jwks_uri": "http://127.0.0.1:{port}/keys"}}"#)),
            "/keys?a=b" | "/keys" => ok(KEYS),
            "/empty/.well-known/openid-configuration" => ok("{}"),
            "/moved" => "HTTP/1.1 302 Found\r\nlocation: /keys\r\ncontent-length: 0\r\n\r\n".to_owned(),
            "/long" => ok(&" ".repeat(MAX_BODY + 1)),
            _ => ok("nonsense"),
        })
        .await;
        let fetcher = fetcher(tasks.clone());
        let time = Duration::from_secs(20);
        let url = |path: &str| source(Site::Url(format!("http://127.0.0.1:{port}{path}")));
        let issuer = |path: &str| source(Site::Issuer(format!("http://127.0.0.1:{port}{path}")));
        let own = OwnPorts::default();
        assert_eq!(fetcher.keys(&url("/keys?a=b"), time, &own, None).await.unwrap().len(), 1);
        assert_eq!(fetcher.keys(&issuer("/i/"), time, &own, None).await.unwrap().len(), 1);
        for (source, why) in [
            (url("/x"), "not JSON"),
            (url("/moved"), "302"),
            (url("/long"), "too long"),
            (issuer("/empty"), "no `jwks_uri`"),
            (issuer("/x"), "not JSON"),
            (source(Site::Issuer("me@example.org".to_owned())), "not a URL"),
            (source(Site::Url("ftp://a/".to_owned())), "neither http nor https"),
            (source(Site::Url("http://127.0.0.1:1/".to_owned())), "refused"),
        ] {
            let error = fetcher.keys(&source, time, &own, None).await.unwrap_err();
            assert!(error.contains(why), "{source:?}: {error}");
        }
    }

    #[tokio::test]
    async fn a107_keys_are_fetched_from_nowhere_that_no_document_writes_out() {
        let tasks = Tasks::new();
        let port = server(&tasks, |path, port| match path {
            "/away/.well-known/openid-configuration" => {
                ok(&format!(r#"{{"jwks_uri": "http://127.0.0.2:{port}/keys"}}"#))
            }
            _ => ok(KEYS),
        })
        .await;
        let (fetcher, time) = (fetcher(tasks.clone()), Duration::from_secs(20));
        let listener: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
        let (nothing, own) = (OwnPorts::default(), OwnPorts { listeners: vec![listener], ..OwnPorts::default() });
        let url = |host: &str| source(Site::Url(format!("http://{host}:{port}/keys")));
        assert!(fetcher.keys(&url("127.0.0.1"), time, &nothing, None).await.is_ok(), "it is written out");
        assert!(fetcher.keys(&url("localhost"), time, &nothing, None).await.is_ok(), "that is what it says");
        for (source, own, why) in [
            (url("127.0.0.1"), &own, "a port of this node itself"),
            (url("localhost"), &own, "a port of this node itself"),
            (source(Site::Issuer(format!("http://127.0.0.1:{port}/away"))), &nothing, "this machine"),
        ] {
            let error = fetcher.keys(&source, time, own, None).await.unwrap_err();
            assert!(error.contains(why), "{source:?}: {error}");
        }
        let (written, until) = (host_of("https://issuer.example/"), clock::monotonic() + time);
        let asking = Asking { written, own: &nothing, mesh: None, namespace: "shop", until };
        let metadata = asking.addresses("169.254.169.254", 80).await.unwrap_err();
        assert!(metadata.contains("link-local"), "{metadata}");
        let ways = [
            ("https://a", "http://a/b"),
            ("https://a", "HTTPS://b/"),
            ("http://a", "http://b"),
            ("http://a", "https://b"),
        ];
        assert_eq!(ways.map(|(from, to)| may_lead(from, to)), [false, true, true, true]);
    }

    #[tokio::test]
    async fn a_server_that_is_silent_is_given_up() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let (fetcher, source) = (fetcher(Tasks::new()), source(Site::Url(url)));
        let error = fetcher.keys(&source, Duration::from_millis(50), &OwnPorts::default(), None).await.unwrap_err();
        assert!(error.contains("no answer within"), "{error}");
    }
}
