//! What was asked of whom in the last quarter of an hour: the counts of the request metrics, by pair of workloads and slot of
//! time. Pages and `top` read it; nothing of it is on the way of a request.

use super::{
    connections,
    connections::Totals,
    labels::{Labels, Pair, Protocol, Summary},
    requests::{BOUNDS, BUCKETS, Counts, Family},
};
use certs::codec::Millis;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

/// How long a slot is, in milliseconds.
pub const SLOT: Millis = 30_000;
/// Slots that are kept, the one under way among them.
pub const SLOTS: usize = 30;
/// Pairs of one slot; further ones are left out.
const PAIRS: usize = 2_000;
/// Pairs whose open connections are reckoned; of further ones none count as open.
const OPEN: usize = 2_000;
/// Kinds of failure that are told apart in one slot of a pair.
const FAILURES: usize = 8;

/// What one pair exchanged.
#[derive(Debug, Clone, PartialEq)]
pub struct PairTraffic {
    /// Who called whom, as one reporter sees it.
    pub pair: Arc<Pair>,
    /// HTTP or gRPC; gRPC where it is both.
    pub protocol: Protocol,
    /// Requests and failed ones by slot, the one under way first.
    pub slots: [(u64, u64); SLOTS],
    /// Requests by duration, in the buckets of [`super::BOUNDS`].
    pub buckets: [u64; BUCKETS],
    /// What failed how: `503 UH`, and how often.
    pub failures: BTreeMap<String, u64>,
}

/// What connections of bytes of one pair carried.
#[derive(Debug, Clone, PartialEq)]
pub struct PairConnections {
    /// Who called whom, as one reporter sees it.
    pub pair: Arc<Pair>,
    /// Those that go on.
    pub open: u64,
    /// By slot, the one under way first.
    pub slots: [Carried; SLOTS],
}

/// What connections of bytes carried in some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Carried {
    /// Connections that came, those that led nowhere among them.
    pub opened: u64,
    /// Those that led nowhere.
    pub failed: u64,
    /// Bytes from the server to the caller.
    pub sent: u64,
    /// Bytes from the caller to the server.
    pub received: u64,
}

/// What all pairs exchanged.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Exchanged {
    /// How long the slot under way has lasted, in milliseconds.
    pub partial: Millis,
    /// How far back the counts go, in milliseconds.
    pub span: Millis,
    /// In no particular order.
    pub pairs: Vec<PairTraffic>,
    /// In no particular order.
    pub connections: Vec<PairConnections>,
    /// Requests and connections of pairs that found no room.
    pub left_out: u64,
}

/// The slots.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    /// The newest last.
    slots: VecDeque<Slot>,
    /// Connections of bytes that go on, of pairs that have any.
    open: HashMap<Arc<Pair>, Open>,
}

/// Connections of a pair that go on. The end of one may be counted in another series than its begin, and be looked at first: below none
/// until the next look. Who is below none for longer began when there was no room.
#[derive(Debug, Default)]
struct Open {
    count: i64,
    was_below_none: bool,
}

#[derive(Debug, Default)]
struct Slot {
    begun: Millis,
    pairs: HashMap<Arc<Pair>, Cell>,
    connections: HashMap<Arc<Pair>, Carried>,
    left_out: u64,
}

#[derive(Debug, Default)]
struct Cell {
    grpc: bool,
    requests: u64,
    failed: u64,
    buckets: [u64; BUCKETS],
    failures: BTreeMap<String, u64>,
}

