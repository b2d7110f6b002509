//! Authenticated streams between nodes.
