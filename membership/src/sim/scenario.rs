//! A scenario as people write it: how many nodes, what network, what happens when.

use std::collections::BTreeSet;

use serde::{Deserialize, de::Error as _};

use super::network::Repair;

/// Nodes of a pool at most: what one process holds.
pub const NODES: usize = 2_000;
/// Nodes of a zone at most, where a scenario has several.
pub const ZONE: usize = 500;
/// Nodes at most, where chitchat itself repairs.
pub const CHITCHATS: usize = 200;
/// Zones at most.
pub const ZONES: usize = 40;
/// From so long on, in milliseconds, links to a process that stands still would end.
const PAUSE_MS: u64 = 1_000;
/// The longest scenario in milliseconds.
const DURATION_MS: u64 = 24 * 3_600_000;

/// A whole scenario.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// How many, numbered from 0. Those that no `join` names run from the start.
    pub nodes: usize,
    /// Pools of equally many nodes, numbered one after the other, which only bridges join; 1 by default. News are put in the first.
    #[serde(default = "one")]
    pub zones: usize,
    /// Every path between bridges of two zones.
    #[serde(default)]
    pub between: Link,
    /// Decides everything that chance decides.
    #[serde(default)]
    pub seed: u64,
    /// How long it lasts.
    pub duration: Span,
    /// Bytes and CPU time are counted from here on; 0 by default.
    #[serde(default)]
    pub measure_from: Span,
    /// Bytes and CPU time are counted up to here; up to the end by default.
    #[serde(default)]
    pub measure_to: Option<Span>,
    /// Every path between two nodes.
    #[serde(default)]
    pub link: Link,
    /// Whether chitchat's twin repairs (true, the default), nothing (false), or chitchat itself (`"chitchat"`), of which chance is its
    /// own: such a scenario is played several times.
    #[serde(default, deserialize_with = "repair")]
    pub repair: Repair,
    /// Whether fresh records are told at once; true by default.
    #[serde(default = "yes")]
    pub rumors: bool,
    /// What happens, in any order.
    #[serde(default, rename = "event")]
    pub events: Vec<Happening>,
}

/// A path between two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// What every message takes at least; 1 ms by default.
    #[serde(default = "millisecond")]
    pub delay: Span,
    /// What it may take more; 0 by default.
    #[serde(default)]
    pub jitter: Span,
    /// The share of messages that get lost, from 0 to below 1.
    #[serde(default)]
    pub loss: f64,
}

/// Something that happens.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Happening {
    /// When.
    pub at: Span,
    /// What.
    #[serde(rename = "do")]
    pub what: What,
    /// To whom; not for `block`.
    #[serde(default)]
    pub nodes: Numbers,
    /// Whose messages are blocked.
    #[serde(default)]
    pub from: Numbers,
    /// Towards whom.
    #[serde(default)]
    pub to: Numbers,
    /// How long, below a second; for `pause` alone.
    #[serde(default, rename = "for")]
    pub lasts: Span,
}

/// What may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// The nodes start for the first time.
    Join,
    /// The nodes end without a word.
    Kill,
    /// The nodes end, if they run, and start with what their disks hold.
    Restart,
    /// The nodes stand still for a moment: what comes waits.
    Pause,
    /// Nothing gets from `from` to `to`; the other way it does.
    Block,
    /// Nothing passes between `nodes` and all others.
    Partition,
    /// Everything passes again.
    Heal,
    /// The nodes publish a new record.
    Put,
    /// The nodes say that they hold what was put last.
    Follow,
    /// From now on the nodes accuse everybody, deny that anybody answers, and pass nothing on.
    Lie,
}

/// A time in milliseconds, written as `250ms`, `10s`, `5m`, `1h`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub u64);

/// Numbers of nodes, written as `3`, `"0-9"` or a list of these.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Numbers(pub BTreeSet<usize>);

