//! The request that is asked about, as a query says it.

use certs::id::{ServiceAccount, ServiceName};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header::HOST};
use percent_encoding::percent_decode_str;
use policy::kinds::GatewayName;

use crate::error::Error;

/// Bytes of a URL at most.
const MAX_URL: usize = 16 << 10;
/// Headers of a request at most.
const MAX_HEADERS: usize = 100;

/// What is asked about.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Asks {
    /// A request.
    #[default]
    Request,
    /// A connection of bytes.
    Bytes,
    /// A connection of TLS that asks for this server name.
    Tls(String),
}

/// The request or connection that is asked about.
#[derive(Debug, Default)]
pub(super) struct Question {
    pub(super) asks: Asks,
    pub(super) from: Option<ServiceAccount>,
    /// It is a client's, outside the mesh, and comes in where this Gateway opens its ports.
    pub(super) gateway: Option<GatewayName>,
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) authority: String,
    pub(super) headers: HeaderMap,
}

impl Question {
    pub(super) fn read(query: &str) -> Result<Self, Error> {
        let (mut question, mut url, mut server_name) = (Self::default(), None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode_str(value).decode_utf8().map_err(|_| wrong(value, "not UTF-8"))?;
            match name {
                "url" => url = Some(value.into_owned()),
                "method" => question.method = value.parse().map_err(|_| wrong(&value, "not a method"))?,
                "from" => {
                    let account = value.parse().map_err(|_| wrong(&value, "not NAMESPACE/ACCOUNT"))?;
                    question.from = Some(account);
                }
                "gateway" => question.gateway = Some(gateway(&value)?),
                "header" => question.header(&value)?,
                "sni" => server_name = Some(value.into_owned()),
                _ => return Err(wrong(name, "there is no such question")),
            }
        }
        question.set_url(&url.ok_or_else(|| wrong("", "the URL is missing"))?, server_name)?;
        Ok(question)
    }

    fn header(&mut self, text: &str) -> Result<(), Error> {
        let parsed = text.split_once(':').and_then(|(name, value)| {
            Some((name.trim().parse::<HeaderName>().ok()?, value.trim().parse::<HeaderValue>().ok()?))
        });
        let (name, value) = parsed.ok_or_else(|| wrong(text, "not a header; write NAME: VALUE"))?;
        if self.headers.len() >= MAX_HEADERS {
            return Err(wrong(text, "too many headers"));
        }
        self.headers.append(name, value);
        Ok(())
    }

    fn set_url(&mut self, url: &str, server_name: Option<String>) -> Result<(), Error> {
        if url.len() > MAX_URL {
            return Err(wrong("", "the URL is too long"));
        }
        let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let uri: Uri = full.parse().map_err(|_| wrong(url, "not a URL"))?;
        let authority = uri.authority().map(|authority| authority.as_str().to_owned());
        self.authority = authority.ok_or_else(|| wrong(url, "the URL names no host"))?;
        let named = || server_name.clone().unwrap_or_else(|| uri.host().unwrap_or_default().to_owned());
        self.asks = match uri.scheme_str() {
            Some("http") => Asks::Request,
            Some("https") if self.gateway.is_some() => Asks::Request,
            Some("https") => return Err(wrong(url, "https:// is for requests of clients at a gateway (--gateway)")),
            Some("tcp") => Asks::Bytes,
            Some("tls") => Asks::Tls(named()),
            _ => return Err(wrong(url, "write http:// for a request, tcp:// or tls:// for a connection")),
        };
        if self.gateway.is_some() && (self.asks != Asks::Request || self.from.is_some()) {
            return Err(wrong(url, "at a gateway requests are explained, and the gateway is who calls"));
        }
        if server_name.is_some() && !matches!(self.asks, Asks::Tls(_)) {
            return Err(wrong(url, "only tls:// asks for a server name"));
        }
        if self.asks != Asks::Request && !(matches!(uri.path(), "" | "/") && self.headers.is_empty()) {
            return Err(wrong(url, "a connection has neither path nor headers"));
        }
        // As the proxy sees it: Host says what is asked for.
        if let Some(host) = self.headers.remove(HOST) {
            host.to_str().map_err(|_| wrong(url, "not a host"))?.clone_into(&mut self.authority);
        }
        // The proxy answers such a request 400.
        if self.authority.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']') && !is_port(port)) {
            return Err(wrong(&self.authority, "not HOST or HOST:PORT"));
        }
        self.uri = uri;
        Ok(())
    }
}

/// The Gateway of a namespace: its names are of the same form as those of services.
fn gateway(text: &str) -> Result<GatewayName, Error> {
    let name: ServiceName = text.parse().map_err(|_| wrong(text, "not NAMESPACE/NAME"))?;
    Ok(GatewayName::Gateway { namespace: name.namespace().to_owned(), name: name.name().to_owned() })
}

/// What the proxy takes for a port: an empty one is the scheme's.
fn is_port(port: &str) -> bool {
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    port.is_empty() || is_number && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn wrong(what: &str, why: &str) -> Error {
    let what = if what.is_empty() { String::new() } else { format!("`{what}`: ") };
    Error::new("usage", format!("{what}{why}")).hint("see `skein explain --help`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_read_from_a_query() {
        let question =
            Question::read("url=reviews%3A9080%2Fa%3Fb&method=POST&from=shop%2Fweb&header=X%3A%201&header=x%3A2")
                .unwrap();
        assert_eq!(
            (question.authority.as_str(), question.uri.path(), question.method),
            ("reviews:9080", "/a", Method::POST)
        );
        assert_eq!(question.headers.get_all("x").iter().count(), 2);
        assert_eq!(question.from.unwrap().to_string(), "shop/web");
        let hosted = Question::read("url=http%3A%2F%2F127.0.0.1%2F&header=host%3Areviews").unwrap();
        assert_eq!((hosted.authority.as_str(), hosted.headers.len()), ("reviews", 0));
        let tls = Question::read("url=tls%3A%2F%2Fdb%3A443").unwrap();
        assert_eq!((tls.asks, tls.authority.as_str()), (Asks::Tls("db".to_owned()), "db:443"));
        let named = Question::read("url=tls%3A%2F%2Fdb%3A443&sni=a.example").unwrap();
        assert_eq!(named.asks, Asks::Tls("a.example".to_owned()));
        assert_eq!(Question::read("url=tcp%3A%2F%2Fdb%3A5432").unwrap().asks, Asks::Bytes);
        let entering = Question::read("url=https%3A%2F%2Fa&gateway=shop%2Fpublic").unwrap();
        assert_eq!(entering.gateway.map(|name| name.to_string()).as_deref(), Some("shop/public"));
        for bad in [
            "url=a&gateway=public",
            "url=tcp%3A%2F%2Fa%3A1&gateway=shop%2Fpublic",
            "url=a&gateway=shop%2Fpublic&from=shop%2Fweb",
        ] {
            assert_eq!(Question::read(bad).unwrap_err().code, "usage", "{bad}");
        }
        for bad in ["url=tcp%3A%2F%2Fdb%3A1%2Fa", "url=tcp%3A%2F%2Fdb%3A1&header=a%3Ab", "url=db&sni=a"] {
            assert_eq!(Question::read(bad).unwrap_err().code, "usage", "{bad}");
        }
        for bad in ["", "url=https%3A%2F%2Fa", "url=%20", "url=a&method=%20", "url=a&from=x", "url=a&header=x", "who=a"]
        {
            assert_eq!(Question::read(bad).unwrap_err().code, "usage", "{bad}");
        }
    }
}
