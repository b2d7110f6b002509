//! The choice of an endpoint, pure.
