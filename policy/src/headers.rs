//! Header operations of a route, with the subset of Envoy's formatters that is built.

use http::{HeaderMap, HeaderName};

/// `HeaderOperations`: removals first, then `set`, then `add`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderOps {
    /// Overwritten or created.
    pub set: Vec<(HeaderName, Template)>,
    /// Appended.
    pub add: Vec<(HeaderName, Template)>,
    /// All lines deleted.
    pub remove: Vec<HeaderName>,
    /// `Host` or `:authority` among the operations: the request's authority becomes this.
    pub authority: Option<Template>,
}

/// A header value, perhaps with formatters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Format(Format),
}

/// A formatter in a header value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// `%REQ(NAME?OTHER):MAX%`: a header of the request, or another one, cut to a length.
    Request(String, Option<String>, Option<usize>),
    /// `%RESP(NAME?OTHER):MAX%`.
    Response(String, Option<String>, Option<usize>),
    /// One of the plain words.
    Word(Word),
}

/// Formatters without arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is Envoy's formatter of that name in capitals")]
pub enum Word {
    DownstreamRemoteAddress,
    DownstreamRemoteAddressWithoutPort,
    DownstreamLocalAddress,
    DownstreamLocalAddressWithoutPort,
    UpstreamHost,
    UpstreamRemoteAddress,
    Protocol,
    StartTime,
    Hostname,
    ResponseCode,
    RouteName,
}

/// What formatters read. `None` shows as `-`, as in Envoy.
pub trait Facts {
    /// A header of the request as it came.
    fn request_header(&self, name: &str) -> Option<&str>;
    /// A header of the response; `None` before there is one.
    fn response_header(&self, name: &str) -> Option<&str>;
    /// A plain formatter.
    fn word(&self, word: Word) -> Option<String>;
}

impl HeaderOps {
    /// True if there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty() && self.authority.is_none()
    }

    /// Applies removals, `set` and `add`; the authority is the caller's to apply.
    pub fn apply(&self, _headers: &mut HeaderMap, _facts: &dyn Facts) {
        todo!()
    }
}

impl Template {
    /// The value for these facts.
    pub fn render(&self, _facts: &dyn Facts) -> String {
        todo!()
    }
}
