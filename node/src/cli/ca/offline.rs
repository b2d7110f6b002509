//! Enrolment by files, for a machine that reaches no enroller: it makes its keys and prints a request; whoever holds its token redeems
//! it elsewhere by that request; the machine takes the reply. Both files are public, and worth nothing without the machine's keys.

use std::path::Path;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use certs::{
    ca::{request_from_pem, request_to_pem, requested_key},
    id::{NodeId, TrustDomain},
    join::{JoinReply, Token},
    root::{bundle_from_pem, bundle_to_pem},
    sign::{Digest, PublicKey},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    agent::join::{self, Asked, Joined, Redeemed},
    cli::{
        context::Context,
        error::{Error, Result, usage},
        join::{agree, read},
        output::remark,
    },
    config::{self, Config, Minimal},
};

/// The largest enrolment that is read, bytes: an enroller's reply in base64.
const FILE_LIMIT: u64 = 12 << 20;

/// A new node, as its flags or its configuration name it.
#[derive(Debug, Default, clap::Args)]
pub struct New {
    /// A new node's name, where there is no configuration yet; it is written then
    #[arg(long, value_name = "NODE", requires = "trust_domain")]
    name: Option<NodeId>,
    /// The mesh that the new node is to join
    #[arg(long, value_name = "TRUST_DOMAIN", requires = "name")]
    trust_domain: Option<TrustDomain>,
}

/// What `ca sign` prints for a new node and `join --enrolment` reads, perhaps of another version. Nothing in it is believed without proof, so
/// what is not known is read past.
#[derive(Debug, Serialize, Deserialize)]
struct Enrolment {
    node: NodeId,
    trust_domain: TrustDomain,
    genesis: Digest,
    /// Where the enroller was reached.
    enroller: std::net::SocketAddr,
    /// Node CA, enroller CA; PEM.
    certificates: String,
    /// Policy, each changeset in base64.
    changesets: Vec<String>,
}

/// The request of this machine's node, if it has not joined yet; its keys are made at the first call.
pub(super) fn request(new: &New, ctx: &Context) -> Result<Option<(TrustDomain, Asked)>> {
    let file = ctx.config_file();
    let config = match (&new.name, &new.trust_domain) {
        (Some(name), Some(trust_domain)) => {
            let (node, trust_domain) = (name.clone(), trust_domain.clone());
            config::ensure(&file, &Minimal { node, trust_domain, advertise: None })?
        }
        (_, _) if ctx.globals.node.is_some() || !file.exists() => return Ok(None),
        (_, _) => config::read(&file)?,
    };
    // A node that runs is asked over its socket, also by those who may not read its state.
    if new.name.is_none() && config.admin.socket.exists() {
        return Ok(None);
    }
    let dir = ctx.state(&config, "ca csr")?;
    if new.name.is_none() && dir.owner()?.is_some() {
        return Ok(None);
    }
    Ok(Some((config.trust_domain.clone(), join::ask(&dir, &config.node)?)))
}

/// A request as a file: before the PEM stands what else is certified.
pub(super) fn file(trust_domain: &TrustDomain, asked: &Asked) -> String {
    let request = request_to_pem(&asked.request);
    format!("node {}\ntrust_domain {trust_domain}\nrecord_key {}\n{request}", asked.node, asked.record_key)
}

/// Reads what [`file`] writes; none if the text is a request of another sort.
pub(super) fn read_request(text: &str) -> Result<Option<(TrustDomain, Asked)>> {
    let bad = |what: String| usage(format!("not a request: {what}"), "give the file that `skein ca csr` printed");
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map(str::trim);
    let Some(record_key) = field("record_key") else { return Ok(None) };
    let record_key: PublicKey = record_key.parse().map_err(|_| bad("its record_key is no key".into()))?;
    let node = NodeId::new(field("node").unwrap_or_default()).map_err(|error| bad(error.to_string()))?;
    let trust_domain = TrustDomain::new(field("trust_domain").unwrap_or_default());
    let trust_domain = trust_domain.map_err(|error| bad(error.to_string()))?;
    let request = request_from_pem(text).map_err(|error| bad(error.to_string()))?;
    requested_key(&request, &node).map_err(|error| bad(error.to_string()))?;
    Ok(Some((trust_domain, Asked { node, request, record_key })))
}

