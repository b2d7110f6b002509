//! Unix sockets of this node.

use std::{
    io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::Path,
};

use tokio::net::UnixListener;

use super::error::{Error, fail};
use crate::config::paths::folder_of;

/// The group whose members may use a socket that is not for everybody.
const GROUP: &str = "skein";

/// Opens a socket with this mode, of group `skein` if there is one. One that nobody serves any more is replaced. `setting` is the
/// configuration's name of the path.
///
/// # Errors
/// `address_in_use` if another node serves it, else what the file system says.
pub fn bind(path: &Path, mode: u32, setting: &str) -> Result<UnixListener, Error> {
    let failed = |what: &str, error: &io::Error| {
        let message = format!("cannot {what} the socket {}: {error}", path.display());
        fail("failed", message, format!("check the folder's permissions, or set {setting}"))
    };
    std::fs::create_dir_all(folder_of(path)).map_err(|error| failed("make the folder of", &error))?;
    match std::fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => {
            let message = format!("{} is there and is no socket", path.display());
            return Err(fail("address_in_use", message, format!("remove it, or set {setting}")));
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            let message = format!("another node serves {}", path.display());
            return Err(fail("address_in_use", message, format!("stop it first, or set {setting}")));
        }
        Ok(_) | Err(_) => {}
    }
    // Made under another name, so that nobody meets it with wrong permissions.
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let draft = Path::new(&draft);
    // What a crash left behind; bind says so if it cannot be removed.
    let _ = std::fs::remove_file(draft);
    let listener = UnixListener::bind(draft).map_err(|error| failed("open", &error))?;
    let finish = || -> io::Result<()> {
        std::fs::set_permissions(draft, std::fs::Permissions::from_mode(mode))?;
        if let Some(group) = crate::accounts::group(GROUP) {
            // Only root and the group's own members may give it away; others keep it for themselves.
            let _ = nix::unistd::chown(draft, None, Some(group));
        }
        std::fs::rename(draft, path)
    };
    finish().map_err(|error| failed("set up", &error))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_has_its_mode_and_replaces_a_dead_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/agent.sock");
        let first = bind(&path, 0o660, "[admin] socket").unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        let refused = bind(&path, 0o660, "[admin] socket").unwrap_err();
        assert!(refused.code == "address_in_use" && refused.hint.contains("[admin] socket"));
        drop(first);
        bind(&path, 0o666, "[workload] socket").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
    }

    #[tokio::test]
    async fn a_file_in_its_place_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(bind(&path, 0o660, "[admin] socket").unwrap_err().code, "address_in_use");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