/// Why a scenario cannot be played.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {rule}")]
pub struct ScenarioError {
    /// Where.
    pub field: String,
    /// What must be so.
    pub rule: String,
}

impl Scenario {
    /// Whether it makes sense as a whole.
    ///
    /// # Errors
    /// The first field that does not.
    pub fn check(&self) -> Result<(), ScenarioError> {
        let refuse = |field: String, rule: String| Err(ScenarioError { field, rule });
        if self.zones == 0 || self.zones > ZONES {
            return refuse("zones".to_owned(), format!("from 1 to {ZONES}"));
        }
        if self.zones == 1 && (self.nodes == 0 || self.nodes > NODES) {
            return refuse("nodes".to_owned(), format!("from 1 to {NODES}: a larger mesh is `zones`"));
        }
        if self.repair == Repair::Chitchat && (self.zones > 1 || self.nodes > CHITCHATS) {
            return refuse(
                "repair".to_owned(),
                format!("chitchat itself plays in one zone of at most {CHITCHATS} nodes"),
            );
        }
        if self.zones > 1
            && (!self.nodes.is_multiple_of(self.zones) || !(4..=ZONE).contains(&(self.nodes / self.zones)))
        {
            return refuse("nodes".to_owned(), format!("as many in each zone, from 4 to {ZONE}"));
        }
        if self.between.loss > 0.0 {
            return refuse("between.loss".to_owned(), "bridges speak over links that lose nothing".to_owned());
        }
        if self.duration.0 == 0 || self.duration.0 > DURATION_MS {
            return refuse("duration".to_owned(), "above 0 and at most 24h".to_owned());
        }
        if self.measure_from >= self.duration {
            return refuse("measure_from".to_owned(), "before the end".to_owned());
        }
        if self.measure_to.is_some_and(|to| to <= self.measure_from || to > self.duration) {
            return refuse("measure_to".to_owned(), "after measure_from, at the end at the latest".to_owned());
        }
        if !(0.0..1.0).contains(&self.link.loss) {
            return refuse("link.loss".to_owned(), "from 0 to below 1".to_owned());
        }
        let mut joined = BTreeSet::new();
        for (index, event) in self.events.iter().enumerate() {
            let field = |name: &str| format!("event {}: {name}", index + 1);
            if event.what == What::Join
                && let Some(number) = event.nodes.0.iter().find(|number| !joined.insert(**number))
            {
                return refuse(field("nodes"), format!("{number} joins once: `restart` starts it anew"));
            }
            if event.at >= self.duration {
                return refuse(field("at"), "before the end".to_owned());
            }
            match (event.what == What::Pause, event.lasts.0) {
                (true, 0) => return refuse(field("for"), "how long the nodes stand still".to_owned()),
                (true, PAUSE_MS..) => {
                    let rule = "below 1s: links to a process that stands still for longer end, and these do not";
                    return refuse(field("for"), rule.to_owned());
                }
                (false, 1..) => return refuse(field("for"), "does not belong to this event".to_owned()),
                (true, _) | (false, 0) => {}
            }
            for (name, numbers, wanted) in [
                ("nodes", &event.nodes, !matches!(event.what, What::Block | What::Heal)),
                ("from", &event.from, event.what == What::Block),
                ("to", &event.to, event.what == What::Block),
            ] {
                if wanted == numbers.0.is_empty() {
                    let rule = if wanted { "names at least one node" } else { "does not belong to this event" };
                    return refuse(field(name), rule.to_owned());
                }
                if let Some(number) = numbers.0.iter().find(|number| **number >= self.nodes) {
                    return refuse(field(name), format!("{number} is none of the {} nodes from 0", self.nodes));
                }
            }
        }
        if self.zones > 1 {
            self.check_zones()?;
        }
        if self.starters().is_empty() && !self.events.iter().any(|event| event.what == What::Join) {
            return refuse("event".to_owned(), "somebody must run".to_owned());
        }
        Ok(())
    }

