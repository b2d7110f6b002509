//! Whom the command line asks, in which order.

use std::path::{Path, PathBuf};

use certs::id::NodeId;
use tokio::net::UnixStream;

use super::{Stream, remote};
use crate::{
    cli::{
        context::Context,
        error::{Error, Result},
    },
    config,
};

/// Someone to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// A node of this machine, by its socket.
    Socket(PathBuf),
    /// A node of the mesh.
    Mesh {
        /// Who it must be; any node of the mesh if none is named.
        name: Option<NodeId>,
        /// `HOST:PORT`.
        address: String,
    },
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
            Self::Mesh { name: Some(name), address } => write!(f, "{name} ({address})"),
            Self::Mesh { name: None, address } => f.write_str(address),
        }
    }
}

/// Everyone to ask, in order.
pub(super) fn candidates(ctx: &Context) -> Result<Vec<Target>> {
    match &ctx.globals.node {
        Some(text) => named(text, ctx),
        None => default(ctx),
    }
}

/// Everyone to ask where nobody is named.
pub(super) fn default(ctx: &Context) -> Result<Vec<Target>> {
    let mut targets: Vec<_> = sockets(ctx)?.into_iter().map(Target::Socket).collect();
    if let Ok(directory) = ctx.operator() {
        let nodes = directory.known().map(|known| known.nodes).unwrap_or_default();
        targets.extend(nodes.into_iter().flat_map(|node| {
            let name = node.name;
            node.addresses.into_iter().map(move |address| Target::Mesh { name: Some(name.clone()), address })
        }));
    }
    Ok(targets)
}

/// The node that the flags name, or the one of this machine.
pub(super) fn here(ctx: &Context) -> Result<Vec<Target>> {
    match &ctx.globals.node {
        Some(text) => named(text, ctx),
        None => Ok(sockets(ctx)?.into_iter().map(Target::Socket).collect()),
    }
}

/// What `--node` names.
fn named(text: &str, ctx: &Context) -> Result<Vec<Target>> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(vec![Target::Socket(PathBuf::from(path))]);
    }
    if let Some((host, port)) = text.rsplit_once(':') {
        return match port.parse::<u16>() {
            Ok(port) if port > 0 && !host.is_empty() => Ok(vec![Target::Mesh { name: None, address: text.to_owned() }]),
            Ok(_) | Err(_) => Err(Error::new("usage", format!("--node {text}: `{port}` is not a port"))
                .hint("write HOST:PORT, a known node's name, or unix:PATH")),
        };
    }
    let name = NodeId::new(text).map_err(|error| {
        Error::new("usage", format!("--node: {error}")).hint("write HOST:PORT, a known node's name, or unix:PATH")
    })?;
    let directory = ctx.operator()?;
    let nodes = directory.known()?.nodes;
    match nodes.iter().find(|node| node.name == name) {
        Some(node) => {
            let target = |address: &String| Target::Mesh { name: Some(name.clone()), address: address.clone() };
            Ok(node.addresses.iter().map(target).collect())
        }
        None => {
            let known: Vec<_> = nodes.iter().map(|node| node.name.to_string()).collect();
            Err(Error::new("not_found", format!("{} knows no node {name}", directory.path().display()))
                .hint(format!("known nodes: {}; or write --node HOST:PORT", known.join(", "))))
        }
    }
}

/// The local node's socket: what the configuration says, else where root's or the user's own node has it.
fn sockets(ctx: &Context) -> Result<Vec<PathBuf>> {
    if let Some(file) = &ctx.globals.config {
        let config = config::read(file)?;
        return Ok(vec![config.admin.socket]);
    }
    let own = config::paths::current();
    let root = config::paths::of(true, |_| None);
    let mut sockets = Vec::new();
    for paths in [own, root] {
        let configured = config::read(&paths.config_file).ok().map(|config| config.admin.socket);
        // A node of this machine that is down is worth a word; one that nobody configured is not.
        let expected = configured.is_some();
        let socket = configured.unwrap_or(paths.socket);
        if !sockets.contains(&socket) && (expected || socket.exists()) {
            sockets.push(socket);
        }
    }
    Ok(sockets)
}

/// Opens a stream to a target.
pub(super) async fn open(target: &Target, ctx: &Context) -> Result<Box<dyn Stream>> {
    match target {
        Target::Socket(path) => local(path).await,
        Target::Mesh { name, address } => remote::open(name.as_ref(), address, ctx).await,
    }
}

async fn local(path: &Path) -> Result<Box<dyn Stream>> {
    let stream = UnixStream::connect(path).await.map_err(|error| {
        let hint = if error.kind() == std::io::ErrorKind::PermissionDenied {
            "use sudo, or join the group `skein`"
        } else {
            "the node is not running: start it with `skein run`"
        };
        Error::new("unreachable", error.to_string()).hint(hint)
    })?;
    Ok(Box::new(stream))
}
