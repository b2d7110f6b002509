//! What the socket, loopback and operators are offered.
