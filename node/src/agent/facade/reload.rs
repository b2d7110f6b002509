//! Takes a new configuration into use: of the files, or of the WorkloadGroups that services name.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{Agent, restart};
use crate::{
    agent::{
        error::{Error, fail, internal},
        event, groups,
    },
    config::{self, Config},
};

impl Agent {
    /// Reads the configuration again and applies services, upstreams, outbounds, peers and logging.
    ///
    /// # Errors
    /// `bad_config` if it is invalid or changes what needs a restart, by name: nothing has changed then.
    pub async fn reload(&self) -> Result<(), Error> {
        let agent = self.clone();
        self.whole(async move { agent.reload_now().await }).await
    }

    /// Does what must not be left half done, also if whoever asked for it goes away meanwhile.
    pub(super) async fn whole<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let (tell, told) = oneshot::channel();
        self.inner.sync.tasks.detach("configuration", async move { drop(tell.send(work.await)) });
        told.await.map_err(internal)?
    }

    async fn reload_now(&self) -> Result<(), Error> {
        let _one = self.inner.reloading.lock().await;
        let before = self.config();
        let file = before.file.clone();
        let given = self.inner.sync.tasks.blocking(move || config::read(&file)).await.map_err(internal)??;
        if let Some(key) = restart::needed(&before, &given) {
            let message = format!("{key} changed: that needs a restart; nothing of the new configuration is in use");
            return Err(fail("bad_config", message, "restart the node, or take the change back"));
        }
        self.take_over(given).await?;
        crate::logging::change(&self.config().log);
        self.inner.not_reloaded.store(None);
        self.inner.sync.events.note(self.now(), event::Kind::Reloaded, self.node(), "the configuration was applied");
        Ok(())
    }

    /// The same for a signal, which nobody answers: why it failed is a problem of the node until a reload succeeds.
    pub async fn reload_by_signal(&self) {
        if let Err(error) = self.reload().await {
            tracing::error!(code = %error.code, hint = error.hint, "not reloaded: {error}");
            let message = format!("the configuration in use is not the one in the files: {error}");
            let hint = match &*error.hint {
                "" => "correct it, then send the process SIGHUP again",
                hint => hint,
            };
            self.inner.not_reloaded.store(Some(Arc::new(fail("not_reloaded", message, hint))));
        }
    }

    /// Follows WorkloadGroups as they change, as long as the process runs.
    pub async fn follow_groups(self) {
        let mut changes = self.changes();
        loop {
            if let Err(error) = self.regroup().await {
                tracing::warn!(code = %error.code, "what WorkloadGroups say of services is not in use: {error}");
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    async fn regroup(&self) -> Result<(), Error> {
        let _one = self.inner.reloading.lock().await;
        let given = self.inner.given.load_full();
        if given.services.iter().all(|service| service.group.is_none()) {
            return Ok(());
        }
        let (after, troubles) = groups::all_filled(&given, &self.state());
        if after == *self.config() {
            if troubles != **self.inner.group_troubles.load() {
                self.inner.group_troubles.store(Arc::new(troubles));
            }
            return Ok(());
        }
        self.take_over(Config::clone(&given)).await?;
        self.inner.sync.events.note(
            self.now(),
            event::Kind::Regrouped,
            self.node(),
            "services follow their WorkloadGroups",
        );
        Ok(())
    }

    /// # Errors
    /// Nothing has changed.
    async fn take_over(&self, given: Config) -> Result<(), Error> {
        let (after, troubles) = groups::all_filled(&given, &self.state());
        let after = Arc::new(after);
        (self.inner.apply)(after.clone()).await?;
        // Leafs for accounts that are new, before others hear of them.
        self.inner.sync.identity.refresh(&after.accounts(), &self.state().lifetimes(), self.now(), 0.5);
        self.inner.local.set(&after.services, &self.state()).await;
        self.inner.sync.renew.notify_one();
        self.inner.sync.world.look_at_own_ports();
        self.inner.given.store(Arc::new(given));
        self.inner.config.store(after);
        self.inner.group_troubles.store(Arc::new(troubles));
        self.inner.reloads.send_modify(|count| *count += 1);
        Ok(())
    }
}
