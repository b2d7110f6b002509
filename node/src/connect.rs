//! A connection to the first of several addresses that takes one: of a name that has addresses of both families, those of one may lead
//! nowhere.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{net::TcpStream, time::timeout};

use crate::clock;

/// What is left of the time for one of so many that are still to be asked.
pub(crate) fn part(until: Instant, further: usize) -> Duration {
    until.saturating_duration_since(clock::monotonic()) / u32::try_from(further).unwrap_or(u32::MAX)
}

/// A connection to the first of these addresses that takes one, both families in turn. Each has its part of the time that is left: one
/// which does not answer leaves some to the next.
///
/// # Errors
/// Why the last one took none; empty where there is no address.
pub(crate) async fn first(addresses: &[SocketAddr], until: Instant) -> Result<TcpStream, String> {
    let mut why = String::new();
    for (address, further) in in_turn(addresses).into_iter().zip((1..=addresses.len()).rev()) {
        why = match timeout(part(until, further), TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => format!("{address}: {error}"),
            Err(_) => format!("{address} does not answer"),
        };
    }
    Err(why)
}

/// Addresses of both families in turn, else in their order (RFC 8305, 4): where one family leads nowhere, the second address says so.
pub(crate) fn in_turn(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let Some(first) = addresses.first() else { return Vec::new() };
    let is_first = |address: &&SocketAddr| address.is_ipv4() == first.is_ipv4();
    let mut others = addresses.iter().filter(|address| !is_first(address));
    let mut all: Vec<SocketAddr> = addresses
        .iter()
        .filter(is_first)
        .flat_map(|address| [Some(address), others.next()])
        .flatten()
        .copied()
        .collect();
    all.extend(others);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn an_address_that_does_not_answer_leaves_time_for_the_next() {
        // Nobody accepts there, and the queue of one is full: whoever comes next hears nothing.
        let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        silent.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        silent.listen(0).unwrap();
        let full = silent.local_addr().unwrap().as_socket().unwrap();
        let _queued = TcpStream::connect(full).await.unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let answers = listener.local_addr().unwrap();
        let found = first(&[full, answers], clock::monotonic() + Duration::from_secs(2)).await.unwrap();
        assert_eq!(found.peer_addr().unwrap(), answers);
        let why = first(&[full], clock::monotonic() + Duration::from_millis(50)).await.unwrap_err();
        assert!(why.contains("does not answer"), "{why}");
    }

    #[test]
    fn both_families_come_in_turn() {
        let turns = |list: &[&str]| {
            let given: Vec<SocketAddr> = list.iter().map(|text| text.parse().unwrap()).collect();
            in_turn(&given).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let [a, b, c, v, w] = ["[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::3]:1", "10.0.0.1:1", "10.0.0.2:1"];
        assert_eq!(turns(&[a, b, c, v]), [a, v, b, c]);
        assert_eq!(turns(&[v, w, a]), [v, a, w]);
        assert_eq!(turns(&[v, a, b, c]), [v, a, b, c]);
        assert_eq!(turns(&[v, w]), [v, w]);
        assert!(turns(&[]).is_empty());
    }
}
