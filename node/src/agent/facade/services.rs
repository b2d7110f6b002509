//! Services that commands add and remove while the node runs, kept in `services.d`.

use std::path::{Path, PathBuf};

use super::Agent;
use crate::{
    agent::{
        error::{Error, fail, internal},
        groups,
        local::{covers, not_granted},
    },
    config::{self, Service, SpeakerName},
};

impl Agent {
    /// Adds a service, or replaces one that was added: `text` is one `[[service]]` table in TOML, kept in `services.d`.
    ///
    /// # Errors
    /// `bad_config`, `already_exists` for one of skein.toml, `not_granted` naming the command that grants it.
    pub async fn service_add(&self, text: String) -> Result<Service, Error> {
        let agent = self.clone();
        self.whole(async move { agent.add(&text).await }).await
    }

    async fn add(&self, text: &str) -> Result<Service, Error> {
        let config = self.config();
        let service = config::service_from_toml(Path::new("service"), text)?;
        // Whoever may open the local socket does not thereby get private keys.
        if !service.uids.is_empty() {
            let hint = "write it into skein.toml or services.d by hand, then send the process SIGHUP";
            return Err(fail("bad_config", "`uids` says who gets private keys: no command sets it", hint));
        }
        let filled = groups::filled(&service, &self.state()).0;
        if !self.state().grants().get(self.node()).is_some_and(|grant| covers(grant, &filled)) {
            return Err(not_granted(self.node(), &filled));
        }
        let file = config::service_file(&config, &service);
        // Nor gets another instance beside one that a file of root's names: what is called by that name is that file's to say.
        let by_hand = |known: &&Service| known.name == service.name && !config::service_file(&config, known).exists();
        if let Some(known) = config.services.iter().find(by_hand) {
            let message = format!("{} stands in the configuration", SpeakerName::of(known));
            let hint = "change it, or add the instance, in the file that names it, then send the process SIGHUP";
            return Err(fail("already_exists", message, hint));
        }
        let (folder, text) = (config::services_dir(&config.file), config::service_to_toml(&service));
        let written = move |file: PathBuf| {
            let before = std::fs::read_to_string(&file).ok();
            std::fs::create_dir_all(folder).and_then(|()| config::write_atomically(&file, &text)).map(|()| before)
        };
        let before = self.on_disk(&file, written).await?;
        if let Err(error) = self.reload().await {
            // Nothing half done: the folder is as it was.
            let undone = move |file: PathBuf| match before {
                Some(text) => config::write_atomically(&file, &text),
                None => std::fs::remove_file(file),
            };
            let _ = self.on_disk(&file, undone).await;
            return Err(error);
        }
        Ok(service)
    }

    /// Removes a service that `service_add` added: `NAMESPACE/NAME[/INSTANCE]`.
    ///
    /// # Errors
    /// `not_found`; `bad_config` for one that stands in another file.
    pub async fn service_remove(&self, name: String) -> Result<(), Error> {
        let agent = self.clone();
        self.whole(async move { agent.remove(&name).await }).await
    }

    async fn remove(&self, name: &str) -> Result<(), Error> {
        let config = self.config();
        let Some(service) = config.services.iter().find(|known| SpeakerName::of(known).to_string() == name) else {
            return Err(fail("not_found", format!("no service {name} here"), "`skein service list` shows them"));
        };
        let file = config::service_file(&config, service);
        let Ok(text) = self.on_disk(&file, std::fs::read_to_string).await else {
            let hint = "remove it from the file that names it, then send the process SIGHUP";
            return Err(fail("bad_config", format!("{name} was not added by `service add`"), hint));
        };
        self.on_disk(&file, std::fs::remove_file).await?;
        if let Err(error) = self.reload().await {
            let _ = self.on_disk(&file, move |file| config::write_atomically(&file, &text)).await;
            return Err(error);
        }
        Ok(())
    }

    /// Does something with a file beside the runtime.
    async fn on_disk<T: Send + 'static>(
        &self,
        file: &Path,
        work: impl FnOnce(PathBuf) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let path = file.to_path_buf();
        let done = self.inner.sync.tasks.blocking(move || work(path)).await.map_err(internal)?;
        done.map_err(|error| fail("storage_failed", format!("{}: {error}", file.display()), "check the folder"))
    }
}
