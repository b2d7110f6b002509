//! `skein ca bundle|csr|sign|promote|renew|rotate`.

mod rotate;

pub(super) mod offline;

use std::{path::PathBuf, time::Duration};

use certs::{
    ca::{request_from_pem, requested_key},
    codec::Millis,
    grant::NodeGrant,
    id::NodeId,
    root::{Root, bundle_to_pem},
};
use policy::{DocumentId, Kind};
use serde_json::{Value, json};

use crate::{
    agent::admin::api::{EnrollerRequest, Mesh},
    cli::{
        client::{self, Client},
        context::Context,
        directory::{Directory, Known},
        error::{Error, Result, io, usage},
        grants,
        output::remark,
        proof,
        signing::{Operator, Sending},
        value,
    },
    clock,
};

/// The mesh's certificate authority.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Print the trust bundle: the roots that every node believes, as PEM
    #[command(after_help = "Example: skein ca bundle > bundle.pem")]
    Bundle,
    /// Print a request: a running node's for its enroller CA, to be signed where root.key lies; a new machine's to become a node
    #[command(after_help = "Examples:
  skein ca csr > web-2.csr
  skein ca csr --name web-9 --trust-domain prod.example > web-9.csr    (then `ca sign` elsewhere, `join --enrolment` here)")]
    Csr {
        #[command(flatten)]
        new: offline::New,
    },
    /// Certify by a request: an enroller CA with root.key alone and no connection, a new node by its token at its enroller
    #[command(after_help = "Examples:
  skein ca sign web-2.csr --operator /media/vault > web-2.pem
  skein ca sign web-9.csr --token-file web-9.token > web-9.enrolment")]
    Sign {
        /// What `skein ca csr` printed
        #[arg(value_name = "REQUEST")]
        request: PathBuf,
        /// By root.next.key: while the mesh goes from one root to the next
        #[arg(long)]
        next: bool,
        /// A new node's token, from `skein invite`
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
    },
    /// Make a node an enroller: by an operator's grant and the root's certificate
    #[command(after_help = "Examples:
  skein ca promote web-2
  skein ca promote web-2 --root-key /media/vault/root.key")]
    Promote {
        /// The node; it must run. Where the root's key is not at hand it is granted all the same, and the certificate goes by files
        #[arg(value_name = "NODE")]
        of: NodeId,
        #[command(flatten)]
        root: RootKey,
    },
    /// Renew an enroller's CA
    #[command(after_help = "Examples:
  skein ca renew web-1
  skein ca renew --certificate web-1.pem")]
    Renew {
        /// The enroller [default: this machine's node]
        #[arg(value_name = "NODE")]
        of: Option<NodeId>,
        /// What `skein ca sign` printed; without it the root's key is needed
        #[arg(long, value_name = "FILE", conflicts_with = "root_key")]
        certificate: Option<PathBuf>,
        #[command(flatten)]
        root: RootKey,
    },
    /// Go from one root to the next, without a failed request
    #[command(subcommand)]
    Rotate(rotate::Command),
}

/// Where the root's key lies, if not beside the operator's.
#[derive(Debug, Default, clap::Args)]
pub struct RootKey {
    /// The root's key, where it lies elsewhere than in the operator directory
    #[arg(long, value_name = "FILE")]
    root_key: Option<PathBuf>,
}

/// Runs the command.
pub(super) async fn run(command: Command, ctx: &Context) -> Result<()> {
    match command {
        Command::Bundle => bundle(ctx).await,
        Command::Csr { new } => csr(&new, ctx).await,
        Command::Sign { request, next, token_file } => sign(&request, next, token_file.as_deref(), ctx).await,
        Command::Promote { of, root } => promote(&of, &root, ctx).await,
        Command::Renew { of, certificate, root } => renew(of.as_ref(), certificate, &root, ctx).await,
        Command::Rotate(command) => rotate::run(command, ctx).await,
    }
}

async fn bundle(ctx: &Context) -> Result<()> {
    let mesh: Mesh = client::connect(ctx).await?.get("/v1/mesh").await?;
    let value = json!({"trust_domain": mesh.trust_domain, "bundle": mesh.bundle});
    ctx.output.show(&value, || mesh.bundle.clone())
}

