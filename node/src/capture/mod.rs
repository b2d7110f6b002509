//! Transparent capture: the kernel brings outgoing connections of local processes to the node (`skein capture on`), and those of other
//! machines to the ports of its services, and lets go of them by itself when nobody says any more that it should.
//!
//! One table of nftables, `inet skein`, is all there is of it: rules, who guards it, whether it was confirmed. [`Rules`] makes its text,
//! [`nft`] hands it to the program, [`guard()`] is the process that keeps it alive for as long as the node answers. The node itself needs
//! no privilege and touches no rule.

mod guard;
mod listening;
pub mod nft;
mod rules;

pub use guard::{Guard, LIFE, News, Question, guard};
pub use listening::{Listeners, is_open, listening, targets};
pub use rules::{Incoming, MACHINE_SERVICES, Outgoing, Rules};
