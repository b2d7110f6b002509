//! A server outside the mesh that speaks TLS: it tells who called how, over HTTP/1.1.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};

/// A running server; it takes no further connection once it is dropped.
#[derive(Debug)]
pub struct TlsBackend {
    /// Where it listens.
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl TlsBackend {
    /// Listens at `address` with this certificate and key (PEM). With `clients`, authorities in PEM, it takes those only who show a
    /// certificate of theirs.
    ///
    /// # Errors
    /// The address cannot be bound.
    ///
    /// # Panics
    /// When the PEM is none.
    pub fn start(address: SocketAddr, cert: &str, key: &str, clients: Option<&str>) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).expect("PEM")];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
        let builder = match clients {
            None => ServerConfig::builder().with_no_client_auth(),
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).expect("PEM")).expect("an authority");
                let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().expect("authorities");
                ServerConfig::builder().with_client_cert_verifier(verifier)
            }
        };
        let config = Arc::new(builder.with_single_cert(chain, key).expect("a pair"));
        let stop = Arc::<AtomicBool>::default();
        let server = stop.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if server.load(SeqCst) {
                    return;
                }
                let config = config.clone();
                std::thread::spawn(move || serve(stream, config));
            }
        });
        Ok(Self { address, stop })
    }
}

impl Drop for TlsBackend {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        // Wakes it.
        drop(TcpStream::connect(self.address));
    }
}

/// Answers requests until the caller goes: `sni=NAME client=yes|no host=HOST`.
fn serve(stream: TcpStream, config: Arc<ServerConfig>) {
    drop(stream.set_read_timeout(Some(Duration::from_secs(20))));
    let Ok(session) = ServerConnection::new(config) else { return };
    let mut stream = StreamOwned::new(session, stream);
    let mut read = Vec::new();
    loop {
        let Some(end) = read.windows(4).position(|part| part == b"\r\n\r\n") else {
            let mut chunk = [0; 4096];
            match stream.read(&mut chunk) {
                Ok(0) | Err(_) => return,
                Ok(length) => read.extend_from_slice(&chunk[..length]),
            }
            continue;
        };
        let head = String::from_utf8_lossy(&read[..end]).to_ascii_lowercase();
        read.drain(..end + 4);
        let host = head.lines().find_map(|line| line.strip_prefix("host:")).unwrap_or_default().trim().to_owned();
        let name = stream.conn.server_name().unwrap_or("-").to_owned();
        let client = if stream.conn.peer_certificates().is_some() { "yes" } else { "no" };
        let body = format!("sni={name} client={client} host={host}");
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        if stream.write_all(answer.as_bytes()).and_then(|()| stream.flush()).is_err() {
            return;
        }
    }
}
