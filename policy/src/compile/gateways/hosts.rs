//! The hosts of a listener of a gateway, and the rules of each.

use std::{collections::HashMap, sync::Arc};

use crate::{hosts, route::Rule};

/// Hosts, found by the name that a request addresses.
#[derive(Debug, Default)]
pub struct Hosts {
    exact: HashMap<Arc<str>, VirtualHost>,
    /// Most specific first.
    wild: Vec<VirtualHost>,
}

/// A host, and what is done with its requests.
#[derive(Debug)]
pub struct VirtualHost {
    /// Lower case, a wildcard perhaps.
    pub name: Arc<str>,
    /// Requests without TLS are sent to https.
    pub redirects: bool,
    /// In the order in which they are tried. None: nothing is there.
    pub rules: Vec<Rule>,
}

impl Hosts {
    /// The host with this very name, made if it is not there.
    pub(super) fn entry(&mut self, name: &str) -> &mut VirtualHost {
        let new = || VirtualHost { name: name.into(), redirects: false, rules: Vec::new() };
        if !name.starts_with('*') {
            return self.exact.entry(name.into()).or_insert_with(new);
        }
        let place = match self.wild.iter().position(|known| *known.name == *name) {
            Some(place) => place,
            None => {
                self.wild.push(new());
                self.wild.len() - 1
            }
        };
        &mut self.wild[place]
    }

    /// Brings everything into the order in which it is tried: rules that take every request come last, as in Istio, for other
    /// VirtualServices of the host have rules, too.
    pub(super) fn settle(&mut self) {
        for host in self.exact.values_mut().chain(&mut self.wild) {
            host.rules.sort_by_key(Rule::is_catch_all);
        }
        self.wild.sort_by(|a, b| hosts::by_specificity(&a.name, &b.name));
    }

    /// The host of a request, by its authority's name in lower case.
    pub fn find(&self, host: &str) -> Option<&VirtualHost> {
        self.exact.get(host).or_else(|| self.wild.iter().find(|own| hosts::covers(&own.name, host)))
    }

    /// All, the most specific first.
    pub fn all(&self) -> Vec<&VirtualHost> {
        let mut all: Vec<&VirtualHost> = self.exact.values().chain(&self.wild).collect();
        all.sort_by(|a, b| hosts::by_specificity(&a.name, &b.name));
        all
    }
}
