//! The node's own credentials: certificates and keys that documents name and that never leave the machine. One file each below the
//! data directory, 0600, replaced as a whole.

mod files;

use std::{
    collections::BTreeMap,
    fs, io,
    io::{Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use certs::foreign::Foreign;
use rustls::{
    RootCertStore,
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use tokio::sync::watch;
use zeroize::{Zeroize, Zeroizing};

pub use files::Folders;

/// Most bytes of one secret.
const MAX_BYTES: u64 = 1 << 20;
/// Most secrets of a node.
const MAX_SECRETS: usize = 10_000;
const SUFFIX: &str = ".json";
/// Bytes of a secret's file beside its texts.
const EMPTY: usize = 256;

/// The store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Secrets {
    folder: Arc<Path>,
    /// Where documents may name files.
    folders: Option<Arc<Folders>>,
    changes: watch::Sender<u64>,
}

/// PEM texts: a certificate with its key, authorities that verify others', or both.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// The certificate, its chain after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<String>,
    /// Its private key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
    /// Authorities that clients' certificates must come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// Lists of clients' certificates that no longer count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crl: Option<String>,
}

/// What a secret's file holds: a later build may have put more into it.
#[derive(Deserialize)]
struct Kept {
    cert: Option<String>,
    key: Option<Key>,
    ca: Option<String>,
    crl: Option<String>,
    #[serde(flatten)]
    later: BTreeMap<String, IgnoredAny>,
}

impl Kept {
    /// What is not known here may narrow whom the authorities let in, as `crl` does. A certificate is shown all the same.
    fn secret(self, file: &Path) -> Result<Secret, SecretError> {
        let Self { cert, key, ca, crl, later } = self;
        match later.keys().next() {
            Some(word) if ca.is_some() => {
                let message = format!(
                    "{} says `{word}` beside its authorities, which this version does not know: run the version that wrote it, or put the \
                     secret again",
                    file.display()
                );
                Err(SecretError::Invalid(message))
            }
            Some(_) | None => Ok(Secret { cert, key, ca, crl }),
        }
    }
}

/// A secret as it is told of: nothing of its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// The namespace of the workloads that use it.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What its certificate is for; empty without one.
    pub names: Vec<String>,
    /// When its certificate ends, RFC 3339; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<String>,
    /// True if it holds authorities for clients.
    pub ca: bool,
}

/// Why a secret cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It does not hold what it should.
    #[error("{0}")]
    Invalid(String),
    /// There is none of that name.
    #[error("no secret is called {0}")]
    NotFound(String),
    /// The disk.
    #[error("{0}: {1}")]
    Disk(PathBuf, io::Error),
}

/// A private key, PEM; wiped when it is dropped, never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(String);

impl Key {
    /// The text.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.0
    }
}

impl From<String> for Key {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Secrets {
    /// The secrets below a data directory.
    #[must_use]
    pub fn new(data_dir: &Path) -> Self {
        Self { folder: data_dir.join("secrets").into(), folders: None, changes: watch::Sender::new(0) }
    }

