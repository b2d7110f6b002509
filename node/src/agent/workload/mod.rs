//! The SPIFFE Workload API: hands applications of this machine their own X.509-SVIDs and the trust bundle, over a Unix socket.
//!
//! Who asks is told by the kernel (SO_PEERCRED), whose identities those are by `[[service]] uids`. Each stream gets a leaf with a key
//! of its own, made for it and not kept, and another one at half of its life, when the roots change, or when what the caller may
//! have changes. Source: SPIFFE Workload API and Workload Endpoint.

mod authority;
mod door;
mod feed;
mod grpc;
mod message;

pub use door::{MODE, WorkloadApi};
