//! Ways to nodes over TCP that can be cut and healed again, without leave to touch the network: each node advertises a relay's address, and
//! its callers are known by the addresses that they bind.

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How often a way that is idle or cut looks whether it is so.
const LOOK: Duration = Duration::from_millis(50);

/// Who does not reach whom; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Cut(Arc<Mutex<BTreeSet<(IpAddr, IpAddr)>>>);

impl Cut {
    /// Between these and those nothing passes any more, either way; nobody is told.
    pub fn between(&self, these: &[IpAddr], those: &[IpAddr]) {
        let pairs = these.iter().flat_map(|one| those.iter().flat_map(|other| [(*one, *other), (*other, *one)]));
        self.pairs().extend(pairs);
    }

    /// Everything passes again; what was cut has ended.
    pub fn heal(&self) {
        self.pairs().clear();
    }

    fn is_cut(&self, from: IpAddr, to: IpAddr) -> bool {
        self.pairs().contains(&(from, to))
    }

    fn pairs(&self) -> MutexGuard<'_, BTreeSet<(IpAddr, IpAddr)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The address of a node that others are told.
#[derive(Debug, Clone)]
pub struct Relay {
    /// Where it listens.
    pub address: SocketAddr,
    to: Arc<Mutex<Option<SocketAddr>>>,
}

impl Relay {
    /// Listens; leads nowhere yet.
    ///
    /// # Panics
    /// When loopback has no free port.
    #[must_use]
    pub fn start(cut: &Cut) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
        let address = listener.local_addr().expect("it is bound");
        let to: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
        let (cut, leads) = (cut.clone(), to.clone());
        // They end with the test's process.
        std::thread::spawn(move || {
            for from in listener.incoming().map_while(Result::ok) {
                let to = *leads.lock().unwrap_or_else(PoisonError::into_inner);
                let (Some(to), cut) = (to, cut.clone()) else { continue };
                std::thread::spawn(move || pass(&from, to, &cut));
            }
        });
        Self { address, to }
    }

    /// Leads to this address from now on.
    pub fn leads(&self, to: SocketAddr) {
        *self.to.lock().unwrap_or_else(PoisonError::into_inner) = Some(to);
    }
}

/// Carries one connection both ways until it ends, or is cut and healed.
fn pass(from: &TcpStream, to: SocketAddr, cut: &Cut) {
    let Ok(caller) = from.peer_addr().map(|address| address.ip()) else { return };
    let is_cut = || cut.is_cut(caller, to.ip());
    while is_cut() {
        std::thread::sleep(LOOK);
    }
    // Who is not there answers as if nobody were here.
    let Ok(onward) = TcpStream::connect(to) else { return };
    std::thread::scope(|scope| {
        scope.spawn(|| carry(from, &onward, is_cut));
        carry(&onward, from, is_cut);
    });
}

fn carry(mut from: &TcpStream, mut to: &TcpStream, is_cut: impl Fn() -> bool) {
    let mut buffer = [0; 16 << 10];
    let mut was_cut = false;
    // A socket takes any timeout but none.
    let _ = from.set_read_timeout(Some(LOOK));
    loop {
        let read = from.read(&mut buffer);
        while is_cut() {
            was_cut = true;
            std::thread::sleep(LOOK);
        }
        let ended = match read {
            Ok(count) if count > 0 && !was_cut => to.write_all(&buffer[..count]).is_err(),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => was_cut,
            Ok(_) | Err(_) => true,
        };
        if ended {
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
            return;
        }
    }
}
