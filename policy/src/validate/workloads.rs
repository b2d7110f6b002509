//! Workloads by their labels, found without looking at all of them.

use std::collections::{BTreeMap, HashMap};

use crate::hosts::{Inventory, Workload};

/// The workloads of the mesh, as far as they are known.
#[derive(Debug)]
pub(super) struct Workloads<'i> {
    known: bool,
    complete: bool,
    all: Vec<&'i Workload>,
    anywhere: Labelled<'i>,
    by_namespace: HashMap<&'i str, Labelled<'i>>,
}

/// Which workloads there are, and by key and value of their labels.
#[derive(Debug, Default)]
struct Labelled<'i> {
    all: Vec<usize>,
    by_label: HashMap<&'i str, HashMap<&'i str, Vec<usize>>>,
}

impl<'i> Labelled<'i> {
    fn add(&mut self, index: usize, workload: &'i Workload) {
        self.all.push(index);
        for (key, value) in &*workload.labels {
            self.by_label.entry(key).or_default().entry(value).or_default().push(index);
        }
    }

    /// Those with the rarest of the labels, among which all that have all of them are.
    fn candidates(&self, labels: &BTreeMap<String, String>) -> &[usize] {
        let of_label = |(key, value): (&String, &String)| {
            let found = self.by_label.get(key.as_str()).and_then(|values| values.get(value.as_str()));
            found.map_or(&[][..], Vec::as_slice)
        };
        labels.iter().map(of_label).min_by_key(|found| found.len()).unwrap_or(&self.all)
    }
}

impl<'i> Workloads<'i> {
    pub(super) fn new(inventory: &'i Inventory) -> Self {
        let mut workloads = Self {
            known: inventory.workloads.is_some(),
            complete: inventory.complete,
            all: Vec::new(),
            anywhere: Labelled::default(),
            by_namespace: HashMap::new(),
        };
        for (namespace, alike) in inventory.workloads.iter().flatten() {
            alike.iter().for_each(|workload| workloads.add(namespace, workload));
        }
        workloads
    }

    fn add(&mut self, namespace: &'i str, workload: &'i Workload) {
        let index = self.all.len();
        self.all.push(workload);
        self.anywhere.add(index, workload);
        self.by_namespace.entry(namespace).or_default().add(index, workload);
    }

    /// True if anything is known of workloads.
    pub(super) fn are_known(&self) -> bool {
        self.known
    }

    /// True if it is likely that a workload with such labels would be known: all are, or others with the same keys are.
    pub(super) fn would_be_known(&self, labels: &BTreeMap<String, String>) -> bool {
        self.known && (self.complete || labels.keys().all(|key| self.anywhere.by_label.contains_key(key.as_str())))
    }

    /// The workloads with all of these labels, in a namespace or (`None`) anywhere.
    pub(super) fn selected<'s>(
        &'s self,
        namespace: Option<&str>,
        labels: &'s BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'i Workload> + 's {
        let place = match namespace {
            Some(namespace) => self.by_namespace.get(namespace),
            None => Some(&self.anywhere),
        };
        let workloads = place.map_or(&[][..], |place| place.candidates(labels)).iter().map(|index| self.all[*index]);
        workloads.filter(|workload| labels.iter().all(|(key, value)| workload.labels.get(key) == Some(value)))
    }

    /// True if some workload has the labels of both selectors.
    pub(super) fn share(
        &self,
        namespace: Option<&str>,
        one: &BTreeMap<String, String>,
        other: &BTreeMap<String, String>,
    ) -> bool {
        if one.iter().any(|(key, value)| other.get(key).is_some_and(|other| other != value)) {
            return false;
        }
        let has = |workload: &Workload| other.iter().all(|(key, value)| workload.labels.get(key) == Some(value));
        self.selected(namespace, one).any(has)
    }
}
