//! A strict decoder over the node tree.
