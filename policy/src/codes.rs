//! The stable codes of complaints, in one table.
