//! All shares of a node: which keys are asked about, what others say of them, what this node says itself. One task owns
//! it and closes a window every [`WINDOW_MS`]; requests see only the gates of [`MeshRule`].

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use super::{
    Key, Millis,
    keys::MeshRule,
    share::{MeshLimit, Mode, Said, WINDOW_MS},
};

/// Keys of which a node speaks at a time, of [`Mode::Split`]. The others keep their part of what is split equally.
pub const VOICES: usize = 512;
/// How many of these one rule may have.
pub const VOICES_EACH: usize = 256;
/// The same for [`Mode::Hard`], where each names those it gave to.
pub const HARD_VOICES: usize = 20;
/// For each node that shares a rule, this much time passes between two statements at least: so that nobody hears more
/// than a hundred a second.
const PAUSE_EACH_MS: Millis = 10;
/// The same for so many keys, whose statement takes one more record.
const PAUSE_KEYS_MS: Millis = 50;
const KEYS_A_RECORD: usize = 100;
/// What a node says is said again after this time, for whoever missed it;
const AGAIN_MS: Millis = 2_000;
/// that it has nothing to say, so often.
const AGAIN_NOTHING: u8 = 2;

/// A rule and service (`number`), and a key of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LimitId {
    /// [`MeshRule::number`].
    pub number: u64,
    /// The key's hash.
    pub key: u64,
}

impl LimitId {
    /// As it travels.
    #[must_use]
    pub fn bytes(self) -> [u8; 16] {
        (u128::from(self.number) << 64 | u128::from(self.key)).to_be_bytes()
    }

    /// What [`LimitId::bytes`] made.
    #[must_use]
    pub fn of(bytes: [u8; 16]) -> LimitId {
        let [number, key] = [0, 8].map(|begin| {
            let mut half = [0; 8];
            half.copy_from_slice(&bytes[begin..begin + 8]);
            u64::from_be_bytes(half)
        });
        LimitId { number, key }
    }
}

/// All that a node says; an entry with nothing is as good as none.
pub type Statement = BTreeMap<LimitId, Said>;

/// See the module.
#[derive(Debug)]
pub struct Shares {
    own: Key,
    pub(super) rules: BTreeMap<u64, Rule>,
    /// The newest statement of each other node, by rule and key; also of rules that are not known here yet.
    heard: BTreeMap<Key, HashMap<u64, HashMap<u64, Said>>>,
    /// What was said last, and when.
    said: Statement,
    said_at: Option<Millis>,
    /// How often it was said.
    said_times: u8,
}

#[derive(Debug)]
pub(super) struct Rule {
    pub(super) table: Arc<MeshRule>,
    nodes: Arc<BTreeSet<Key>>,
    pub(super) keys: BTreeMap<u64, Held>,
    spoken: HashSet<u64>,
}

/// A key that is asked about.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) index: usize,
    pub(super) limit: MeshLimit,
}

impl Shares {
    /// No rules yet. `own`: this node.
    #[must_use]
    pub fn new(own: Key) -> Shares {
        Shares {
            own,
            rules: BTreeMap::new(),
            heard: BTreeMap::new(),
            said: Statement::new(),
            said_at: None,
            said_times: 0,
        }
    }

