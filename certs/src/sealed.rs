//! Private keys under a passphrase: PKCS#8's `ENCRYPTED PRIVATE KEY` by PBES2 (RFC 8018) with PBKDF2-HMAC-SHA256 and AES-256-CBC, as
//! `openssl pkcs8 -topk8 -v2 aes-256-cbc` writes and reads it.

use std::num::NonZeroU32;

use aws_lc_rs::{
    cipher::{
        AES_256, DecryptionContext, EncryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey,
        UnboundCipherKey,
    },
    iv::FixedLength,
    pbkdf2,
    rand::{SecureRandom, SystemRandom},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use crate::{
    der::{SEQUENCE, element, is_strict, octet_string, parts},
    pem,
};

/// Rounds of PBKDF2 in what is written: OWASP's number for HMAC-SHA256.
const ITERATIONS: u32 = 600_000;
/// The same as the content of an INTEGER.
const ROUNDS: [u8; 3] = [0x09, 0x27, 0xc0];
/// The most that is read: more would only keep the reader waiting.
const MOST_ITERATIONS: u32 = 5_000_000;
/// Bytes of salt in what is written, and the most that is read.
const SALT: usize = 16;
const LONGEST_SALT: usize = 64;

const LABEL: &str = "ENCRYPTED PRIVATE KEY";
const PLAIN: &str = "PRIVATE KEY";

// Object identifiers, tag and length included.
const PBES2: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 13];
const PBKDF2: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 12];
/// hmacWithSHA256 with its NULL, as an AlgorithmIdentifier.
const HMAC_SHA256: &[u8] = &[0x30, 12, 6, 8, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2, 9, 5, 0];
const AES_256_CBC: &[u8] = &[6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1, 42];

const INTEGER: u8 = 2;
const OCTET_STRING: u8 = 4;

/// Why a key stays closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealedError {
    /// There is no private key in the text, or none of the sort that is asked for.
    #[error("no private key that could be sealed or opened")]
    NoKey,
    /// Another cipher or derivation, or numbers out of bounds.
    #[error("sealed by other means than PBES2 with PBKDF2-HMAC-SHA256 and AES-256-CBC")]
    Unknown,
    /// Wrong, or the text is damaged.
    #[error("the passphrase does not open it")]
    Passphrase,
}

/// True if the text holds a key under a passphrase.
pub fn is_sealed(text: &str) -> bool {
    text.contains(&begin(LABEL))
}

/// The text with its private key under the passphrase; what else stands there stays.
///
/// # Errors
/// It holds no private key.
pub fn seal(text: &str, passphrase: &[u8]) -> Result<String, SealedError> {
    let (before, der, after) = block(text, PLAIN)?;
    let (mut salt, mut iv) = ([0; SALT], [0; 16]);
    let random = SystemRandom::new();
    let drawn = random.fill(&mut salt).and_then(|()| random.fill(&mut iv));
    drawn.expect("the system's random source works");
    let key =
        UnboundCipherKey::new(&AES_256, &*derive(passphrase, &salt, ITERATIONS)?).map_err(|_| SealedError::NoKey)?;
    let mut content = Zeroizing::new(der.to_vec());
    let cipher = PaddedBlockEncryptingKey::cbc_pkcs7(key).map_err(|_| SealedError::NoKey)?;
    let context = EncryptionContext::Iv128(FixedLength::from(iv));
    cipher.less_safe_encrypt(&mut *content, context).map_err(|_| SealedError::NoKey)?;
    let sealed = pem::encode(LABEL, &envelope(&salt, &iv, &content));
    Ok(format!("{before}{}{after}", sealed.as_str()))
}

/// The text with its private key in the clear.
///
/// # Errors
/// It holds no sealed key, one sealed by other means, or the passphrase is another one.
pub fn open(text: &str, passphrase: &[u8]) -> Result<Zeroizing<String>, SealedError> {
    let (before, der, after) = block(text, LABEL)?;
    let Sealed { salt, iterations, iv, content } = read(&der).ok_or(SealedError::Unknown)?;
    let key = UnboundCipherKey::new(&AES_256, &*derive(passphrase, salt, iterations)?);
    let cipher = key.and_then(PaddedBlockDecryptingKey::cbc_pkcs7).map_err(|_| SealedError::Unknown)?;
    let mut content = Zeroizing::new(content.to_vec());
    let context = DecryptionContext::Iv128(FixedLength::from(iv));
    let opened = cipher.decrypt(&mut content, context).map_err(|_| SealedError::Passphrase)?;
    // One wrong passphrase in 256 leaves a padding that looks right.
    if !is_strict(opened) {
        return Err(SealedError::Passphrase);
    }
    let plain = pem::encode(PLAIN, opened);
    let mut text = Zeroizing::new(String::with_capacity(before.len() + plain.len() + after.len()));
    [before, plain.as_str(), after].iter().for_each(|part| text.push_str(part));
    Ok(text)
}

fn derive(passphrase: &[u8], salt: &[u8], iterations: u32) -> Result<Zeroizing<[u8; 32]>, SealedError> {
    let rounds = NonZeroU32::new(iterations).ok_or(SealedError::Unknown)?;
    let mut key = Zeroizing::new([0; 32]);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, salt, passphrase, &mut *key);
    Ok(key)
}

fn begin(label: &str) -> String {
    format!("-----BEGIN {label}-----")
}

