//! Empty machines: network namespaces on one wire, each with directories of its own in the places that a node uses. It takes root.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use harness::{PATIENCE, eventually_within, process::Skein};
use nix::sched::{CloneFlags, setns};

/// A namespace that lives as long as a process in it.
struct Held(Child);

impl Held {
    fn unshared(words: &[&str]) -> Result<Self, String> {
        let child = Command::new("unshare").args(words).args(["sleep", "infinity"]).spawn();
        let mut held = Self(child.map_err(|error| format!("unshare of util-linux: {error}"))?);
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let mut ended = None;
        eventually_within("the namespace is there", PATIENCE, || {
            ended = held.0.try_wait().ok().flatten();
            if ended.is_none() && of(&held.pid()) == of("self") { Err("not yet".to_owned()) } else { Ok(()) }
        });
        ended.map_or(Ok(held), |status| Err(format!("no namespaces ({status}): it takes root")))
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }

    fn enter(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid()]).args(words);
        command
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The machines and the switch between them.
pub(super) struct Machines {
    dir: tempfile::TempDir,
    all: Vec<(String, Held)>,
    _switch: Held,
}

impl Machines {
    /// As many as there are names.
    ///
    /// # Errors
    /// What this machine lacks.
    pub(super) fn start(skein: &Skein, names: &[&str]) -> Result<Self, String> {
        let dir = tempfile::Builder::new().prefix("skein-machines-").tempdir().map_err(|error| error.to_string())?;
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).map_err(|error| error.to_string())?;
        // Nobody serves SSH there: files are carried by the disk that all lie on.
        let carries = format!("cp \"$1\" \"{}/${{2%:}}/home/\"", dir.path().display());
        for (name, line) in
            [("skein", format!("exec {} {} \"$@\"", skein.program.display(), skein.prefix.join(" "))), ("scp", carries)]
        {
            fs::write(bin.join(name), format!("#!/bin/sh\n{line}\n")).map_err(|error| error.to_string())?;
            fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755))
                .map_err(|error| error.to_string())?;
        }
        let switch = Held::unshared(&["--net"])?;
        done(switch.enter(&["-n", "sh", "-ec", "ip link set lo up; ip link add hub type bridge; ip link set hub up"]))?;
        let mut all = Vec::new();
        for (number, name) in (1..).zip(names) {
            let machine = Held::unshared(&["--net", "--mount"])?;
            let own = dir.path().join(name);
            fs::create_dir_all(own.join("home")).map_err(|error| error.to_string())?;
            let wire = format!(
                "ip link add w{number} type veth peer name e{number}; ip link set e{number} netns {}; ip link set w{number} master hub up",
                machine.pid()
            );
            // The other namespace is named by its process, which only this one's /proc knows: `-n` alone keeps that.
            done(switch.enter(&["-n", "sh", "-ec", &wire]))?;
            let inside = format!(
                "ip link set lo up; ip link set e{number} up; ip addr add 10.77.0.{number}/24 dev e{number}; \
                 ip route add default via 10.77.0.254; mkdir {own}/etc; \
                 for file in passwd group nsswitch.conf hosts resolv.conf; do cp -L /etc/$file {own}/etc/ 2>/dev/null || true; done; \
                 mount --bind {own}/etc /etc; for place in /var/lib /run /root; do mount -t tmpfs tmpfs $place; done",
                own = own.display()
            );
            done(machine.enter(&["-n", "-m", "sh", "-ec", &inside]))?;
            all.push(((*name).to_owned(), machine));
        }
        Ok(Self { dir, all, _switch: switch })
    }

    fn of(&self, name: &str) -> &Held {
        let found = self.all.iter().find(|(known, _)| known == name);
        &found.unwrap_or_else(|| panic!("no machine {name}")).1
    }

    /// A shell's command on a machine, in a directory of its own: `scp FILE NAME:` brings what lies there to another one's.
    pub(super) fn command(&self, name: &str, line: &str) -> Command {
        let path = format!("{}:{}", self.dir.path().join("bin").display(), std::env::var("PATH").unwrap_or_default());
        // The other namespace has a working directory of its own.
        let line = format!("cd {}; {line}", self.dir.path().join(name).join("home").display());
        let mut command = self.of(name).enter(&["-n", "-m", "sh", "-ec", &line]);
        command.env_clear().env("PATH", path).env("HOME", "/root").env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// It failed, with what it said.
    pub(super) fn run(&self, name: &str, line: &str) -> Result<(), String> {
        done(self.command(name, line)).map_err(|error| format!("{name}$ {line}: {error}"))
    }

    /// A file of a machine's `/etc`, as the world outside sees it.
    pub(super) fn etc(&self, name: &str, file: &str) -> PathBuf {
        self.dir.path().join(name).join("etc").join(file)
    }

    /// Does something in the network of a machine, in a thread of its own, whose threads stay there.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub(super) fn within<T: Send>(&self, name: &str, what: impl FnOnce() -> T + Send) -> Result<T, String> {
        let place = Path::new("/proc").join(self.of(name).pid()).join("ns/net");
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || -> Result<T, String> {
                let place = File::open(&place).map_err(|error| format!("{}: {error}", place.display()))?;
                setns(place, CloneFlags::CLONE_NEWNET).map_err(|error| format!("the namespace: {error}"))?;
                Ok(what())
            });
            thread.join().unwrap_or_else(|_| Err("it failed, see above".to_owned()))
        })
    }
}

fn done(mut command: Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}