/// Redeems the token for the node that made the request, and prints what that node is to be given.
pub(super) async fn sign(
    (trust_domain, asked): (TrustDomain, Asked),
    token: Option<&Path>,
    ctx: &Context,
) -> Result<()> {
    let node = &asked.node;
    let token = token.ok_or_else(|| {
        let hint = format!("skein invite {node} --service NS/NAME > {node}.token, then --token-file {node}.token");
        usage(format!("{node} is a new node: its request is signed by a token"), hint)
    })?;
    let token: Token = read(token)?.trim().parse().map_err(|error: certs::join::TokenError| {
        Error::new("token_invalid", error.to_string()).hint("give what `skein invite` printed, all of it")
    })?;
    if token.node != *node || token.trust_domain != trust_domain {
        let (given, wanted) = ((&token.node, &token.trust_domain), (node, &trust_domain));
        let message =
            format!("the token is for {} of {}, the request of {} of {}", given.0, given.1, wanted.0, wanted.1);
        return Err(Error::new("token_invalid", message).hint(format!("skein invite {node}")));
    }
    let Redeemed { node, trust_domain, genesis, reply, enroller } = join::redeem(&token, &asked).await?;
    remark(&format!("note: this makes whoever holds the keys of the request the node {node}"));
    // Said here and not by the file alone: who changes that on its way cannot change what the operator reads.
    remark(&format!("note: on that machine: skein join --enrolment FILE --genesis {genesis}"));
    let certificates = bundle_to_pem(&reply.chain);
    let changesets = reply.changesets.iter().map(|bytes| STANDARD.encode(bytes)).collect();
    let enrolment = Enrolment { node, trust_domain, genesis, enroller, certificates, changesets };
    ctx.output.show(&enrolment, || json!(enrolment).to_string() + "\n")
}

/// Makes this machine the node of an enrolment that was signed for its request. Nothing of the file says which mesh is meant: whoever
/// had it in hand could have put a mesh of his own into it. `wanted` does, which came another way.
///
/// # Errors
/// No enrolment, one for another mesh, another node or other keys; a configuration that disagrees; storage.
pub(in crate::cli) fn take(path: &Path, wanted: Option<Digest>, ctx: &Context) -> Result<(Joined, Config)> {
    let wanted = wanted.ok_or_else(|| {
        usage(
            "--enrolment needs --genesis HASH: who changed the file on its way could make this machine a node of his own mesh",
            "`skein ca sign` said it where the file was made; `mesh.toml` in the operator directory holds it, too",
        )
    })?;
    let bad = |what: String| {
        let message = format!("{} is no enrolment: {what}", path.display());
        Error::new("bad_request", message).hint("give the file that `skein ca sign` printed, all of it")
    };
    let text = crate::cli::join::read_within(path, FILE_LIMIT)?;
    let Enrolment { node, trust_domain, genesis, enroller, certificates, changesets } =
        serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
    if genesis != wanted {
        let message = format!("{} is an enrolment into the mesh {genesis}, not into {wanted}", path.display());
        return Err(Error::new("wrong_trust_domain", message).hint(
            "compare with `mesh.toml` in the operator directory; if that is right, the file was changed on its way",
        ));
    }
    let chain = bundle_from_pem(&certificates).map_err(|error| bad(error.to_string()))?;
    let changesets: std::result::Result<Vec<_>, _> = changesets.iter().map(|text| STANDARD.decode(text)).collect();
    let changesets = changesets.map_err(|error| bad(error.to_string()))?;
    let config = config::read(&ctx.config_file())?;
    agree(&config, &node, &trust_domain, "the enrolment")?;
    let dir = ctx.state(&config, "join --enrolment FILE --genesis HASH")?;
    let redeemed = Redeemed { node, trust_domain, genesis, reply: JoinReply { chain, changesets }, enroller };
    Ok((join::settle(&dir, redeemed, config.mesh.listen, config.mesh.advertise)?, config))
}

#[cfg(test)]
mod tests {
    use certs::{ca::CaKey, sign::SigningKey};

    use super::*;

    #[test]
    fn a_request_survives_its_file_and_a_changed_one_is_none() {
        let (node, trust_domain) = (NodeId::new("web-9").unwrap(), TrustDomain::new("t.example").unwrap());
        let request = CaKey::generate().request(&node);
        let asked = Asked { node, request, record_key: SigningKey::generate().public() };
        let text = file(&trust_domain, &asked);
        assert_eq!(read_request(&text).unwrap(), Some((trust_domain, asked)));
        for (from, to) in [("web-9", "web-8"), ("ed25519:", "ed448:"), ("t.example", "-"), ("BEGIN", "BEGUN")] {
            assert_eq!(read_request(&text.replacen(from, to, 1)).unwrap_err().code, "usage", "{from}");
        }
        assert_eq!(read_request("node a\nepoch 1\nlife 1s\n").unwrap(), None);
    }

    #[test]
    fn an_enrolment_that_a_later_skein_signed_is_read() {
        let enrolment = Enrolment {
            node: NodeId::new("web-9").unwrap(),
            trust_domain: TrustDomain::new("t.example").unwrap(),
            genesis: Digest([7; 32]),
            enroller: "10.0.0.1:15008".parse().unwrap(),
            certificates: String::new(),
            changesets: Vec::new(),
        };
        let mut file = json!(enrolment);
        file["later"] = 1.into();
        let read: Enrolment = serde_json::from_value(file).unwrap();
        assert_eq!((read.node, read.enroller), (enrolment.node, enrolment.enroller));
    }
}
