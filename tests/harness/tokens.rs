//! Issuers of tokens: they sign, and serve their keys.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// Somebody who signs tokens with one key.
#[derive(Debug)]
pub struct Issuer {
    pair: EcdsaKeyPair,
    /// The key's name (`kid`); none if empty.
    name: String,
}

impl Default for Issuer {
    fn default() -> Self {
        Self::named("")
    }
}

impl Issuer {
    /// One whose key has a name, by which tokens mean it.
    ///
    /// # Panics
    /// Without random numbers.
    pub fn named(name: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        Self { pair, name: name.to_owned() }
    }

    /// A JSON Web Key Set.
    pub fn keys(&self) -> String {
        let point = &self.pair.public_key().as_ref()[1..];
        let (x, y) = point.split_at(point.len() / 2);
        let mut key = json!({"kty": "EC", "crv": "P-256", "use": "sig", "x": text(x), "y": text(y)});
        if !self.name.is_empty() {
            key["kid"] = self.name.as_str().into();
        }
        json!({"keys": [key]}).to_string()
    }

    /// A token with these claims.
    pub fn token(&self, claims: &Value) -> String {
        let mut header = json!({"alg": "ES256", "typ": "JWT"});
        if !self.name.is_empty() {
            header["kid"] = self.name.as_str().into();
        }
        let signed = format!("{}.{}", text(header.to_string().as_bytes()), text(claims.to_string().as_bytes()));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).expect("a signature");
        format!("{signed}.{}", text(signature.as_ref()))
    }

    /// Serves the keys at `address` until the process ends: every path but that of OpenID discovery answers with them.
    pub fn serve(&self, address: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind(address).expect("a port for keys");
        let (keys, address) = (self.keys(), listener.local_addr().expect("an address"));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                let mut request = [0; 4096];
                let length = stream.read(&mut request).unwrap_or(0);
                let discovery = String::from_utf8_lossy(&request[..length]).contains("/.well-known/");
                let found = format!("{{\"jwks_uri\": \"http://{address}/keys\"}}");
                let body = if discovery { &found } else { &keys };
                // Who asked may have gone.
                let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            }
        });
        address
    }
}

/// Where an issuer serves its keys, which change.
#[derive(Debug)]
pub struct KeyServer {
    /// Where it listens.
    pub address: SocketAddr,
    keys: Arc<Mutex<Option<String>>>,
    asked: Arc<AtomicUsize>,
}

impl KeyServer {
    /// Serves these keys until the process ends.
    ///
    /// # Panics
    /// Without a free port.
    pub fn start(address: SocketAddr, keys: &Issuer) -> Self {
        let listener = TcpListener::bind(address).expect("a port for keys");
        let address = listener.local_addr().expect("an address");
        let server = Self { address, keys: Arc::new(Mutex::new(Some(keys.keys()))), asked: Arc::default() };
        let (keys, asked) = (Arc::clone(&server.keys), Arc::clone(&server.asked));
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let body = keys.lock().expect("nobody panics with it").clone();
                if let Some(body) = body {
                    // Who asked may have gone.
                    let _ = stream.read(&mut [0; 4096]);
                    let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                }
                asked.fetch_add(1, SeqCst);
            }
        });
        server
    }

    /// Serves these from now on, or closes every connection at once.
    ///
    /// # Panics
    /// When the server's thread did.
    pub fn serves(&self, keys: Option<&Issuer>) {
        *self.keys.lock().expect("nobody panics with it") = keys.map(Issuer::keys);
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }
}

fn text(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
