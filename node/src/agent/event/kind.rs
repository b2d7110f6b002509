//! What events may be of: the stable words that `node/docs/json.md` explains.

macro_rules! kinds {
    ($($kind:ident $word:literal,)*) => {
        /// What an event is of.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(missing_docs, reason = "each is its word, and node/docs/json.md says when it is noted")]
        pub enum Kind {
            $($kind,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &'static [Kind] = &[$(Kind::$kind,)*];

            /// As it is told and kept.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self {
                    $(Kind::$kind => $word,)*
                }
            }
        }
    };
}

kinds! {
    MemberAlive "member_alive",
    MemberSuspect "member_suspect",
    MemberDead "member_dead",
    MemberLeft "member_left",
    MemberEvicted "member_evicted",
    MemberGone "member_gone",
    MemberDraining "member_draining",
    MemberDrained "member_drained",
    Health "health",
    WorkerStuck "worker_stuck",
    EndpointEjected "endpoint_ejected",
    EndpointReturned "endpoint_returned",
    PolicyApplied "policy_applied",
    PolicyProposed "policy_proposed",
    PolicySigned "policy_signed",
    PolicyReverted "policy_reverted",
    PolicyRefused "policy_refused",
    CaughtUp "caught_up",
    RoleSet "role_set",
    RootPhase "root_phase",
    IdentityRenewed "identity_renewed",
    EnrollerRenewed "enroller_renewed",
    RenewalRefused "renewal_refused",
    TokenRefused "token_refused",
    TokenReused "token_reused",
    TokenBurnt "token_burnt",
    StoreRolledBack "store_rolled_back",
    Generation "generation",
    Clone "clone",
    Equivocation "equivocation",
    Reloaded "reloaded",
    Regrouped "regrouped",
    CaptureEnded "capture_ended",
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who reads events by their kinds finds each of them there, and no other.
    #[test]
    fn the_documentation_explains_each() {
        let text = include_str!("../../../docs/json.md");
        let part = text.split("### skein events").nth(1).and_then(|rest| rest.split("\n### ").next()).unwrap();
        let rows = part.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let all: Vec<&str> = Kind::ALL.iter().map(|kind| kind.word()).collect();
        assert_eq!(rows.collect::<Vec<_>>(), all);
    }
}
