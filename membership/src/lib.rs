//! Who is alive, and what they say of themselves: signed records, the View that they fold to, their spreading, and
//! each node's own judgement of the others. Everything but `gossip` is pure: time and chance come in as arguments.

mod accusers;
mod author;
pub mod body;
mod brief;
mod detector;
mod dial;
pub mod engine;
pub mod error;
mod fetch;
#[cfg(test)]
mod golden;
pub mod gossip;
mod ledger;
mod limit;
mod links;
pub mod message;
pub mod notary;
pub mod record;
mod rumor;
mod said;
pub mod sim;
pub mod statement;
#[cfg(test)]
mod testing;
pub mod view;
