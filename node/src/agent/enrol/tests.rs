//! One exchange after another over a pipe, with an exporter that both ends are given.

use certs::{
    ca::CaKey,
    grant::GrantedService,
    id::{NodeId, TrustDomain},
    join::{Hello, MAX_MESSAGE, Secret, Token},
    root::{Root, bundle_to_pem},
    sign::SigningKey,
};
use policy::changeset::Changeset;

use super::{bounds::WRONG_SECRETS, *};
use crate::agent::{
    init,
    state_dir::{CA_CERTIFICATES, CA_KEY, ENROLLER_CERTIFICATE, ENROLLER_KEY, Owner, RECORD_KEY, StateDir},
    store::Store,
};

const EXPORTER: &[u8] = &[7; 32];

struct Mesh {
    trust_domain: TrustDomain,
    operator: SigningKey,
    genesis: Digest,
    enrolment: Enrolment,
    root: Root,
    _folder: tempfile::TempDir,
}

impl Mesh {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = StateDir::open(&folder.path().join("state")).unwrap();
        let (trust_domain, node) = (TrustDomain::new("t.example").unwrap(), NodeId::new("first").unwrap());
        let (operator, now) = (SigningKey::generate(), Clock.now());
        let root = Root::generate(&trust_domain, now);
        let wish = init::Init {
            trust_domain: &trust_domain,
            node: &node,
            services: &[],
            root: &root,
            operator: ("ann", &operator),
            recovery: None,
            address: None,
            now,
        };
        let genesis = init::init(&dir, &wish).unwrap().genesis.0;
        let identity = Arc::new(Identity::load(&dir, &dir.owner().unwrap().unwrap()).unwrap());
        let store = Arc::new(Store::open(&dir.store()).unwrap());
        let book = Arc::new(Book::load(store.clone(), &trust_domain, now).unwrap());
        let authority = book.state(now).await.authority(&trust_domain);
        let (authority, rollback) =
            (Arc::new(ArcSwap::from_pointee(authority)), Rollback::new(store, Arc::default(), true));
        let mut enrolment = Enrolment::new(book, identity, authority, rollback, Clock);
        // All invites are pushed right here.
        enrolment.invite_patience = Duration::from_millis(300);
        Self { trust_domain, operator, genesis, enrolment, root, _folder: folder }
    }

    async fn invite(&self, expires: Millis) -> Token {
        let (node, redeemer) = (NodeId::new("second").unwrap(), NodeId::new("first").unwrap());
        let secret = Secret::generate();
        let services: Vec<GrantedService> = vec!["default/web".parse().unwrap()];
        let grant = NodeGrant {
            node: node.clone(),
            epoch: 1,
            services,
            token_hash: Some(secret.hash()),
            redeemer: Some(redeemer.clone()),
            token_expires: Some(expires),
            enroller: false,
            retired: false,
        };
        self.push(policy::kinds::node_grant_body(&grant)).await;
        let (trust_domain, genesis) = (self.trust_domain.clone(), self.genesis);
        Token { trust_domain, genesis, role_set: 1, node, secret, enroller: redeemer, addresses: Vec::new(), expires }
    }

    /// As if the time of an invite were over.
    async fn expire(&self, token: &Token) {
        let now = Clock.now();
        let grant = NodeGrant::clone(&self.enrolment.book.state(now).await.grants()[&token.node]);
        self.push(policy::kinds::node_grant_body(&NodeGrant { token_expires: Some(now), ..grant })).await;
    }

    async fn push(&self, (document, body): (DocumentId, String)) {
        let now = Clock.now();
        let replaces = self.enrolment.book.state(now).await.heads(&document);
        let changeset = Changeset {
            trust_domain: self.trust_domain.clone(),
            role_set: 1,
            issued_at: now,
            message: String::new(),
            confirm_by: None,
            nonce: [1; 16],
            changes: vec![Change { document, content: Some(body), replaces }],
        };
        let bytes = policy::history::signed(&changeset, &[&self.operator]);
        self.enrolment.book.push(bytes, "push", now).await.unwrap();
    }

    /// What an enroller answers to this request.
    async fn answer(&self, request: JoinRequest) -> Message {
        self.answer_from([127, 0, 0, 1].into(), request).await
    }

    /// The same, asked from this address.
    async fn answer_from(&self, from: IpAddr, request: JoinRequest) -> Message {
        self.answer_to(from, Message::Prove(request)).await
    }

    /// What an enroller answers to whoever says this after its chain.
    async fn answer_to(&self, from: IpAddr, said: Message) -> Message {
        let (mut joiner, enroller) = tokio::io::duplex(1 << 20);
        let served = self.enrolment.serve(enroller, EXPORTER, SocketAddr::new(from, 1));
        let asked = async {
            send(&mut joiner, &Message::Hello(Hello { version: 1 })).await.unwrap();
            assert!(matches!(receive(&mut joiner, MAX_MESSAGE).await.unwrap(), Message::Chain(_)));
            send(&mut joiner, &said).await.unwrap();
            receive(&mut joiner, MAX_MESSAGE).await.unwrap()
        };
        tokio::join!(served, asked).1
    }
}