impl Traffic {
    /// Takes what was counted since the last call; `now` is the process's uptime.
    pub(super) fn take(&mut self, family: &Family, connections: &connections::Family, now: Millis) {
        if self.slots.back().is_none_or(|slot| now.saturating_sub(slot.begun) >= SLOT) {
            // What passed without a call was idle: slots are as long as they should be.
            let begun = self.slots.back().map_or(now, |slot| now - (now.saturating_sub(slot.begun)) % SLOT);
            self.slots.push_back(Slot { begun, ..Slot::default() });
        }
        while self.slots.front().is_some_and(|slot| age(slot, now) >= SLOTS) {
            self.slots.pop_front();
        }
        let Some(slot) = self.slots.back_mut() else { return };
        family.sweep(now, |labels, counts| slot.add(labels, counts));
        let open = &mut self.open;
        connections.look(now, |labels, before, sum| {
            let carried = carried(before, sum);
            let closed = sum.closed.saturating_sub(before.closed);
            let is_told = slot.carry(&labels.pair, carried);
            if carried.opened == closed {
                return;
            }
            if open.len() < OPEN || open.contains_key(&labels.pair) {
                let count = &mut open.entry(Arc::clone(&labels.pair)).or_default().count;
                *count = count.saturating_add_unsigned(carried.opened).saturating_sub_unsigned(closed);
            } else if is_told {
                slot.left_out += carried.opened;
            }
        });
        open.retain(|_, open| {
            let is_below_none = open.count < 0;
            let was_below_none = std::mem::replace(&mut open.was_below_none, is_below_none);
            open.count != 0 && !(is_below_none && was_below_none)
        });
    }

    /// Everything that is kept.
    pub(super) fn exchanged(&self, now: Millis) -> Exchanged {
        let Some((first, last)) = self.slots.front().zip(self.slots.back()) else { return Exchanged::default() };
        let (partial, span) = (now.saturating_sub(last.begun), now.saturating_sub(first.begun));
        let mut pairs: HashMap<&Arc<Pair>, PairTraffic> = HashMap::new();
        for slot in &self.slots {
            let age = age(slot, last.begun);
            for (pair, cell) in &slot.pairs {
                let traffic = pairs.entry(pair).or_insert_with(|| PairTraffic {
                    pair: Arc::clone(pair),
                    protocol: Protocol::Http,
                    slots: [(0, 0); SLOTS],
                    buckets: [0; BUCKETS],
                    failures: BTreeMap::new(),
                });
                if let Some(of) = traffic.slots.get_mut(age) {
                    *of = (of.0 + cell.requests, of.1 + cell.failed);
                }
                if cell.grpc {
                    traffic.protocol = Protocol::Grpc;
                }
                traffic.buckets.iter_mut().zip(cell.buckets).for_each(|(all, more)| *all += more);
                cell.failures
                    .iter()
                    .for_each(|(how, count)| *traffic.failures.entry(how.clone()).or_default() += count);
            }
        }
        let left_out = self.slots.iter().map(|slot| slot.left_out).sum();
        Exchanged { partial, span, pairs: pairs.into_values().collect(), connections: self.connections(last), left_out }
    }

    fn connections(&self, last: &Slot) -> Vec<PairConnections> {
        let none =
            |pair: &Arc<Pair>| PairConnections { pair: Arc::clone(pair), open: 0, slots: [Carried::default(); SLOTS] };
        let mut all: HashMap<&Arc<Pair>, PairConnections> = HashMap::new();
        for slot in &self.slots {
            let age = age(slot, last.begun);
            for (pair, carried) in &slot.connections {
                if let Some(of) = all.entry(pair).or_insert_with(|| none(pair)).slots.get_mut(age) {
                    of.add(carried);
                }
            }
        }
        for (pair, open) in &self.open {
            all.entry(pair).or_insert_with(|| none(pair)).open = u64::try_from(open.count).unwrap_or(0);
        }
        all.into_values().collect()
    }
}

impl Carried {
    fn add(&mut self, more: &Self) {
        self.opened += more.opened;
        self.failed += more.failed;
        self.sent += more.sent;
        self.received += more.received;
    }
}

/// What is new of a series.
fn carried(before: &Totals, sum: &Totals) -> Carried {
    Carried {
        opened: sum.opened.saturating_sub(before.opened),
        failed: sum.nowhere.saturating_sub(before.nowhere),
        sent: sum.sent.saturating_sub(before.sent),
        received: sum.received.saturating_sub(before.received),
    }
}

