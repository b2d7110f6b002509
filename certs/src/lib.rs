//! Who someone is, and who signed what.