struct Joiner {
    ca: CaKey,
    record: SigningKey,
}

impl Joiner {
    fn new() -> Self {
        Self { ca: CaKey::generate(), record: SigningKey::generate() }
    }

    /// As a node knows the one that was invited first.
    fn known(&self) -> KnownKey {
        KnownKey { epoch: 1, ca_key: Digest::of(&self.ca.spki()), record_key: self.record.public() }
    }

    fn request(&self, token: &Token) -> JoinRequest {
        JoinRequest::new(token, EXPORTER, self.ca.request(&token.node), self.record.public())
    }
}

fn code(answer: &Message) -> &str {
    match answer {
        Message::Refusal(refusal) => &refusal.code,
        Message::Reply(_) => "a reply",
        Message::Hello(_) | Message::Chain(_) | Message::Prove(_) | Message::Renew(_) => "out of turn",
    }
}

fn chain(answer: &Message) -> Vec<Vec<u8>> {
    let Message::Reply(reply) = answer else { panic!("refused: {}", code(answer)) };
    reply.chain.clone()
}

#[tokio::test]
async fn a_lost_reply_is_repeated_to_the_same_keys_only() {
    let mesh = Mesh::new().await;
    let token = mesh.invite(Clock.now() + 60_000).await;
    let joiner = Joiner::new();
    let first = mesh.answer(joiner.request(&token)).await;
    assert_eq!(chain(&first).len(), 2);
    assert_eq!(chain(&mesh.answer(joiner.request(&token)).await), chain(&first));
    assert_eq!(code(&mesh.answer(Joiner::new().request(&token)).await), "token_spent");
    let other_record = Joiner { record: SigningKey::generate(), ..joiner };
    assert_eq!(code(&mesh.answer(other_record.request(&token)).await), "token_spent");
}

#[tokio::test]
async fn an_expired_token_is_refused_and_nothing_is_spent() {
    let mesh = Mesh::new().await;
    let token = mesh.invite(Clock.now() + 60_000).await;
    mesh.expire(&token).await;
    assert_eq!(code(&mesh.answer(Joiner::new().request(&token)).await), "token_expired");
    assert_eq!(mesh.enrolment.rollback.store.token(&token.secret.hash()).unwrap(), None);
}

#[tokio::test]
async fn a_lost_reply_is_repeated_after_the_tokens_end_too() {
    let mesh = Mesh::new().await;
    let token = mesh.invite(Clock.now() + 60_000).await;
    let joiner = Joiner::new();
    let first = chain(&mesh.answer(joiner.request(&token)).await);
    mesh.expire(&token).await;
    assert_eq!(chain(&mesh.answer(joiner.request(&token)).await), first);
    assert_eq!(code(&mesh.answer(Joiner::new().request(&token)).await), "token_spent");
}

