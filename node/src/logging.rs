//! Logs on standard error, as text or JSON.
