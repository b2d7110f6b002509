//! Requests between nodes over a peer link: their kinds, bodies and limits.

use certs::{
    codec::{self, CodecError},
    id::{NodeId, ServiceName},
    sign::Digest,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::receipt::Standing;

/// [`Fetch`] -> [`Fetched`].
pub const FETCH: u16 = 1;
/// Nothing -> [`Buckets`].
pub const BUCKETS: u16 = 2;
/// [`Bucket`] -> [`Ids`].
pub const BUCKET: u16 = 3;
/// [`Ask`] -> [`Answer`].
pub const RECEIPT: u16 = 4;
/// [`Renew`] -> [`Renewed`].
pub const RENEW: u16 = 5;
/// [`Look`] -> [`super::local::Looked`].
pub const LOOK: u16 = 6;
/// Nothing -> nothing: how long a question and its answer take.
pub const PING: u16 = 7;
/// Nothing -> [`Paths`].
pub const PATHS: u16 = 8;
/// Nothing -> [`super::traffic::Said`]. (9 was the same without connections.)
pub const TRAFFIC: u16 = 13;
/// Nothing -> the address for scrapers, if there is one.
pub const SCRAPED: u16 = 11;
/// [`Recall`] -> by node a list of [`super::event::Noted`]. (10 was such a list of the asked node alone.)
pub const EVENTS: u16 = 12;
/// Nothing -> [`super::concerns::Concerns`].
pub const CONCERNS: u16 = 14;

/// Most bytes of a request's body.
pub const REQUEST_BYTES: usize = crate::mesh::peer::MAX_REQUEST;
/// Most bytes of a reply's body: below the link's own limit.
pub const REPLY_BYTES: usize = 6 << 20;
/// Bytes of changesets after which a reply is full; one more always fits.
pub const FETCH_BYTES: usize = 1 << 20;
/// Changesets that one request may ask for.
pub const FETCH_IDS: usize = 1000;

/// Asks for changesets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// Which, at most [`FETCH_IDS`].
    pub ids: Vec<Digest>,
}

/// As many as fit, in the order asked; what the node does not hold is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// Their bytes as they came.
    pub changesets: Vec<Vec<u8>>,
}

/// Digests of the 256 buckets of changesets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buckets {
    /// By the ids' first byte.
    pub digests: Vec<Digest>,
}

/// Asks for the ids of buckets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// First bytes.
    pub buckets: Vec<u8>,
}

/// The ids of buckets, at most [`IDS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    /// In any order.
    pub ids: Vec<Digest>,
}

/// Ids that one reply carries.
pub const IDS: usize = 30_000;

/// Asks where a changeset stands; whoever lacks it fetches it from the asker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Which.
    pub changeset: Digest,
    /// What the asker waits for.
    pub standing: Standing,
    /// How long the answer may take, milliseconds.
    pub patience_ms: u32,
}

/// A signed receipt, or none if the changeset did not come in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// [`super::receipt::Receipt`], signed.
    pub receipt: Option<Vec<u8>>,
}

/// Asks an enroller for a new node CA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renew {
    /// PKCS#10 request of the same CA key.
    pub request: Vec<u8>,
    /// Node CA, enroller CA, as they are: they show who redeemed the node's invite.
    pub chain: Vec<Vec<u8>>,
}

/// The new certificates, or why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Renewed {
    /// Node CA, enroller CA.
    Chain(Vec<Vec<u8>>),
    /// Code and message.
    Refused(String, String),
}

/// Asks an endpoint's owner to check it now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// The endpoint's service.
    pub service: ServiceName,
    /// The endpoint's instance.
    pub instance: Option<String>,
}

/// Asks what a node noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recall {
    /// Not before, Unix milliseconds by the clock of who noted it.
    pub since: u64,
    /// Also what it keeps of nodes that it does not see alive, as far as one reply holds it, the newest first.
    pub others: bool,
}

/// Whom a node has links with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paths {
    /// Each with the round trip in microseconds.
    pub paths: Vec<(NodeId, u64)>,
}

/// Reads a request's body.
///
/// # Errors
/// Not that, or too large.
pub fn request<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    codec::decode::<T, REQUEST_BYTES>(bytes)
}

/// Reads a reply's body.
///
/// # Errors
/// Not that, or too large.
pub fn reply<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    codec::decode::<T, REPLY_BYTES>(bytes)
}

/// Fills one reply with what was asked for: something of it always, so that asking again for the rest comes to an end.
pub fn fill<'a>(fetch: &Fetch, get: impl Fn(&Digest) -> Option<&'a [u8]>) -> Fetched {
    let (mut changesets, mut size) = (Vec::new(), 0);
    for bytes in fetch.ids.iter().take(FETCH_IDS).filter_map(get) {
        if size > 0 && size + bytes.len() > FETCH_BYTES {
            break;
        }
        size += bytes.len();
        changesets.push(bytes.to_vec());
    }
    Fetched { changesets }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        #[test]
        fn asking_for_the_rest_comes_to_an_end(sizes in proptest::collection::vec(0usize..2_500_000, 0..6)) {
            let held: Vec<_> = sizes.iter().enumerate().map(|(n, size)| (Digest::of(&[n as u8]), vec![n as u8; *size])).collect();
            let mut got = Vec::new();
            loop {
                let ids = held.iter().skip(got.len()).map(|(id, _)| *id).collect();
                let part = fill(&Fetch { ids }, |id| held.iter().find(|(own, _)| own == id).map(|(_, b)| b.as_slice()));
                prop_assert!(codec::encode(&part).len() <= REPLY_BYTES);
                if part.changesets.is_empty() {
                    break;
                }
                got.extend(part.changesets);
            }
            prop_assert_eq!(got, held.into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>());
        }
    }
}