/// The reply was lost, and then its root was withdrawn.
#[tokio::test]
async fn a_lost_reply_that_counts_no_more_is_made_anew_for_the_same_keys() {
    let mesh = Mesh::new().await;
    let token = mesh.invite(Clock.now() + 60_000).await;
    let (joiner, enroller_key, now) = (Joiner::new(), CaKey::generate(), Clock.now());
    let certificate = Root::generate(&mesh.trust_domain, now);
    let certificate = certificate.issue_enroller(&token.enroller, 1, &enroller_key.spki(), now).unwrap();
    let former = certs::ca::Enroller::new(&mesh.trust_domain, vec![certificate], enroller_key).unwrap();
    let grant = mesh.enrolment.book.state(now).await.grants()[&token.node].clone();
    let keys = (&joiner.ca.spki()[..], joiner.record.public());
    let old = former.certify(&grant, keys, None, 60_000, now).unwrap();
    let keys = Digest::of(&[keys.0, &keys.1.0].concat());
    let redeemed = Spent::Redeemed { keys, reply: codec::encode(&old) };
    mesh.enrolment.rollback.store.set_token(&token.secret.hash(), None, &redeemed, None).unwrap();
    assert_eq!(code(&mesh.answer(Joiner::new().request(&token)).await), "token_spent");
    let anew = chain(&mesh.answer(joiner.request(&token)).await);
    let path: Vec<_> = anew.iter().map(|der| der.as_slice().into()).collect();
    let authority = mesh.enrolment.book.state(now).await.authority(&mesh.trust_domain);
    assert_eq!(verify_ca(&path, &authority, Clock.now()).unwrap().record_key, joiner.record.public());
    assert_eq!(chain(&mesh.answer(joiner.request(&token)).await), anew, "and that is kept");
}

#[tokio::test]
async fn an_enroller_whose_word_counts_no_more_spends_no_token() {
    let mesh = Mesh::new().await;
    let token = mesh.invite(Clock.now() + 60_000).await;
    // As after a root that was withdrawn in a hurry, where nobody has renewed this enroller's CA yet.
    let identity = &mesh.enrolment.identity;
    let leaf = identity.ca().leaf_for(&identity.own(), 60_000, Clock.now()).unwrap();
    let path: Vec<_> = leaf.chain.iter().map(|der| der.to_vec()).collect();
    let enroller = certs::verify::describe(&path).unwrap().pop().unwrap();
    let revocation = policy::kinds::Revocation { keys: [enroller.key].into(), ..Default::default() };
    mesh.push(revocation.body("keys")).await;
    let answer = mesh.answer(Joiner::new().request(&token)).await;
    let Message::Refusal(refusal) = answer else { panic!("{answer:?}") };
    assert!(refusal.code == "not_an_enroller" && refusal.message.contains("skein ca renew first"), "{refusal}");
    assert_eq!(mesh.enrolment.rollback.store.token(&token.secret.hash()).unwrap(), None);
}

#[tokio::test]
async fn five_wrong_proofs_burn_the_token() {
    let mesh = Mesh::new().await;
    let token = mesh.invite(Clock.now() + 60_000).await;
    for turn in 0..WRONG_PROOFS {
        let mut wrong = Joiner::new().request(&token);
        wrong.proof[0] ^= 1;
        assert_eq!(code(&mesh.answer(wrong).await), "bad_proof", "try {turn}");
    }
    assert_eq!(code(&mesh.answer(Joiner::new().request(&token)).await), "token_spent");
}

#[tokio::test]
async fn nobody_is_enrolled_without_an_invite() {
    let mesh = Mesh::new().await;
    let token = mesh.invite(Clock.now() + 60_000).await;
    let stranger = Token { node: NodeId::new("third").unwrap(), ..token };
    assert_eq!(code(&mesh.answer(Joiner::new().request(&stranger)).await), "token_invalid");
}

