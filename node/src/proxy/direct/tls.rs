//! TLS towards endpoints that no node serves, as DestinationRules want it: `ClientTLSSettings` with what they name, read beforehand.

use super::{
    super::failure::Cause,
    Session,
    verifier::{Named, Unverified},
};
use crate::lock::lock;
use crate::{
    clock,
    secrets::{self, Key, SecretError, Secrets},
};
use arc_swap::ArcSwapOption;
use certs::foreign::Foreign;
use dashmap::DashMap;
use policy::kinds::{ClientTls, ClientTlsMode};
use rustls::{
    ClientConfig, RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::aws_lc_rs::default_provider,
    pki_types::ServerName,
};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{sync::Notify, time::timeout};

/// What TLS is to be, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::proxy) struct Wish {
    /// What the DestinationRule says.
    pub(in crate::proxy) tls: ClientTls,
    /// `subjectAltNames` of the ServiceEntry, where the DestinationRule has none.
    pub(in crate::proxy) names: Vec<String>,
    /// Of the caller: whose credentials are meant.
    pub(in crate::proxy) namespace: String,
}

/// All that is wished of a node. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(in crate::proxy) struct Originations(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// By the text of the wish, which names no secret.
    slots: DashMap<String, Arc<Slot>>,
    news: Notify,
}

/// One wish, and what it came to.
#[derive(Debug)]
pub(in crate::proxy) struct Slot {
    pub(super) wish: Wish,
    made: ArcSwapOption<Made>,
    /// It was tried to make it.
    tried: AtomicBool,
    news: Notify,
    /// What it was made of, and the system's authorities then.
    material: Mutex<Option<(Material, Arc<RootCertStore>)>>,
}

/// Configurations for the two versions of HTTP.
#[derive(Debug)]
struct Made {
    /// Nothing is said of the version: as Envoy without ALPN.
    plain: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
}

/// What was read for a wish.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Material {
    pair: Option<(String, Key)>,
    /// PEM; `None`: the system's.
    authorities: Option<String>,
    crl: Option<String>,
}

impl Originations {
    /// The place of a wish; who asks first has it made.
    pub(in crate::proxy) fn slot(&self, wish: Wish) -> Arc<Slot> {
        let key = format!("{wish:?}");
        if let Some(slot) = self.0.slots.get(&key) {
            return Arc::clone(&slot);
        }
        let slot = self.0.slots.entry(key).or_insert_with(|| Arc::new(Slot::new(wish)));
        let slot = Arc::clone(&slot);
        self.0.news.notify_one();
        slot
    }

    pub(super) async fn news(&self) {
        self.0.news.notified().await;
    }

    pub(super) fn all(&self) -> Vec<Arc<Slot>> {
        self.0.slots.iter().map(|slot| Arc::clone(&slot)).collect()
    }

    /// Forgets those that are neither wanted nor used.
    pub(super) fn keep(&self, wanted: &[Arc<Slot>]) {
        self.0.slots.retain(|_, slot| wanted.iter().any(|one| Arc::ptr_eq(one, slot)) || Arc::strong_count(slot) > 1);
    }
}

impl Slot {
    fn new(wish: Wish) -> Self {
        let (made, tried, news, material) = Default::default();
        Self { wish, made, tried, news, material }
    }

    /// TLS with the server of this host (of a request; without port). What is not read yet is waited for.
    ///
    /// # Errors
    /// It cannot be had: what is missing is among the node's problems.
    pub(in crate::proxy) async fn session(
        &self,
        host: &str,
        http2: bool,
        patience: Duration,
    ) -> Result<Session, Cause> {
        let told = self.news.notified();
        let mut made = self.made.load_full();
        if made.is_none() && !self.tried.load(Relaxed) {
            drop(timeout(patience, told).await);
            made = self.made.load_full();
        }
        let made = made.ok_or(Cause::ConnectFailure)?;
        let asked = self.wish.tls.sni.as_deref().unwrap_or(host);
        let asked = asked.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(asked);
        let name = ServerName::try_from(asked.to_ascii_lowercase()).map_err(|_| Cause::ConnectFailure)?;
        Ok(Session::new(Arc::clone(if http2 { &made.http2 } else { &made.plain }), name))
    }

    /// Takes what was read.
    ///
    /// # Errors
    /// What is wrong with it; what was made before goes on.
    pub(super) fn take(&self, read: Result<Material, String>, system: &Arc<RootCertStore>) -> Result<(), String> {
        let result = read.and_then(|material| {
            let mut had = lock(&self.material);
            let system_counts = self.wants_system() && material.authorities.is_none();
            let is_same = had
                .as_ref()
                .is_some_and(|(before, roots)| *before == material && (!system_counts || Arc::ptr_eq(roots, system)));
            if !is_same {
                self.made.store(Some(Arc::new(configure(&self.wish, &material, system)?)));
                *had = Some((material, Arc::clone(system)));
            }
            Ok(())
        });
        self.tried.store(true, Relaxed);
        self.news.notify_waiters();
        result
    }

    pub(super) fn is_made(&self) -> bool {
        self.made.load().is_some()
    }

    /// True if servers are verified with the system's authorities.
    pub(super) fn wants_system(&self) -> bool {
        let tls = &self.wish.tls;
        !tls.insecure_skip_verify && tls.ca_certificates.is_none()
    }
}