    /// What may happen among zones: each is played by itself, with what bridges of the first one told it.
    fn check_zones(&self) -> Result<(), ScenarioError> {
        let first = self.nodes / self.zones;
        for (index, event) in self.events.iter().enumerate() {
            let refuse = |name: &str, rule: &str| {
                Err(ScenarioError { field: format!("event {}: {name}", index + 1), rule: rule.to_owned() })
            };
            match event.what {
                What::Put | What::Follow | What::Lie if event.nodes.0.iter().any(|number| *number >= first) => {
                    return refuse("nodes", "of the first zone: its news go to the others");
                }
                What::Partition | What::Block | What::Heal => return refuse("do", "is for one pool"),
                What::Put | What::Follow | What::Lie | What::Join | What::Kill | What::Restart | What::Pause => {}
            }
        }
        Ok(())
    }

    /// One zone as a scenario of its own.
    pub(super) fn zone(&self, zone: usize) -> Scenario {
        let size = self.nodes / self.zones;
        let begin = zone * size;
        let mut events = Vec::new();
        for event in &self.events {
            let own = event.nodes.0.range(begin..begin + size).map(|number| number - begin).collect();
            let event = Happening { nodes: Numbers(own), ..event.clone() };
            events.extend(Some(event).filter(|event| !event.nodes.0.is_empty()));
        }
        let seed = self.seed.wrapping_mul(ZONES as u64).wrapping_add(zone as u64);
        Scenario { nodes: size, zones: 1, seed, events, ..self.clone() }
    }

    /// Those that run from the start.
    pub(super) fn starters(&self) -> BTreeSet<usize> {
        let joins = self.events.iter().filter(|event| event.what == What::Join);
        let later: BTreeSet<usize> = joins.flat_map(|event| event.nodes.0.iter().copied()).collect();
        (0..self.nodes).filter(|number| !later.contains(number)).collect()
    }
}

impl Default for Link {
    fn default() -> Link {
        Link { delay: millisecond(), jitter: Span(0), loss: 0.0 }
    }
}

fn repair<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Repair, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "true, false or \"chitchat\"")]
    enum Written {
        Whether(bool),
        Who(Who),
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Who {
        Chitchat,
    }
    Ok(match Written::deserialize(deserializer)? {
        Written::Whether(true) => Repair::Twin,
        Written::Whether(false) => Repair::Off,
        Written::Who(Who::Chitchat) => Repair::Chitchat,
    })
}

fn one() -> usize {
    1
}

fn yes() -> bool {
    true
}

fn millisecond() -> Span {
    Span(1)
}

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let unit = match &text[digits..] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(format!("`{text}` is no time such as 250ms, 10s, 5m or 1h")),
        };
        let number: u64 = text[..digits].parse().map_err(|_| format!("`{text}` has no number that fits"))?;
        number.checked_mul(unit).map(Span).ok_or_else(|| format!("`{text}` is too long"))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a number such as 3, a range such as \"0-9\", or a list of these")]
enum Written {
    One(usize),
    Range(String),
    List(Vec<Written>),
}

impl Written {
    fn add(&self, numbers: &mut BTreeSet<usize>) -> Result<(), String> {
        match self {
            Written::One(number) => {
                numbers.insert(*number);
            }
            Written::Range(text) => {
                let bounds =
                    text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
                let (first, last): (usize, usize) =
                    bounds.ok_or_else(|| format!("`{text}` is no range such as \"0-9\""))?;
                if first > last || last >= ZONE * ZONES {
                    return Err(format!("`{text}` does not rise, or leaves 0 to {}", ZONE * ZONES - 1));
                }
                numbers.extend(first..=last);
            }
            Written::List(list) => return list.iter().try_for_each(|one| one.add(numbers)),
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Numbers, D::Error> {
        let mut numbers = BTreeSet::new();
        Written::deserialize(deserializer)?.add(&mut numbers).map_err(D::Error::custom)?;
        Ok(Numbers(numbers))
    }
}
