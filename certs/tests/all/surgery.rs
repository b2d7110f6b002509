//! Certificates changed byte by byte and signed again: what no library writes, yet a CA's owner may send.

use certs::verify::{Link, VerifyError, verify};
use rcgen::{CidrSubnet, GeneralSubtree, KeyPair, NameConstraints, SigningKey};
use rustls::pki_types::CertificateDer;

use crate::forge::Forge;

/// One element of DER, open to changes.
#[derive(Clone)]
struct Node {
    tag: u8,
    content: Vec<u8>,
    children: Vec<Node>,
    /// Zero bytes that its length has too many.
    padding: usize,
}

impl Node {
    fn new(tag: u8, content: &[u8]) -> Node {
        Node { tag, content: content.to_vec(), children: Vec::new(), padding: 0 }
    }

    fn read(der: &[u8]) -> Vec<Node> {
        let mut rest = der;
        let mut nodes = Vec::new();
        while let [tag, first, ..] = *rest {
            let (length, header) = match first {
                0x81 => (usize::from(rest[2]), 3),
                0x82 => (usize::from(rest[2]) << 8 | usize::from(rest[3]), 4),
                short => (usize::from(short), 2),
            };
            let content = &rest[header..header + length];
            let constructed = tag & 0x20 != 0;
            let children = if constructed { Node::read(content) } else { Vec::new() };
            nodes.push(Node { tag, content: content.to_vec(), children, padding: 0 });
            rest = &rest[header + length..];
        }
        nodes
    }

    fn write(&self) -> Vec<u8> {
        let content = match self.tag & 0x20 {
            0 => self.content.clone(),
            _ => self.children.iter().flat_map(Node::write).collect(),
        };
        let length = content.len().to_be_bytes();
        let zeros = length.iter().take_while(|byte| **byte == 0).count().min(7);
        let mut bytes = vec![0; self.padding];
        bytes.extend_from_slice(&length[zeros..]);
        let mut der = vec![self.tag];
        if content.len() >= 0x80 || self.padding > 0 {
            der.push(0x80 | bytes.len() as u8);
        }
        [der, bytes, content].concat()
    }
}

/// The signed part of a certificate, by the places of RFC 5280.
struct Tbs(Node);

impl Tbs {
    fn serial(&mut self) -> &mut Node {
        &mut self.0.children[1]
    }

    fn validity(&mut self) -> &mut Node {
        &mut self.0.children[4]
    }

    fn extensions(&mut self) -> &mut Vec<Node> {
        &mut self.0.children.last_mut().unwrap().children[0].children
    }

    fn extension(&mut self, oid: &[u8]) -> &mut Node {
        self.extensions().iter_mut().find(|extension| extension.children[0].content == oid).unwrap()
    }

    /// Lets an edit at the value inside an extension's OCTET STRING.
    fn value(&mut self, oid: &[u8], edit: impl FnOnce(&mut Vec<u8>)) {
        edit(&mut self.extension(oid).children.last_mut().unwrap().content);
    }
}

const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const ALTERNATIVE_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const AUTHORITY_KEY: &[u8] = &[0x55, 0x1d, 0x23];
const EXTENDED_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
const GRANT: &[u8] = &[0x69, 0xd0, 0xdd, 0xcd, 0xff, 0xf0, 0xeb, 0xca, 0xd1, 0x57];

/// The certificate with its signed part edited, signed again by its issuer.
fn operated(der: &[u8], issuer: &KeyPair, edit: impl FnOnce(&mut Tbs)) -> CertificateDer<'static> {
    let mut certificate = Node::read(der).remove(0);
    let mut tbs = Tbs(certificate.children[0].clone());
    edit(&mut tbs);
    let signature = issuer.sign(&tbs.0.write()).unwrap();
    certificate.children[0] = tbs.0;
    certificate.children[2].content = [vec![0], signature].concat();
    certificate.write().into()
}

/// The verdict on a good chain, one of whose certificates (0: leaf, 1: node CA) was operated on.
fn verdict(place: usize, edit: impl FnOnce(&mut Tbs)) -> Result<(), VerifyError> {
    let mut forge = Forge::new();
    forge.leaf.params.use_authority_key_identifier_extension = true;
    let issuer = [&forge.node.key, &forge.enroller.key][place].serialize_pem();
    let node = forge.node.key.serialize_pem();
    let (mut chain, authority, now) = forge.build();
    let issuer = KeyPair::from_pem(&issuer).unwrap();
    chain[place] = operated(&chain[place], &issuer, edit);
    if place == 1 {
        // The leaf names the issuer that it had; its key signs as before.
        chain[0] = operated(&chain[0], &KeyPair::from_pem(&node).unwrap(), |_| ());
    }
    verify(&chain, &authority, now).map(drop)
}

#[test]
fn an_operation_that_changes_nothing_changes_nothing() {
    assert_eq!(verdict(0, |_| ()), Ok(()));
    assert_eq!(verdict(1, |_| ()), Ok(()));
}

