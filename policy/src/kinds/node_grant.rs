//! `NodeGrant`: what an operator lets a node be. The type is [`certs::grant::NodeGrant`].
