//! The crate from outside: hostile chains, handshakes and the enrolment exchange.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod attacks;
mod enrolment;
mod forge;
mod handshake;
mod oracle;
mod property;
mod redemption;
mod surgery;
mod verifier;
mod world;
