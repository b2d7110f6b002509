//! Where a node listens, and listeners that cannot be opened, in words.

use std::{io, net::SocketAddr};

use tokio::net::TcpListener;

use crate::{
    agent::error::{Error, fail, internal},
    config::Config,
    proxy::ApplyError,
};

/// Listens on TCP; `key` is the configuration's name of the address.
///
/// # Errors
/// `address_in_use`, or what else keeps it.
pub(super) async fn tcp(config: &Config, address: SocketAddr, key: &str) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|e| refused(&e, config, address, key))
}

/// What keeps a listener from being opened; `key` names it where the configuration does not.
pub(super) fn refused(error: &io::Error, config: &Config, address: SocketAddr, key: &str) -> Error {
    let named = config.listeners.named(address, key);
    if error.kind() == io::ErrorKind::AddrInUse {
        return match config.listeners.rival(address) {
            Some((other, place)) => fail(
                "address_in_use",
                format!("{named}: {address} is in use, perhaps by {other} of {place}"),
                "every listener needs a port, or addresses, of its own",
            ),
            None => fail(
                "address_in_use",
                format!("{named}: {address} is in use by another process"),
                "stop that process, or choose another address in the configuration",
            ),
        };
    }
    if error.kind() == io::ErrorKind::AddrNotAvailable {
        let message = format!("{named}: {address} is no address of this machine");
        return fail("failed", message, "choose one that is");
    }
    if error.kind() == io::ErrorKind::PermissionDenied {
        let message = format!("{named}: this process may not listen on {address}");
        return fail("failed", message, "give it CAP_NET_BIND_SERVICE, or choose a port above 1023");
    }
    fail("failed", format!("{named}: cannot listen on {address}: {error}"), "check the address and permissions")
}

/// What keeps the data plane from what `keys` of the configuration want of it.
pub(super) fn unopened(error: ApplyError, config: &Config, keys: &str) -> Error {
    match error {
        ApplyError::Listen { address, source } => refused(&source, config, address, keys),
        ApplyError::UnknownSpeaker { .. } => fail("bad_config", error.to_string(), "`as` names a [[service]]"),
        ApplyError::Stopped => internal(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn what_is_in_use_is_named_by_table_and_line() {
        let text = "[node]\nname = \"web-1\"\ntrust_domain = \"t.example\"\n[mesh]\nlisten = \"0.0.0.0:15008\"\n\
                    [[outbound]]\nhttp = \"127.0.0.1:15001\"\n[[service]]\nname = \"web\"\nnamespace = \"shop\"\n";
        let upstream = "[[upstream]]\nservice = \"shop/db\"\nport = 5432\nlisten = \"127.0.0.1:15008\"\n";
        let fragment = Path::new("/etc/skein/services.d/db.toml");
        let config = crate::config::read_text(Path::new("/etc/skein/skein.toml"), text, &[(fragment, upstream)]);
        let config = config.unwrap();
        let told = |at: &str, key: &str| {
            let error = refused(&io::ErrorKind::AddrInUse.into(), &config, at.parse().unwrap(), key);
            assert_eq!(error.code, "address_in_use");
            error.message.to_string()
        };
        assert_eq!(
            told("127.0.0.1:15001", "x"),
            "/etc/skein/skein.toml:7:8: [[outbound]] http: 127.0.0.1:15001 is in use by another process"
        );
        assert_eq!(
            told("127.0.0.1:15000", "[admin] listen"),
            "/etc/skein/skein.toml: [admin] listen (its default): 127.0.0.1:15000 is in use by another process"
        );
        assert_eq!(told("127.0.0.1:9", "x"), "x: 127.0.0.1:9 is in use by another process");
        assert_eq!(
            told("127.0.0.1:15008", "x"),
            "/etc/skein/services.d/db.toml:4:10: [[upstream]] listen: 127.0.0.1:15008 is in use, perhaps by 0.0.0.0:15008 of \
             /etc/skein/skein.toml:5:10: [mesh] listen"
        );
    }
}
