//! From what documents, names and members say to the endpoints of ServiceEntries. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use certs::codec::Millis;
use policy::{
    compile::{Entries, EntryService},
    kinds::{Endpoint as Written, EndpointAddress, Locality, Resolution},
};

use super::{
    Answer, Names, OwnPorts,
    forbidden::{self},
};
use crate::{
    balance::Key,
    snapshot::{Foreign, ForeignServices, Instance, Outside, Services, StatsTable, Trouble},
};

/// What is read beside the documents.
#[derive(Debug, Default)]
pub(in crate::agent) struct Facts {
    /// By name.
    pub(in crate::agent) answers: HashMap<Arc<str>, Answer>,
    pub(in crate::agent) own: OwnPorts,
}

/// Names that are to be looked up for callers of these namespaces.
pub(in crate::agent) fn names(entries: &Entries, callers: &BTreeSet<&str>) -> Names {
    let mut names = Names::new();
    for made in entries.all().iter().filter(|made| callers.iter().any(|caller| made.is_exported_to(caller))) {
        for place in places(made) {
            if let At::Name(name) = place.at {
                names.entry(name.into()).or_default().insert(made.namespace.clone());
            }
        }
    }
    names
}

/// The services of all ServiceEntries, and what is not as their documents say.
pub(in crate::agent) fn foreign(
    entries: &Entries,
    services: &Services,
    facts: &Facts,
    stats: &StatsTable,
    now: Millis,
) -> (ForeignServices, Vec<Trouble>) {
    let mut fold = Fold { facts, stats, now, troubles: BTreeMap::new() };
    let all: Vec<Foreign> = entries.all().iter().map(|made| fold.service(made, services)).collect();
    (ForeignServices::new(all), fold.troubles.into_values().collect())
}

/// Where an endpoint is.
enum At<'e> {
    Ip(IpAddr),
    Name(&'e str),
}

/// An endpoint as its document has it.
struct Place<'e> {
    at: At<'e>,
    /// `None`: the host itself, with the service's own ports.
    written: Option<&'e Written>,
}

fn places(made: &EntryService) -> Vec<Place<'_>> {
    let selected = made.workloads.iter().map(|(_, workload)| &workload.endpoint);
    let written = made.entry.endpoints.iter().chain(selected);
    fn place(endpoint: &Written) -> Option<Place<'_>> {
        let at = match endpoint.address.as_ref()? {
            EndpointAddress::Ip(address) => At::Ip(*address),
            EndpointAddress::Name(name) => At::Name(name),
            // Refused at push.
            EndpointAddress::Unix(_) => return None,
        };
        Some(Place { at, written: Some(endpoint) })
    }
    let listed: Vec<Place<'_>> = written.filter_map(place).collect();
    let by_name = matches!(made.entry.resolution, Resolution::None | Resolution::Dns | Resolution::DnsRoundRobin);
    let itself =
        by_name && made.entry.endpoints.is_empty() && made.entry.selector.is_none() && !made.host.starts_with('*');
    if itself { vec![Place { at: At::Name(&made.host), written: None }] } else { listed }
}

struct Fold<'f> {
    facts: &'f Facts,
    stats: &'f StatsTable,
    now: Millis,
    /// One of each kind for each subject.
    troubles: BTreeMap<(&'static str, String), Trouble>,
}

impl Fold<'_> {
    fn service(&mut self, made: &Arc<EntryService>, services: &Services) -> Foreign {
        // An address counts once for each set of labels: subsets that lead to the same machine are clusters of their own.
        let mut instances: BTreeMap<(Key, Arc<BTreeMap<String, String>>), Instance> = BTreeMap::new();
        for place in places(made) {
            for address in self.addresses(made, &place) {
                if let Some(outside) = self.endpoint(made, place.written, address) {
                    let at = (Key::clone(outside.stats.key()), Arc::clone(&outside.labels));
                    instances.insert(at, Instance::Outside(Arc::new(outside)));
                }
            }
        }
        if made.entry.selector.is_some() {
            let here = services.iter().filter(|service| service.name.namespace() == made.document.namespace);
            let selected = here.flat_map(|service| service.endpoints.iter());
            for endpoint in selected.filter(|endpoint| made.entry.selects(&endpoint.labels)) {
                instances.insert((Key::clone(endpoint.stats.key()), Arc::default()), Instance::from(endpoint));
            }
        }
        Foreign { service: made.clone(), instances: instances.into_values().collect() }
    }

    fn addresses(&mut self, made: &EntryService, place: &Place<'_>) -> Vec<IpAddr> {
        let name = match place.at {
            At::Ip(address) => return vec![address],
            At::Name(name) => name,
        };
        // Not looked up yet: that is no trouble.
        let Some(answer) = self.facts.answers.get(name) else { return Vec::new() };
        if let Some(why) = &answer.failure {
            let goes_on =
                if answer.addresses.is_empty() { "it has no endpoints" } else { "the addresses of before are used" };
            let message = format!("`{name}` of {} does not resolve: {why}; {goes_on}", made.document);
            self.trouble("name_unresolved", message, "correct the name, or this machine's resolver; it is tried again");
        }
        let mut allowed = Vec::new();
        for address in &answer.addresses {
            match forbidden::refused(name, *address) {
                None => allowed.push(*address),
                Some(what) => {
                    let message =
                        format!("`{name}` of {} resolves to {address}, {what}: it is not used", made.document);
                    self.trouble(
                        "address_refused",
                        message,
                        "write the address itself into the ServiceEntry if it is meant",
                    );
                }
            }
        }
        if made.entry.resolution == Resolution::DnsRoundRobin {
            allowed.truncate(1);
        }
        allowed
    }

    fn endpoint(&mut self, made: &EntryService, written: Option<&Written>, address: IpAddr) -> Option<Outside> {
        let mut ports: Vec<(u16, u16)> = Vec::new();
        for port in made.ports.iter() {
            let Some(declared) = made.declared(port.number) else { continue };
            let own = match written {
                Some(endpoint) => declared.on(endpoint),
                None => declared.target.unwrap_or(declared.number),
            };
            let to = std::net::SocketAddr::new(address, own);
            if self.facts.own.contains(to) {
                let message = format!("{} names {to}, a port of this node itself: it is not used", made.document);
                self.trouble("address_refused", message, "name the application's own port");
            } else {
                ports.push((port.number, own));
            }
        }
        if ports.is_empty() {
            return None;
        }
        let own: Vec<String> = ports.iter().map(|(_, own)| own.to_string()).collect();
        let shown = std::net::SocketAddr::new(address, 0).to_string();
        let shown = shown.strip_suffix(":0").unwrap_or(&shown);
        let key = format!("{}/{shown}:{}", made.host, own.join(","));
        let labels = written.map(|endpoint| endpoint.labels.clone()).unwrap_or_default();
        Some(Outside {
            address,
            ports: ports.into(),
            labels: Arc::new(labels),
            locality: written.map(|endpoint| locality(&endpoint.locality)).unwrap_or_default().into(),
            weight: written.map_or(1, |endpoint| endpoint.weight),
            stats: self.stats.of_outside(&key, self.now),
        })
    }

    fn trouble(&mut self, code: &'static str, message: String, hint: &'static str) {
        self.troubles.entry((code, message.clone())).or_insert(Trouble { code, message, hint });
    }
}

fn locality(locality: &Locality) -> String {
    let parts = [&locality.region, &locality.zone, &locality.subzone];
    let known = parts.iter().take_while(|part| !part.is_empty());
    known.map(|part| part.as_str()).collect::<Vec<_>>().join("/")
}
