//! Applications that speak no HTTP: they say their name first, then back what they get, until their caller has ended.

use std::{
    io::{Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use rustls::{ClientConfig, ClientConnection, RootCertStore, pki_types::ServerName};

use crate::{PATIENCE, net::connect_from};

/// An application of bytes; it takes no further connection once it is dropped.
#[derive(Debug)]
pub struct Echo {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    connections: AtomicUsize,
    stop: AtomicBool,
}

impl Echo {
    /// Listens at `address` (port 0 works) and says `name` and a line end to whoever connects.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn start(address: SocketAddr, name: &str) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let shared = Arc::<Shared>::default();
        let (name, server) = (Arc::<str>::from(format!("{name}\n")), shared.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if server.stop.load(SeqCst) {
                    return;
                }
                server.connections.fetch_add(1, SeqCst);
                let name = name.clone();
                std::thread::spawn(move || serve(stream, &name));
            }
        });
        Ok(Self { address, shared })
    }

    /// Connections so far; a node's check of its health is one.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(SeqCst)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_millis(200));
    }
}

fn serve(mut stream: TcpStream, name: &str) {
    let _ = stream.set_nodelay(true);
    let mut buffer = vec![0; 64 * 1024];
    if stream.write_all(name.as_bytes()).is_err() {
        return;
    }
    while let Ok(length) = stream.read(&mut buffer) {
        if length == 0 || stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

/// A connection of a client.
///
/// # Errors
/// Nobody listens, or who does reset it at once.
pub fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    patient(TcpStream::connect_timeout(&address, PATIENCE)?)
}

fn patient(stream: TcpStream) -> std::io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Says `text`, ends its own side, and gives all that comes back until the other side ends, too.
///
/// # Errors
/// The connection broke off.
pub fn say(address: SocketAddr, text: &str) -> Result<String, String> {
    say_over(connect(address), text)
}

/// [`say`] from an address of this machine.
///
/// # Errors
/// The connection broke off, or the address is not ours.
pub fn say_from(from: IpAddr, address: SocketAddr, text: &str) -> Result<String, String> {
    say_over(connect_from(from, address, PATIENCE).and_then(patient), text)
}

fn say_over(stream: std::io::Result<TcpStream>, text: &str) -> Result<String, String> {
    let mut stream = stream.map_err(|error| error.to_string())?;
    let mut answer = String::new();
    stream.write_all(text.as_bytes()).map_err(|error| error.to_string())?;
    stream.shutdown(Shutdown::Write).map_err(|error| error.to_string())?;
    stream.read_to_string(&mut answer).map_err(|error| error.to_string())?;
    if answer.is_empty() { Err("nothing came".to_owned()) } else { Ok(answer) }
}

/// What a client of TLS says first: the name that it asks for, and what it wants to speak.
///
/// # Panics
/// When `name` is no name.
pub fn client_hello(name: &str, protocols: &[&str]) -> Vec<u8> {
    let mut config = ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut session = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut said = Vec::new();
    session.write_tls(&mut said).expect("memory is writable");
    said
}
