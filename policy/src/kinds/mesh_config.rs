//! `MeshConfig`: defaults of the whole mesh.

use crate::{decode::At, parse::Metadata};

/// `MeshConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct MeshConfig {}

impl MeshConfig {
    pub(crate) fn decode(spec: &At<'_>, _metadata: &Metadata) -> Option<Self> {
        let fields = spec.fields()?;
        fields.finish();
        Some(Self {})
    }
}
