//! Series: what is counted of each combination of labels, in cells for each data worker, so that counting is loads and stores; a
//! lock is taken when a combination is new to a worker. Series that nobody has counted for long are forgotten.

mod forgotten;

pub(super) use forgotten::Forgotten;

use super::{
    Flags,
    labels::{Labels, Pair, Protocol, Reporter, Security, Summary, UNKNOWN, Workload},
};
use crate::lock::lock;
use certs::codec::Millis;
use dashmap::{DashMap, Entry};
use std::{
    fmt::Debug,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

/// Combinations of labels that are kept apart; further ones are counted together.
pub(super) const SERIES_LIMIT: usize = 10_000;
/// A series that nobody has counted for this long is forgotten, in milliseconds.
pub(super) const IDLE: Millis = 15 * 60_000;

/// One worker's share of a series, on cache lines of its own. Only that worker writes.
pub(super) trait Cells: Debug + Default + Send + Sync + 'static {
    /// What tells that something was counted.
    type Sum: Debug + Copy + PartialEq + Default + Send;

    /// The metrics that tell of it.
    const METRICS: &'static [&'static str];

    /// Adds what this worker counted.
    fn add_to(&self, sum: &mut Self::Sum);

    /// Adds all that others counted to what nobody else counts in.
    fn take(&self, other: &Self);
}

/// Adds to a cell that one worker alone writes.
pub(super) fn add(cell: &AtomicU64, amount: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(amount), Relaxed);
}

/// One combination of labels.
#[derive(Debug)]
pub(super) struct Series<C: Cells> {
    pub(super) labels: Labels,
    cells: Box<[C]>,
    /// Nobody has counted for long: who counts next asks the family for the series.
    retired: AtomicBool,
    /// What the last look saw, and when one last found something new; process uptime in milliseconds.
    looked: Mutex<Option<(C::Sum, Millis)>>,
}

impl<C: Cells> Series<C> {
    fn new(labels: Labels, workers: usize) -> Self {
        let cells = (0..workers.max(1)).map(|_| C::default()).collect();
        Self { labels, cells, retired: AtomicBool::new(false), looked: Mutex::default() }
    }

    /// What this and the others counted, in one place that nobody counts in.
    fn with(&self, others: Option<&Self>) -> Self {
        let sum = Self::new(self.labels.clone(), 1);
        self.cells().chain(others.into_iter().flat_map(Self::cells)).for_each(|cells| sum.cell(0).take(cells));
        sum
    }

    /// A worker's share.
    pub(super) fn cell(&self, worker: usize) -> &C {
        &self.cells[worker]
    }

    /// Every worker's share.
    pub(super) fn cells(&self) -> impl Iterator<Item = &C> {
        self.cells.iter()
    }

    /// What all workers counted.
    pub(super) fn sum(&self) -> C::Sum {
        let mut sum = C::Sum::default();
        self.cells().for_each(|cells| cells.add_to(&mut sum));
        sum
    }

    /// True if it may have been forgotten.
    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Relaxed)
    }

    /// What was counted at the last look and now, and whether the series is to be forgotten. It is retired first and forgotten by
    /// a later look, so that no worker still counts in it.
    fn look(&self, now: Millis) -> (C::Sum, C::Sum, bool) {
        let mut looked = lock(&self.looked);
        let sum = self.sum();
        let (before, active) = looked.unwrap_or((C::Sum::default(), now));
        if sum != before || looked.is_none() {
            *looked = Some((sum, now));
            self.retired.store(false, Relaxed);
            return (before, sum, false);
        }
        let idle = now.saturating_sub(active) >= IDLE;
        (before, sum, idle && self.retired.swap(idle, Relaxed))
    }
}

/// All series of one kind.
#[derive(Debug)]
pub(super) struct Family<C: Cells> {
    pub(super) workers: usize,
    /// Those of which metrics tell.
    offered: Shelf<C>,
    /// Those of which pages alone tell, since documents disable every metric of them. They take no room from the others.
    hidden: Shelf<C>,
    /// Documents changed some metric since the process began: several series may have the same labels there.
    is_shaped: AtomicBool,
    /// Held while series are forgotten: who looks at both sees each count once.
    forgotten: Mutex<Arc<Forgotten<C>>>,
}