#[tokio::test]
async fn strangers_burn_no_invite() {
    let mesh = Mesh::new().await;
    let token = mesh.invite(Clock.now() + 60_000).await;
    let guess = || Token { secret: Secret::generate(), ..token.clone() };
    let [here, there] = [1, 2].map(|last| IpAddr::from([127, 0, 0, last]));
    // Each waits for the invite that it may hold, so all at once.
    let tries = (0..WRONG_SECRETS).map(|_| mesh.answer_from(here, Joiner::new().request(&guess())));
    for answer in futures_util::future::join_all(tries).await {
        assert_eq!(code(&answer), "token_invalid");
    }
    assert_eq!(
        mesh.enrolment.rollback.store.token(&token.secret.hash()).unwrap(),
        None,
        "nothing is written for a stranger"
    );
    // That address is heard no more, with the right token either; the guest is elsewhere.
    assert_eq!(code(&mesh.answer_from(here, Joiner::new().request(&token)).await), "too_many_requests");
    assert_eq!(chain(&mesh.answer_from(there, Joiner::new().request(&token)).await).len(), 2);
}

#[tokio::test]
async fn strangers_keep_no_guest_waiting() {
    let mut mesh = Mesh::new().await;
    mesh.enrolment.invite_patience = PATIENCE;
    let token = mesh.invite(Clock.now() + 60_000).await;
    let stranger = Token { node: NodeId::new("third").unwrap(), secret: Secret::generate(), ..token.clone() };
    let refused = async {
        tokio::join!(mesh.answer(Joiner::new().request(&stranger)), mesh.answer(Joiner::new().request(&stranger)))
    };
    let guest = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        mesh.answer(Joiner::new().request(&token)).await
    };
    let answer = tokio::select! {
        refused = refused => panic!("strangers are no reason to wait: {refused:?}"),
        answer = guest => answer,
    };
    assert_eq!(chain(&answer).len(), 2);
}