/// The duration in milliseconds below which the share `q` of requests stayed, as Prometheus' `histogram_quantile` reckons it: evenly
/// within a bucket. `None` without requests.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts of requests are below 2^53")]
pub fn quantile(buckets: &[u64], q: f64) -> Option<f64> {
    let all = buckets.iter().fold(0_u64, |all, count| all.saturating_add(*count));
    if all == 0 {
        return None;
    }
    let (wanted, mut below, mut lower) = (q * all as f64, 0_u64, 0.0);
    for (bucket, count) in buckets.iter().enumerate() {
        let Some(upper) = BOUNDS.get(bucket) else { break };
        if *count > 0 && below.saturating_add(*count) as f64 >= wanted {
            return Some(lower + (upper - lower) * ((wanted - below as f64) / *count as f64).clamp(0.0, 1.0));
        }
        below = below.saturating_add(*count);
        lower = *upper;
    }
    Some(lower)
}

/// How many slots ago one began.
fn age(slot: &Slot, now: Millis) -> usize {
    usize::try_from(now.saturating_sub(slot.begun) / SLOT).unwrap_or(usize::MAX)
}

impl Slot {
    /// Adds what connections of a pair carried; false if there is no room for it.
    fn carry(&mut self, pair: &Arc<Pair>, carried: Carried) -> bool {
        let has_room = self.connections.len() < PAIRS || self.connections.contains_key(pair);
        if has_room {
            self.connections.entry(Arc::clone(pair)).or_default().add(&carried);
        } else {
            self.left_out += carried.opened;
        }
        has_room
    }

    fn add(&mut self, labels: &Labels, counts: &Counts) {
        if self.pairs.len() >= PAIRS && !self.pairs.contains_key(&labels.pair) {
            self.left_out += counts.count();
            return;
        }
        let cell = self.pairs.entry(Arc::clone(&labels.pair)).or_default();
        cell.grpc |= labels.summary.protocol == Protocol::Grpc;
        cell.requests += counts.count();
        cell.buckets.iter_mut().zip(counts.buckets).for_each(|(all, more)| *all += more);
        if let Some(how) = failure(&labels.summary) {
            cell.failed += counts.count();
            if cell.failures.len() < FAILURES || cell.failures.contains_key(&how) {
                *cell.failures.entry(how).or_default() += counts.count();
            }
        }
    }
}

