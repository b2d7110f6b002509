//! Real rustls handshakes in memory, one per conversation, and the strangers who get none.
