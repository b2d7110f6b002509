//! `skein operator list|new|restore|add|remove|seal|unseal`.

use std::{collections::BTreeSet, path::PathBuf};

use certs::sign::{PublicKey, SigningKey};
use policy::{
    DocumentId,
    changeset::MAX_ROLE_SET,
    history::{History, State, Voided},
    kinds::{RoleKey, RoleSet, Verb},
};
use serde_json::json;

use crate::{
    agent::admin::api::{Key, Mesh, Plan},
    cli::{
        client,
        context::Context,
        directory::Directory,
        error::{Error, Result, usage},
        output::{Table, remark},
        passphrase::{Passphrase, Word},
        proof,
        signing::{Operator, Outcome, Sending, intent},
    },
    clock,
};

/// Documents that a remark names at most.
const NAMED: usize = 20;

/// Who may sign policy.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List the keys of the RoleSet and their roles
    #[command(after_help = "Example: skein operator list")]
    List,
    /// Make a key for a further operator, in a directory of their own
    #[command(after_help = "Example: skein operator new ~/.config/skein/prod.example")]
    New {
        /// Where the key is to lie; the trust bundle and the nodes known here are put beside it
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// Put the key under a passphrase, asked at the terminal; --passphrase-file does so too
        #[arg(long)]
        seal: bool,
    },
    /// Write bundle.pem and mesh.toml, which are public, beside keys that lie without them: what the node of this machine says of its mesh
    #[command(after_help = "Example: skein operator restore /media/vault")]
    Restore {
        /// Where the keys lie
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Add an operator's key to the RoleSet
    #[command(after_help = "Example: skein operator add ann ed25519:... --role admin")]
    Add(Add),
    /// Take an operator's key out of the RoleSet; what was signed and counts stays, unless --void
    #[command(after_help = "Example: skein operator remove bob --recovery")]
    Remove(Remove),
    /// Put the keys of the operator directory under a passphrase, or change it; asked at the terminal, or read from files
    #[command(after_help = "Example: skein operator seal --operator /media/vault")]
    Seal {
        /// The new passphrase; a file of mode 0600. --passphrase-file is the old one's
        #[arg(long, value_name = "FILE")]
        new_passphrase_file: Option<PathBuf>,
    },
    /// Take the passphrase off the keys of the operator directory
    #[command(after_help = "Example: skein operator unseal --passphrase-file old.txt")]
    Unseal,
}

/// A key to add.
#[derive(Debug, clap::Args)]
pub struct Add {
    /// How people call its holder
    #[arg(value_name = "NAME")]
    name: String,
    /// What `skein operator new` printed
    #[arg(value_name = "KEY")]
    key: PublicKey,
    /// The roles that it gets [default: every role of the key that signs this]; may be repeated
    #[arg(long, value_name = "ROLE")]
    role: Vec<String>,
    #[command(flatten)]
    by: By,
}

/// A key to take out.
#[derive(Debug, clap::Args)]
pub struct Remove {
    /// How `skein operator list` calls its holder
    #[arg(value_name = "NAME")]
    name: String,
    /// What this key authored stops counting, not what it only approved, and what that replaced counts again: `documents` of namespaces,
    /// or `all`, grants and evictions too, so that nodes fall out and evicted ones come back
    #[arg(long, value_name = "WHAT")]
    void: Option<Void>,
    #[command(flatten)]
    by: By,
}

/// What of a removed key does not stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Void {
    /// All but what concerns the whole mesh.
    Documents,
    /// Everything.
    All,
}

/// Who signs, and how it is sent.
#[derive(Debug, clap::Args)]
struct By {
    /// Sign by recovery.key: where operators' keys are lost
    #[arg(long)]
    recovery: bool,
    #[command(flatten)]
    sending: Sending,
}

