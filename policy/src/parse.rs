//! Text -> documents, with file, line and column of every complaint. Also the strict JSON that is signed, and back.

mod metadata;
mod place;

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    Document, DocumentId, Kind, Problem, Severity, Spec,
    changeset::{MAX_DOCUMENT, max_document},
    codes,
    decode::{At, Complaints, Record, Recording, nearest},
    document::{DEFAULT_NAMESPACE, EXPIRES, ROOT_NAMESPACE},
    kinds::{
        self, AuthorizationPolicy, DestinationRule, Gateway, KubernetesObject, MeshConfig, PeerAuthentication,
        RateLimit, RequestAuthentication, Revocation, RoleSet, ServiceEntry, Sidecar, Telemetry, VirtualService,
        WorkloadEntry, WorkloadGroup,
    },
    tree::{self, Key, Node, Place, SyntaxError, Value},
};

pub(crate) use metadata::Metadata;
pub use place::Places;

/// Field of a signed body that says on which line of its file the document began.
const SOURCE_LINE: &str = "sourceLine";
/// Bytes of a text that is read at once.
pub const MAX_TEXT: usize = 64 * 1024 * 1024;

/// What a file holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parsed {
    /// Documents without errors.
    pub documents: Vec<Located>,
    /// Objects of Kubernetes: facts for lint, refused by push.
    pub kubernetes: Vec<KubernetesObject>,
    /// Every complaint, warnings included.
    pub problems: Vec<Problem>,
}

/// A document and where it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Located {
    /// The document.
    pub document: Document,
    /// The strict JSON that is signed; its lines are those of the source, so that nodes can name them.
    pub json: String,
    /// Line of the document's first token, from 1.
    pub line: usize,
    /// The file as the caller named it.
    pub file: String,
    /// As it was written; none if only the signed body is known.
    tree: Option<Arc<Node>>,
}

impl Parsed {
    /// True if no complaint is an error.
    pub fn is_valid(&self) -> bool {
        self.problems.iter().all(|problem| problem.severity != Severity::Error)
    }
}

/// Reads YAML or JSON: any number of documents, lists (`kind: List`) included. Strict: unknown fields are errors.
pub fn yaml(file: &str, text: &str, default_namespace: &str) -> Parsed {
    let mut parsed = Parsed::default();
    if text.len() > MAX_TEXT {
        let error = SyntaxError {
            place: Place::default(),
            message: format!("the text has {} bytes, the limit is {MAX_TEXT}", text.len()),
            hint: "split it",
        };
        parsed.problems.push(syntax(file, &error));
        return parsed;
    }
    for document in tree::read_yaml(text) {
        match document {
            Ok(node) => item(&mut parsed, file, &node, default_namespace),
            Err(error) => parsed.problems.push(syntax(file, &error)),
        }
    }
    let mut seen = BTreeMap::new();
    let mut repeated = Vec::new();
    for located in &parsed.documents {
        if let Some(first) = seen.insert(&located.document.id, located.line) {
            repeated.push(twin(located, &format!("on line {first}"), Severity::Error, "keep one of them"));
        }
    }
    parsed.problems.extend(repeated);
    parsed
}

/// The complaint about a document that stands before, too: `there`.
pub fn twin(located: &Located, there: &str, severity: Severity, hint: &str) -> Problem {
    Problem {
        code: codes::DUPLICATE_DOCUMENT,
        severity,
        document: Some(located.document.id.to_string()),
        file: located.file.clone(),
        line: located.line,
        column: 1,
        field: String::new(),
        message: format!("{} stands twice, before {there}", located.document.id),
        hint: hint.to_owned(),
        istio_message: None,
    }
}

/// Reads a body that is to be signed, or is pushed.
///
/// # Errors
/// Every error of the document, and what this build does not apply yet; also if it is not the document that `id` says.
pub fn json(id: &DocumentId, json: &str) -> Result<Document, Vec<Problem>> {
    body_of(id, json, Complaints::new(""))
}

