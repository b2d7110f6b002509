//! Which signatures hold, which keys and encodings are refused, and what bytes are signed.

use proptest::prelude::*;

use super::*;
use crate::codec;

const KIND: &str = "skein.test/1";

fn signed_by(keys: &[&SigningKey]) -> Signed {
    let mut signed = Signed::new(KIND, b"payload".to_vec());
    keys.iter().for_each(|key| signed.add(key));
    signed
}

#[test]
fn every_signature_must_hold() {
    let (ann, bob) = (SigningKey::generate(), SigningKey::generate());
    let good = signed_by(&[&ann, &bob, &ann]);
    assert_eq!(good.verify(KIND), Ok(vec![ann.public(), bob.public()]));
    assert_eq!(Signed::new(KIND, vec![]).verify(KIND), Err(SignError::Unsigned));
    assert!(matches!(good.verify("skein.other/1"), Err(SignError::WrongKind { .. })));
    let mut renamed = good.clone();
    renamed.kind = "skein.other/1".into();
    assert_eq!(renamed.verify("skein.other/1"), Err(SignError::BadSignature(ann.public())));
    let mut changed = good.clone();
    changed.payload[0] ^= 1;
    assert_eq!(changed.verify(KIND), Err(SignError::BadSignature(ann.public())));
    let mut one_bad = good.clone();
    one_bad.signatures[1].1.0[40] ^= 1;
    assert_eq!(one_bad.verify(KIND), Err(SignError::BadSignature(bob.public())));
    let mut twice = good.clone();
    twice.signatures[1] = twice.signatures[0].clone();
    assert_eq!(twice.verify(KIND), Err(SignError::Repeated(ann.public())));
    let mut many = good.clone();
    many.signatures = vec![good.signatures[0].clone(); MAX_SIGNATURES + 1];
    assert_eq!(many.verify(KIND), Err(SignError::TooMany(MAX_SIGNATURES + 1)));
    assert_eq!(good.id(), signed_by(&[&bob]).id());
    assert_ne!(good.id(), renamed.id());
}

/// Each listed point is of low order: as a key it verifies, by the plain equation, signatures that nobody made.
#[test]
fn keys_of_low_order_are_refused() {
    for y in LOW_ORDER {
        let key = PublicKey(y);
        let forged = LOW_ORDER.iter().flat_map(|commitment| {
            [0, 0x80].map(|sign| {
                let mut bytes = [0; 64];
                bytes[..32].copy_from_slice(commitment);
                bytes[31] |= sign;
                Signature(bytes)
            })
        });
        let forged: Vec<Signature> = forged.collect();
        let mut by_the_equation = 0;
        for nonce in 0u8..32 {
            for signature in &forged {
                by_the_equation += usize::from(key.verify_raw(&pre_authentication(KIND, &[nonce]), signature));
                assert!(!key.verify(KIND, &[nonce], signature));
            }
        }
        assert!(by_the_equation > 0, "{key:?} is not of low order");
    }
}

#[test]
fn encodings_that_are_not_canonical_are_refused() {
    let mut p = [0xff; 32];
    (p[0], p[31]) = (0xed, 0x7f);
    assert!(!sound(&p));
    p[0] = 0xff;
    assert!(!sound(&p));
    p[0] = 0xeb;
    assert!(sound(&p));
    // S + L satisfies the equation as S does.
    let key = SigningKey::generate();
    let mut signature = key.sign(KIND, b"payload");
    const L: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut carry = 0;
    for (byte, l) in signature.0[32..].iter_mut().zip(L) {
        let sum = u16::from(*byte) + u16::from(l) + carry;
        (*byte, carry) = (sum as u8, sum >> 8);
    }
    assert!(!key.public().verify(KIND, b"payload", &signature));
}

#[test]
fn keys_survive_their_pem_files() {
    let key = SigningKey::generate();
    let text = key.to_pem();
    assert!(text.starts_with("-----BEGIN PRIVATE KEY-----\n") && text.ends_with("-----END PRIVATE KEY-----\n"));
    assert_eq!(SigningKey::from_pem(&text).unwrap().public(), key.public());
    let other_sort = crate::ca::CaKey::generate().to_pem();
    assert_eq!(SigningKey::from_pem(&other_sort).unwrap_err(), Error::Key { expected: "Ed25519" });
    assert_eq!(SigningKey::from_pem("nothing").unwrap_err(), Error::Pem { expected: "private key" });
    assert_eq!(format!("{key:?}"), format!("SigningKey({})", key.public()));
}

/// RFC 8032, section 7.1, test 2, in the PKCS#8 form that OpenSSL writes.
#[test]
fn a_known_key() {
    let mut der = hex::decode("302e020100300506032b657004220420").unwrap();
    der.extend(hex::decode("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb").unwrap());
    let key = SigningKey::from_pem(&pem::encode("PRIVATE KEY", &der)).unwrap();
    let public = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";
    assert_eq!(hex::encode(key.public().0), public);
    assert_eq!(key.public().to_string(), "ed25519:PUAXw-hDiVqStwqnTRt-vJyYLM8uxJaMwM1V8Sr0Zgw");
    // Pins the pre-authentication encoding.
    assert_eq!(
        hex::encode(pre_authentication("k", b"p")),
        "736b65696e2d7369676e65642f3101000000000000006b010000000000000070"
    );
}

#[test]
fn texts_that_are_none() {
    for bad in [
        "",
        "ed25519:",
        "ed25519:AAAA",
        "rsa:PUAXw-hDiVqStwqnTRt-vJyYLM8uxJaMwM1V8Sr0Zgw",
        "ed25519:PUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw",
        "ed25519:PUAXw-hDiVqStwqnTRt-vJyYLM8uxJaMwM1V8Sr0Zgw=",
    ] {
        assert!(bad.parse::<PublicKey>().is_err(), "{bad}");
    }
    assert!("abcd".parse::<Digest>().is_err() && "".parse::<Signature>().is_err());
}

proptest! {
    #[test]
    fn all_go_there_and_back(a: [u8; 32], b: [u8; 32], payload: Vec<u8>) {
        let (digest, key, signature) = (Digest(a), PublicKey(b), Signature(joined([a, b])));
        prop_assert_eq!(digest.to_string().parse(), Ok(digest));
        prop_assert_eq!(key.to_string().parse(), Ok(key));
        prop_assert_eq!(signature.to_string().parse(), Ok(signature.clone()));
        let signed = Signed { kind: KIND.into(), payload, signatures: vec![(key, signature)] };
        let bytes = codec::encode(&signed);
        prop_assert_eq!(&codec::decode::<Signed, 4096>(&bytes).unwrap(), &signed);
        let json = serde_json::to_string(&signed).unwrap();
        prop_assert_eq!(serde_json::from_str::<Signed>(&json).unwrap(), signed);
    }

    #[test]
    fn no_two_payloads_share_an_encoding(a in "[ab]{0,3}", b in "[ab]{0,3}", c in "[ab]{0,3}", d in "[ab]{0,3}") {
        let same = pre_authentication(&a, b.as_bytes()) == pre_authentication(&c, d.as_bytes());
        prop_assert_eq!(same, (a, b) == (c, d));
    }
}
