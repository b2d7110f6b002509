//! A TLS client that believes whatever it is shown, and shows whatever it is given.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use node::mesh::Preface;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::{CertifiedKey, SingleCertAndKey},
};

/// A session with a node.
pub(crate) type Session = StreamOwned<ClientConnection, TcpStream>;

#[derive(Debug)]
struct TakesAll;

impl ServerCertVerifier for TakesAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A session with a node's port that asks for `name`; the handshake has not begun.
pub(crate) fn session(
    to: SocketAddr,
    alpn: &str,
    versions: &[&'static rustls::SupportedProtocolVersion],
    name: &str,
    shown: Option<Arc<CertifiedKey>>,
) -> Session {
    session_from(None, to, alpn, versions, name, shown)
}

/// The same from an address of its own.
pub(crate) fn session_from(
    from: Option<IpAddr>,
    to: SocketAddr,
    alpn: &str,
    versions: &[&'static rustls::SupportedProtocolVersion],
    name: &str,
    shown: Option<Arc<CertifiedKey>>,
) -> Session {
    session_by(Arc::new(configuration(alpn, versions, shown)), from, to, name)
}

/// What a session is made by. One that is used again remembers what the node gave it, and asks for early data by it.
pub(crate) fn configuration(
    alpn: &str,
    versions: &[&'static rustls::SupportedProtocolVersion],
    shown: Option<Arc<CertifiedKey>>,
) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("versions");
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(TakesAll));
    let mut config = match shown {
        Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    config.enable_early_data = true;
    config
}

/// A session by a ready configuration.
pub(crate) fn session_by(config: Arc<ClientConfig>, from: Option<IpAddr>, to: SocketAddr, name: &str) -> Session {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let session = ClientConnection::new(config, name).expect("a session");
    let socket = match from {
        Some(from) => connect_from(from, to),
        None => TcpStream::connect(to),
    };
    let socket = socket.expect("the mesh port listens");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    StreamOwned::new(session, socket)
}

/// A session with a node of this mesh's TLS.
pub(crate) fn member(to: SocketAddr, alpn: &str, name: &str, shown: &Arc<CertifiedKey>) -> Session {
    session(to, alpn, &[&rustls::version::TLS13], name, Some(shown.clone()))
}

/// How the node refuses a peer that says nothing: by an alert after the handshake, or by closing.
///
/// # Panics
/// When it lets the peer in, and waits.
pub(crate) fn refused(mut session: Session) -> String {
    while session.conn.is_handshaking() {
        if let Err(error) = session.conn.complete_io(&mut session.sock) {
            return error.to_string();
        }
    }
    match session.read(&mut [0; 1]) {
        Ok(0) => "closed".to_owned(),
        Ok(_) => panic!("it is let in, and spoken to"),
        Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
            panic!("it is let in")
        }
        Err(error) => error.to_string(),
    }
}

/// Sends a preface and one HTTP/1.1 request over a data session.
///
/// # Errors
/// The node took neither.
pub(crate) fn call(mut session: Session, preface: &Preface, request: &str) -> Result<String, String> {
    let mut said = Vec::new();
    let asked = session
        .write_all(&preface.encode())
        .and_then(|()| session.write_all(request.as_bytes()))
        .and_then(|()| session.flush())
        .and_then(|()| session.read_to_end(&mut said));
    // The byte that says that the preface was taken.
    match said.strip_prefix(&[0]) {
        Some(answer) if !answer.is_empty() => Ok(String::from_utf8_lossy(answer).into_owned()),
        _ => Err(format!("{asked:?} after {said:?}")),
    }
}

/// The standard library binds no socket before it connects.
fn connect_from(from: IpAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};
    use std::os::fd::AsRawFd as _;
    let raw = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(raw.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(from, 0)))?;
    connect(raw.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(TcpStream::from(raw))
}
