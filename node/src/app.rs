//! Builds and wires everything, nothing else.
