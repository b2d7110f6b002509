//! HTTP/1 and HTTP/2 at the edges of the proxy.

mod guard;
mod strict;
