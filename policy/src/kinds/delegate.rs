//! `Delegate`: the VirtualService whose rules stand in a rule's place.

use crate::{DocumentId, Kind, decode::At};

/// The name of a VirtualService without hosts, with the namespace filled in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DelegateName {
    /// Its namespace; that of the document that delegates, where it names none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl DelegateName {
    /// The document's id.
    pub fn id(&self) -> DocumentId {
        DocumentId::new(Kind::VirtualService, &self.namespace, &self.name)
    }

    pub(super) fn decode(at: &At<'_>, own: &str) -> Option<Self> {
        let fields = at.fields()?;
        let name = fields.required("name").and_then(|name| name.filled_text());
        let namespace = fields.get("namespace").and_then(|namespace| namespace.text());
        fields.finish();
        let namespace = namespace.filter(|namespace| !namespace.is_empty()).unwrap_or(own);
        Some(Self { namespace: namespace.to_owned(), name: name?.to_owned() })
    }
}
