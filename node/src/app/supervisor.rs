//! What a service manager is told, by systemd's protocol: a datagram of `NAME=VALUE` to the socket that `NOTIFY_SOCKET` names.
//! Without one nothing is said.

use std::{
    ffi::OsStr,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

use crate::tasks::Tasks;

/// Whoever started this process, if it wants to hear of it. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Supervisor {
    address: Option<SocketAddr>,
    /// How long it waits for a sign of life; none means that it does not.
    patience: Option<Duration>,
}

impl Supervisor {
    /// As the environment says.
    pub(super) fn of_environment() -> Self {
        Self::of(|name| std::env::var_os(name).map(|value| value.as_bytes().to_vec()), std::process::id())
    }

    fn of(variable: impl Fn(&str) -> Option<Vec<u8>>, process: u32) -> Self {
        let number = |name: &str| -> Option<u64> { std::str::from_utf8(&variable(name)?).ok()?.parse().ok() };
        let Some(name) = variable("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return Self::default() };
        let address = match name.split_first() {
            Some((b'@', rest)) => SocketAddr::from_abstract_name(rest),
            _ => SocketAddr::from_pathname(OsStr::from_bytes(&name)),
        };
        let address =
            address.inspect_err(|error| tracing::warn!("NOTIFY_SOCKET is no address, so nobody is told: {error}")).ok();
        let is_meant = number("WATCHDOG_PID").is_none_or(|asked| asked == u64::from(process));
        let patience = number("WATCHDOG_USEC").filter(|micros| is_meant && *micros > 0).map(Duration::from_micros);
        Self { address, patience }
    }

    /// All listeners are open and requests are taken.
    pub(super) fn ready(&self) {
        self.tell("READY=1");
    }

    /// The node leaves.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Gives signs of life from the runtime of control, twice as often as they are awaited, as long as the process runs and its data
    /// workers turn: one that control alone keeps alive is of no use.
    pub(super) fn keep_told(&self, tasks: &Tasks) {
        let (Some(_), Some(patience)) = (&self.address, self.patience) else { return };
        let (told, stuck) = (self.clone(), tasks.stuck());
        tasks.kept("supervisor", move || {
            let (told, stuck) = (told.clone(), stuck.clone());
            async move {
                let (mut due, mut stuck) = (tokio::time::interval((patience / 2).max(Duration::from_millis(1))), stuck);
                loop {
                    // Workers that turn again are told at once: the sign that was not given meanwhile may have been the last in time.
                    tokio::select! {
                        _ = due.tick() => {}
                        Ok(()) = stuck.changed() => {}
                    }
                    if stuck.borrow().is_empty() {
                        told.tell("WATCHDOG=1");
                    }
                }
            }
        });
    }

    fn tell(&self, what: &str) {
        let Some(address) = &self.address else { return };
        // A full queue holds nobody up: it is a supervisor that does not read.
        let sent = UnixDatagram::unbound().and_then(|socket| {
            socket.set_nonblocking(true)?;
            socket.send_to_addr(what.as_bytes(), address)
        });
        if let Err(error) = sent {
            tracing::warn!("the supervisor was not told {what}: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supervisor(variables: &[(&str, &str)]) -> Supervisor {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name);
        Supervisor::of(|name| find(name).map(|(_, value)| value.as_bytes().to_vec()), 7)
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut room = [0; 64];
        let length = socket.recv(&mut room).unwrap();
        String::from_utf8(room[..length].to_vec()).unwrap()
    }

    #[tokio::test]
    async fn it_is_told_by_a_path_and_asked_for_signs_of_life() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let path = path.to_str().unwrap();
        let told = supervisor(&[("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "2000"), ("WATCHDOG_PID", "7")]);
        told.ready();
        told.stopping();
        assert_eq!([heard(&socket), heard(&socket)], ["READY=1", "STOPPING=1"]);
        let tasks = Tasks::new();
        told.keep_told(&tasks);
        let signs = tokio::task::spawn_blocking(move || [heard(&socket), heard(&socket)]).await.unwrap();
        assert_eq!(signs, ["WATCHDOG=1", "WATCHDOG=1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_whose_workers_hang_gives_no_sign_of_life() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let told = supervisor(&[("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "2000000")]);
        let tasks = Tasks::new();
        tasks.say_stuck(&["worker-1"]);
        told.keep_told(&tasks);
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(socket.recv(&mut [0; 64]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        tasks.say_stuck(&[]);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(heard(&socket), "WATCHDOG=1");
    }

    #[test]
    fn names_without_a_place_and_other_processes_are_told_apart() {
        let name = format!("skein-test-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let address = format!("@{name}");
        let told = supervisor(&[("NOTIFY_SOCKET", &address), ("WATCHDOG_USEC", "1000"), ("WATCHDOG_PID", "8")]);
        assert_eq!(told.patience, None, "another process is meant");
        told.ready();
        assert_eq!(heard(&socket), "READY=1");
        let nobody = supervisor(&[("WATCHDOG_USEC", "1000")]);
        assert!(nobody.address.is_none());
        nobody.ready();
    }
}