/// Reads what a wish names. Blocks.
///
/// # Errors
/// What is missing, in words.
pub(super) fn load(wish: &Wish, secrets: &Secrets) -> Result<Material, String> {
    let Wish { tls, namespace, .. } = wish;
    if let Some(name) = &tls.credential_name {
        return load_secret(tls, name, namespace, secrets);
    }
    let read = |path: &Option<String>| path.as_deref().map(|path| secrets.named_file(namespace, path)).transpose();
    let pair = match (&tls.client_certificate, &tls.private_key) {
        (Some(cert), Some(key)) if tls.mode == ClientTlsMode::Mutual => {
            Some((secrets.named_file(namespace, cert)?, secrets.named_key(namespace, key)?))
        }
        (Some(_) | None, _) => None,
    };
    Ok(Material { pair, authorities: read(&tls.ca_certificates)?, crl: read(&tls.ca_crl)? })
}

fn load_secret(tls: &ClientTls, name: &str, namespace: &str, secrets: &Secrets) -> Result<Material, String> {
    let plain = name.strip_prefix("kubernetes://").unwrap_or(name);
    let get = |name: &str| {
        secrets.get(namespace, name).map_err(|error| match error {
            SecretError::NotFound(_) => {
                format!("no secret `{name}` in {namespace} at this node: `skein secret put {name} -n {namespace}`")
            }
            SecretError::Invalid(_) | SecretError::Disk(_, _) => error.to_string(),
        })
    };
    let secret = get(plain)?;
    let own = secrets.authorities_of(namespace, plain).map_err(|error| error.to_string())?;
    let (authorities, crl) = match own {
        Some(own) => (own.ca, own.crl),
        None => (secret.ca.clone(), secret.crl.clone()),
    };
    let pair = secret.cert.clone().zip(secret.key.clone());
    if tls.mode == ClientTlsMode::Mutual && pair.is_none() {
        return Err(format!("the secret `{plain}` holds no certificate with its key"));
    }
    Ok(Material { pair: pair.filter(|_| tls.mode == ClientTlsMode::Mutual), authorities, crl })
}

fn configure(wish: &Wish, material: &Material, system: &Arc<RootCertStore>) -> Result<Made, String> {
    let provider = Arc::new(default_provider());
    let builder = ClientConfig::builder_with_details(Arc::clone(&provider), Arc::new(clock::Clock))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let verifier: Arc<dyn ServerCertVerifier> = if wish.tls.insecure_skip_verify {
        Arc::new(Unverified(provider.signature_verification_algorithms))
    } else {
        verifier(wish, material, system, &provider)?
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut plain = match &material.pair {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let certified = secrets::certified_key(cert, key.pem())?;
            let until = certified.cert.first().and_then(|der| Foreign::parse(der).ok()).map(|read| read.not_after);
            if until.is_some_and(|until| until < clock::wall()) {
                return Err("its certificate has ended".to_owned());
            }
            builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)))
        }
    };
    // A connection that is resumed shows no certificate: what was renewed or revoked would not be seen.
    plain.resumption = rustls::client::Resumption::disabled();
    let mut http2 = plain.clone();
    http2.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Made { plain: Arc::new(plain), http2: Arc::new(http2) })
}

fn verifier(
    wish: &Wish,
    material: &Material,
    system: &Arc<RootCertStore>,
    provider: &Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let roots = match &material.authorities {
        Some(text) => Arc::new(secrets::authorities(text)?),
        None if system.is_empty() => {
            return Err(
                "this machine has no list of authorities: install ca-certificates, set SSL_CERT_FILE, or name \
                        caCertificates"
                    .to_owned(),
            );
        }
        None => Arc::clone(system),
    };
    let mut builder = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider));
    if let Some(crl) = &material.crl {
        builder = builder.with_crls(secrets::revoked(crl)?);
    }
    let verified = builder.build().map_err(|error| format!("its authorities cannot be used: {error}"))?;
    let names = if wish.tls.subject_alt_names.is_empty() { &wish.names } else { &wish.tls.subject_alt_names };
    if names.is_empty() {
        return Ok(verified);
    }
    let names: Result<Vec<_>, String> = names
        .iter()
        .map(|name| ServerName::try_from(name.clone()).map_err(|_| format!("`{name}` is no name of a server")))
        .collect();
    Ok(Arc::new(Named { verified, names: names? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(name: &str) -> (String, Arc<RootCertStore>) {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        let text = made.cert.pem();
        let roots = Arc::new(secrets::authorities(&text).unwrap());
        (text, roots)
    }

    #[test]
    fn what_the_system_trusts_now_counts_where_nothing_else_does() {
        let ((text, old), (_, new)) = (authority("old.example"), authority("new.example"));
        let tls = ClientTls { mode: ClientTlsMode::Simple, ..ClientTls::default() };
        let made = |material: &Material, by: [&Arc<RootCertStore>; 2]| {
            let slot = Slot::new(Wish { tls: tls.clone(), names: Vec::new(), namespace: "shop".to_owned() });
            let made = by.map(|system| {
                slot.take(Ok(material.clone()), system).unwrap();
                slot.made.load_full().unwrap()
            });
            Arc::ptr_eq(&made[0], &made[1])
        };
        let (system, own) = (Material::default(), Material { authorities: Some(text), ..Material::default() });
        assert!(made(&system, [&old, &old]), "connections go on while the list is as it was");
        assert!(!made(&system, [&old, &new]), "another list is used");
        assert!(made(&own, [&old, &new]), "authorities of its own count alone");
    }
}
