//! `skein init`.

use std::net::SocketAddr;

use certs::{
    grant::GrantedService,
    id::{NodeId, TrustDomain},
    root::{Root, bundle_to_pem},
    sign::SigningKey,
};
use serde_json::json;

use crate::{
    agent::{admin::api::Out, init, state_dir::StateDir},
    cli::{
        context::Context,
        directory::{Directory, FIRST, Keys, Known, KnownNode},
        error::{Error, Result},
    },
    clock,
    config::{self, Config, Minimal},
};

/// Founds a mesh: makes its root, its first operator and this machine's node. Starts nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein init prod.example --name web-1 --service shop/cart=cart")]
pub struct Args {
    /// The mesh's name
    #[arg(value_name = "TRUST_DOMAIN")]
    trust_domain: TrustDomain,
    /// This node's name [default: the host's]
    #[arg(long, value_name = "NODE")]
    name: Option<NodeId>,
    /// What this node may run, each with the account that serves it [default account: default]; may be repeated
    #[arg(long, value_name = "NS/NAME[=SA]")]
    service: Vec<GrantedService>,
    /// Put the operator's keys under a passphrase, asked at the terminal; --passphrase-file does so too
    #[arg(long)]
    seal: bool,
}

/// Runs the command.
pub(super) fn run(args: Args, ctx: &Context) -> Result<()> {
    let name = args.name.clone().map_or_else(host_name, Ok)?;
    let directory = Directory::of(ctx.globals.operator.as_deref(), &args.trust_domain).under(ctx.passphrase.clone());
    directory.refuse_old_keys().map_err(|error| unfinished(error, &directory, ctx))?;
    let minimal = Minimal { node: name.clone(), trust_domain: args.trust_domain.clone(), advertise: None };
    let config = config::ensure(&ctx.config_file(), &minimal)?;
    // In the home of the user whom a node runs as, the mesh's keys would lie within the node's state.
    let command = format!(
        "init {} --operator DIR, with this command's other flags; DIR is a new folder that this user may make",
        args.trust_domain
    );
    let state = ctx.state(&config, &command)?;
    init::check_free(&state)?;

    let root = Root::generate(&args.trust_domain, clock::wall());
    let (operator, recovery) = (SigningKey::generate(), SigningKey::generate());
    let (root_pem, bundle) = (root.to_pem(), bundle_to_pem(&[root.certificate()]));
    directory.store_keys(&Keys { operator: &operator, recovery: &recovery, root: &root_pem, bundle: &bundle })?;
    let address = address(&config);
    let wish = init::Init {
        trust_domain: &args.trust_domain,
        node: &name,
        services: &args.service,
        root: &root,
        operator: ("operator", &operator),
        recovery: Some(("recovery", recovery.public())),
        address,
        now: clock::wall(),
    };
    let made = init::init(&state, &wish).inspect_err(|_| directory.forget_keys())?;
    let node = KnownNode { name: name.clone(), addresses: address.iter().map(ToString::to_string).collect() };
    let nodes = if node.addresses.is_empty() { Vec::new() } else { vec![node] };
    directory.store_known(&Known {
        trust_domain: args.trust_domain.clone(),
        genesis: made.genesis.0,
        role_set: made.role_set,
        out: Out::default(),
        nodes,
        later: toml::Table::new(),
    })?;

    let result = json!({
        "node": name,
        "trust_domain": args.trust_domain,
        "genesis": made.genesis.to_string(),
        "config": config.file,
        "data_dir": config.data_dir,
        "operator_dir": directory.path(),
    });
    ctx.output.show(&result, || text(&args.trust_domain, &name, &config, &directory))
}

/// What to do about keys by which no mesh came about: the process ended while it founded one.
fn unfinished(error: Error, directory: &Directory, ctx: &Context) -> Error {
    let is_nobodys = ctx.config().is_ok_and(|config| !StateDir::has_owner(&config.data_dir));
    if !is_nobodys || !directory.is_unfinished() {
        return error;
    }
    let path = directory.path().display();
    Error::new(error.code, format!("{path} holds keys and no mesh: an `init` that did not come to its end leaves that"))
        .hint(format!(
            "unless it is a copy of a mesh's keys, move {} aside, out of {path}, and give the command again",
            FIRST.join(", ")
        ))
}

/// Where other nodes will reach this one, if the configuration says it.
fn address(config: &Config) -> Option<SocketAddr> {
    let listen = Some(config.mesh.listen).filter(|listen| !listen.ip().is_unspecified() && listen.port() != 0);
    config.mesh.advertise.or(listen)
}

fn text(trust_domain: &TrustDomain, name: &NodeId, config: &Config, directory: &Directory) -> String {
    let dir = directory.path().display();
    format!(
        "{name} is the first node of {trust_domain}.\n\
         \n\
         configuration  {}\n\
         state          {}\n\
         operator       {dir}\n\
         \n\
         Store these where this machine cannot reach them, each with a copy of bundle.pem and mesh.toml, which are public:\n\
         {dir}/root.key      makes certificate authorities: take it off this machine\n\
         {dir}/recovery.key  signs new operators when operator.key is lost: take it off this machine\n\
         {dir}/operator.key  signs policy and invites: keep it with you\n\
         Where the two are missing beside a key, `skein operator restore DIR` on any node's machine writes them.\n\
         \n\
         Next: skein run, and for each further machine: skein invite NODE --service NS/NAME\n",
        config.file.display(),
        config.data_dir.display(),
    )
}

/// The host's name up to the first dot, if it is one that a node may bear.
fn host_name() -> Result<NodeId> {
    let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let short = host.split('.').next().unwrap_or_default().to_owned();
    NodeId::new(&short).map_err(|error| {
        Error::new("usage", format!("the host's name cannot be the node's: {error}")).hint("say it with --name NODE")
    })
}
