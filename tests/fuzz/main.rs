//! Every parser of outside bytes, fed with a corpus and with what chance makes of it: nothing panics, and what is read is read alike
//! when it is written again.
//!
//! `cargo test -p tests --test fuzz` replays the corpora beside this file and adds a thousand inputs to each;
//! `cargo bolero test -p tests TARGET` goes on for as long as one likes and grows the corpora.

use std::{path::Path, sync::OnceLock};

use certs::{
    grant::Grant,
    id::{ServiceName, SpiffeId, TrustDomain},
    join::{self, Token},
    sign::SigningKey,
    verify::{self, Authority},
};
use node::mesh::Preface;
use policy::{
    DocumentId, Kind, changeset,
    history::{History, genesis, signed},
    parse,
};

const NOW: u64 = 1_800_000_000_000;

fn trust_domain() -> TrustDomain {
    TrustDomain::new("prod.example").expect("a name")
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

#[test]
fn policy_yaml() {
    bolero::check!().for_each(|bytes: &[u8]| {
        let Some(text) = text(bytes) else { return };
        for located in parse::yaml("fuzz", text, "default").documents {
            // What a node refuses was warned of; all else it reads as the same document.
            if let Ok(document) = parse::json(&located.document.id, &located.json) {
                assert_eq!(document.id, located.document.id);
            }
            assert!(parse::compact(&located.json).is_some(), "a body is JSON");
        }
    });
}

#[test]
fn policy_json() {
    let ids: Vec<DocumentId> = Kind::all().map(|kind| DocumentId::new(kind, "default", "x")).collect();
    bolero::check!().for_each(|bytes: &[u8]| {
        let Some(text) = text(bytes) else { return };
        for id in &ids {
            let _ = parse::json(id, text);
        }
        if let Some(compact) = parse::compact(text) {
            assert_eq!(parse::compact(&compact).as_deref(), Some(compact.as_str()), "compact is a normal form");
        }
    });
}

#[test]
fn policy_changeset() {
    static GENESIS: OnceLock<Vec<u8>> = OnceLock::new();
    let first = GENESIS.get_or_init(|| {
        let operator = SigningKey::generate();
        let first = genesis(&trust_domain(), &[vec![1]], &[("ann".to_owned(), operator.public(), false)], NOW);
        signed(&first, &[&operator])
    });
    bolero::check!().for_each(|bytes: &[u8]| {
        let mut history = History::new(trust_domain());
        history.insert(first, NOW).expect("a genesis");
        assert!(history.insert(bytes, NOW).is_err(), "nobody signed this");
        if let Ok(signed) = changeset::decode(bytes) {
            assert_eq!(changeset::encode(&signed), bytes, "one encoding");
            let _ = signed.read();
        }
    });
}

#[test]
fn certs_join() {
    bolero::check!().for_each(|bytes: &[u8]| {
        let _ = join::Message::decode(bytes);
        if let Some(text) = text(bytes) {
            let _ = text.parse::<Token>();
            let _ = text.parse::<SpiffeId>();
            let _ = SigningKey::from_pem(text);
        }
    });
}

#[test]
fn certs_chain() {
    let authority = Authority::new(trust_domain(), vec![vec![1]]);
    bolero::check!().for_each(|bytes: &[u8]| {
        let (first, second) = bytes.split_at(bytes.len() / 2);
        for chain in [vec![bytes.to_vec().into()], vec![first.to_vec().into(), second.to_vec().into()]] {
            assert!(verify::verify(&chain, &authority, NOW).is_err(), "no root signed this");
        }
        if let Ok(grant) = Grant::from_der(bytes) {
            assert_eq!(grant.to_der(), bytes, "one encoding");
        }
    });
}

#[test]
fn membership_message() {
    bolero::check!().for_each(|bytes: &[u8]| {
        if let Ok(Some(message)) = membership::message::Message::decode(bytes) {
            let _ = message.encode();
        }
        if let Ok(record) = membership::record::SignedRecord::decode(bytes) {
            assert_eq!(&**record.bytes(), bytes, "bytes are kept as they came");
        }
    });
}

/// The beginning of a stream between nodes.
#[test]
fn node_preface() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let valid = Preface {
        service: ServiceName::new("default", "reviews").expect("a name"),
        instance: Some("b".to_owned()),
        port: 9080,
        source: Some(ServiceName::new("default", "web").expect("a name")),
        protocol: node::mesh::Protocol::Http1,
        extensions: vec![(7, b"later".to_vec())],
    };
    let valid = valid.encode();
    bolero::check!().for_each(|bytes: &[u8]| {
        // Few bytes by chance are one, so one with some of its bits turned is read, too.
        let mut turned = valid.clone();
        for byte in bytes.iter().take(8) {
            let at = usize::from(*byte) % turned.len();
            turned[at] ^= 1 << (byte >> 5);
        }
        for mut bytes in [bytes, &turned] {
            let Ok(preface) = runtime.block_on(Preface::read(&mut bytes)) else { continue };
            let again = preface.encode();
            let read = runtime.block_on(Preface::read(&mut &again[..])).expect("what is written can be read");
            assert_eq!(read, preface, "it says the same when it is written again");
        }
    });
}

#[test]
fn node_configuration() {
    let file = Path::new("skein.toml");
    bolero::check!().for_each(|bytes: &[u8]| {
        let Some(text) = text(bytes) else { return };
        if let Err(error) = node::config::read_text(file, text, &[]) {
            assert!(!error.to_string().is_empty(), "a complaint says something");
        }
    });
}
