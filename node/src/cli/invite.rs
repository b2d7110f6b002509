//! `skein invite`.

use std::{net::SocketAddr, time::Duration};

use certs::{
    codec::Millis,
    grant::{GrantedService, NodeGrant},
    id::NodeId,
    join::{Secret, Token},
};
use serde_json::json;

use crate::{
    agent::{
        NO_ENROLLER,
        admin::{
            api::{KnownNode, Member, Mesh},
            rfc3339,
        },
    },
    cli::{
        client::{self, Client},
        context::Context,
        error::{Error, Result, usage},
        grants::{self, Held},
        output::remark,
        signing::{Operator, Sending},
        value,
    },
    clock,
};

/// The longest life of a token.
const TTL_LIMIT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Lets a machine join: prints one token, good for one node, once. Give it to `skein join -` there.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein invite web-1 --service shop/cart=cart | ssh web-1 sudo skein join -")]
pub struct Args {
    /// The new node's name
    #[arg(value_name = "NODE")]
    guest: NodeId,
    /// What it may run, each with the account that serves it [default account: default]; may be repeated
    #[arg(long, value_name = "NS/NAME[=SA]")]
    service: Vec<GrantedService>,
    /// It runs no service and calls none
    #[arg(long, conflicts_with = "service")]
    no_service: bool,
    /// It enrols others, once `skein ca promote NODE` has certified it
    #[arg(long)]
    enroller: bool,
    /// A rebuilt machine takes the name over, and may run what the old one might unless that is said anew; what the old one holds counts no
    /// more, but for an enroller's CA: it goes on certifying for those whom it enrolled. Where that was stolen, `skein evict NODE --force` before
    #[arg(long)]
    replace: bool,
    /// How long the token is good
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = value::duration)]
    ttl: Duration,
}

impl Args {
    fn says_services(&self) -> bool {
        self.no_service || !self.service.is_empty()
    }

    fn unsaid(&self) -> Error {
        usage(
            format!("it is not said what {} may run", self.guest),
            "give --service NS/NAME[=SA] for each of its services, or --no-service",
        )
    }

    /// What the node may run, and whether it is an enroller: a machine that takes a name over is what the last one was, unless it is said.
    fn granted(&self, held: Option<&Held>) -> Result<(Vec<GrantedService>, bool)> {
        if self.says_services() {
            return Ok((self.service.clone(), self.enroller));
        }
        let held = held.ok_or_else(|| self.unsaid())?;
        let names: Vec<String> = held.grant.services.iter().map(|granted| granted.service.to_string()).collect();
        let what = if names.is_empty() { "no service".to_owned() } else { names.join(", ") };
        remark(&format!("note: {} may run what it might before: {what}", self.guest));
        Ok((held.grant.services.clone(), self.enroller || held.grant.enroller))
    }
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    if args.ttl.is_zero() || args.ttl > TTL_LIMIT {
        return Err(usage("--ttl must be above 0 and at most 168h", "the default is 1h"));
    }
    if !args.says_services() && !args.replace {
        return Err(args.unsaid());
    }
    let operator = Operator::load(ctx)?;
    let mut client = client::connect(ctx).await?;
    let mesh: Mesh = client.get("/v1/mesh").await?;
    if mesh.genesis != operator.known.genesis {
        let message = format!("{} is of another mesh than the operator key", client.reached());
        return Err(Error::new("wrong_trust_domain", message).hint("give the right --operator DIR or --node"));
    }
    let (held, role_set) = grants::fetch(&mut client, &operator.known, &args.guest).await?;
    if !args.replace {
        refuse_taken(&mut client, &mesh, &args.guest, held.as_ref()).await?;
    }
    let (services, is_enroller) = args.granted(held.as_ref())?;
    refuse_demotion(&args.guest, is_enroller, held.as_ref())?;
    let enroller = enroller(&mesh)?;
    let secret = Secret::generate();
    let expires = clock::wall() + Millis::try_from(args.ttl.as_millis()).unwrap_or(Millis::MAX);
    let grant = NodeGrant {
        node: args.guest.clone(),
        epoch: held.as_ref().map_or(1, |held| held.grant.epoch + 1),
        services,
        token_hash: Some(secret.hash()),
        redeemer: Some(enroller.name.clone()),
        token_expires: Some(expires),
        enroller: is_enroller,
        retired: false,
    };
    let sending = Sending { message: format!("invite {}", args.guest), ..Sending::default() };
    let outcome = grants::put(&operator, &mut client, ctx, (&grant, held.as_ref()), &sending).await?;
    if let Some(missing) = outcome.missing() {
        remark(&format!(
            "note: the grant is a proposal: the token is good once {missing} signed it (`skein policy sign`)"
        ));
    }
    let at_enroller = outcome.pushed.as_ref().is_some_and(|pushed| pushed.durable.contains(&enroller.name));
    if !at_enroller {
        remark(&format!("note: {} has not confirmed the invite yet; the token is good once it has", enroller.name));
    }
    if is_enroller {
        remark(&format!("note: once {} runs, certify it as an enroller: skein ca promote {}", args.guest, args.guest));
    }
    remark(&format!("note: {} will call {} at {}", args.guest, enroller.name, enroller.addresses.join(", ")));
    let own = ctx.config().ok().filter(|config| config.node == enroller.name).map(|config| config.mesh);
    let is_meant = own.is_some_and(|mesh| mesh.advertise.is_some() || mesh.listen.ip().is_loopback());
    if !is_meant && leads_nowhere(enroller, &mesh) {
        remark(&format!(
            "warning: that address leads {} to itself, and not to {}: write one by which others reach it into [mesh] advertise there, restart \
             it, and invite again",
            args.guest, enroller.name
        ));
    }
    let token = Token {
        trust_domain: mesh.trust_domain.clone(),
        genesis: mesh.genesis,
        role_set,
        node: args.guest,
        secret,
        enroller: enroller.name.clone(),
        addresses: enroller.addresses.clone(),
        expires,
    };
    let text = token.to_string();
    let value = json!({
        "node": token.node,
        "token": text,
        "enroller": token.enroller,
        "addresses": token.addresses,
        "expires": rfc3339(expires),
    });
    ctx.output.show(&value, || text.clone())
}