#[tokio::test]
async fn an_enroller_that_another_one_certified_is_believed() {
    let mesh = Mesh::new().await;
    let token = mesh.invite(Clock.now() + 60_000).await;
    let (guest, enroller_key, node) = (Joiner::new(), CaKey::generate(), token.node.clone());
    let certified = chain(&mesh.answer(guest.request(&token)).await);
    let enroller = mesh.root.issue_enroller(&node, 1, &enroller_key.spki(), Clock.now()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let dir = StateDir::open(&folder.path().join("state")).unwrap();
    dir.write(CA_KEY, guest.ca.to_pem().as_bytes()).unwrap();
    dir.write(RECORD_KEY, guest.record.to_pem().as_bytes()).unwrap();
    dir.write(CA_CERTIFICATES, bundle_to_pem(&certified).as_bytes()).unwrap();
    dir.write(ENROLLER_KEY, enroller_key.to_pem().as_bytes()).unwrap();
    dir.write(ENROLLER_CERTIFICATE, bundle_to_pem(&[enroller]).as_bytes()).unwrap();
    let owner = Owner {
        node,
        trust_domain: mesh.trust_domain.clone(),
        address: None,
        enroller: None,
        found: None,
        later: serde_json::Map::default(),
    };
    let identity = Arc::new(Identity::load(&dir, &owner).unwrap());
    let Mesh { enrolment: first, trust_domain, .. } = &mesh;
    let second =
        Enrolment::new(first.book.clone(), identity.clone(), first.authority.clone(), first.rollback.clone(), Clock);
    // What a joiner knows after the enroller has introduced itself.
    let mut history = policy::history::History::new(trust_domain.clone());
    let shown = second.chain().await;
    let changesets = shown.role_sets.iter().chain(&shown.grants).map(Vec::as_slice);
    history.insert_all(changesets, Clock.now()).unwrap();
    let authority = history.state(Clock.now()).authority(trust_domain);
    let ca = identity.ca();
    let path: Vec<_> = ca.chain().iter().map(|der| der.as_slice().into()).collect();
    assert_eq!(certs::verify::verify_ca(&path, &authority, Clock.now()).unwrap().node, token.node);
}

#[tokio::test]
async fn a_joiner_of_a_mesh_too_large_for_one_reply_knows_its_enroller() {
    let mesh = Mesh::new().await;
    let token = mesh.invite(Clock.now() + 60_000).await;
    let changesets = mesh.enrolment.changesets(&token.node, 0).await;
    let mut history = policy::history::History::new(mesh.trust_domain.clone());
    history.insert_all(changesets.iter().map(Vec::as_slice), Clock.now()).unwrap();
    let state = history.state(Clock.now());
    assert_eq!(state.genesis, mesh.genesis);
    assert!([&token.node, &token.enroller].iter().all(|node| state.grants().contains_key(*node)));
}

#[tokio::test]
async fn a_key_beside_the_one_that_was_seen_first_is_not_renewed() {
    let mesh = Mesh::new().await;
    let token = mesh.invite(Clock.now() + 60_000).await;
    let (guest, thief) = (Joiner::new(), Joiner::new());
    chain(&mesh.answer(guest.request(&token)).await);
    // What a stolen enroller would make.
    let grant = mesh.enrolment.book.state(Clock.now()).await.grants()[&token.node].clone();
    let enroller = mesh.enrolment.identity.enroller().unwrap();
    let stolen =
        enroller.issue_node_unchecked(&thief.ca.spki(), &grant.certified(thief.record.public()), Clock.now()).unwrap();
    let mut authority = Authority::clone(&mesh.enrolment.authority.load());
    authority.known_keys.insert(token.node.clone(), guest.known());
    mesh.enrolment.authority.store(Arc::new(authority));
    let request = RenewRequest::new(&token.node, stolen, (&thief.ca, &thief.record), EXPORTER);
    assert_eq!(code(&mesh.answer_to([127, 0, 0, 1].into(), Message::Renew(request)).await), "not_granted");
    let told = mesh.enrolment.rollback.events.recent().pop().unwrap();
    assert!(told.kind == "renewal_refused" && told.subject == "second", "{told:?}");
}

#[tokio::test]
async fn a_store_from_a_backup_redeems_no_token_whose_node_was_seen_with_another_key() {
    let mesh = Mesh::new().await;
    let token = mesh.invite(Clock.now() + 60_000).await;
    let (first, second) = (Joiner::new(), Joiner::new());
    let mut authority = Authority::clone(&mesh.enrolment.authority.load());
    authority.known_keys.insert(token.node.clone(), first.known());
    mesh.enrolment.authority.store(Arc::new(authority));
    let answer = mesh.answer(second.request(&token)).await;
    let Message::Refusal(refusal) = answer else { panic!("{answer:?}") };
    assert_eq!(refusal.code, "token_spent");
    let first = Joiner { record: SigningKey::generate(), ..first };
    assert_eq!(code(&mesh.answer(first.request(&token)).await), "token_spent", "the record key, too");
}

#[tokio::test]
async fn a_token_from_before_the_disk_was_lost_is_burnt_and_a_new_one_is_not() {
    let mesh = Mesh::new().await;
    let token = mesh.invite(Clock.now() + 60_000).await;
    mesh.enrolment.rollback.store.set_rolled_back(Clock.now()).unwrap();
    assert_eq!(code(&mesh.answer(Joiner::new().request(&token)).await), "token_spent");
    let burnt = mesh.enrolment.rollback.store.token(&token.secret.hash()).unwrap();
    assert_eq!(burnt, Some(Spent::Burnt));
    let counts = mesh.enrolment.rollback.events.counts();
    assert_eq!((counts.get("token_burnt"), counts.get("token_reused")), (Some(&1), Some(&1)));
    // One that was found long before the invite.
    let mesh = Mesh::new().await;
    let token = mesh.invite(Clock.now() + 60_000).await;
    mesh.enrolment.rollback.store.set_rolled_back(Clock.now() - PUSH_CLOCK - 1_000).unwrap();
    chain(&mesh.answer(Joiner::new().request(&token)).await);
}

#[tokio::test]
async fn an_evicted_invite_is_not_redeemed() {
    let mesh = Mesh::new().await;
    let token = mesh.invite(Clock.now() + 60_000).await;
    let revocation = policy::kinds::Revocation { nodes: [(token.node.clone(), 1)].into(), ..Default::default() };
    mesh.push(revocation.body(token.node.as_str())).await;
    assert_eq!(code(&mesh.answer(Joiner::new().request(&token)).await), "not_granted");
}

#[tokio::test]
async fn what_shows_this_node_fits_whatever_the_mesh_is() {
    let mesh = Mesh::new().await;
    let path = [NodeId::new("first").unwrap()];
    let documents = path.iter().map(|node| DocumentId::mesh_wide(Kind::NodeGrant, node.as_str()));
    let shown = mesh.enrolment.proof(documents).await;
    let mut history = policy::history::History::new(mesh.trust_domain.clone());
    history.insert_all(shown.iter().map(Vec::as_slice), Clock.now()).unwrap();
    assert!(history.state(Clock.now()).grants()[&path[0]].enroller);
}

#[tokio::test]
async fn nonsense_ends_the_connection() {
    let mesh = Mesh::new().await;
    let (mut joiner, enroller) = tokio::io::duplex(1 << 16);
    let served = mesh.enrolment.serve(enroller, EXPORTER, ([127, 0, 0, 1], 1).into());
    let asked = async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        joiner.write_all(&[0xff; 64]).await.unwrap();
        joiner.read_to_end(&mut Vec::new()).await.unwrap()
    };
    assert_eq!(tokio::join!(served, asked).1, 0);
}