/// Runs the command.
pub(super) async fn run(command: Command, ctx: &Context) -> Result<()> {
    match command {
        Command::List => {
            let mesh: Mesh = client::connect(ctx).await?.get("/v1/mesh").await?;
            ctx.output.table(&mesh.keys, || table(&mesh.keys))
        }
        Command::New { dir, seal } => new(&dir, seal, ctx),
        Command::Restore { dir } => restore(&dir, ctx).await,
        Command::Seal { new_passphrase_file } => {
            reseal(true, || Passphrase::fresh(new_passphrase_file.as_deref()).map(Some), ctx)
        }
        Command::Unseal => reseal(false, || Ok(None), ctx),
        Command::Add(args) => {
            let what = format!("add operator {}", args.name);
            let change =
                |set: &RoleSet, own: &PublicKey, _: &History| added(set, own, &args.name, args.key, &args.role);
            replace(ctx, args.by, what, Some(&args.name), change).await
        }
        Command::Remove(args) => {
            let what = format!("remove operator {}", args.name);
            replace(ctx, args.by, what, None, |set, _, history| {
                let next = removed(set, &args.name)?;
                let voided = set.key(&args.name).zip(args.void).map(|(key, what)| (&key.key, what));
                keeping(next, voided, history, &args.name)
            })
            .await
        }
    }
}

fn table(keys: &[Key]) -> Table {
    let mut table = Table::new(&["NAME", "KEY", "ROLES"]);
    for key in keys {
        let roles = if key.recovery { "RoleSets only".to_owned() } else { key.roles.join(",") };
        table.row([&key.name, &key.public_key, &roles]);
    }
    table
}

fn new(dir: &std::path::Path, seal: bool, ctx: &Context) -> Result<()> {
    let passphrase = ctx.passphrase.clone();
    let passphrase = if seal { passphrase.for_new_keys()? } else { passphrase };
    let own = ctx.operator().map_err(|error| {
        let (at, code) = (dir.display(), error.code.clone());
        let begun = format!("`skein operator restore {at}` on the machine of a node, then here with --operator {at}");
        if code == "no_operator" { error.hint(begun) } else { error }
    })?;
    let (known, key) = (own.known()?, SigningKey::generate());
    let directory = Directory::of(Some(dir), &known.trust_domain).under(passphrase);
    directory.store_operator(&key, &own.bundle()?, &known)?;
    let value = json!({"operator_dir": directory.path(), "public_key": key.public().to_string()});
    ctx.output.show(&value, || {
        format!("{}\n", key.public()) + &format!("# in {}; add it: skein operator add NAME KEY\n", dir.display())
    })
}

async fn restore(dir: &std::path::Path, ctx: &Context) -> Result<()> {
    let mut client = client::connect_here(ctx).await?;
    let mesh: Mesh = client.get("/v1/mesh").await?;
    Directory::of(Some(dir), &mesh.trust_domain).restore(&mesh)?;
    // Which mesh it is rests on that one node: another one's word is to be compared with it.
    let value = json!({"operator_dir": dir, "node": mesh.node, "trust_domain": mesh.trust_domain, "genesis": mesh.genesis.to_string()});
    ctx.output.show(&value, || {
        format!(
            "{}: bundle.pem and mesh.toml of {}, as {} says\n\
             genesis {}: the same at every node of the mesh (`skein operator restore` of a new folder at another one prints it)\n",
            dir.display(),
            mesh.trust_domain,
            mesh.node,
            mesh.genesis
        )
    })
}

fn reseal(sealed: bool, word: impl FnOnce() -> Result<Option<Word>>, ctx: &Context) -> Result<()> {
    let directory = ctx.operator()?;
    let keys = directory.reseal(word)?;
    let value = json!({"operator_dir": directory.path(), "keys": keys, "sealed": sealed});
    ctx.output.show(&value, || {
        let how = if sealed { "under the passphrase" } else { "in the clear" };
        format!("{} in {}: {how}\n", keys.join(", "), directory.path().display())
    })
}

