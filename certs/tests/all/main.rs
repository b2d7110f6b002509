//! The crate from outside: hostile chains, handshakes and the enrolment exchange.

mod enrolment;
mod forge;
mod handshake;
mod verifier;
mod world;