#[tokio::test]
async fn who_speaks_another_version_is_told_both() {
    use certs::codec::Envelope;
    use tokio::io::AsyncWriteExt;
    let mesh = Mesh::new().await;
    let said = |version, kind, body| codec::encode(&Envelope { version, kind, body });
    let hello = |version| codec::encode(&Hello { version });
    for (first, code, text) in [
        (said(2, 1, vec![9; 20]), "not_supported", "version 2 of the enrolment instead of 1"),
        (said(1, 1, hello(2)), "not_supported", "version 2 of the enrolment instead of 1"),
        (said(1, 77, Vec::new()), "not_supported", "of kind 77"),
        (said(1, 1, vec![9; 20]), "bad_request", "no message of an enrolment"),
    ] {
        let (mut joiner, enroller) = tokio::io::duplex(1 << 20);
        let served = mesh.enrolment.serve(enroller, EXPORTER, ([127, 0, 0, 1], 1).into());
        let asked = async {
            joiner.write_all(&[&u32::try_from(first.len()).unwrap().to_be_bytes(), &*first].concat()).await.unwrap();
            receive(&mut joiner, MAX_MESSAGE).await.unwrap()
        };
        let Message::Refusal(refusal) = tokio::join!(served, asked).1 else { panic!("{text}") };
        assert_eq!(refusal.code, code, "{refusal}");
        assert!(refusal.message.contains(text), "{refusal}");
        assert!(refusal.message.contains(env!("CARGO_PKG_VERSION")), "{refusal}");
    }
}

#[test]
fn a_chain_that_no_joiner_reads_is_refused_by_name() {
    let chain = |bytes: usize| Chain {
        role_sets: vec![vec![1; 1 << 20]; bytes >> 20],
        grants: vec![vec![1; bytes % (1 << 20)]],
    };
    let fits = chain(MAX_MESSAGE - CHAIN_FRAME);
    assert_eq!(too_large(&fits), None);
    assert!(Message::Chain(fits).encode().len() <= MAX_MESSAGE);
    assert_eq!(too_large(&chain(MAX_MESSAGE - CHAIN_FRAME + 1)).unwrap().code, "too_large");
}
