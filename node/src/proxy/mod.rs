//! Reads the snapshot: requests in and out.