/// Signs a RoleSet in the place of the one in force, made of it and of the whole history; `added` is who comes in by it.
async fn replace(
    ctx: &Context,
    by: By,
    what: String,
    added: Option<&str>,
    change: impl FnOnce(&RoleSet, &PublicKey, &History) -> Result<RoleSet>,
) -> Result<()> {
    let ctx = &ctx.recovering(by.recovery);
    let operator = Operator::load(ctx)?;
    let mut client = client::connect(ctx).await?;
    let history = proof::of_everything(&mut client, &operator.known, ctx).await?;
    let state = history.state(clock::wall());
    let before = &state.role_set.set;
    let own = operator.key.public();
    let next = change(before, &own, &history)?;
    let mut sending = by.sending;
    if sending.message.is_empty() {
        sending.message = what;
    }
    let outcome = put(&operator, &mut client, ctx, &state, &next, &sending).await?;
    if outcome.missing().is_some() {
        if let Some(name) = added {
            remark(&unsigned(name, outcome.result["changeset"].as_str().unwrap_or_default()));
        }
    } else if next.threshold > 1 {
        remark(&format!("note: a further change of the RoleSet needs {} operators, or recovery.key", next.threshold));
    }
    outcome.show(ctx)
}

/// Signs and sends a RoleSet in the place of the one in force.
///
/// # Errors
/// What the node answers; `not_supported` if this build cannot read the one in force.
pub(super) async fn put(
    operator: &Operator,
    client: &mut client::Client,
    ctx: &Context,
    state: &State,
    next: &RoleSet,
    sending: &Sending,
) -> Result<Outcome> {
    let (document, body) = next.body();
    proof::readable(state, &document)?;
    let plan = Plan {
        trust_domain: operator.known.trust_domain.clone(),
        role_set: state.role_set.number,
        live: vec![state.heads(&document).iter().map(ToString::to_string).collect()],
        yielded: Vec::new(),
        versions: vec![state.role_set.number + 1],
        problems: Vec::new(),
        standing: Vec::new(),
    };
    operator.send(client, ctx, vec![intent((document, body))], &plan, sending).await
}

/// How an addition comes into effect that more must sign: whoever it brings in signs too, and nodes let that key in for this alone.
fn unsigned(name: &str, id: &str) -> String {
    format!(
        "note: {name} is no operator yet. {name} signs, from any machine that reaches a node:
        skein policy sign {id} --operator DIR
      where DIR is that of `skein operator new`. Or give this command again with --recovery: recovery.key alone suffices"
    )
}

/// The RoleSet with a key more.
fn added(set: &RoleSet, own: &PublicKey, name: &str, key: PublicKey, roles: &[String]) -> Result<RoleSet> {
    if set.keys.iter().any(|known| known.name == name || known.key == key) {
        return Err(Error::new("already_exists", format!("the name or the key of {name} stands in the RoleSet"))
            .hint("`skein operator list` shows it"));
    }
    if let Some(unknown) = roles.iter().find(|role| !set.roles.iter().any(|known| known.name == **role)) {
        let known: Vec<_> = set.roles.iter().map(|role| role.name.clone()).collect();
        return Err(usage(format!("there is no role {unknown}"), format!("roles: {}", known.join(", "))));
    }
    let mut next = RoleSet { trust: None, keeps: None, ..set.clone() };
    next.keys.push(RoleKey { name: name.to_owned(), key, recovery: false });
    let signer = set.keys.iter().find(|known| known.key == *own);
    let mut given = false;
    for role in &mut next.roles {
        // A recovery key has no roles: who is put in its holder's place governs.
        let wanted = match signer.filter(|signer| !signer.recovery) {
            Some(_) | None if !roles.is_empty() => roles.contains(&role.name),
            Some(signer) => role.keys.contains(&signer.name),
            None => role.verbs.contains(&Verb::Roles) && role.namespaces.contains("*"),
        };
        if wanted {
            role.keys.insert(name.to_owned());
            given = true;
        }
    }
    if !given {
        return Err(usage(format!("{name} would have no role"), "say which with --role"));
    }
    balance(&mut next);
    Ok(next)
}

