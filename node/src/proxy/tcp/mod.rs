//! Connections that carry bytes, whichever door they came through: how two of them are joined, what is counted of them, and what
//! the node of the called says before it passes anything on. [`super::outbound`] and [`super::inbound`] are its doors.

mod account;
mod answer;
mod relay;

pub(super) use account::Account;
pub(super) use answer::Answer;
pub(super) use relay::{End, Side, Spans, join, relay, silence};
