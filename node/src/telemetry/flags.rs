//! Envoy's response flags: the vocabulary of metrics and access logs.

use std::fmt;

/// Envoy's response flags of one request; shown as in its access log (`UF,URX`, or `-`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flags(u32);

impl Flags {
    /// Nothing to report.
    pub const NONE: Self = Self(0);
    /// No healthy upstream.
    pub const UH: Self = Self(1);
    /// Timeout of the route or of an attempt.
    pub const UT: Self = Self(1 << 1);
    /// Reset by the upstream.
    pub const UR: Self = Self(1 << 2);
    /// Connect failure.
    pub const UF: Self = Self(1 << 3);
    /// Connection ended by the upstream.
    pub const UC: Self = Self(1 << 4);
    /// Overflow of a limit.
    pub const UO: Self = Self(1 << 5);
    /// No route.
    pub const NR: Self = Self(1 << 6);
    /// Injected delay.
    pub const DI: Self = Self(1 << 7);
    /// Injected abort.
    pub const FI: Self = Self(1 << 8);
    /// A rate limit had no room.
    pub const RL: Self = Self(1 << 9);
    /// An external authoriser refused, or did not answer.
    pub const UAEX: Self = Self(1 << 10);
    /// The caller went away.
    pub const DC: Self = Self(1 << 11);
    /// Retries used up.
    pub const URX: Self = Self(1 << 12);
    /// Idle for too long.
    pub const SI: Self = Self(1 << 13);
    /// The request breaks the protocol.
    pub const DPE: Self = Self(1 << 14);
    /// The response breaks the protocol.
    pub const UPE: Self = Self(1 << 15);
    /// No cluster.
    pub const NC: Self = Self(1 << 16);
    /// A connection lasted longer than it may.
    pub const DT: Self = Self(1 << 17);
    /// A name that the request brought has no address.
    pub const DF: Self = Self(1 << 18);

    /// In the order in which Envoy prints them.
    pub(crate) const NAMES: [&str; 19] = [
        "UH", "UT", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX", "DC", "URX", "SI", "DPE", "UPE", "NC",
        "DT", "DF",
    ];

    /// Both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// True if any of those is among these.
    #[must_use]
    pub const fn has_any(self, of: Self) -> bool {
        self.0 & of.0 != 0
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("-");
        }
        let mut separator = "";
        for (bit, name) in Self::NAMES.iter().enumerate() {
            if self.0 & (1 << bit) != 0 {
                write!(f, "{separator}{name}")?;
                separator = ",";
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_print_as_in_envoys_log() {
        assert_eq!(Flags::NONE.to_string(), "-");
        assert_eq!(Flags::URX.with(Flags::UF).to_string(), "UF,URX");
        assert_eq!(Flags::NC.with(Flags::UAEX).to_string(), "UAEX,NC");
    }
}
