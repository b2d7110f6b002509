//! The enrolment exchange.