/// A name that a node bears is given away only by `--replace`, also where that was not seen for months.
async fn refuse_taken(client: &mut Client, mesh: &Mesh, node: &NodeId, held: Option<&Held>) -> Result<()> {
    let Some(held) = held else { return Ok(()) };
    let members: Vec<Member> = client.get("/v1/members?all=true").await?;
    let joined = mesh.joined.contains(node) || members.iter().any(|member| member.name == *node);
    // The first node has no token; a token that nobody used may be made again.
    if !joined && held.grant.token_hash.is_some() && !held.grant.retired {
        return Ok(());
    }
    let what = if held.grant.retired { "was a node and left" } else { "is a node already" };
    Err(Error::new("already_exists", format!("{node} {what}"))
        .hint("for a rebuilt machine add --replace; to let it run more services use `skein grant`"))
}

/// A rebuilt enroller stays one, also one that left: what others hold by its certificate counts only while operators call it one.
fn refuse_demotion(node: &NodeId, enroller: bool, held: Option<&Held>) -> Result<()> {
    if enroller || held.is_none_or(|held| !held.grant.enroller) {
        return Ok(());
    }
    let message =
        format!("{node} is an enroller: under a grant that says otherwise every node that it certified would be out");
    Err(Error::new("enroller_needed", message).hint("add --enroller, or invite the machine under another name"))
}

/// Who shall redeem the token: the asked node if it can, else one that is alive.
fn enroller(mesh: &Mesh) -> Result<&KnownNode> {
    let mut able = mesh.nodes.iter().filter(|node| node.enroller && node.alive && !node.addresses.is_empty());
    let asked = able.clone().find(|node| node.name == mesh.node);
    asked
        .or_else(|| able.next())
        .ok_or_else(|| Error::new("not_an_enroller", format!("{} sees no enroller alive", mesh.node)).hint(NO_ENROLLER))
}

/// Whether a token would lead every other machine to itself: the enroller tells others an address of loopback, and no other node is
/// there, as all are in a mesh within one machine.
fn leads_nowhere(enroller: &KnownNode, mesh: &Mesh) -> bool {
    let alone = |address: &String| address.parse().is_ok_and(|address: SocketAddr| address.ip().is_loopback());
    let mut others = mesh.nodes.iter().filter(|node| node.name != enroller.name).flat_map(|node| &node.addresses);
    enroller.addresses.iter().all(alone) && !others.any(alone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_loopback_is_told_of_unless_it_is_meant() {
        let node = |name: &str, address: &str| KnownNode {
            name: NodeId::new(name).unwrap(),
            addresses: vec![address.to_owned()],
            enroller: true,
            alive: true,
        };
        let mesh = |nodes: Vec<KnownNode>| Mesh {
            trust_domain: certs::id::TrustDomain::new("t.example").unwrap(),
            node: NodeId::new("a").unwrap(),
            genesis: certs::sign::Digest([0; 32]),
            role_set: 1,
            keys: Vec::new(),
            bundle: String::new(),
            out: crate::agent::admin::api::Out::default(),
            nodes,
            joined: Vec::new(),
        };
        let (a, b) = (node("a", "127.0.0.1:15008"), node("b", "10.0.2.15:15008"));
        assert!(leads_nowhere(&a, &mesh(vec![a.clone()])));
        assert!(leads_nowhere(&a, &mesh(vec![a.clone(), b.clone()])));
        assert!(!leads_nowhere(&a, &mesh(vec![a.clone(), node("c", "127.0.0.2:15008")])));
        assert!(!leads_nowhere(&b, &mesh(vec![b.clone()])));
    }

    #[test]
    fn an_enroller_is_not_replaced_by_what_is_none() {
        let node = NodeId::new("web-1").unwrap();
        let held = |enroller: bool, retired: bool| Held {
            grant: NodeGrant {
                node: node.clone(),
                epoch: 1,
                services: Vec::new(),
                token_hash: None,
                redeemer: None,
                token_expires: None,
                enroller,
                retired,
            },
            live: Vec::new(),
        };
        for retired in [false, true] {
            let error = refuse_demotion(&node, false, Some(&held(true, retired))).unwrap_err();
            assert!(error.code == "enroller_needed" && error.hint.contains("--enroller"), "{error:?}");
        }
        refuse_demotion(&node, true, Some(&held(true, false))).unwrap();
        refuse_demotion(&node, false, Some(&held(false, false))).unwrap();
        refuse_demotion(&node, false, None).unwrap();
    }
}
