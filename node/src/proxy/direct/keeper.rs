//! Reads what TLS towards endpoints outside needs, before and while it is used: files and secrets may change at any time.

use super::tls::{self, Material, Originations, Slot, Wish};
use crate::{
    clock,
    proxy::{local::Local, plane::DataPlane, reading::Reading},
    secrets::Secrets,
    snapshot::{Snapshot, Trouble},
    tasks::Tasks,
};
use certs::codec::Millis;
use policy::kinds::ClientTlsMode;
use rustls::RootCertStore;
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// How often files are looked at.
const RELOAD: Duration = Duration::from_secs(2);

/// Between two looks at the machine's list of authorities, milliseconds.
const SYSTEM: Millis = 60_000;

/// Keeps what the data plane needs for TLS outside the mesh, until the node drains.
pub async fn keep_tls(plane: Arc<DataPlane>, secrets: Secrets) {
    let originations = plane.shared.originations.clone();
    let mut snapshots = plane.shared.current.spaced();
    let mut reloads = plane.shared.reloads.subscribe();
    let mut changes = secrets.changes();
    let mut draining = plane.shared.draining.subscribe();
    let (mut system, mut reading) = (System::default(), Reading::default());
    loop {
        snapshots.mark_unchanged();
        reloads.mark_unchanged();
        changes.mark_unchanged();
        let used = look(&plane, &secrets, &originations, &mut system, &mut reading).await;
        let again = async {
            if !used {
                return std::future::pending().await;
            }
            tokio::time::sleep(RELOAD).await;
        };
        let drained = async { drop(draining.wait_for(|draining| *draining).await) };
        let goes_on = tokio::select! {
            // Errors mean that the node ends.
            changed = snapshots.changed() => changed.is_ok(),
            changed = reloads.changed() => changed.is_ok(),
            changed = changes.changed() => changed.is_ok(),
            () = originations.news() => true,
            () = drained => false,
            () = again => true,
        };
        if !goes_on {
            return std::future::pending().await;
        }
    }
}

/// Reads what is wished; true if anything is.
async fn look(
    plane: &DataPlane,
    secrets: &Secrets,
    originations: &Originations,
    system: &mut System,
    reading: &mut Reading<Material>,
) -> bool {
    let (wanted, mut troubles) = wanted(&plane.shared.current.load(), &plane.shared.local.load(), originations);
    originations.keep(&wanted);
    drop(wanted);
    let slots = originations.all();
    for slot in &slots {
        let (wish, store) = (slot.wish.clone(), secrets.clone());
        let (namespace, of) = (wish.namespace.clone(), format!("{wish:?}"));
        let read = reading.read(&namespace, &of, move || tls::load(&wish, &store)).await;
        if slot.wants_system() {
            system.look(&plane.shared.tasks).await;
        }
        if let Err(why) = slot.take(read, &system.roots) {
            let goes_on = if slot.is_made() { "it goes on with what it had" } else { "connections there fail (UF)" };
            troubles.insert(format!(
                "TLS for callers of {} is not as its DestinationRule says: {why}; {goes_on}",
                slot.wish.namespace
            ));
        }
    }
    reading.settle();
    let trouble = |message| Trouble {
        code: "client_tls",
        message,
        hint: "put the file where the DestinationRule says, or `skein secret put`; it is then taken by itself",
    };
    plane.shared.current.tell_tls_troubles(troubles.into_iter().map(trouble).collect());
    !slots.is_empty()
}

/// The machine's own list of authorities.
#[derive(Debug)]
struct System {
    roots: Arc<RootCertStore>,
    /// Uptime of the next look.
    next: Millis,
}

impl Default for System {
    fn default() -> Self {
        Self { roots: Arc::new(RootCertStore::empty()), next: 0 }
    }
}

impl System {
    /// Reads it now and then: it may be installed later, and it changes.
    async fn look(&mut self, tasks: &Tasks) {
        if clock::uptime() < self.next {
            return;
        }
        let loaded = tasks.blocking(rustls_native_certs::load_native_certs).await;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(loaded.map(|loaded| loaded.certs).unwrap_or_default());
        self.take(roots);
        self.next = clock::uptime() + SYSTEM;
    }

    /// The same list stays the same value, of which nothing is made anew. One that cannot be read now goes on as it was.
    fn take(&mut self, roots: RootCertStore) {
        if !roots.is_empty() && roots.roots != self.roots.roots {
            self.roots = Arc::new(roots);
        }
    }
}

/// What callers beside this node may need, and what cannot be.
fn wanted(snapshot: &Snapshot, local: &Local, originations: &Originations) -> (Vec<Arc<Slot>>, BTreeSet<String>) {
    let (mut slots, mut troubles) = (Vec::new(), BTreeSet::new());
    let namespaces: BTreeSet<&str> = local.services().into_iter().map(|service| service.name.namespace()).collect();
    for namespace in namespaces {
        for (made, tls) in snapshot.compiled.client_tls(namespace) {
            match tls.mode {
                ClientTlsMode::Disable => {}
                ClientTlsMode::Simple | ClientTlsMode::Mutual => {
                    let names = made.entry.subject_alt_names.clone();
                    slots.push(originations.slot(Wish { tls, names, namespace: namespace.to_owned() }));
                }
                ClientTlsMode::IstioMutual => {
                    let outside =
                        snapshot.foreign.get(made).is_some_and(|foreign| foreign.has_outside() || made.is_by_name());
                    if outside {
                        troubles.insert(format!(
                            "a DestinationRule wants ISTIO_MUTUAL for `{}` of {}, whose endpoints have no identity of the mesh: \
                             connections there fail (UF)",
                            made.host, made.document
                        ));
                    }
                }
            }
        }
    }
    (slots, troubles)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_authorities_changes_and_what_cannot_be_read_goes_on() {
        let of = |name: &str| {
            let mut roots = RootCertStore::empty();
            roots.add(rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap().cert.der().clone()).unwrap();
            roots
        };
        let (old, new) = (of("old.example"), of("new.example"));
        let mut system = System::default();
        system.take(old.clone());
        let first = Arc::clone(&system.roots);
        system.take(old);
        system.take(RootCertStore::empty());
        assert!(Arc::ptr_eq(&system.roots, &first), "the same, or none");
        system.take(new.clone());
        assert_eq!(system.roots.roots, new.roots);
    }
}