macro_rules! refused {
    ($($name:ident: $place:expr, $edit:expr => $error:pat,)+) => {$(
        #[test]
        fn $name() {
            let verdict = verdict($place, $edit);
            assert!(matches!(verdict, Err($error)), "{verdict:?}");
        }
    )+};
}

// What is signed, in another encoding than the one that DER has.
refused! {
    a_negative_serial_number: 0, |tbs| *tbs.serial() = Node::new(2, &[0x80, 1]) => VerifyError::Malformed { .. },
    a_serial_number_of_zero: 0, |tbs| *tbs.serial() = Node::new(2, &[0]) => VerifyError::Malformed { .. },
    a_serial_number_of_21_bytes: 0, |tbs| *tbs.serial() = Node::new(2, &[0x41; 21]) => VerifyError::Malformed { .. },
    a_padded_serial_number: 0, |tbs| *tbs.serial() = Node::new(2, &[0, 0x41]) => VerifyError::Malformed { .. },
    a_length_longer_than_need_be: 0, |tbs| tbs.validity().padding = 1 => VerifyError::Malformed { .. },
    a_length_longer_than_need_be_in_the_key: 1, |tbs| tbs.0.children[6].children[0].padding = 1 => VerifyError::Malformed { .. } | VerifyError::KeyType { .. },
    a_false_that_is_written: 0, |tbs| {
        let extension = tbs.extension(ALTERNATIVE_NAME);
        extension.children.insert(1, Node::new(1, &[0]));
    } => VerifyError::Malformed { .. },
    a_truth_other_than_the_one: 0, |tbs| tbs.extension(KEY_USAGE).children[1].content = vec![1] => VerifyError::Malformed { .. },
    an_extension_of_four_parts: 0, |tbs| tbs.extension(KEY_USAGE).children.push(Node::new(5, &[])) => VerifyError::Malformed { .. },
    three_dates: 0, |tbs| {
        let date = tbs.validity().children[1].clone();
        tbs.validity().children.push(date);
    } => VerifyError::Malformed { .. },
    something_after_the_extensions: 0, |tbs| tbs.0.children.push(Node::new(0x84, &[0])) => VerifyError::Malformed { .. },
    two_lists_of_extensions: 0, |tbs| {
        let list = tbs.0.children.last().unwrap().children[0].clone();
        tbs.0.children.last_mut().unwrap().children.push(list);
    } => VerifyError::Malformed { .. },
    a_name_of_two_values: 0, |tbs| {
        let attribute = tbs.0.children[5].children[0].children[0].clone();
        tbs.0.children[5].children[0].children.push(attribute);
    } => VerifyError::Malformed { .. },
    a_date_of_four_digits_before_2050: 0, |tbs| {
        let date = [b"20", tbs.validity().children[1].content.as_slice()].concat();
        tbs.validity().children[1] = Node::new(0x18, &date);
    } => VerifyError::Malformed { .. },
    a_date_without_seconds: 0, |tbs| {
        let date = [&tbs.validity().children[1].content[..10], b"Z"].concat();
        tbs.validity().children[1].content = date;
    } => VerifyError::Malformed { .. },
    a_date_of_another_zone: 0, |tbs| {
        let date = [&tbs.validity().children[1].content[..12], b"+0100"].concat();
        tbs.validity().children[1].content = date;
    } => VerifyError::Malformed { .. },
    bytes_after_the_alternative_names: 0, |tbs| tbs.value(ALTERNATIVE_NAME, |value| value.extend([5, 0]))
        => VerifyError::Extension { .. } | VerifyError::Malformed { .. } | VerifyError::Names { .. },
    bytes_after_the_extended_usage: 0, |tbs| tbs.value(EXTENDED_USAGE, |value| value.extend([5, 0]))
        => VerifyError::Extension { .. } | VerifyError::Malformed { .. } | VerifyError::ExtendedKeyUsage { .. },
    bytes_after_the_key_usage: 0, |tbs| tbs.value(KEY_USAGE, |value| value.push(0)) => VerifyError::Extension { .. },
    key_usage_bits_that_nobody_reads: 0, |tbs| tbs.value(KEY_USAGE, |value| *value = vec![3, 2, 6, 0x80]) => VerifyError::KeyUsage { .. },
    key_usage_that_is_not_critical: 0, |tbs| { tbs.extension(KEY_USAGE).children.remove(1); } => VerifyError::KeyUsage { .. },
    basic_constraints_that_are_not_critical: 1, |tbs| { tbs.extension(BASIC_CONSTRAINTS).children.remove(1); }
        => VerifyError::BasicConstraints { link: Link::NodeCa },
    a_path_length_of_two_bytes: 1, |tbs| tbs.value(BASIC_CONSTRAINTS, |value| *value = vec![0x30, 7, 1, 1, 0xff, 2, 2, 0, 0])
        => VerifyError::Extension { .. } | VerifyError::BasicConstraints { .. },
    a_grant_twice: 1, |tbs| {
        let grant = tbs.extension(GRANT).clone();
        tbs.extensions().push(grant);
    } => VerifyError::Extension { link: Link::NodeCa, .. },
    a_grant_with_a_padded_number: 1, |tbs| tbs.value(GRANT, |value| {
        // Its length byte, the node's name `b`, then the epoch 3, here in three bytes.
        assert_eq!(value[2..5], [1, b'b', 3]);
        value.splice(4..5, [0xfb, 3, 0]);
        value[1] += 2;
    }) => VerifyError::Malformed { link: Link::NodeCa, what: "its grant cannot be read" },
    bytes_after_the_grant: 1, |tbs| tbs.value(GRANT, |value| { value.push(0); value[1] += 1; })
        => VerifyError::Malformed { link: Link::NodeCa, .. },
    version_2: 0, |tbs| tbs.0.children[0].children[0].content = vec![1] => VerifyError::Malformed { .. },
    version_1: 0, |tbs| { tbs.0.children.remove(0); } => VerifyError::Malformed { .. },
    an_issuers_unique_identifier: 0, |tbs| tbs.0.children.insert(7, Node::new(0x81, &[0, 1])) => VerifyError::Malformed { .. },
    a_subjects_unique_identifier: 0, |tbs| tbs.0.children.insert(7, Node::new(0x82, &[0, 1])) => VerifyError::Malformed { .. },
    a_critical_key_identifier: 0, |tbs| tbs.extension(AUTHORITY_KEY).children.insert(1, Node::new(1, &[0xff]))
        => VerifyError::Extension { link: Link::Leaf, .. },
    parameters_of_the_algorithm: 0, |tbs| tbs.0.children[2].children.push(Node::new(5, &[])) => VerifyError::SignatureAlgorithm { .. },
    another_algorithm_inside_than_outside: 0, |tbs| tbs.0.children[2].children[0].content = vec![0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3]
        => VerifyError::SignatureAlgorithm { .. },
    a_compressed_key: 0, |tbs| {
        let point = &mut tbs.0.children[6].children[1].content;
        point.truncate(34);
        point[1] = 2;
    } => VerifyError::KeyType { link: Link::Leaf },
    a_key_of_another_curves_name: 0, |tbs| tbs.0.children[6].children[0].children[1].content = vec![0x2b, 0x81, 4, 0, 0x0a]
        => VerifyError::KeyType { link: Link::Leaf },
    a_ca_without_a_name: 1, |tbs| tbs.0.children[5].children.clear() => VerifyError::Malformed { link: Link::NodeCa, .. },
    a_uri_in_another_encoding: 0, |tbs| tbs.value(ALTERNATIVE_NAME, |value| {
        let at = value.iter().position(|byte| *byte == b'/').unwrap();
        value[at] = 0;
    }) => VerifyError::Identity(_) | VerifyError::Names { .. } | VerifyError::Malformed { .. },
}