    /// Whether there is nothing to do until rules come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.said.is_empty()
    }

    /// Sets the rules that this node enforces, each with all nodes that do, but for those that have left. What is known
    /// of a rule that stays is kept.
    pub fn set_rules(&mut self, rules: Vec<(Arc<MeshRule>, BTreeSet<Key>)>, now: Millis) {
        let mut before = std::mem::take(&mut self.rules);
        for (table, mut nodes) in rules {
            nodes.insert(Arc::clone(&self.own));
            let number = table.number();
            let known = before.remove(&number).filter(|rule| Arc::ptr_eq(&rule.table, &table));
            let mut rule = known.unwrap_or_else(|| Rule::new(table));
            if *rule.nodes != nodes {
                rule.set_nodes(Arc::new(nodes), now);
                rule.spoken_by(&self.heard);
            }
            self.rules.insert(number, rule);
        }
    }

    /// Another node has said this, which replaces all that it said before: nothing, if it has started anew.
    pub fn heard(&mut self, node: &Key, statement: Statement, now: Millis) {
        if *node == self.own {
            return;
        }
        let mut by_rule: HashMap<u64, HashMap<u64, Said>> = HashMap::new();
        for (id, said) in statement.into_iter().filter(|(_, said)| !said.is_nothing()) {
            by_rule.entry(id.number).or_default().insert(id.key, said);
        }
        // Whoever asks since the last window follows what comes now, too.
        for number in by_rule.keys() {
            if let Some(rule) = self.rules.get_mut(number) {
                rule.adopt(&self.own, &self.heard, now);
            }
        }
        let before = self.heard.remove(node).unwrap_or_default();
        let empty = HashMap::new();
        let mut changed = Vec::new();
        for number in before.keys().chain(by_rule.keys()).collect::<BTreeSet<_>>() {
            let Some(rule) = self.rules.get_mut(number) else { continue };
            let (old, new) = (before.get(number).unwrap_or(&empty), by_rule.get(number).unwrap_or(&empty));
            for (key, held) in rule.keys.iter_mut().filter(|(key, held)| rule.table.holds(held.index, **key)) {
                if old.get(key) != new.get(key) {
                    held.limit.heard(node, new.get(key).cloned().unwrap_or_default(), now);
                }
            }
            let others = old.len() != new.len() || old.keys().any(|key| !new.contains_key(key));
            changed.extend(others.then_some(*number));
        }
        if !by_rule.is_empty() {
            self.heard.insert(Arc::clone(node), by_rule);
        }
        for number in changed {
            if let Some(rule) = self.rules.get_mut(&number) {
                rule.spoken_by(&self.heard);
            }
        }
    }

    /// A window has ended; call it every [`WINDOW_MS`]. Returns all that this node says now, if the others are to hear it.
    pub fn close_window(&mut self, now: Millis) -> Option<Statement> {
        let pause = self.pause();
        let may_speak = self.said_at.is_none_or(|at| now.saturating_sub(at) >= pause);
        let mut voices = Voices::of(&self.rules);
        for rule in self.rules.values_mut() {
            rule.adopt(&self.own, &self.heard, now);
            rule.close_window(&mut voices, may_speak, now);
        }
        if !may_speak {
            return None;
        }
        let says = self.rules.iter().flat_map(|(number, rule)| rule.says(*number));
        let statement: Statement = says.collect();
        if statement == self.said {
            let late = self.said_at.is_some_and(|at| now.saturating_sub(at) >= AGAIN_MS);
            if !late || statement.is_empty() && self.said_times > AGAIN_NOTHING {
                return None;
            }
        } else {
            self.said_times = 0;
        }
        self.said_at = Some(now);
        self.said_times = self.said_times.saturating_add(1);
        self.said.clone_from(&statement);
        Some(statement)
    }

    /// Time between two statements at least. Later news bends no bound: this node's shares follow what it has said.
    fn pause(&self) -> Millis {
        let nodes = self.rules.values().map(|rule| rule.nodes.len()).max().unwrap_or(0) as Millis;
        let records = (self.said.len() / KEYS_A_RECORD + 1) as Millis;
        // Windows end when the task wakes up, give or take.
        (WINDOW_MS / 2).max(nodes * PAUSE_EACH_MS).max(records * PAUSE_KEYS_MS)
    }
}

impl Rule {
    fn new(table: Arc<MeshRule>) -> Rule {
        table.begin_shares();
        Rule { table, nodes: Arc::default(), keys: BTreeMap::new(), spoken: HashSet::new() }
    }

