//! The data planes of several nodes in one process: an application's bytes in, another application's bytes out.

mod applications;
mod authorization;
mod backend;
mod balancing;
mod bounds;
mod breaking;
mod client;
mod cors;
mod external;
mod external_grpc;
mod forwarding;
mod framing;
mod grpc;
mod http2;
mod limits;
mod mirroring;
mod outliers;
mod patience;
mod plaintext;
mod protocols;
mod routing;
mod standing;
mod tcp;
mod websockets;
mod windows;
mod world;
