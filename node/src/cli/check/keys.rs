//! Keys: the state of this machine's node, and the operator's directory.

use super::{
    finding::{Finding, Verdict},
    settings,
};
use crate::{
    agent::state_dir::{self, StateDir},
    cli::{
        context::Context,
        directory::{self, Lying},
        error::Error,
    },
    config::Config,
};

/// What an operator's directory may hold of keys.
const KEYS: [&str; 4] = [directory::OPERATOR, directory::RECOVERY, directory::ROOT, directory::NEXT_ROOT];

/// The state directory. Gives whether a node is running on it.
pub(super) fn state(config: &Config, findings: &mut Vec<Finding>) -> bool {
    let faults = state_dir::faults(&config.data_dir);
    if faults.is_empty() {
        findings.push(Finding::fine("keys.permissions", format!("{} is its owner's alone", config.data_dir.display())));
    }
    findings.extend(faults.iter().map(|fault| Finding::of("keys.permissions", Verdict::Error, fault)));
    if !config.data_dir.exists() {
        findings.push(not_joined(config));
        return false;
    }
    // The node runs as its directory's owner; root looks after it.
    let owner = if nix::unistd::geteuid().is_root() {
        StateDir::look(&config.data_dir)
    } else {
        StateDir::open(&config.data_dir).and_then(|dir| dir.owner())
    };
    match owner {
        Ok(Some(owner)) => {
            findings.push(Finding::fine("state.joined", format!("{} of {}", owner.node, owner.trust_domain)));
            if owner.node != config.node || owner.trust_domain != config.trust_domain {
                let message = format!(
                    "the state is of {} in {}, the configuration of {} in {}",
                    owner.node, owner.trust_domain, config.node, config.trust_domain
                );
                let hint = "correct [node] in the configuration, or name another data_dir";
                findings.push(settings::owner(&Error::new("bad_config", message).hint(hint)));
            }
            false
        }
        Ok(None) => {
            findings.push(not_joined(config));
            false
        }
        Err(error) if error.code == "state_in_use" => {
            findings.push(Finding::fine("state.joined", "in use by the node"));
            true
        }
        Err(error) => {
            findings.push(Finding::of("state.joined", Verdict::Error, &error));
            false
        }
    }
}

fn not_joined(config: &Config) -> Finding {
    let error = Error::new("not_joined", format!("{} is in no mesh yet", config.node))
        .hint(format!("get a token by `skein invite {}` and give it to `skein join -`", config.node));
    Finding::of("state.joined", Verdict::Error, &error)
}

/// The operator directory, if there is one.
pub(super) fn operator(ctx: &Context, findings: &mut Vec<Finding>) {
    let Ok(directory) = ctx.operator() else { return };
    let dir = directory.path().display().to_string();
    let (lying, node) = (directory.lying(), ctx.config_file().exists());
    // A key under a passphrase is not opened for a look: that would ask for it.
    let readable = if lying.sealed { Ok(()) } else { directory.operator_key().map(drop) };
    let complete = readable.and_then(|()| directory.known().map(drop));
    findings.push(match complete {
        Ok(()) => Finding::fine("operator.directory", format!("{dir} is complete")),
        Err(error) => Finding::of("operator.directory", Verdict::Error, &error),
    });
    let faults = state_dir::faults_of_keys(directory.path(), &KEYS);
    findings.extend(faults.iter().map(|fault| Finding::of("keys.permissions", Verdict::Error, fault)));
    findings.extend(judge(lying, node, &dir));
}