async fn csr(new: &offline::New, ctx: &Context) -> Result<()> {
    if let Some((trust_domain, asked)) = offline::request(new, ctx)? {
        let text = offline::file(&trust_domain, &asked);
        let value = json!({"node": asked.node, "trust_domain": trust_domain, "request": text});
        return ctx.output.show(&value, || text.clone());
    }
    let mut client = client::connect_here(ctx).await?;
    let asked: EnrollerRequest = client.post("/v1/ca/request", "").await?;
    ctx.output.show(&asked, || file(&asked))
}

/// A request as a file: before the PEM stands what its certificate must say.
fn file(asked: &EnrollerRequest) -> String {
    format!("node {}\nepoch {}\nlife {}s\n{}", asked.node, asked.epoch, asked.life_s, asked.request)
}

/// Reads what [`file`] writes.
fn read(text: &str) -> Result<EnrollerRequest> {
    let bad = |what: &str| usage(format!("not a request: {what}"), "give the file that `skein ca csr` printed");
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map(str::trim).ok_or_else(|| bad(&format!("it has no line `{name}`")))
    };
    let life = value::duration(field("life")?).map_err(|error| bad(&error))?;
    Ok(EnrollerRequest {
        node: NodeId::new(field("node")?).map_err(|error| bad(&error.to_string()))?,
        epoch: field("epoch")?.parse().map_err(|_| bad("its epoch is no number"))?,
        life_s: life.as_secs(),
        request: text.to_owned(),
    })
}

async fn sign(path: &std::path::Path, next: bool, token: Option<&std::path::Path>, ctx: &Context) -> Result<()> {
    let text = std::fs::read_to_string(path).map_err(|error| io("read", path, &error))?;
    if let Some(new) = offline::read_request(&text)? {
        return offline::sign(new, token, ctx).await;
    }
    if token.is_some() {
        return Err(usage("an enroller CA is certified by root.key, not by a token", "leave out --token-file"));
    }
    let asked = read(&text)?;
    let root = ctx.operator()?.lying_root(next)?;
    let (certificate, life) = certify(&root, &asked)?;
    tell(&asked, life);
    let value = json!({"node": asked.node, "epoch": asked.epoch, "certificate": certificate});
    ctx.output.show(&value, || certificate.clone())
}

/// What the root is about to sign.
fn tell(asked: &EnrollerRequest, life: Duration) {
    let days = life.as_secs() / 86_400;
    remark(&format!("note: this makes {} of epoch {} an enroller for {days} days", asked.node, asked.epoch));
}

/// The certificate that a request asks for, PEM.
fn certify(root: &Root, asked: &EnrollerRequest) -> Result<(String, Duration)> {
    let refused = |error: certs::error::Error| {
        Error::new("refused", format!("{} is not certified: {error}", asked.node))
            .hint("make a new request: skein ca csr")
    };
    let request = request_from_pem(&asked.request).map_err(refused)?;
    let spki = requested_key(&request, &asked.node).map_err(refused)?;
    let life = Duration::from_secs(asked.life_s);
    let millis = Millis::try_from(life.as_millis()).unwrap_or(Millis::MAX);
    let made = root.issue_enroller_for(&asked.node, asked.epoch, &spki, millis, clock::wall());
    Ok((bundle_to_pem(&[made.map_err(refused)?]), life))
}

async fn promote(node: &NodeId, key: &RootKey, ctx: &Context) -> Result<()> {
    let operator = Operator::load(ctx)?;
    let mut client = client::connect(&ctx.asking(node)).await?;
    let root = issuing_root((&operator.directory, &operator.known), key, Some(node), &mut client).await;
    // A key that lies elsewhere keeps nobody from granting; one that is named and is none does.
    if let Err(error) = &root
        && (error.code != "no_root" || key.root_key.is_some())
    {
        return root.map(drop);
    }
    let held = grants::fetch_active(&mut client, &operator.known, node).await?;
    if !held.grant.enroller {
        let grant = NodeGrant { enroller: true, ..held.grant.clone() };
        let sending = Sending { message: format!("promote {node}"), ..Sending::default() };
        let outcome = grants::put(&operator, &mut client, ctx, (&grant, Some(&held)), &sending).await?;
        if let Some(missing) = outcome.missing() {
            let message = format!("the grant is a proposal: it is in effect once {missing} signed it");
            return Err(Error::new("threshold_missing", message).hint("`skein policy sign`, then this command again"));
        }
    }
    let root = root.map_err(|error| {
        let message = format!("{node} is granted and not certified yet: {}", error.message);
        Error { message, ..error }
    })?;
    certified((&root, &operator.known), Some(node), &mut client, ctx).await
}

