//! Whoever has no identity of this mesh gets no byte through, from either side.