/// The text before the first block of this label, its bytes, and the text after it.
fn block<'t>(text: &'t str, label: &str) -> Result<(&'t str, Zeroizing<Vec<u8>>, &'t str), SealedError> {
    let (before, rest) = text.split_once(&begin(label)).ok_or(SealedError::NoKey)?;
    let (base64, after) = rest.split_once(&format!("-----END {label}-----")).ok_or(SealedError::NoKey)?;
    let mut packed = Zeroizing::new(String::with_capacity(base64.len()));
    packed.extend(base64.chars().filter(|c| !c.is_whitespace()));
    let der = STANDARD.decode(packed.as_str()).map_err(|_| SealedError::NoKey)?;
    Ok((before, Zeroizing::new(der), after.strip_prefix('\n').unwrap_or(after)))
}

fn envelope(salt: &[u8], iv: &[u8], content: &[u8]) -> Vec<u8> {
    let rounds = element(INTEGER, &ROUNDS);
    let derivation = element(SEQUENCE, &[octet_string(salt), rounds, HMAC_SHA256.to_vec()].concat());
    let derivation = element(SEQUENCE, &[PBKDF2, &derivation].concat());
    let cipher = element(SEQUENCE, &[AES_256_CBC, &octet_string(iv)].concat());
    let scheme = element(SEQUENCE, &[PBES2, &element(SEQUENCE, &[derivation, cipher].concat())].concat());
    element(SEQUENCE, &[scheme, octet_string(content)].concat())
}

struct Sealed<'d> {
    salt: &'d [u8],
    iterations: u32,
    iv: [u8; 16],
    content: &'d [u8],
}

/// Reads what [`envelope`] writes, with other salts and numbers.
fn read(der: &[u8]) -> Option<Sealed<'_>> {
    let inside = |der, count: usize| -> Option<Vec<(u8, &[u8])>> { parts(der).filter(|parts| parts.len() == count) };
    let outer = inside(der, 1).filter(|_| is_strict(der))?;
    let sealed = inside(outer[0].1, 2)?;
    let scheme = inside(sealed[0].1, 2)?;
    let (derivation, cipher) = {
        let both = inside(scheme[1].1, 2)?;
        (inside(both[0].1, 2)?, inside(both[1].1, 2)?)
    };
    let numbers = inside(derivation[1].1, 3)?;
    let known = [(scheme[0], PBES2), (derivation[0], PBKDF2), (cipher[0], AES_256_CBC), (numbers[2], HMAC_SHA256)];
    let same = |((tag, content), wanted): &((u8, &[u8]), &[u8])| element(*tag, content) == *wanted;
    let tags =
        [(numbers[0], OCTET_STRING), (numbers[1], INTEGER), (cipher[1], OCTET_STRING), (sealed[1], OCTET_STRING)];
    if !known.iter().all(same) || !tags.iter().all(|((tag, _), wanted)| tag == wanted) {
        return None;
    }
    let iterations = numbers[1].1.iter().try_fold(0u32, |number, byte| {
        number.checked_mul(256).and_then(|number| number.checked_add(u32::from(*byte)))
    })?;
    let salt = numbers[0].1;
    let bounded = (1..=MOST_ITERATIONS).contains(&iterations) && salt.len() <= LONGEST_SALT;
    bounded.then_some(())?;
    Some(Sealed { salt, iterations, iv: cipher[1].1.try_into().ok()?, content: sealed[1].1 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{id::TrustDomain, root::Root, sign::SigningKey};

    #[test]
    fn a_key_is_opened_by_its_passphrase_and_no_other() {
        let key = SigningKey::generate();
        let plain = key.to_pem();
        let sealed = seal(&plain, b"correct horse").unwrap();
        assert!(is_sealed(&sealed) && !is_sealed(&plain));
        assert!(!sealed.contains("BEGIN PRIVATE KEY"));
        assert_eq!(*open(&sealed, b"correct horse").unwrap(), *plain);
        assert_eq!(open(&sealed, b"wrong horse").unwrap_err(), SealedError::Passphrase);
        assert_eq!(open(&plain, b"correct horse").unwrap_err(), SealedError::NoKey);
        assert_eq!(seal(&sealed, b"x").unwrap_err(), SealedError::NoKey);
    }

    #[test]
    fn what_stands_beside_the_key_stays() {
        let trust_domain = TrustDomain::new("t.example").unwrap();
        let root = Root::generate(&trust_domain, 1_800_000_000_000);
        let sealed = seal(&root.to_pem(), b"pass").unwrap();
        assert!(sealed.starts_with("-----BEGIN CERTIFICATE-----"));
        let opened = open(&sealed, b"pass").unwrap();
        assert_eq!(Root::from_pem(&trust_domain, &opened).unwrap().certificate(), root.certificate());
    }

    #[test]
    fn numbers_out_of_bounds_are_not_worked_off() {
        let sealed = seal(&SigningKey::generate().to_pem(), b"pass").unwrap();
        let (_, der, _) = block(&sealed, LABEL).unwrap();
        let at = der.windows(5).position(|window| window == [2, 3, 0x09, 0x27, 0xc0]).unwrap();
        for number in [[0, 0, 0], [0x7f, 0xff, 0xff]] {
            let mut other = der.to_vec();
            other[at + 2..at + 5].copy_from_slice(&number);
            let text = pem::encode(LABEL, &other);
            assert_eq!(open(&text, b"pass").unwrap_err(), SealedError::Unknown);
        }
        let mut bytes = der.to_vec();
        for cut in [0, 1, 20, bytes.len() - 1] {
            bytes.truncate(der.len() - cut);
            let _ = open(&pem::encode(LABEL, &bytes), b"pass");
        }
        // 32-bit numbers and beyond.
        assert!(read(&der[..der.len() - 1]).is_none());
    }
}
