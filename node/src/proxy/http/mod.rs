//! HTTP/1 and HTTP/2 at the edges of the proxy.

mod ahead;
mod body_copy;
mod bounds;
mod budget;
mod frame_guard;
mod frames;
mod grpc_messages;
mod head;
mod incoming;
mod request_body;
mod request_source;
mod response_body;
mod windowed;

#[cfg(test)]
pub(super) use body_copy::Copier;
pub(super) use body_copy::{BodyCopy, Copying};
pub(super) use bounds::{Bounds, Side, patience};
pub(super) use budget::ReplayBudget;
pub(super) use frame_guard::FrameGuard;
pub(super) use grpc_messages::Messages;
pub(super) use head::{
    EXTERNAL_ADDRESS, FORWARDED_CLIENT_CERT, FORWARDED_FOR, REAL_ADDRESS, address_from_end, authority, is_grpc,
    is_proxys, join_cookies, normalize_path, strip_claims, strip_hop_by_hop, strip_identity, strip_own,
};
pub(super) use incoming::Incoming;
pub(super) use request_body::{Beginning, Completion, RequestBody, Upload};
pub(super) use request_source::Progress;
pub(super) use response_body::{BoxError, ResponseBody, Source, Ties};
pub(super) use windowed::Windowed;
