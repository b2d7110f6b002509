//! How containers without a shell come into one mesh: by a directory that they share. The first one founds the mesh,
//! the operator leaves a token for each of the others.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use nix::ifaddrs::getifaddrs;

use super::bookinfo::App;
use super::machine::{FOUNDER, Machine, TRUST_DOMAIN};
use super::skein::Skein;

/// The operator's directory in the shared one.
pub(super) fn operator_dir(shared: &Path) -> PathBuf {
    shared.join("operator")
}

/// Where the token of a node is left.
pub(super) fn token_file(shared: &Path, app: App) -> PathBuf {
    shared.join("tokens").join(app.name())
}

/// The file in which the founder writes its address as soon as the mesh is founded.
pub(super) fn founder_file(shared: &Path) -> PathBuf {
    shared.join("founder")
}

/// Writes the node's configuration, and founds the mesh where that is this node's part and not yet done.
///
/// # Errors
/// No network, a disk that cannot be written, an `init` that refuses.
pub(super) async fn prepare(app: App, shared: &Path) -> anyhow::Result<()> {
    let machine = Machine::in_container(app, own_address()?);
    write(&machine.config_file(), &machine.config())?;
    if app != FOUNDER {
        return Ok(());
    }
    if !has_files(&machine.data_dir()) {
        let skein = Skein::new(operator_dir(shared))?;
        skein.init(TRUST_DOMAIN, &machine).await?;
    }
    write(&founder_file(shared), &format!("{}:{}\n", own_address()?, machine.mesh.port()))
}

/// Writes a file whole or not at all.
///
/// # Errors
/// The disk.
pub(super) fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    let write = || {
        let half = file.with_extension("new");
        file.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        std::fs::write(&half, text)?;
        std::fs::rename(&half, file)
    };
    write().with_context(|| format!("cannot write {}", file.display()))
}

fn has_files(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

/// The container's address in the private network.
fn own_address() -> anyhow::Result<IpAddr> {
    let addresses = getifaddrs().context("cannot list this container's addresses")?;
    let ip = |address: &nix::ifaddrs::InterfaceAddress| Some(address.address?.as_sockaddr_in()?.ip());
    let mut all = addresses.filter_map(|address| ip(&address)).filter(|ip| !ip.is_loopback());
    all.next().map(IpAddr::V4).ok_or_else(|| anyhow!("this container has no address but loopback"))
}