/// How a request failed, if it did: by a status of 500 and above, by a gRPC status that a server is to blame for, or by an answer that broke
/// off. A caller that went away is no failure.
fn failure(summary: &Summary) -> Option<String> {
    // UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS, as OpenTelemetry counts them.
    const SERVERS: [u8; 6] = [2, 4, 12, 13, 14, 15];
    let word = match summary.grpc_status {
        Some(status) if SERVERS.contains(&status) => format!("gRPC {status}"),
        Some(_) => return None,
        None if summary.code >= 500 || summary.is_cut() => summary.code.to_string(),
        None if summary.lacks_status() => format!("{} without gRPC status", summary.code),
        None => return None,
    };
    let flags = summary.flags.to_string();
    Some(if flags == "-" { word } else { format!("{word} {flags}") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Flags, Measures, Recorder, Reporter, Security, Workload};
    use std::time::Duration;

    fn recorder(family: &Arc<Family>, service: &str) -> Recorder {
        both(family, &Arc::new(connections::Family::new(1)), service)
    }

    fn none() -> connections::Family {
        connections::Family::new(1)
    }

    fn both(family: &Arc<Family>, connections: &Arc<connections::Family>, service: &str) -> Recorder {
        let unknown = Arc::new(Workload::unknown());
        let pair = Pair {
            reporter: Reporter::Source,
            source: Arc::clone(&unknown),
            destination: unknown,
            service: service.into(),
            service_name: service.into(),
            service_namespace: "shop".into(),
            security: Security::Unknown,
        };
        Recorder::new(Arc::clone(family), Arc::clone(connections), 0, Arc::new(pair))
    }

    fn count(recorder: &Recorder, code: u16, flags: Flags) {
        let summary = Summary { protocol: Protocol::Http, code, grpc_status: None, flags };
        recorder.record(summary, &Measures { duration: Duration::from_millis(3), ..Measures::default() }, None);
    }

    #[test]
    fn what_was_asked_stands_in_its_slot_and_goes_with_it() {
        let (family, mut traffic) = (Arc::new(Family::new(1)), Traffic::default());
        let cart = recorder(&family, "cart");
        count(&cart, 200, Flags::NONE);
        traffic.take(&family, &none(), 1_000);
        count(&cart, 503, Flags::UH);
        count(&cart, 404, Flags::NONE);
        traffic.take(&family, &none(), 1_000 + SLOT);
        let seen = traffic.exchanged(1_000 + SLOT + 500);
        assert_eq!((seen.partial, seen.span, seen.pairs.len()), (500, SLOT + 500, 1));
        let pair = &seen.pairs[0];
        assert_eq!((pair.slots[0], pair.slots[1], pair.slots[2]), ((2, 1), (1, 0), (0, 0)));
        assert_eq!((pair.buckets[2], pair.failures.get("503 UH")), (3, Some(&1)));
        // Nobody called for a while: the next slot begins where it should.
        traffic.take(&family, &none(), 1_000 + 4 * SLOT + 7);
        let seen = traffic.exchanged(1_000 + 4 * SLOT + 7);
        assert_eq!((seen.partial, seen.pairs[0].slots[3], seen.pairs[0].slots[4]), (7, (2, 1), (1, 0)));
        let end = 1_000 + SLOT * (SLOTS as Millis + 2);
        traffic.take(&family, &none(), end);
        assert!(traffic.exchanged(end).pairs.is_empty());
    }

    #[test]
    fn connections_stand_in_their_slot_and_open_ones_until_they_end() {
        let (family, connections) = (Arc::new(Family::new(1)), Arc::new(connections::Family::new(1)));
        let (db, mut traffic) = (both(&family, &connections, "db"), Traffic::default());
        let open = db.connection(Flags::NONE, None);
        open.opened();
        open.received(7);
        // What policy refuses has no flag.
        [Flags::UF, Flags::NONE].into_iter().for_each(|flags| db.connection(flags, None).led_nowhere());
        traffic.take(&family, &connections, 0);
        open.sent(5);
        traffic.take(&family, &connections, SLOT);
        let of = |traffic: &Traffic, now| traffic.exchanged(now).connections;
        let (now, before) =
            (Carried { sent: 5, ..Carried::default() }, Carried { opened: 3, failed: 2, sent: 0, received: 7 });
        let seen = of(&traffic, SLOT);
        assert_eq!((seen.len(), seen[0].open, seen[0].slots[0], seen[0].slots[1]), (1, 1, now, before));
        // Silent for longer than anything is kept: it goes on all the same.
        let late = SLOT * (SLOTS as Millis + 2);
        traffic.take(&family, &connections, late);
        assert_eq!(of(&traffic, late).iter().map(|pair| pair.open).collect::<Vec<_>>(), [1]);
        db.connection(Flags::DC, None).closed();
        traffic.take(&family, &connections, late + 1);
        assert_eq!(of(&traffic, late + 1)[0].open, 0, "its end is counted under another flag");
    }

    #[test]
    fn open_connections_are_reckoned_whatever_room_their_slot_has() {
        let (family, connections) = (Arc::new(Family::new(1)), Arc::new(connections::Family::new(1)));
        let mut traffic = Traffic::default();
        let connection = |service: &str| both(&family, &connections, service).connection(Flags::NONE, None);
        let open = |traffic: &Traffic| -> Vec<(String, u64)> {
            let seen = traffic.exchanged(SLOT).connections.into_iter().filter(|pair| pair.open > 0);
            seen.map(|pair| (pair.pair.service_name.to_string(), pair.open)).collect()
        };
        let early = connection("early");
        early.opened();
        traffic.take(&family, &connections, 0);
        for service in 0..PAIRS {
            let short = connection(&service.to_string());
            short.opened();
            short.closed();
        }
        // The slot is full from now on.
        traffic.take(&family, &connections, SLOT);
        let late = connection("late");
        late.opened();
        early.closed();
        traffic.take(&family, &connections, SLOT);
        assert_eq!(open(&traffic), [("late".to_owned(), 1)]);
        late.closed();
        traffic.take(&family, &connections, SLOT);
        assert_eq!(open(&traffic), []);
        assert!(traffic.open.is_empty(), "{:?}", traffic.open);
    }

    #[test]
    fn the_open_connections_of_so_many_pairs_are_reckoned() {
        let (family, connections) = (Arc::new(Family::new(1)), Arc::new(connections::Family::new(1)));
        let mut traffic = Traffic::default();
        let all: Vec<_> = (0..OPEN + 3)
            .map(|service| both(&family, &connections, &service.to_string()).connection(Flags::NONE, None))
            .collect();
        all.iter().for_each(|one| one.opened());
        traffic.take(&family, &connections, 0);
        assert_eq!((traffic.open.len(), traffic.exchanged(0).left_out), (OPEN, 3));
        all.iter().for_each(|one| one.closed());
        for _ in 0..2 {
            traffic.take(&family, &connections, 0);
            assert!(traffic.exchanged(0).connections.iter().all(|pair| pair.open == 0));
        }
        assert!(traffic.open.is_empty(), "{:?}", traffic.open);
    }

    #[test]
    fn pairs_without_room_are_counted() {
        let (family, mut traffic) = (Arc::new(Family::new(1)), Traffic::default());
        for service in 0..PAIRS + 3 {
            count(&recorder(&family, &service.to_string()), 200, Flags::NONE);
        }
        traffic.take(&family, &none(), 0);
        let seen = traffic.exchanged(0);
        assert_eq!((seen.pairs.len(), seen.left_out), (PAIRS, 3));
    }

    #[test]
    fn quantiles_lie_within_their_bucket() {
        let mut buckets = [0; BUCKETS];
        assert_eq!(quantile(&buckets, 0.5), None);
        buckets[2] = 10;
        assert_eq!((quantile(&buckets, 0.5), quantile(&buckets, 1.0)), (Some(3.0), Some(5.0)));
        buckets[BUCKETS - 1] = 90;
        assert_eq!(quantile(&buckets, 0.99), Some(3_600_000.0), "beyond the last bound nothing more is known");
    }

    #[test]
    fn servers_fail_and_callers_do_not() {
        let of = |code, grpc_status, flags| failure(&Summary { protocol: Protocol::Grpc, code, grpc_status, flags });
        assert_eq!(of(200, Some(14), Flags::UF.with(Flags::URX)), Some("gRPC 14 UF,URX".to_owned()));
        assert_eq!(of(200, Some(5), Flags::NONE), None);
        assert_eq!(of(500, None, Flags::NONE), Some("500".to_owned()));
        assert_eq!(of(0, None, Flags::DC), None);
    }

    #[test]
    fn an_answer_that_breaks_off_is_a_failure_unless_its_caller_left() {
        let of = |protocol, grpc_status, flags| failure(&Summary { protocol, code: 200, grpc_status, flags });
        let (http, grpc) = (Protocol::Http, Protocol::Grpc);
        for (flags, said) in [(Flags::UC, "200 UC"), (Flags::UT, "200 UT"), (Flags::UC.with(Flags::DI), "200 UC,DI")] {
            assert_eq!(of(http, None, flags).as_deref(), Some(said));
            assert_eq!(of(grpc, None, flags).as_deref(), Some(said));
        }
        assert_eq!(of(grpc, None, Flags::NONE).as_deref(), Some("200 without gRPC status"), "it ended in order");
        assert_eq!(of(grpc, None, Flags::SI).as_deref(), Some("200 without gRPC status SI"));
        for flags in [Flags::NONE, Flags::DC, Flags::SI] {
            assert_eq!(of(http, None, flags), None, "{flags}");
        }
        assert_eq!((of(grpc, None, Flags::DC), of(grpc, Some(0), Flags::UC)), (None, None));
        let refused = Summary { protocol: grpc, code: 403, grpc_status: None, flags: Flags::NONE };
        assert_eq!(failure(&refused), None, "by a server that speaks no gRPC, and not to blame");
    }
}
