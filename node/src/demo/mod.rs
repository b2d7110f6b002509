//! The demonstration mesh and its sample application.