/// Room for so many series.
#[derive(Debug)]
struct Shelf<C: Cells> {
    known: DashMap<Labels, Arc<Series<C>>>,
    length: AtomicUsize,
    /// Those that find no room, together: what the callers' side saw, and what the servers' did.
    overflow: [Arc<Series<C>>; 2],
}

impl<C: Cells> Shelf<C> {
    fn of(protocol: Protocol, workers: usize) -> Self {
        let overflow = [Reporter::Source, Reporter::Destination]
            .map(|reporter| Arc::new(Series::new(overflow(protocol, reporter), workers)));
        Self { known: DashMap::new(), length: AtomicUsize::new(0), overflow }
    }

    fn series(&self) -> Vec<Arc<Series<C>>> {
        let mut all: Vec<_> = self.known.iter().map(|entry| Arc::clone(entry.value())).collect();
        all.extend(self.overflow.iter().filter(|series| series.sum() != C::Sum::default()).cloned());
        all
    }

    fn length(&self) -> usize {
        self.length.load(Relaxed)
    }

    /// True if it is where those are counted that found no room, and there is some again.
    fn is_past(&self, series: &Arc<Series<C>>) -> bool {
        self.overflow.iter().any(|over| Arc::ptr_eq(over, series)) && self.length() < SERIES_LIMIT
    }

    /// Takes the series of these labels out, if nobody uses it.
    fn forget(&self, labels: &Labels) -> Option<Arc<Series<C>>> {
        let (_, series) = self.known.remove_if(labels, |_, known| known.is_retired())?;
        self.length.fetch_sub(1, Relaxed);
        Some(series)
    }

    fn find_or(&self, labels: &Labels, make: impl FnOnce() -> Arc<Series<C>>) -> Arc<Series<C>> {
        // The map's own lock is held while a series is taken back into use, so that it is not forgotten meanwhile.
        let used = |series: &Arc<Series<C>>| {
            series.retired.store(false, Relaxed);
            Arc::clone(series)
        };
        if let Some(series) = self.known.get(labels) {
            return used(&series);
        }
        match self.known.entry(labels.clone()) {
            Entry::Occupied(known) => used(known.get()),
            Entry::Vacant(_) if self.length.fetch_add(1, Relaxed) >= SERIES_LIMIT => {
                self.length.fetch_sub(1, Relaxed);
                let [source, destination] = &self.overflow;
                match labels.pair.reporter {
                    Reporter::Source => used(source),
                    Reporter::Destination => used(destination),
                }
            }
            Entry::Vacant(free) => used(&free.insert(make())),
        }
    }
}

impl<C: Cells> Family<C> {
    /// None yet, of what this protocol's labels stand for where there is no room for more.
    pub(super) fn of(protocol: Protocol, workers: usize) -> Self {
        let [offered, hidden] = [(); 2].map(|()| Shelf::of(protocol, workers));
        let (is_shaped, forgotten) = Default::default();
        Self { workers: workers.max(1), offered, hidden, is_shaped, forgotten }
    }

    /// Every series of which metrics tell, those of the overflow last if they were used.
    pub(super) fn series(&self) -> Vec<Arc<Series<C>>> {
        self.offered.series()
    }

    /// The same, and what forgotten ones add to them.
    pub(super) fn told(&self) -> (Vec<Arc<Series<C>>>, Arc<Forgotten<C>>) {
        let forgotten = lock(&self.forgotten);
        (self.series(), Arc::clone(&forgotten))
    }

    /// How many combinations of labels are kept of which metrics tell.
    pub(super) fn length(&self) -> usize {
        self.offered.length()
    }

    /// True if who counts asks for the series anew: it may have been forgotten, or it is the overflow's and there is room again.
    pub(super) fn is_past(&self, series: &Arc<Series<C>>) -> bool {
        series.is_retired() || self.shelves().into_iter().any(|shelf| shelf.is_past(series))
    }