    /// Wakes at every change that is made through this process.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Keeps a secret, in place of an older one of the name.
    ///
    /// # Errors
    /// Nothing has changed.
    pub fn put(&self, namespace: &str, name: &str, secret: &Secret) -> Result<(), SecretError> {
        let file = self.file(namespace, name)?;
        secret.check()?;
        if !file.exists() && self.list()?.len() >= MAX_SECRETS {
            return Err(SecretError::Invalid(format!("a node keeps {MAX_SECRETS} secrets")));
        }
        // As large as it gets, at once: what a buffer leaves behind when it grows is not wiped.
        let mut text = Zeroizing::new(Vec::with_capacity(2 * secret.bytes() + EMPTY));
        serde_json::to_writer(&mut *text, secret).map_err(|error| SecretError::Invalid(error.to_string()))?;
        write(&self.folder, &file, &text).map_err(|error| SecretError::Disk(file, error))?;
        self.changes.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Forgets a secret.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn remove(&self, namespace: &str, name: &str) -> Result<(), SecretError> {
        let file = self.file(namespace, name)?;
        fs::remove_file(&file).map_err(|error| missing(namespace, name, file, error))?;
        self.changes.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Reads a secret.
    ///
    /// # Errors
    /// There is none of that name, or it cannot be read.
    pub fn get(&self, namespace: &str, name: &str) -> Result<Secret, SecretError> {
        let file = self.file(namespace, name)?;
        let text = read(&file).map_err(|error| missing(namespace, name, file.clone(), error))?;
        let kept: Kept = serde_json::from_str(&text).map_err(|error| {
            // Where, and not what: the parser's own words may show a piece of the key.
            let (file, line, column) = (file.display(), error.line(), error.column());
            SecretError::Invalid(format!("{file} is damaged at line {line}, column {column}: put the secret again"))
        })?;
        kept.secret(&file)
    }

    /// The secret `NAME-cacert`, whose authorities go before those beside the certificate of that name, as in Istio.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn authorities_of(&self, namespace: &str, name: &str) -> Result<Option<Secret>, SecretError> {
        match self.get(namespace, &format!("{name}-cacert")) {
            Ok(secret) => Ok(Some(secret)),
            Err(SecretError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All, in the order of their names.
    ///
    /// # Errors
    /// The disk.
    pub fn list(&self) -> Result<Vec<Listed>, SecretError> {
        let mut all = Vec::new();
        for namespace in entries(&self.folder)? {
            for file in entries(&self.folder.join(&namespace))? {
                let Some(name) = file.strip_suffix(SUFFIX) else { continue };
                // One that is damaged is there all the same.
                all.push(self.get(&namespace, name).unwrap_or_default().listed(&namespace, name));
            }
        }
        all.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        Ok(all)
    }

    fn file(&self, namespace: &str, name: &str) -> Result<PathBuf, SecretError> {
        let valid = policy::hosts::is_dns_label(namespace) && policy::hosts::is_document_name(name);
        if !valid {
            let message = format!("`{namespace}/{name}` is no name of a secret: letters, digits, `-` and dots");
            return Err(SecretError::Invalid(message));
        }
        Ok(self.folder.join(namespace).join(format!("{name}{SUFFIX}")))
    }
}

fn missing(namespace: &str, name: &str, file: PathBuf, error: io::Error) -> SecretError {
    if error.kind() == io::ErrorKind::NotFound {
        return SecretError::NotFound(format!("{namespace}/{name}"));
    }
    SecretError::Disk(file, error)
}

/// Names in a folder; none if it is not there.
fn entries(folder: &Path) -> Result<Vec<String>, SecretError> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(SecretError::Disk(folder.to_path_buf(), error)),
    }
}

/// The file itself, no link's end, and only where nobody else may read it.
fn read(file: &Path) -> io::Result<Zeroizing<String>> {
    let no_link = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK;
    let file = fs::OpenOptions::new().read(true).custom_flags(no_link.bits()).open(file)?;
    let about = file.metadata()?;
    let refused = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    if !about.is_file() || about.mode() & 0o077 != 0 {
        return refused(format!("mode {:04o}: others than its owner may use it; chmod 600", about.mode() & 0o777));
    }
    // Escaped, a text takes up to twice its length.
    let most = 2 * MAX_BYTES + EMPTY as u64;
    if about.len() > most {
        return refused(format!("{} bytes; a secret has at most {MAX_BYTES}", about.len()));
    }
    let mut text = Zeroizing::new(String::with_capacity(usize::try_from(about.len()).unwrap_or(0) + 1));
    file.take(most).read_to_string(&mut text)?;
    Ok(text)
}

/// A reader sees the old file or the new one.
fn write(folder: &Path, file: &Path, text: &[u8]) -> io::Result<()> {
    let within = file.parent().unwrap_or(folder);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(within)?;
    let temporary = file.with_extension("new");
    let _ = fs::remove_file(&temporary);
    let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    out.write_all(text)?;
    out.sync_all()?;
    fs::rename(&temporary, file)?;
    fs::File::open(within)?.sync_all()
}

impl Secret {
    /// Of all its texts.
    fn bytes(&self) -> usize {
        let others = [&self.cert, &self.ca, &self.crl].into_iter().flatten().map(String::len).sum::<usize>();
        others + self.key.as_ref().map_or(0, |key| key.0.len())
    }

    fn check(&self) -> Result<(), SecretError> {
        match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => certified_key(cert, key.pem()).map(drop),
            (None, None) if self.ca.is_some() => Ok(()),
            (None, None) => Err("it holds neither a certificate with its key nor authorities".to_owned()),
            (Some(_), None) => Err("the key is missing".to_owned()),
            (None, Some(_)) => Err("the certificate is missing".to_owned()),
        }
        .and_then(|()| self.ca.as_deref().map_or(Ok(()), |ca| authorities(ca).map(drop)))
        .and_then(|()| self.crl.as_deref().map_or(Ok(()), |crl| revoked(crl).map(drop)))
        .map_err(SecretError::Invalid)
    }

    fn listed(&self, namespace: &str, name: &str) -> Listed {
        let first = self.cert.as_deref().and_then(|cert| certificates(cert).ok()?.into_iter().next());
        let read = first.and_then(|der| Foreign::parse(&der).ok());
        let until = |read: &Foreign| {
            let until = jiff::Timestamp::from_millisecond(i64::try_from(read.not_after).ok()?).ok()?;
            Some(format!("{until:.3}"))
        };
        Listed {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            not_after: read.as_ref().and_then(until),
            names: read.map(|read| read.dns_names.into_iter().chain(read.addresses).collect()).unwrap_or_default(),
            ca: self.ca.is_some(),
        }
    }
}

/// A certificate with its chain, and its key, from PEM.
///
/// # Errors
/// In words.
pub fn certified_key(cert: &str, key: &str) -> Result<CertifiedKey, String> {
    let chain = certificates(cert)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| "there is no private key in PEM".to_owned())?;
    let key = any_supported_type(&key).map_err(|_| "the private key is of no kind that is known here".to_owned())?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(certified),
        Err(_) => Err("the private key is not that of the certificate".to_owned()),
    }
}

fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match found {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) | Err(_) => Err("there is no certificate in PEM".to_owned()),
    }
}

/// Authorities, from PEM.
///
/// # Errors
/// In words.
pub fn authorities(text: &str) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(text)? {
        store.add(certificate).map_err(|error| format!("a certificate of the authorities cannot be used: {error}"))?;
    }
    Ok(store)
}

/// Lists of revoked certificates, from PEM.
///
/// # Errors
/// In words.
pub fn revoked(text: &str) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(text.as_bytes()).collect();
    match found {
        Ok(lists) if !lists.is_empty() => Ok(lists),
        Ok(_) | Err(_) => Err("there is no list of revoked certificates in PEM".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn pair(name: &str) -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn secret(cert: &str, key: &str) -> Secret {
        Secret { cert: Some(cert.to_owned()), key: Some(key.to_owned().into()), ..Secret::default() }
    }

    #[test]
    fn secrets_are_kept_told_of_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let secrets = Secrets::new(dir.path());
        let mut changes = secrets.changes();
        let (cert, key) = pair("a.org");
        assert_eq!(secrets.list().unwrap(), []);
        secrets.put("edge", "a.b", &secret(&cert, &key)).unwrap();
        secrets.put("edge", "ca", &Secret { ca: Some(cert.clone()), ..Secret::default() }).unwrap();
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        assert_eq!(secrets.get("edge", "a.b").unwrap().cert, Some(cert));
        let listed = secrets.list().unwrap();
        assert_eq!(
            (&listed[0].name[..], &listed[0].names[..], listed[0].ca),
            ("a.b", &["a.org".to_owned()][..], false)
        );
        assert_eq!((&listed[1].name[..], listed[1].not_after.clone(), listed[1].ca), ("ca", None, true));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode(&dir.path().join("secrets/edge")), mode(&dir.path().join("secrets/edge/a.b.json"))),
            (0o700, 0o600)
        );
        secrets.remove("edge", "a.b").unwrap();
        assert!(changes.has_changed().unwrap());
        assert!(matches!(secrets.get("edge", "a.b"), Err(SecretError::NotFound(_))));
        assert!(matches!(secrets.remove("edge", "a.b"), Err(SecretError::NotFound(_))));
    }

    #[test]
    fn of_a_later_build_a_certificate_is_shown_and_nobody_is_let_in_by_half_of_what_it_says() {
        let dir = tempfile::tempdir().unwrap();
        let secrets = Secrets::new(dir.path());
        let (cert, key) = pair("a.org");
        let keep = |name: &str, text: &str| {
            write(&secrets.folder, &secrets.file("edge", name).unwrap(), text.as_bytes()).unwrap();
        };
        let refusal = |name: &str| secrets.get("edge", name).unwrap_err().to_string();
        keep("web", &serde_json::json!({"cert": cert, "key": key, "later": 1}).to_string());
        assert_eq!(secrets.get("edge", "web").unwrap(), secret(&cert, &key));
        keep("ca", &serde_json::json!({"ca": cert, "later": {"than": 1}}).to_string());
        assert!(refusal("ca").contains("`later`"), "{}", refusal("ca"));
        keep("broken", "{\"cert\": \"x\",\n \"key\": 5}");
        assert!(refusal("broken").contains("line 2"), "{}", refusal("broken"));
        keep("bare", "\"the key itself\"");
        assert!(!refusal("bare").contains("itself"), "{}", refusal("bare"));
        // What is put here is understood or refused.
        assert!(serde_json::from_str::<Secret>("{\"later\": 1}").is_err());
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let secrets = Secrets::new(dir.path());
        let ((cert, key), (_, other)) = (pair("a.org"), pair("b.org"));
        let refused = |namespace: &str, name: &str, secret: &Secret| {
            let Err(SecretError::Invalid(message)) = secrets.put(namespace, name, secret) else { panic!("kept") };
            message
        };
        assert_eq!(refused("edge", "a", &secret(&cert, &other)), "the private key is not that of the certificate");
        assert_eq!(refused("edge", "a", &secret("x", &key)), "there is no certificate in PEM");
        assert_eq!(refused("edge", "a", &secret(&cert, "x")), "there is no private key in PEM");
        assert!(refused("edge", "a", &Secret::default()).contains("neither"));
        assert!(
            refused("edge", "a", &Secret { ca: Some("x".to_owned()), ..Secret::default() }).contains("no certificate")
        );
        for (namespace, name) in [("..", "a"), ("edge", "../a"), ("edge", "a/b"), ("", "a"), ("edge", "")] {
            assert!(refused(namespace, name, &secret(&cert, &key)).contains("no name"), "{namespace} {name}");
        }
        assert_eq!(secrets.list().unwrap(), []);
    }
}