/// The RoleSet without a key.
fn removed(set: &RoleSet, name: &str) -> Result<RoleSet> {
    if set.key(name).is_none() {
        return Err(Error::new("not_found", format!("{name} is no key of the RoleSet"))
            .hint("`skein operator list` shows them"));
    }
    let mut next = RoleSet { trust: None, keeps: None, ..set.clone() };
    next.keys.retain(|key| key.name != name);
    for role in &mut next.roles {
        role.keys.remove(name);
        role.threshold = role.threshold.min(role.keys.len());
    }
    if let Some(role) = next.roles.iter().find(|role| role.keys.is_empty()) {
        let hint = format!("add another one first: skein operator add NAME KEY --role {} --recovery", role.name);
        return Err(Error::new("refused", format!("nobody would have the role {} then", role.name)).hint(hint));
    }
    balance(&mut next);
    Ok(next)
}

/// The RoleSet with what stays although it takes a right away, without what is `voided` of a key.
fn keeping(mut next: RoleSet, voided: Option<(&PublicKey, Void)>, history: &History, name: &str) -> Result<RoleSet> {
    let keeps = match voided {
        None => history.keeps_under(&next, clock::wall()),
        Some((key, what)) => {
            let Voided { keeps, voids, ended, bare } = history.voiding(&next, key, what == Void::All, clock::wall());
            remark(&format!("note: {ended} changesets that {name} signed stop counting"));
            if !bare.is_empty() {
                remark(&without_value(&bare));
            }
            next.voids.extend(voids);
            keeps
        }
    };
    let kept = keeps.len();
    next.keeps = Some(keeps);
    let bytes = next.body().1.len();
    if bytes > MAX_ROLE_SET {
        let message = format!(
            "the RoleSet would have {bytes} bytes, of {MAX_ROLE_SET} at most: it would name {kept} changesets that stay"
        );
        let hint = "with --void documents (or all) nothing of it stays; push again by another key, before, what should";
        return Err(Error::new("refused", message).hint(hint));
    }
    Ok(next)
}

/// Said of documents that have no value any more.
fn without_value(bare: &[DocumentId]) -> String {
    let named: Vec<String> = bare.iter().take(NAMED).map(ToString::to_string).collect();
    let more = match bare.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    format!("note: nobody else set these documents, so they have no value then: {}{more}", named.join(", "))
}

/// More than half of those who govern, and no more than there are.
fn balance(set: &mut RoleSet) {
    let governing: BTreeSet<&String> = set
        .roles
        .iter()
        .filter(|role| role.verbs.contains(&Verb::Roles) && role.namespaces.contains("*"))
        .flat_map(|role| &role.keys)
        .collect();
    let governors = match governing.len() {
        0 => set.keys.iter().filter(|key| !key.recovery).count(),
        some => some,
    };
    set.threshold = set.threshold.clamp(governors / 2 + 1, governors.max(1));
}

#[cfg(test)]
mod tests {
    use policy::kinds::Role;

    use super::*;

    fn set(names: &[&str]) -> RoleSet {
        let key = |name: &&str| RoleKey {
            name: (**name).to_owned(),
            key: SigningKey::generate().public(),
            recovery: *name == "recovery",
        };
        let keys: Vec<RoleKey> = names.iter().map(key).collect();
        let admin = Role {
            name: "admin".into(),
            keys: keys.iter().filter(|key| !key.recovery).map(|key| key.name.clone()).collect(),
            threshold: 1,
            namespaces: BTreeSet::from(["*".to_owned()]),
            kinds: None,
            verbs: Verb::ALL.into_iter().collect(),
        };
        let mut set = RoleSet {
            trust: Some(certs::trust::Trust::of(vec![vec![1]])),
            keys,
            roles: vec![admin],
            threshold: 1,
            keeps: None,
            voids: BTreeSet::new(),
        };
        balance(&mut set);
        set
    }

    #[test]
    fn more_than_half_of_the_governors_sign() {
        let one = set(&["ann", "recovery"]);
        let own = one.keys[0].key;
        let bob = SigningKey::generate().public();
        let two = added(&one, &own, "bob", bob, &[]).unwrap();
        assert_eq!((two.threshold, two.roles[0].keys.len(), two.trust.is_none()), (2, 2, true));
        let three = added(&two, &own, "carl", SigningKey::generate().public(), &["admin".into()]).unwrap();
        assert_eq!(three.threshold, 2);
        let back = removed(&removed(&three, "carl").unwrap(), "ann").unwrap();
        assert_eq!((back.threshold, back.roles[0].keys.contains("bob")), (1, true));
        assert_eq!(added(&two, &own, "bob", own, &[]).unwrap_err().code, "already_exists");
        assert_eq!(added(&one, &own, "dora", bob, &["nobody".into()]).unwrap_err().code, "usage");
        assert_eq!(removed(&one, "dora").unwrap_err().code, "not_found");
    }

