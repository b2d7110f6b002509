//! A node's name, cheap to compare.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
    sync::Arc,
};

use super::{NameError, name};

/// Bytes of a node's name that are kept beside it.
const PREFIX: usize = 8;

/// One machine's Skein process, as its operator named it.
#[derive(Clone)]
pub struct NodeId {
    /// The first eight bytes, the first one highest: most names differ there, so that tables of members are searched without a look at
    /// the texts, which lie elsewhere in memory.
    prefix: u64,
    text: Arc<str>,
}

impl NodeId {
    /// Checks and takes a node's name.
    pub fn new(text: &str) -> Result<NodeId, NameError> {
        let text = name("node name", text, text)?;
        let prefix = text.bytes().chain(std::iter::repeat(0)).take(PREFIX);
        Ok(NodeId { prefix: prefix.fold(0, |prefix, byte| prefix << 8 | u64::from(byte)), text })
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the prefix is all of it.
    fn is_short(&self) -> bool {
        self.text.len() <= PREFIX
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NodeId").field(&self.text).finish()
    }
}

impl PartialEq for NodeId {
    fn eq(&self, other: &NodeId) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for NodeId {}

impl PartialOrd for NodeId {
    fn partial_cmp(&self, other: &NodeId) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// As their texts: no name has a zero byte, so a prefix that a name does not fill is below all that begin with it.
impl Ord for NodeId {
    fn cmp(&self, other: &NodeId) -> Ordering {
        self.prefix.cmp(&other.prefix).then_with(|| {
            if self.is_short() && other.is_short() || Arc::ptr_eq(&self.text, &other.text) {
                Ordering::Equal
            } else {
                self.text.cmp(&other.text)
            }
        })
    }
}

impl Hash for NodeId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl FromStr for NodeId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<NodeId, NameError> {
        NodeId::new(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nodes_are_ordered_as_their_names(names in proptest::collection::vec("(node-)?[ab]([ab-]{0,9}[ab])?", 2)) {
            let [one, other] = [0, 1].map(|index| NodeId::new(&names[index]).unwrap());
            prop_assert_eq!(one.cmp(&other), names[0].cmp(&names[1]));
            prop_assert_eq!(one == other, names[0] == names[1]);
        }
    }
}
