//! `PeerAuthentication`: whether a workload takes plaintext.

use crate::{decode::At, parse::Metadata};

/// `PeerAuthentication`.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerAuthentication {}

impl PeerAuthentication {
    pub(crate) fn decode(spec: &At<'_>, _metadata: &Metadata) -> Option<Self> {
        let fields = spec.fields()?;
        fields.finish();
        Some(Self {})
    }
}
