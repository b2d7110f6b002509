//! Form and limits of what is signed, and that a stub is the same changeset.

use certs::sign::SigningKey;

use super::*;

fn changeset(changes: Vec<Change>) -> Changeset {
    Changeset {
        trust_domain: TrustDomain::new("prod.example").unwrap(),
        role_set: 1,
        issued_at: 1,
        message: "m".into(),
        confirm_by: None,
        nonce: [7; 16],
        changes,
    }
}

fn deletion(name: &str) -> Change {
    Change { document: DocumentId::new(Kind::VirtualService, "default", name), content: None, replaces: vec![] }
}

fn setting(name: &str, body: &str) -> Change {
    Change { content: Some(body.to_owned()), ..deletion(name) }
}

#[test]
fn survives_the_wire() {
    let (a, b) = (SigningKey::generate(), SigningKey::generate());
    let before = changeset(vec![deletion("x"), setting("y", "{}")]);
    let packed = decode(&encode(&before.sign(&[&a, &b]))).unwrap();
    let read = packed.read().unwrap();
    assert_eq!((&read.changeset, read.whole), (&before, true));
    let mut verified = packed.signed.verify(KIND).unwrap();
    verified.sort_unstable();
    assert_eq!(read.signers, verified);
    assert_ne!(before.sign(&[&a]).id(), before.sign(&[&b]).id());
}

#[test]
fn a_stub_proves_all_but_the_bodies() {
    let key = SigningKey::generate();
    let packed = changeset(vec![setting("x", "{}"), deletion("y")]).sign(&[&key]);
    let stub = packed.clone().stub();
    assert_eq!(stub.id(), packed.id());
    stub.signed.verify(KIND).unwrap();
    let read = stub.read().unwrap();
    assert!(!read.whole && read.changeset.changes[0].is_gone() && !read.changeset.changes[1].is_gone());
    // What deletes only has no body to lose.
    assert!(changeset(vec![deletion("x")]).sign(&[&key]).stub().read().unwrap().whole);
    for bodies in [vec!["{ }".to_owned()], vec!["{}".to_owned(); 2], vec![String::new()]] {
        assert!(matches!(Packed { bodies, ..packed.clone() }.read(), Err(Unread::Bodies(_))));
    }
}

#[test]
fn limits_and_form() {
    let key = SigningKey::generate();
    let read = |changes| changeset(changes).sign(&[&key]).read();
    assert!(read(vec![]).is_err());
    assert!(read(vec![deletion("x"), deletion("x")]).is_err());
    assert!(read(vec![deletion("X/../y")]).is_err());
    assert!(read((0..1_001).map(|i| deletion(&format!("d{i}"))).collect()).is_err());
    assert!(read(vec![setting("x", "")]).is_err());
    assert!(read(vec![setting("x", &"x".repeat(MAX_DOCUMENT))]).is_ok());
    assert!(read(vec![setting("x", &"x".repeat(MAX_DOCUMENT + 1))]).is_err());
    assert!(read((0..16).map(|i| setting(&format!("d{i}"), &"x".repeat(MAX_DOCUMENT))).collect()).is_err());
    assert!(read((0..15).map(|i| setting(&format!("d{i}"), &"x".repeat(MAX_DOCUMENT))).collect()).is_ok());
    let mut foreign = deletion("x");
    foreign.document = DocumentId { kind: Kind::NodeGrant, namespace: "default".into(), name: "x".into() };
    assert!(read(vec![foreign]).is_err());
}

#[test]
fn one_key_approves_one_changeset_in_one_way() {
    let (key, mesh) = (SigningKey::generate(), TrustDomain::new("prod.example").unwrap());
    let id = ChangesetId(Digest([7; 32]));
    let packed = Approval::sign(&mesh, id, &key);
    assert_eq!(packed.id(), Approval::sign(&mesh, id, &key).id());
    let read = Approval::read(&decode(&encode(&packed)).unwrap()).unwrap();
    assert_eq!(read, Approval { trust_domain: mesh, changeset: id, signer: key.public() });
    assert!(packed.read().is_err(), "it is no changeset");
    assert!(Approval::read(&changeset(vec![deletion("x")]).sign(&[&key])).is_err());
}
