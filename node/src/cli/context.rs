//! What every command is given: the global flags, and the output.

use std::{os::unix::fs::MetadataExt as _, path::PathBuf, time::Duration};

use certs::id::{NodeId, TrustDomain};

use crate::{
    accounts,
    agent::state_dir::StateDir,
    cli::{
        directory::Directory,
        error::Result,
        output::{Format, Output},
        passphrase::Passphrase,
        value,
    },
    config::{self, Config},
};

/// Flags that stand anywhere in the line. Each has a mirror in the environment: `SKEIN_` and its name.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// The node's configuration [default: /etc/skein/skein.toml, or the user's own]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Whom to ask: HOST:PORT of a node, a known node's name, or unix:PATH
    #[arg(long, global = true, value_name = "NODE")]
    pub node: Option<String>,
    /// Where the operator's keys lie [default: $XDG_CONFIG_HOME/skein/TRUST_DOMAIN]
    #[arg(long, global = true, value_name = "DIR")]
    pub operator: Option<PathBuf>,
    /// The passphrase of the keys that are read, and under which new ones are written; a file of mode 0600 [default: asked at the
    /// terminal for keys that are under one]
    #[arg(long, global = true, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// Namespace of documents that name none [default: default]
    #[arg(long, short, global = true, value_parser = value::namespace)]
    pub namespace: Option<String>,
    /// How results are printed
    #[arg(
        long,
        short,
        global = true,
        value_enum,
        default_value_t,
        value_name = "table|json|yaml",
        hide_possible_values = true
    )]
    pub output: Format,
    /// How long to wait for nodes
    #[arg(long, global = true, value_name = "DURATION", default_value = "10s", value_parser = value::duration)]
    pub timeout: Duration,
    /// Print again at every change
    #[arg(long, global = true)]
    pub watch: bool,
    /// Live so far ahead of the machine's clock, or behind it (`-10m`): for tests
    #[arg(long, global = true, hide = true, value_name = "DURATION", default_value = "0s", allow_hyphen_values = true, value_parser = value::offset)]
    pub clock_offset: i64,
}

impl Globals {
    /// The namespace of what names none.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }
}

/// The global flags, read, and standard output.
#[derive(Debug, Clone)]
pub struct Context {
    /// The flags.
    pub globals: Globals,
    /// Where results go.
    pub output: Output,
    /// Whether `recovery.key` signs in the place of `operator.key`.
    pub recovery: bool,
    /// Of the keys that are read and written.
    pub passphrase: Passphrase,
}

impl Context {
    /// The context of one command.
    pub fn new(globals: Globals) -> Self {
        let output = Output::new(globals.output);
        let passphrase = Passphrase::of(globals.passphrase_file.clone());
        Self { globals, output, recovery: false, passphrase }
    }

    /// The same where `recovery.key` signs.
    #[must_use]
    pub fn recovering(&self, recovery: bool) -> Self {
        Self { recovery, ..self.clone() }
    }

    /// The same, asking this node of the mesh.
    #[must_use]
    pub fn asking(&self, node: &NodeId) -> Self {
        let globals = Globals { node: Some(node.to_string()), ..self.globals.clone() };
        Self { globals, ..self.clone() }
    }

    /// The node's configuration file: the one of the flag, or the default one.
    pub fn config_file(&self) -> PathBuf {
        self.globals.config.clone().unwrap_or_else(|| config::paths::current().config_file)
    }

    /// The node's configuration.
    ///
    /// # Errors
    /// `bad_config`, with file, line and column.
    pub fn config(&self) -> Result<Config> {
        Ok(config::read(&self.config_file())?)
    }

    /// The state of a node, for a command that changes it; `command` is how it is given.
    ///
    /// # Errors
    /// As [`StateDir::open`]. Where root is refused in a directory of the node's user, the hint is the command as that user gives it.
    pub fn state(&self, config: &Config, command: &str) -> Result<StateDir> {
        StateDir::open(&config.data_dir).map_err(|error| {
            let owner = std::fs::metadata(&config.data_dir).map_or(0, |about| about.uid());
            if error.code != "key_permissions" || owner == 0 || !nix::unistd::geteuid().is_root() {
                return error;
            }
            let user = accounts::name_of(owner).unwrap_or_else(|| format!("'#{owner}'"));
            error.hint(format!(
                "give it as that user: sudo -u {user} skein --config {} {command}",
                config.file.display()
            ))
        })
    }

    /// The mesh of this machine's node, if its configuration can be read.
    pub fn own_trust_domain(&self) -> Option<TrustDomain> {
        self.config().ok().map(|config| config.trust_domain)
    }

    /// The operator directory of the flags.
    ///
    /// # Errors
    /// None is there, or several are.
    pub fn operator(&self) -> Result<Directory> {
        let found = Directory::find(self.globals.operator.as_deref(), self.own_trust_domain().as_ref())?;
        let found = found.under(self.passphrase.clone());
        Ok(if self.recovery { found.recovering() } else { found })
    }
}
