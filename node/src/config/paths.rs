//! Where things lie: `/etc`, `/var/lib` and `/run` for root, XDG directories for everyone else.

use std::path::{Path, PathBuf};

/// The directories of this process's user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// `skein.toml`.
    pub config_file: PathBuf,
    /// State.
    pub data_dir: PathBuf,
    /// The local socket.
    pub socket: PathBuf,
    /// The socket of the Workload API.
    pub workload: PathBuf,
}

/// The paths of the user that runs this process.
pub fn current() -> Paths {
    of(nix::unistd::geteuid().is_root(), |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from))
}

/// The paths of a user, given the environment.
pub fn of(root: bool, variable: impl Fn(&str) -> Option<PathBuf>) -> Paths {
    if root {
        return Paths {
            config_file: "/etc/skein/skein.toml".into(),
            data_dir: "/var/lib/skein".into(),
            socket: "/run/skein/agent.sock".into(),
            workload: "/run/skein/workload.sock".into(),
        };
    }
    let home = variable("HOME").unwrap_or_else(|| PathBuf::from("."));
    let data_dir = variable("XDG_STATE_HOME").unwrap_or_else(|| home.join(".local/state")).join("skein");
    let sockets = variable("XDG_RUNTIME_DIR").map_or_else(|| data_dir.clone(), |run| run.join("skein"));
    Paths {
        config_file: variable("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config")).join("skein/skein.toml"),
        socket: sockets.join("agent.sock"),
        workload: sockets.join("workload.sock"),
        data_dir,
    }
}

/// The folder that a file, or another folder, lies in: that of a bare name is the working directory.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_lies_in_the_working_directory() {
        let folder = |path| folder_of(Path::new(path)).to_str().unwrap();
        assert_eq!(["skein.toml", "a/skein.toml", "/skein.toml", "/a/b/"].map(folder), [".", "a", "/", "/a"]);
        let file = PathBuf::from(format!("written-{}.toml", std::process::id()));
        crate::config::write_atomically(&file, "text").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "text");
        std::fs::remove_file(file).unwrap();
    }

    #[test]
    fn users_have_xdg_directories() {
        let paths = of(false, |name| match name {
            "HOME" => Some("/home/ann".into()),
            "XDG_RUNTIME_DIR" => Some("/run/user/7".into()),
            _ => None,
        });
        assert_eq!(paths.config_file, PathBuf::from("/home/ann/.config/skein/skein.toml"));
        assert_eq!(paths.data_dir, PathBuf::from("/home/ann/.local/state/skein"));
        assert_eq!(paths.socket, PathBuf::from("/run/user/7/skein/agent.sock"));
        assert_eq!(paths.workload, PathBuf::from("/run/user/7/skein/workload.sock"));
        assert_eq!(of(true, |_| None).data_dir, PathBuf::from("/var/lib/skein"));
    }
}