async fn renew(of: Option<&NodeId>, certificate: Option<PathBuf>, key: &RootKey, ctx: &Context) -> Result<()> {
    let asked = of.map(|node| ctx.asking(node));
    let connect = || async {
        match &asked {
            Some(asked) => client::connect(asked).await,
            None => client::connect_here(ctx).await,
        }
    };
    if let Some(path) = certificate {
        let pem = std::fs::read_to_string(&path).map_err(|error| io("read", &path, &error))?;
        return install(&mut connect().await?, &pem, ctx).await;
    }
    let directory = ctx.operator()?;
    let known = directory.known()?;
    let mut client = connect().await?;
    let root = issuing_root((&directory, &known), key, of, &mut client).await?;
    certified((&root, &known), of, &mut client, ctx).await
}

/// The key of the root from which the mesh issues now, to certify this node, by default the one of this machine.
async fn issuing_root(
    (directory, known): (&Directory, &Known),
    key: &RootKey,
    node: Option<&NodeId>,
    client: &mut Client,
) -> Result<Root> {
    let state = proof::of_document(client, known, &DocumentId::role_set()).await?.state(clock::wall());
    if let Some(file) = &key.root_key {
        return directory.issuing_root_in(file, &known.trust_domain, state.trust());
    }
    let found = directory.issuing_root(&known.trust_domain, state.trust());
    found.map_err(|error| if error.code == "no_root" { error.hint(by_files(node)) } else { error })
}

/// How a node is certified where the root's key is not at hand.
fn by_files(node: Option<&NodeId>) -> String {
    let name = node.map_or("node", NodeId::as_str);
    let there = node.map_or_else(String::new, |node| format!("on {node}: "));
    format!(
        "name the key with --root-key FILE, or carry files:\n  \
         {there}skein ca csr > {name}.csr\n  \
         where root.key lies: skein ca sign {name}.csr --operator DIR > {name}.pem\n  \
         {there}skein ca renew --certificate {name}.pem"
    )
}

/// Has the reached node certified by the root, as the node that the operator named: by default the one of this machine.
async fn certified(
    (root, known): (&Root, &Known),
    named: Option<&NodeId>,
    client: &mut Client,
    ctx: &Context,
) -> Result<()> {
    let asked: EnrollerRequest = client.post("/v1/ca/request", "").await?;
    let named = named.unwrap_or(&asked.node);
    let grant = grants::fetch_active(client, known, named).await?.grant;
    let longest = longest_enroller_life(client, known).await?;
    let done = certified_by(root, (&asked, &grant, longest), client).await?;
    ctx.output.show(&done, || enrols(&done))
}

/// How long policy lets an enroller CA live.
async fn longest_enroller_life(client: &mut Client, known: &Known) -> Result<Duration> {
    let config = DocumentId::mesh_wide(Kind::MeshConfig, "default");
    Ok(proof::of_document(client, known, &config).await?.state(clock::wall()).lifetimes().enroller_ca)
}

/// Certifies what a node asks for, if that is what its grant lets it be for no longer than policy allows, and has it take that into use.
async fn certified_by(
    root: &Root,
    (asked, grant, longest): (&EnrollerRequest, &NodeGrant, Duration),
    client: &mut Client,
) -> Result<Value> {
    refuse_other(asked, grant, longest)?;
    let (certificate, life) = certify(root, asked)?;
    tell(asked, life);
    client.post_json("/v1/ca/certificate", &json!({"certificate": certificate})).await
}

