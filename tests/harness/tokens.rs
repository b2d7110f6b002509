//! Issuers of tokens: they sign, and serve their keys.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
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
}

impl Default for Issuer {
    fn default() -> Self {
        Self { pair: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key") }
    }
}

impl Issuer {
    /// A JSON Web Key Set.
    pub fn keys(&self) -> String {
        let point = &self.pair.public_key().as_ref()[1..];
        let (x, y) = point.split_at(point.len() / 2);
        let key = json!({"kty": "EC", "crv": "P-256", "use": "sig", "x": text(x), "y": text(y)});
        json!({"keys": [key]}).to_string()
    }

    /// A token with these claims.
    pub fn token(&self, claims: &Value) -> String {
        let header = json!({"alg": "ES256", "typ": "JWT"});
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

fn text(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
