//! `skein revoke`.

use certs::{id::ServiceAccount, root::root_key, sign::Digest};
use policy::{
    DocumentId, Kind,
    kinds::{Revocation, key_document},
};

use crate::{
    cli::{
        client,
        context::Context,
        error::{Error, Result},
        evict, proof,
        signing::{Operator, Sending, intent},
    },
    clock,
};

/// Takes an account, or whatever one key certifies or shows, out of the mesh: on every node, within 5 s of the revocation's
/// arrival, live connections included. `skein policy delete Revocation NAME` takes it back.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  skein revoke shop/cart --message 'its credentials leaked'
  skein revoke --key 5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8")]
pub struct Args {
    /// The account whose identities no longer count
    #[arg(value_name = "NS/SA", required_unless_present = "key", conflicts_with = "key")]
    account: Option<ServiceAccount>,
    /// SHA-256 of a public key, as `skein identity show` prints it: certificates of it, or issued by it, no longer count
    #[arg(long, value_name = "HASH")]
    key: Option<Digest>,
    /// Also a root's key: everybody whom it certified is out with it
    #[arg(long, requires = "key")]
    force: bool,
    #[command(flatten)]
    sending: Sending,
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    let operator = Operator::load(ctx)?;
    if let Some(key) = args.key.as_ref().filter(|_| !args.force) {
        refuse_root(key, &operator.roots()?)?;
    }
    let mut client = client::connect(ctx).await?;
    let id = DocumentId::mesh_wide(Kind::Revocation, &name(&args));
    let state = proof::of_document(&mut client, &operator.known, &id).await?.state(clock::wall());
    let revocation = with(evict::standing(&state, &id)?, &args);
    let intents = vec![intent(revocation.body(&id.name))];
    let mut plan = operator.plan(&mut client, &intents).await?;
    // What the new one was made of is what it replaces: a change in between makes it stale.
    plan.live = vec![state.heads(&id).iter().map(ToString::to_string).collect()];
    let mut sending = args.sending;
    if sending.message.is_empty() {
        sending.message = match (&args.account, &args.key) {
            (Some(account), _) => format!("revoke {account}"),
            (None, key) => format!("revoke key {}", key.as_ref().map(ToString::to_string).unwrap_or_default()),
        };
    }
    let outcome = operator.send(&mut client, ctx, intents, &plan, &sending).await?;
    if outcome.is_in_force() {
        operator.directory.note_out(|out| out.keys.extend(args.key));
    }
    outcome.show(ctx)
}

/// The document's name: a node's, by which it is evicted, has no dot, and an account's has one.
fn name(args: &Args) -> String {
    match (&args.account, &args.key) {
        (Some(account), _) => format!("{}.{}", account.namespace(), account.account()),
        (None, key) => key.as_ref().map(key_document).unwrap_or_default(),
    }
}

fn with(mut revocation: Revocation, args: &Args) -> Revocation {
    revocation.accounts.extend(args.account.iter().cloned());
    revocation.keys.extend(args.key.iter().copied());
    revocation
}

/// Keeps a root, by which everybody is who it is.
fn refuse_root(key: &Digest, roots: &[Vec<u8>]) -> Result<()> {
    if roots.iter().all(|root| root_key(root) != Some(*key)) {
        return Ok(());
    }
    let message = "it is the key of a root of this mesh: every node would be out with it".to_owned();
    Err(Error::new("root_needed", message)
        .hint("change the root: `skein ca rotate start`; where losing all is meant, add --force"))
}

#[cfg(test)]
mod tests {
    use certs::{id::TrustDomain, root::Root};

    use super::*;

    fn args(account: Option<&str>, key: Option<Digest>) -> Args {
        let account = account.map(|account| account.parse().unwrap());
        Args { account, key, force: false, sending: Sending::default() }
    }

    #[test]
    fn documents_have_names_that_no_other_one_has() {
        let account = name(&args(Some("shop/cart"), None));
        assert_eq!(account, "shop.cart");
        assert!(certs::id::NodeId::new(&account).is_err());
        let key = name(&args(None, Some(Digest([0xab; 32]))));
        assert!(policy::hosts::is_document_name(&key), "{key}");
        assert_ne!(name(&args(None, Some(Digest([0xac; 32])))), key);
    }

    #[test]
    fn what_is_revoked_already_stays() {
        let before = Revocation { keys: [Digest([1; 32])].into(), ..Revocation::default() };
        let after = with(before, &args(Some("shop/cart"), None));
        assert_eq!((after.keys.len(), after.accounts.len(), after.nodes.len()), (1, 1, 0));
        assert_eq!(with(after, &args(None, Some(Digest([2; 32])))).keys.len(), 2);
    }

    #[test]
    fn a_root_is_not_revoked_by_accident() {
        let mesh = TrustDomain::new("t.example").unwrap();
        let root = Root::generate(&mesh, clock::wall()).certificate();
        let key = root_key(&root).unwrap();
        assert_eq!(refuse_root(&key, std::slice::from_ref(&root)).unwrap_err().code, "root_needed");
        refuse_root(&Digest([0; 32]), &[root]).unwrap();
    }
}