/// What the root signs follows from what operators signed, not from what a node says of itself: it could ask in the name of another
/// one, of an epoch that is still to come, or for longer than policy lets it enrol.
fn refuse_other(asked: &EnrollerRequest, grant: &NodeGrant, longest: Duration) -> Result<()> {
    let (node, epoch) = (&grant.node, grant.epoch);
    let refused = |message: String, hint: String| Err(Error::new("refused", message).hint(hint));
    if !grant.enroller {
        let message = format!("operators do not let {node} enrol others");
        return refused(message, format!("make it an enroller: skein ca promote {node}"));
    }
    if asked.node != *node || asked.epoch != epoch {
        let message = format!(
            "asked for {node} of epoch {epoch}, the node wants a certificate for {} of epoch {}",
            asked.node, asked.epoch
        );
        return refused(message, "nothing was signed; is that machine what it says it is?".to_owned());
    }
    if asked.life_s > longest.as_secs() {
        let message = format!("{node} wants a life of {} s, policy gives {} s", asked.life_s, longest.as_secs());
        return refused(
            message,
            "nothing was signed; `certificates.enrollerCa` of the MeshConfig says how long".to_owned(),
        );
    }
    Ok(())
}

async fn install(client: &mut Client, certificate: &str, ctx: &Context) -> Result<()> {
    let done: Value = client.post_json("/v1/ca/certificate", &json!({"certificate": certificate})).await?;
    ctx.output.show(&done, || enrols(&done))
}

fn enrols(done: &Value) -> String {
    let word = |field: &str| done[field].as_str().unwrap_or_default();
    format!("{} enrols others until {}\n", word("node"), word("enroller_ca_expires"))
}

#[cfg(test)]
mod tests {
    use certs::{
        ca::{CaKey, request_to_pem},
        id::TrustDomain,
    };

    use super::*;

    #[test]
    fn a_request_goes_through_its_file_and_is_certified() {
        let (key, node) = (CaKey::generate(), NodeId::new("web-2").unwrap());
        let request = request_to_pem(&key.request(&node));
        let asked = EnrollerRequest { node: node.clone(), epoch: 3, life_s: 86_400, request };
        let again = read(&file(&asked)).unwrap();
        assert_eq!((&again.node, again.epoch, again.life_s), (&node, 3, 86_400));
        let root = Root::generate(&TrustDomain::new("t.example").unwrap(), clock::wall());
        let (certificate, life) = certify(&root, &again).unwrap();
        assert_eq!(life, Duration::from_secs(86_400));
        assert_eq!(certs::root::bundle_from_pem(&certificate).unwrap().len(), 1);
        // The name before the request is not that in it.
        let other = EnrollerRequest { node: NodeId::new("web-3").unwrap(), ..again };
        assert_eq!(certify(&root, &other).unwrap_err().code, "refused");
        for text in ["", "node web-2\nepoch x\nlife 1s\n", "node -\nepoch 1\nlife 1s\n", "node a\nepoch 1\n"] {
            assert_eq!(read(text).unwrap_err().code, "usage", "{text}");
        }
    }

    #[test]
    fn the_root_signs_what_operators_signed_and_not_what_a_node_claims() {
        let node = NodeId::new("web-2").unwrap();
        let grant = NodeGrant {
            node: node.clone(),
            epoch: 3,
            services: Vec::new(),
            token_hash: None,
            redeemer: None,
            token_expires: None,
            enroller: true,
            retired: false,
        };
        let longest = Duration::from_secs(86_400);
        let asked = EnrollerRequest { node, epoch: 3, life_s: 86_400, request: String::new() };
        refuse_other(&asked, &grant, longest).unwrap();
        refuse_other(&EnrollerRequest { life_s: 60, ..asked.clone() }, &grant, longest).unwrap();
        for lie in [
            EnrollerRequest { node: NodeId::new("web-1").unwrap(), ..asked.clone() },
            EnrollerRequest { epoch: 4, ..asked.clone() },
            EnrollerRequest { epoch: 2, ..asked.clone() },
            EnrollerRequest { life_s: 86_401, ..asked.clone() },
        ] {
            let error = refuse_other(&lie, &grant, longest).unwrap_err();
            assert_eq!(error.code, "refused");
            assert!(error.hint.contains("nothing was signed"), "{lie:?}");
        }
        let plain = NodeGrant { enroller: false, ..grant };
        let error = refuse_other(&asked, &plain, longest).unwrap_err();
        assert_eq!(error.hint, "make it an enroller: skein ca promote web-2");
    }
}
