//! Runs the commands that a user would type.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::de::DeserializeOwned;
use tokio::io::AsyncWriteExt as _;

use super::machine::Machine;
use super::process;

/// How long one command may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// This program, as one operator uses it.
#[derive(Debug)]
pub(super) struct Skein {
    program: PathBuf,
    /// The operator's directory.
    pub(super) operator: PathBuf,
}

/// A member-to-be's token, as `invite -o json` prints it.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Invitation {
    pub(super) token: String,
}

/// What `policy push -o json` and `policy delete -o json` print, as far as it is read here.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Pushed {
    pub(super) documents: Vec<Document>,
}

/// One document of a push.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Document {
    pub(super) kind: String,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl std::fmt::Display for Document {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

impl Skein {
    /// The program that runs now, as the operator of `operator`.
    ///
    /// # Errors
    /// The program's file cannot be found.
    pub(super) fn new(operator: PathBuf) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        Ok(Self { program, operator })
    }

    /// The program's file.
    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    /// Founds the mesh on its first machine.
    ///
    /// # Errors
    /// What `init` says.
    pub(super) async fn init(&self, trust_domain: &str, machine: &Machine) -> anyhow::Result<()> {
        let config = machine.config_file();
        let words = ["init", trust_domain, "--name", machine.name(), "--service", &machine.grant()];
        self.run(&config_flag(&config, &words), None).await.map(drop)
    }

    /// Asks the node at `at` to let a machine in.
    ///
    /// # Errors
    /// What `invite` says.
    pub(super) async fn invite(&self, machine: &Machine, at: &str) -> anyhow::Result<Invitation> {
        self.json(&["invite", machine.name(), "--service", &machine.grant(), "--node", at]).await
    }

    /// Makes a machine a member by its token, which no command line shows.
    ///
    /// # Errors
    /// What `join` says.
    pub(super) async fn join(&self, machine: &Machine, token: &str) -> anyhow::Result<()> {
        let config = machine.config_file();
        self.run(&config_flag(&config, &["join", "-"]), Some(token)).await.map(drop)
    }

    /// Pushes a file to the node at `at`, and returns as soon as that one has it.
    ///
    /// # Errors
    /// What `policy push` says.
    pub(super) async fn push(&self, file: &Path, at: &str) -> anyhow::Result<Pushed> {
        self.json(&["policy", "push", &file.to_string_lossy(), "--node", at, "--wait", "local"]).await
    }

    /// Deletes a document at the node at `at`.
    ///
    /// # Errors
    /// What `policy delete` says.
    pub(super) async fn delete(&self, kind: &str, name: &str, at: &str) -> anyhow::Result<Pushed> {
        self.json(&["policy", "delete", kind, name, "--node", at, "--wait", "local"]).await
    }

    /// Runs a command with `-o json` and reads its answer.
    ///
    /// # Errors
    /// It failed; with what it said.
    pub(super) async fn json<T: DeserializeOwned>(&self, words: &[&str]) -> anyhow::Result<T> {
        let words = [words, &["-o", "json"]].concat();
        let output = self.run(&words, None).await?;
        serde_json::from_slice(&output).with_context(|| {
            let output = String::from_utf8_lossy(&output);
            format!("`skein {}` printed what is not expected: {}", words.join(" "), output.trim())
        })
    }

    async fn run(&self, words: &[&str], input: Option<&str>) -> anyhow::Result<Vec<u8>> {
        let what = || format!("`skein {}`", words.join(" "));
        let mut command = process::command(&self.program);
        command.args(words).env("SKEIN_OPERATOR", &self.operator);
        command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().with_context(what)?;
        let done = async {
            if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
                stdin.write_all(input.as_bytes()).await?;
                stdin.shutdown().await?;
            }
            child.wait_with_output().await
        };
        let output = tokio::time::timeout(PATIENCE, done).await.with_context(|| format!("{} hangs", what()))?;
        let output = output.with_context(what)?;
        if !output.status.success() {
            bail!("{} failed: {}", what(), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(output.stdout)
    }
}

fn config_flag<'a>(config: &'a Path, words: &[&'a str]) -> Vec<&'a str> {
    let config = config.to_str().expect("the demo's directories have names of ASCII letters");
    [words, &["--config", config]].concat()
}