fn constrained(permitted: &[&str], excluded: &[&str]) -> Result<(), VerifyError> {
    let names = |names: &[&str]| names.iter().map(|name| GeneralSubtree::DnsName((*name).to_owned())).collect();
    let mut forge = Forge::new();
    forge.node.params.name_constraints =
        Some(NameConstraints { permitted_subtrees: names(permitted), excluded_subtrees: names(excluded) });
    let (chain, authority, now) = forge.build();
    verify(&chain, &authority, now).map(drop)
}

#[test]
fn a_cas_name_constraints_hold_for_us_too() {
    assert_eq!(constrained(&["reviews.shop.prod.example"], &[]), Ok(()));
    assert_eq!(constrained(&["prod.example"], &["bank.prod.example"]), Ok(()));
    let refused = |verdict| matches!(verdict, Err(VerifyError::NameConstraints { link: Link::NodeCa, .. }));
    assert!(refused(constrained(&["web.shop.prod.example"], &[])));
    assert!(refused(constrained(&["prod.example"], &["shop.prod.example"])));
    assert!(refused(constrained(&["prod.example"], &["reviews.shop.prod.example"])));
}

#[test]
fn name_constraints_in_a_leaf() {
    let mut forge = Forge::new();
    let oid = [2, 5, 29, 30];
    // Permitted: the DNS name `x`.
    let value = vec![0x30, 7, 0xa0, 5, 0x30, 3, 0x82, 1, b'x'];
    forge.leaf.params.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(&oid, value)];
    let (chain, authority, now) = forge.build();
    let verdict = verify(&chain, &authority, now).map(drop);
    assert!(matches!(verdict, Err(VerifyError::Malformed { link: Link::Leaf, .. })), "{verdict:?}");
}

#[test]
fn name_constraints_of_other_sorts() {
    let of = |permitted_subtrees| {
        let mut forge = Forge::new();
        forge.enroller.params.name_constraints =
            Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
        let (chain, authority, now) = forge.build();
        verify(&chain, &authority, now).map(drop)
    };
    for tree in [
        GeneralSubtree::Rfc822Name("prod.example".into()),
        GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix([10, 0, 0, 0], 8)),
    ] {
        let verdict = of(vec![tree]);
        assert!(matches!(verdict, Err(VerifyError::Malformed { link: Link::Enroller, .. })), "{verdict:?}");
    }
    assert_eq!(of(vec![GeneralSubtree::DnsName("prod.example".into())]), Ok(()));
}
