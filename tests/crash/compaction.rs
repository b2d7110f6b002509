//! Old bodies are let go in one step: killed anywhere in it, a node has every change, and every body that counts.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use certs::{
    id::TrustDomain,
    root::Root,
    sign::{Digest, SigningKey},
};
use node::agent::{book::Book, store::Store};
use policy::{
    DocumentId, Kind,
    changeset::{Change, Changeset, ChangesetId},
    history::{RETENTION, genesis, signed},
};

use crate::strace::Strace;

/// Names the store to the process that lets its bodies go.
const CHILD: &str = "SKEIN_CRASH_STORE";
const NOW: u64 = 1_800_000_000_000;
const CHANGES: u8 = 40;
/// When every body but the last may go.
const LATER: u64 = NOW + RETENTION + 86_400_000;

fn trust_domain() -> TrustDomain {
    TrustDomain::new("prod.example").expect("a name")
}

fn document() -> DocumentId {
    DocumentId::new(Kind::VirtualService, "shop", "reviews")
}

fn body(number: u8) -> String {
    format!(
        r#"{{"apiVersion":"networking.istio.io/v1","kind":"VirtualService","metadata":{{"name":"reviews","namespace":"shop"}},"spec":{{"hosts":["reviews"],"http":[{{"directResponse":{{"status":{}}}}}]}}}}"#,
        200 + u16::from(number)
    )
}

/// A store with one document that was changed often; gives what it holds.
fn store(path: &Path) -> Vec<Digest> {
    let operator = SigningKey::generate();
    let root = Root::generate(&trust_domain(), NOW).certificate();
    let first = genesis(&trust_domain(), &[root], &[("ann".to_owned(), operator.public(), false)], NOW);
    let (mut all, mut ids) = (vec![signed(&first, &[&operator])], Vec::new());
    let mut replaces: Vec<ChangesetId> = Vec::new();
    for number in 0..CHANGES {
        let changeset = Changeset {
            trust_domain: trust_domain(),
            role_set: 1,
            issued_at: NOW + u64::from(number),
            message: String::new(),
            confirm_by: None,
            nonce: [number; 16],
            changes: vec![Change { document: document(), content: Some(body(number)), replaces }],
        };
        let packed = changeset.sign(&[&operator]);
        replaces = vec![ChangesetId(packed.id())];
        ids.push(packed.id());
        all.push(policy::changeset::encode(&packed));
    }
    let bytes: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
    Store::open(path).and_then(|store| store.append(&bytes, &[])).expect("a new store");
    ids
}

fn load(path: &Path) -> Arc<Book> {
    let store = Arc::new(Store::open(path).expect("the store opens after a kill"));
    Arc::new(Book::load(store, &trust_domain(), NOW).expect("the store holds together after a kill"))
}

/// What [`compaction`] runs as a process of its own; does nothing when the tests are run as such.
#[test]
#[ignore = "the process that is killed by the test beside it"]
fn child() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let book = load(Path::new(&path));
    println!("loaded");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("the parent says when");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
    let gone = runtime.block_on(book.forget(LATER)).expect("the disk is sound");
    assert_eq!(gone, usize::from(CHANGES) - 1);
}

fn start(path: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().expect("a running program has a path"))
        .args(["--exact", "compaction::child", "--ignored", "--nocapture"])
        .env(CHILD, path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the test can be started again");
    let out = child.stdout.as_mut().expect("piped above");
    let loaded = BufReader::new(out).lines().map_while(Result::ok).any(|line| line.ends_with("loaded"));
    assert!(loaded, "the process has loaded the store");
    child
}

/// Every change is there, and what is in effect has its body. Gives the number of bodies that went.
fn assert_whole(path: &Path, ids: &[Digest], when: &str) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let book = load(path);
    runtime.block_on(book.look(|history| {
        let state = history.state(LATER);
        let last = ids.last().expect("changes");
        let value = state.documents[&document()].effective.as_ref().expect("the document is in effect");
        assert_eq!(value.changeset.0, *last, "{when}");
        assert!(value.document.is_ok() && value.json.contains(&format!("{}", 199 + u16::from(CHANGES))), "{when}");
        let gone = |id: &&Digest| {
            let entry = history.get(&ChangesetId(**id)).unwrap_or_else(|| panic!("{when}: {id} is lost"));
            entry.changeset.changes[0].is_gone()
        };
        ids.iter().filter(gone).count()
    }))
}

#[test]
#[ignore = "needs strace: cargo test -p tests --test crash -- --ignored --test-threads=1"]
fn a_kill_at_any_system_call_of_a_compaction_loses_nothing() {
    let folder = tempfile::tempdir().expect("a directory");
    let (mut kills, mut whole) = (0, 0);
    for calls in crate::STORAGE.split(',').chain(["all"]) {
        let mut unharmed = 0;
        for nth in 1..=crate::MOST {
            let path = folder.path().join(format!("{calls}-{nth}.redb"));
            let ids = store(&path);
            let mut child = start(&path);
            let traced = Strace::attach(child.id(), calls, &format!("signal=KILL:when={nth}"));
            let mut input = child.stdin.take().expect("piped above");
            // A process that died at once reads nothing.
            let _ = input.write_all(b"\n");
            drop(input);
            let status = child.wait().expect("a child can be waited for");
            traced.detach();
            let gone = assert_whole(&path, &ids, &format!("{calls} {nth}"));
            assert!(gone == 0 || gone == ids.len() - 1, "{calls} {nth}: all or nothing, and yet {gone} bodies went");
            if status.success() {
                (unharmed, whole) = (unharmed + 1, whole + 1);
                assert_eq!(gone, ids.len() - 1);
            } else {
                (unharmed, kills) = (0, kills + 1);
            }
            if unharmed == crate::UNHARMED {
                break;
            }
        }
    }
    println!("{kills} kills within compactions, {whole} whole ones, nothing lost");
    assert!(kills > 0 && whole > 0);
}