    /// What was counted of combinations of labels that found no room.
    pub(super) fn overflowed(&self) -> C::Sum {
        let mut sum = C::Sum::default();
        let overflow = self.shelves().into_iter().flat_map(|shelf| &shelf.overflow);
        overflow.flat_map(|series| series.cells()).for_each(|cells| cells.add_to(&mut sum));
        sum
    }

    /// Gives of each series that counted since the last look what it had counted then and has now; forgets those that count no more.
    pub(super) fn look(&self, now: Millis, mut each: impl FnMut(&Labels, &C::Sum, &C::Sum)) {
        let mut idle = Vec::new();
        for series in self.shelves().into_iter().flat_map(Shelf::series) {
            let (before, sum, is_idle) = series.look(now);
            if sum != before {
                each(&series.labels, &before, &sum);
            }
            if is_idle {
                idle.push(series);
            }
        }
        self.forget(&idle);
    }

    fn forget(&self, idle: &[Arc<Series<C>>]) {
        let mut forgotten = lock(&self.forgotten);
        let mut gone: Vec<_> =
            idle.iter().filter_map(|series| self.shelf(&series.labels).forget(&series.labels)).collect();
        gone.retain(|series| series.labels.is_offered());
        if self.is_shaped.load(Relaxed) && !gone.is_empty() {
            *forgotten = Arc::new(forgotten.after(&gone, &self.series()));
        }
    }

    /// The series of these labels, begun at zero if there is none.
    pub(super) fn find(&self, labels: &Labels) -> Arc<Series<C>> {
        if labels.shape.is_some() {
            self.is_shaped.store(true, Relaxed);
        }
        self.shelf(labels).find_or(labels, || self.begin(labels))
    }

    /// The series in whose place a retired one counts: itself, taken back, where nobody began it anew. Where metrics may add up several, what
    /// it counted is told already by others, or would be told as new: there it begins at zero.
    pub(super) fn take_back(&self, series: &Arc<Series<C>>) -> Arc<Series<C>> {
        let labels = &series.labels;
        let make = || if self.is_shaped.load(Relaxed) { self.begin(labels) } else { Arc::clone(series) };
        self.shelf(labels).find_or(labels, make)
    }

    fn begin(&self, labels: &Labels) -> Arc<Series<C>> {
        Arc::new(Series::new(labels.clone(), self.workers))
    }

    fn shelves(&self) -> [&Shelf<C>; 2] {
        [&self.offered, &self.hidden]
    }

    fn shelf(&self, labels: &Labels) -> &Shelf<C> {
        if labels.is_offered() { &self.offered } else { &self.hidden }
    }
}

/// The labels of what no longer fits, as this side saw it.
pub(super) fn overflow(protocol: Protocol, reporter: Reporter) -> Labels {
    let word: Arc<str> = Arc::from("overflow");
    let unknown = Arc::new(Workload::unknown());
    let pair = Pair {
        reporter,
        source: Arc::clone(&unknown),
        destination: unknown,
        service: Arc::clone(&word),
        service_name: word,
        service_namespace: Arc::from(UNKNOWN),
        security: Security::Unknown,
    };
    let summary = Summary { protocol, code: 0, grpc_status: None, flags: Flags::default() };
    Labels { pair: Arc::new(pair), summary, shape: None }
}

#[cfg(test)]
pub(super) mod testing {
    use crate::testing::{state, trust_domain};
    use policy::compile::{Compiled, MetricRule};
    use std::{collections::BTreeMap, sync::Arc};

    /// What one of `overrides` of a Telemetry says of the callers' side.
    pub(in crate::telemetry) fn rule(said: &str) -> Arc<MetricRule> {
        let telemetry = format!(
            "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: t}}\nspec: {{metrics: [{{overrides: [{said}]}}]}}\n"
        );
        let compiled = Compiled::build(&state(&telemetry), None);
        compiled.workload(&trust_domain(), "shop", &BTreeMap::new()).counted.client.clone().expect("it says something")
    }
}
