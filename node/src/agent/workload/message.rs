//! The messages of the Workload API that this side writes, in protobuf's encoding: a handful of length-delimited fields, written into
//! memory that is wiped, since they hold private keys.

use certs::ca::Svid;
use zeroize::Zeroizing;

/// `X509SVIDResponse`: each SVID with its hint, and the roots of its trust domain.
pub(super) fn svids(svids: &[(Svid, String)], roots: &[Vec<u8>]) -> Zeroizing<Vec<u8>> {
    let bundle = roots.concat();
    let written: Vec<_> = svids.iter().map(|(svid, hint)| one(svid, hint, &bundle)).collect();
    let mut message = buffer(written.iter().map(|svid| svid.len()));
    written.iter().for_each(|svid| field(1, svid, &mut message));
    message
}

/// `X509BundlesResponse`: the roots by trust domain.
pub(super) fn bundles(trust_domain: &str, roots: &[Vec<u8>]) -> Zeroizing<Vec<u8>> {
    let bundle = roots.concat();
    let mut entry = buffer([trust_domain.len(), bundle.len()]);
    field(1, trust_domain.as_bytes(), &mut entry);
    field(2, &bundle, &mut entry);
    let mut message = buffer([entry.len()]);
    field(2, &entry, &mut message);
    message
}

/// `X509SVID`.
fn one(svid: &Svid, hint: &str, bundle: &[u8]) -> Zeroizing<Vec<u8>> {
    let (id, chain) = (svid.id.uri(), svid.chain.iter().map(|der| der.as_ref()).collect::<Vec<_>>().concat());
    let fields: [(u8, &[u8]); 5] = [(1, id.as_bytes()), (2, &chain), (3, &svid.key), (4, bundle), (5, hint.as_bytes())];
    let mut message = buffer(fields.iter().map(|(_, bytes)| bytes.len()));
    fields.iter().for_each(|(number, bytes)| field(*number, bytes, &mut message));
    message
}

/// Room for fields of these lengths: memory that grows leaves copies behind.
fn buffer(lengths: impl IntoIterator<Item = usize>) -> Zeroizing<Vec<u8>> {
    /// A tag of one byte, and a length of at most ten.
    const BEFORE: usize = 11;
    Zeroizing::new(Vec::with_capacity(lengths.into_iter().map(|length| length + BEFORE).sum()))
}

/// A length-delimited field.
fn field(number: u8, bytes: &[u8], message: &mut Vec<u8>) {
    message.push(number << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        message.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    message.push(length as u8);
    message.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The length-delimited fields of a message.
    fn fields(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut found = Vec::new();
        while let [tag, rest @ ..] = bytes {
            assert_eq!(tag & 7, 2);
            let end = rest.iter().position(|byte| *byte < 0x80).unwrap();
            let length = (0..=end).rev().fold(0usize, |length, at| length << 7 | usize::from(rest[at] & 0x7f));
            let rest = &rest[end + 1..];
            found.push((tag >> 3, rest[..length].to_vec()));
            bytes = &rest[length..];
        }
        found
    }

    #[test]
    fn bundles_are_a_map_from_trust_domain_to_roots() {
        let roots = [vec![7; 200], vec![8; 3]];
        let message = bundles("spiffe://t.example", &roots);
        let read = fields(&message);
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].0, 2);
        assert_eq!(fields(&read[0].1), [(1, b"spiffe://t.example".to_vec()), (2, roots.concat())]);
    }

    #[test]
    fn an_svid_has_its_five_fields_and_its_memory_does_not_move() {
        let svid = Svid {
            id: "spiffe://t.example/ns/shop/sa/web".parse().unwrap(),
            chain: vec![vec![1; 300].into(), vec![2; 5].into()],
            key: Zeroizing::new(vec![3; 138]),
            not_before: 0,
            not_after: 1,
        };
        let before = one(&svid, "shop/web", &[4; 9]);
        assert!(before.capacity() >= before.len());
        let chain = [vec![1; 300], vec![2; 5]].concat();
        let wanted = [
            (1, svid.id.uri().into_bytes()),
            (2, chain),
            (3, vec![3; 138]),
            (4, vec![4; 9]),
            (5, b"shop/web".to_vec()),
        ];
        assert_eq!(fields(&before), wanted);
        let message = svids(&[(svid, "shop/web".to_owned())], &[vec![4; 9]]);
        assert_eq!(fields(&message), [(1, before.to_vec())]);
    }
}
