//! Who someone is, and who signed what.
//!
//! Pure: no sockets, no runtime and no clock. Time comes in as [`codec::Millis`]; everything that travels goes through [`codec`].

pub mod ca;
mod certificate;
pub mod codec;
mod der;
pub mod error;
pub mod foreign;
pub mod grant;
mod handshake;
pub mod id;
pub mod join;
mod pem;
pub mod redemption;
pub mod revoke;
pub mod root;
pub mod sealed;
pub mod sign;
mod template;
pub mod tls;
pub mod trust;
pub mod verify;