/// What is to be said of keys that lie in `dir`; `node`: on a machine that is a node.
fn judge(lying: Lying, node: bool, dir: &str) -> Vec<Finding> {
    let mut findings = vec![
        if lying.root && node {
            let message = format!("{dir}/root.key lies on a node");
            Finding::amiss("operator.root_key", Verdict::Warning, message).coded("root_key_on_node")
        } else {
            Finding::fine("operator.root_key", "the root's key lies elsewhere, or this is no node")
        },
        if lying.recovery && lying.operator {
            let message = format!("{dir} holds recovery.key beside operator.key");
            Finding::amiss("operator.recovery_key", Verdict::Warning, message)
        } else {
            Finding::fine("operator.recovery_key", "it does not lie beside the operator's")
        },
    ];
    if lying.operator {
        findings.push(if lying.sealed {
            Finding::fine("operator.sealed", "the operator's key lies under a passphrase")
        } else {
            let message = format!("{dir}/operator.key can be used by whoever reads it");
            Finding::amiss("operator.sealed", Verdict::Warning, message)
        });
    }
    findings
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cli::check::finding::not_well;

    /// Every finding of this file, provoked.
    pub(in crate::cli::check) fn provoked() -> Vec<Finding> {
        use std::os::unix::fs::PermissionsExt as _;
        let lying = Lying { root: true, recovery: true, operator: true, sealed: false };
        let mut findings = judge(lying, true, "/home/ann");
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let text = format!(
            "[node]\nname = \"web-1\"\ntrust_domain = \"t.example\"\ndata_dir = {:?}\n[runtime]\nworkers = 1\n",
            folder.path()
        );
        let config = crate::config::read_text(&folder.path().join("skein.toml"), &text, &[]).unwrap();
        assert!(!state(&config, &mut findings));
        anothers(&mut findings);
        half(&mut findings);
        findings
    }

    /// The state of a node that the configuration does not name.
    fn anothers(findings: &mut Vec<Finding>) {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("state");
        let text = format!("[node]\nname = \"web-1\"\ntrust_domain = \"t.example\"\ndata_dir = {place:?}\n");
        let config = crate::config::read_text(&folder.path().join("skein.toml"), &text, &[]).unwrap();
        let owner = state_dir::Owner {
            node: certs::id::NodeId::new("web-2").unwrap(),
            trust_domain: config.trust_domain.clone(),
            address: None,
            enroller: None,
            found: None,
            later: serde_json::Map::default(),
        };
        StateDir::open(&place).unwrap().own(&owner).unwrap();
        assert!(!state(&config, findings));
    }

    /// An operator's directory whose key is none.
    fn half(findings: &mut Vec<Finding>) {
        use clap::FromArgMatches as _;
        let folder = tempfile::tempdir().unwrap();
        state_dir::write_private(&folder.path().join(directory::OPERATOR), b"no key").unwrap();
        let place = folder.path().to_str().unwrap();
        let line = ["skein", "check", "--operator", place, "--config", &format!("{place}/skein.toml")];
        let matches = crate::cli::grammar::command().try_get_matches_from(line).unwrap();
        operator(&Context::new(crate::cli::grammar::Cli::from_arg_matches(&matches).unwrap().globals), findings);
    }

    #[test]
    fn each_fault_is_found() {
        let found = not_well(&provoked());
        for id in [
            "operator.root_key",
            "operator.recovery_key",
            "operator.sealed",
            "operator.directory",
            "keys.permissions",
            "state.joined",
            "state.owner",
        ] {
            assert!(found.iter().any(|one| one.0 == id), "{id} in {found:?}");
        }
    }

    #[test]
    fn root_looks_at_a_directory_of_the_nodes_user_and_makes_nothing_in_it() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("state");
        let text = format!("[node]\nname = \"web-1\"\ntrust_domain = \"t.example\"\ndata_dir = {place:?}\n");
        let config = crate::config::read_text(&folder.path().join("skein.toml"), &text, &[]).unwrap();
        std::fs::create_dir(&place).unwrap();
        std::fs::set_permissions(&place, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(&place, Some(65_534), None).unwrap();
        let mut findings = Vec::new();
        assert!(!state(&config, &mut findings));
        assert_eq!(not_well(&findings).iter().map(|one| one.0).collect::<Vec<_>>(), ["state.joined"], "{findings:?}");
        assert!(format!("{findings:?}").contains("is in no mesh yet"), "{findings:?}");
        assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
    }

    #[test]
    fn keys_that_lie_where_they_should_are_well() {
        let lying = Lying { root: true, recovery: true, operator: false, sealed: false };
        assert_eq!(not_well(&judge(lying, false, "x")), []);
        let sealed = Lying { operator: true, sealed: true, recovery: false, ..lying };
        assert_eq!(not_well(&judge(sealed, false, "x")), []);
    }
}
