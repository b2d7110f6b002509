//! The only place that spawns.
