//! `Telemetry`: metrics, logs and traces.

use crate::{decode::At, parse::Metadata};

/// `Telemetry`.
#[derive(Debug, Clone, PartialEq)]
pub struct Telemetry {}

impl Telemetry {
    pub(crate) fn decode(spec: &At<'_>, _metadata: &Metadata) -> Option<Self> {
        let fields = spec.fields()?;
        fields.finish();
        Some(Self {})
    }
}
