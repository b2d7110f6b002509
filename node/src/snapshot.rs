//! The immutable world that a request reads.