    fn set_nodes(&mut self, nodes: Arc<BTreeSet<Key>>, now: Millis) {
        self.table.set_nodes(nodes.len(), now.saturating_mul(1_000_000));
        // A key that made room has no say in its old gate, although it is forgotten only when the window ends.
        for (_, held) in self.keys.iter_mut().filter(|(key, held)| self.table.holds(held.index, **key)) {
            held.limit.set_nodes(Arc::clone(&nodes), now);
        }
        self.nodes = nodes;
    }

    /// Tells the table of which keys the others speak.
    fn spoken_by(&mut self, heard: &BTreeMap<Key, HashMap<u64, HashMap<u64, Said>>>) {
        let number = self.table.number();
        let said = self.nodes.iter().filter_map(|node| heard.get(node)?.get(&number));
        let spoken: HashSet<u64> = said.flat_map(HashMap::keys).copied().collect();
        if spoken != self.spoken {
            self.spoken.clone_from(&spoken);
            self.table.set_spoken(spoken);
        }
    }

    /// Takes the keys that are asked about since the last window.
    fn adopt(&mut self, own: &Key, heard: &BTreeMap<Key, HashMap<u64, HashMap<u64, Said>>>, now: Millis) {
        let (limit, mode, number) = (self.table.limit(), self.table.mode(), self.table.number());
        for (index, key, gate) in self.table.fresh() {
            let known = self.keys.get(&key).map(|held| held.index);
            if known.is_some_and(|known| known != index && self.table.holds(known, key)) {
                // Two workers met at the first request of this key, each at a slot. The known one may have given.
                self.table.clear(index, key);
                continue;
            }
            let nodes = Arc::clone(&self.nodes);
            let mut begun = MeshLimit::over(gate, Arc::clone(own), limit, mode, nodes, now);
            for (node, said) in heard {
                if let Some(said) = said.get(&number).and_then(|keys| keys.get(&key)) {
                    begun.heard(node, said.clone(), now);
                }
            }
            self.keys.insert(key, Held { index, limit: begun });
        }
    }

    fn close_window(&mut self, voices: &mut Voices, may_speak: bool, now: Millis) {
        let (table, mode) = (&self.table, self.table.mode());
        let mut each = self.keys.values().filter(|held| held.limit.speaks()).count();
        self.keys.retain(|key, held| {
            if !table.holds(held.index, *key) {
                return false;
            }
            let spoke = held.limit.speaks();
            let has_voice = spoke || each < VOICES_EACH && voices.left(mode) > 0;
            held.limit.close_window(now, may_speak && has_voice);
            if !spoke && held.limit.speaks() {
                each += 1;
                voices.take(mode);
            }
            if mode == Mode::Hard {
                table.pin(held.index, held.limit.speaks());
            }
            let idle = held.limit.is_idle(now);
            if idle {
                table.sleep(held.index);
            }
            !idle
        });
    }

    fn says(&self, number: u64) -> impl Iterator<Item = (LimitId, Said)> {
        let speaking = self.keys.iter().filter(|(_, held)| held.limit.speaks());
        speaking.map(move |(key, held)| (LimitId { number, key: *key }, held.limit.said()))
    }
}

/// How many more keys this node may speak of.
struct Voices {
    split: usize,
    hard: usize,
}

impl Voices {
    fn of(rules: &BTreeMap<u64, Rule>) -> Voices {
        let mut voices = Voices { split: VOICES, hard: HARD_VOICES };
        for rule in rules.values() {
            for _ in rule.keys.values().filter(|held| held.limit.speaks()) {
                voices.take(rule.table.mode());
            }
        }
        voices
    }

    const fn left(&self, mode: Mode) -> usize {
        match mode {
            Mode::Split => self.split,
            Mode::Hard => self.hard,
        }
    }

    const fn take(&mut self, mode: Mode) {
        match mode {
            Mode::Split => self.split = self.split.saturating_sub(1),
            Mode::Hard => self.hard = self.hard.saturating_sub(1),
        }
    }
}