    #[test]
    fn who_adds_an_operator_hears_how_it_comes_into_effect() {
        let told = unsigned("ann", "ab12");
        for part in ["ann is no operator yet", "from any machine", "skein policy sign ab12 --operator", "--recovery"] {
            assert!(told.contains(part), "{part}: {told}");
        }
    }

    #[test]
    fn a_key_that_signed_too_much_goes_with_what_it_signed() {
        use policy::{
            Kind,
            changeset::{Change, Changeset},
            history,
        };
        let trust_domain = certs::id::TrustDomain::new("t.example").unwrap();
        let (ann, eve, now) = (SigningKey::generate(), SigningKey::generate(), clock::wall());
        let keys = [("ann".to_owned(), ann.public(), false), ("eve".to_owned(), eve.public(), false)];
        let first = history::genesis(&trust_domain, &[vec![1]], &keys, now);
        let mut held = History::new(trust_domain.clone());
        held.insert(&history::signed(&first, &[&ann, &eve]), now).unwrap();
        let push = |held: &mut History, number: u64| {
            let document = DocumentId::new(Kind::VirtualService, "shop", &format!("d{number}"));
            let content = Some("{}".to_owned());
            let changeset = Changeset {
                trust_domain: trust_domain.clone(),
                role_set: 1,
                issued_at: now + number,
                message: String::new(),
                confirm_by: None,
                nonce: [0; 16],
                changes: vec![Change { document, content, replaces: Vec::new() }],
            };
            held.insert(&history::signed(&changeset, &[&eve]), now).unwrap();
        };
        (0..3).for_each(|number| push(&mut held, number));
        let set = held.state(now).role_set.set.clone();
        let next = removed(&set, "eve").unwrap();
        let keeps = |voided| keeping(next.clone(), voided, &held, "eve").map(|set| set.keeps.unwrap().len());
        let (eves, anns) = (eve.public(), ann.public());
        assert_eq!((keeps(None), keeps(Some((&eves, Void::Documents)))), (Ok(3), Ok(0)));
        assert_eq!(keeps(Some((&anns, Void::All))), Ok(3));
        (3..16_000).for_each(|number| push(&mut held, number));
        let keeps = |voided| keeping(next.clone(), voided, &held, "eve").map(|set| set.keeps.unwrap().len());
        let error = keeps(None).unwrap_err();
        assert!(error.code == "refused" && error.hint.contains("--void"), "{error:?}");
        assert_eq!(keeps(Some((&eves, Void::Documents))), Ok(0));
    }

    #[test]
    fn documents_without_a_value_are_named() {
        let bare: Vec<DocumentId> = (0..NAMED + 2)
            .map(|number| DocumentId::new(policy::Kind::VirtualService, "shop", &format!("d{number}")))
            .collect();
        let told = without_value(&bare);
        assert!(told.contains(&bare[0].to_string()) && told.ends_with("and 2 more"), "{told}");
        assert!(!without_value(&bare[..1]).contains("more"), "one is named alone");
    }

    #[test]
    fn the_last_of_a_role_stays_until_another_one_has_it() {
        let one = set(&["ann", "recovery"]);
        assert_eq!(removed(&one, "ann").unwrap_err().code, "refused");
        // By the recovery key, which has no role of its own.
        let recovery = one.keys[1].key;
        let with = added(&one, &recovery, "new", SigningKey::generate().public(), &[]).unwrap();
        assert!(with.roles[0].keys.contains("new"));
        let without = removed(&with, "ann").unwrap();
        assert_eq!(without.roles[0].keys.iter().collect::<Vec<_>>(), ["new"]);
    }
}