/// Reads a body that operators signed: what a node does with a change that is kept. In a RoleSet, verbs and kinds of a later build
/// stay and give no right here.
///
/// # Errors
/// As [`json`].
pub fn signed(id: &DocumentId, json: &str) -> Result<Document, Vec<Problem>> {
    body_of(id, json, Complaints::of_signed())
}

/// What is signed and cannot be read, as far as it can: the `spec` without whatever there would be to complain of.
pub(crate) fn as_far_as<T>(json: &str, decode: impl FnOnce(&At<'_>) -> Option<T>) -> Option<T> {
    let node = tree::read_json(json).ok()?;
    decode(&At::root(node.get("spec")?, &Complaints::of_signed()))
}

fn body_of(id: &DocumentId, json: &str, complaints: Complaints) -> Result<Document, Vec<Problem>> {
    let limit = max_document(id.kind);
    if json.len() > limit {
        let message = format!("over {} KiB", limit >> 10);
        return Err(vec![syntax("", &SyntaxError { place: Place::default(), message, hint: "" })]);
    }
    let mut node = tree::read_json(json).map_err(|error| vec![syntax("", &error)])?;
    let line = source_line(&node);
    node.shift(line - 1);
    let document = document(&At::root(&node, &complaints), id.namespace.as_str());
    if let Some(document) = &document
        && document.id != *id
    {
        At::root(&node, &complaints).error(codes::NAME, format!("the body is {}, not {id}", document.id));
    }
    let refused = complaints.problems.borrow().iter().any(Problem::refuses);
    match document {
        Some(document) if !refused => Ok(document),
        _ => Err(complaints.problems.into_inner().into_iter().filter(Problem::refuses).collect()),
    }
}

/// The line, from 1, on which the document of a signed body began in its file.
fn source_line(node: &Node) -> usize {
    match node.get(SOURCE_LINE).map(|line| &line.value) {
        Some(Value::Integer(line)) => usize::try_from(*line).unwrap_or(1).max(1),
        _ => 1,
    }
}

/// The compact form of a signed body: two bodies with the same meaning (but for lines) have the same one. `None` if it is not JSON.
pub fn compact(json: &str) -> Option<String> {
    let mut node = tree::read_json(json).ok()?;
    if let Value::Map(entries) = &mut node.value {
        entries.retain(|(key, _)| key.text != SOURCE_LINE);
    }
    Some(tree::write(&node, false))
}

/// True if two signed bodies mean the same, wherever in their files they stood.
pub fn same(one: &str, other: &str) -> bool {
    one == other || compact(one).is_some_and(|compacted| compact(other) == Some(compacted))
}

/// What is asked of the metadata and the spec of a kind's documents, and the versions under which the kind is read.
pub(crate) fn asked_of(kind: Kind) -> (Record, Option<Record>, Vec<String>) {
    let record = |decode: &dyn Fn(&At<'_>)| {
        Recording::of(|recording| {
            let complaints = Complaints::of_probe(recording);
            decode(&At::probe(&complaints));
            complaints.into_recording()
        })
    };
    let metadata = record(&|at| drop(metadata::read(at, kind, DEFAULT_NAMESPACE)));
    let of_probe = Metadata {
        id: DocumentId::new(kind, DEFAULT_NAMESPACE, "a"),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        created: None,
        expires: None,
    };
    let spec = (kind != Kind::Confirmation).then(|| record(&|at| drop(read_spec(at, &of_probe))));
    let group = group_of(kind);
    let versions = GROUPS.iter().filter(|(name, _)| *name == group).flat_map(|(_, versions)| *versions);
    (metadata, spec, versions.map(|version| format!("{group}/{version}")).collect())
}

fn syntax(file: &str, error: &SyntaxError) -> Problem {
    let complaints = Complaints::new(file);
    complaints.add(
        Severity::Error,
        codes::SYNTAX,
        error.place,
        String::new(),
        error.message.clone(),
        error.hint.to_owned(),
    );
    complaints.problems.into_inner().remove(0)
}

/// One item of a stream: a document, a list of them, or an object of Kubernetes.
fn item(parsed: &mut Parsed, file: &str, node: &Node, default_namespace: &str) {
    let complaints = Complaints::new(file);
    let kind = node.get("kind").and_then(Node::text).unwrap_or_default();
    let api = node.get("apiVersion").and_then(Node::text).unwrap_or_default();
    if kind.ends_with("List")
        && let Some(Value::List(items)) = node.get("items").map(|items| &items.value)
    {
        for node in items {
            item(parsed, file, node, default_namespace);
        }
        return;
    }
    if let Some(object) = kinds::kubernetes(api, kind, node, file, default_namespace) {
        parsed.kubernetes.push(object);
        return;
    }
    *complaints.document.borrow_mut() = label(kind, node, default_namespace);
    let at = At::root(node, &complaints);
    let document = document(&at, default_namespace);
    if let Some(document) = &document {
        let silenced = |one: &Problem| !one.refuses() && document.ignores(one.code);
        complaints.problems.borrow_mut().retain(|one| !silenced(one));
    }
    if let Some(document) = document.filter(|_| complaints.errors() == 0) {
        let body = body(node, &document.id);
        if body.len() > MAX_DOCUMENT {
            at.error_hint(
                codes::TOO_LARGE,
                format!("{} has {} bytes", document.id, body.len()),
                "the limit is 256 KiB",
            );
        } else {
            let line = node.place.line;
            let tree = Some(Arc::new(node.clone()));
            parsed.documents.push(Located { document, json: body, line, file: file.to_owned(), tree });
        }
    }
    parsed.problems.append(&mut complaints.problems.borrow_mut());
}

/// What complaints call a document before it is read: `KIND NAMESPACE/NAME`.
fn label(kind: &str, node: &Node, default_namespace: &str) -> Option<String> {
    let metadata = node.get("metadata")?;
    let namespace = match kind.parse::<Kind>() {
        Ok(kind) if kind.is_mesh_wide() => ROOT_NAMESPACE,
        Ok(_) | Err(_) => metadata.get("namespace").and_then(Node::text).unwrap_or(default_namespace),
    };
    Some(format!("{kind} {namespace}/{}", metadata.get("name").and_then(Node::text)?))
}

/// The strict JSON of a document: namespace filled in, `status` left out, lines kept.
fn body(node: &Node, id: &DocumentId) -> String {
    let mut node = node.clone();
    let line = node.place.line;
    let place = node.place;
    if let Value::Map(entries) = &mut node.value {
        entries.retain(|(key, _)| key.text != "status" && key.text != SOURCE_LINE);
        let metadata =
            entries.iter_mut().find(|(key, _)| key.text == "metadata").map(|(_, metadata)| &mut metadata.value);
        if let Some(Value::Map(metadata)) = metadata {
            metadata.retain(|(key, _)| key.text != "namespace");
            let value = Value::Text(id.namespace.clone());
            metadata.push((Key { place, text: "namespace".into() }, Node { place, value }));
        }
        let value = Value::Integer(i128::try_from(line).unwrap_or(1));
        entries.insert(0, (Key { place, text: SOURCE_LINE.into() }, Node { place, value }));
    }
    tree::write(&node, true)
}

/// Reads a document; complaints go to the decoder's list.
fn document(at: &At<'_>, default_namespace: &str) -> Option<Document> {
    let fields = at.fields()?;
    let api = fields.required("apiVersion");
    let word = fields.required("kind")?;
    // One that is missing, or is no text, has been complained of.
    let kind = known_kind(&word, api.as_ref().and_then(At::text))?;
    let metadata = fields.required("metadata");
    fields.get("status");
    fields.get(SOURCE_LINE);
    let metadata = metadata.as_ref().and_then(|at| metadata::read(at, kind, default_namespace))?;
    let spec = match fields.get("spec") {
        Some(spec) => read_spec(&spec, &metadata),
        None if kind == Kind::Confirmation => Some(Spec::Confirmation),
        None => {
            at.error(codes::SHAPE, "`spec` is required");
            None
        }
    };
    fields.finish();
    warn_of_fault(at, &metadata, spec.as_ref());
    let Metadata { id, labels, annotations, created, expires } = metadata;
    Some(Document { id, labels, annotations, created, expires, line: at.line(), spec: spec? })
}

fn warn_of_fault(at: &At<'_>, metadata: &Metadata, spec: Option<&Spec>) {
    if let Some(Spec::VirtualService(service)) = spec
        && metadata.expires.is_none()
        && service.http.iter().any(|route| route.fault.is_some())
    {
        let hint = format!("annotate {EXPIRES}: \"2030-01-31T12:00:00Z\"; then what it replaced holds again");
        at.warn(codes::FAULT_WITHOUT_EXPIRY, "the document injects a fault for ever", hint);
    }
}

fn read_spec(spec: &At<'_>, metadata: &Metadata) -> Option<Spec> {
    let id = &metadata.id;
    Some(match id.kind {
        Kind::VirtualService => Spec::VirtualService(Arc::new(VirtualService::decode(spec, &id.namespace)?)),
        Kind::DestinationRule => Spec::DestinationRule(Arc::new(DestinationRule::decode(spec, metadata)?)),
        Kind::ServiceEntry => Spec::ServiceEntry(Arc::new(ServiceEntry::decode(spec, metadata)?)),
        Kind::WorkloadEntry => Spec::WorkloadEntry(Arc::new(WorkloadEntry::decode(spec)?)),
        Kind::WorkloadGroup => Spec::WorkloadGroup(Arc::new(WorkloadGroup::decode(spec)?)),
        Kind::Gateway => Spec::Gateway(Arc::new(Gateway::decode(spec, metadata)?)),
        Kind::Sidecar => Spec::Sidecar(Arc::new(Sidecar::decode(spec, metadata)?)),
        Kind::AuthorizationPolicy => Spec::AuthorizationPolicy(Arc::new(AuthorizationPolicy::decode(spec, metadata)?)),
        Kind::PeerAuthentication => Spec::PeerAuthentication(Arc::new(PeerAuthentication::decode(spec, metadata)?)),
        Kind::RequestAuthentication => {
            Spec::RequestAuthentication(Arc::new(RequestAuthentication::decode(spec, metadata)?))
        }
        Kind::Telemetry => Spec::Telemetry(Arc::new(Telemetry::decode(spec, metadata)?)),
        Kind::RateLimit => Spec::RateLimit(Arc::new(RateLimit::decode(spec, metadata)?)),
        Kind::MeshConfig => Spec::MeshConfig(Arc::new(MeshConfig::decode(spec, metadata)?)),
        Kind::RoleSet => Spec::RoleSet(Arc::new(RoleSet::decode(spec)?)),
        Kind::NodeGrant => Spec::NodeGrant(Arc::new(kinds::decode_node_grant(spec, &id.name)?)),
        Kind::Revocation => Spec::Revocation(Arc::new(Revocation::decode(spec)?)),
        Kind::Confirmation => Spec::Confirmation,
        // No text is read as a document of one.
        Kind::Unknown(_) => return None,
    })
}

/// Groups and the versions that are read alike.
const GROUPS: [(&str, &[&str]); 4] = [
    ("networking.istio.io", &["v1", "v1beta1", "v1alpha3"]),
    ("security.istio.io", &["v1", "v1beta1"]),
    ("telemetry.istio.io", &["v1", "v1alpha1"]),
    ("skein.dev", &["v1"]),
];

/// The group of the Gateway API, whose `Gateway` is not Istio's.
const GATEWAY_API: &str = "gateway.networking.k8s.io/";
/// What to write instead of what the Gateway API has.
const INSTEAD_OF_GATEWAY_API: &str =
    "the Gateway API is not read: write Istio's Gateway and VirtualService (networking.istio.io/v1)";

/// Kinds of others without a place here, and what to use instead.
const INSTEAD: [(&str, &str); 12] = [
    (
        "EnvoyFilter",
        "for limits use RateLimit (skein.dev/v1), for headers VirtualService.http.headers; there is no Envoy to patch",
    ),
    ("WasmPlugin", "there is no Wasm runtime: use VirtualService headers, AuthorizationPolicy or RateLimit"),
    ("TrafficExtension", "there is no Wasm runtime: use VirtualService headers, AuthorizationPolicy or RateLimit"),
    ("ProxyConfig", "set [runtime] in the node's skein.toml"),
    (
        "IstioOperator",
        "nothing is installed by documents: write what stands under `meshConfig` as MeshConfig (skein.dev/v1)",
    ),
    ("GatewayClass", INSTEAD_OF_GATEWAY_API),
    ("HTTPRoute", INSTEAD_OF_GATEWAY_API),
    ("GRPCRoute", INSTEAD_OF_GATEWAY_API),
    ("TCPRoute", INSTEAD_OF_GATEWAY_API),
    ("UDPRoute", INSTEAD_OF_GATEWAY_API),
    ("TLSRoute", INSTEAD_OF_GATEWAY_API),
    ("ReferenceGrant", INSTEAD_OF_GATEWAY_API),
];

/// The kind, if this build reads it under this version.
fn known_kind(word: &At<'_>, api: Option<&str>) -> Option<Kind> {
    let text = word.text()?;
    let instead = INSTEAD.iter().find(|(name, _)| *name == text).map(|(_, instead)| *instead);
    if let Some(instead) = instead.or_else(|| api?.starts_with(GATEWAY_API).then_some(INSTEAD_OF_GATEWAY_API)) {
        word.error_hint(codes::KIND_REFUSED, format!("{text} is not supported"), instead);
        return None;
    }
    let Some(kind) = Kind::all().find(|kind| kind.as_str() == text) else {
        let hint = nearest(text, Kind::words()).map(|kind| format!("did you mean {kind}?")).unwrap_or_default();
        word.error_hint(codes::UNKNOWN_KIND, format!("`{text}` is not a kind of policy document"), hint);
        return None;
    };
    let group = group_of(kind);
    let Some(api) = api else { return Some(kind) };
    let (found, version) = api.split_once('/').unwrap_or((api, ""));
    let versions = GROUPS.iter().find(|(name, _)| *name == group).map_or(&[][..], |(_, versions)| versions);
    if found != group || !versions.contains(&version) {
        word.error_hint(
            codes::SHAPE,
            format!("`{api}` is not the apiVersion of {kind}"),
            format!("write {group}/{}", versions[0]),
        );
        return None;
    }
    Some(kind)
}

fn group_of(kind: Kind) -> &'static str {
    match kind {
        Kind::VirtualService
        | Kind::DestinationRule
        | Kind::ServiceEntry
        | Kind::WorkloadEntry
        | Kind::WorkloadGroup
        | Kind::Gateway
        | Kind::Sidecar => GROUPS[0].0,
        Kind::AuthorizationPolicy | Kind::PeerAuthentication | Kind::RequestAuthentication => GROUPS[1].0,
        Kind::Telemetry => GROUPS[2].0,
        Kind::RateLimit
        | Kind::MeshConfig
        | Kind::RoleSet
        | Kind::NodeGrant
        | Kind::Revocation
        | Kind::Confirmation
        | Kind::Unknown(_) => GROUPS[3].0,
    }
}

#[cfg(test)]
mod tests;
