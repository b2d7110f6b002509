//! Nodes with places.
