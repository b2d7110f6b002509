//! Keys of tokens: what can sign does not belong where many read.

use super::{Check, Finding};
use crate::{
    codes,
    kinds::{RequestAuthentication, TokenKeys},
    token::KeySet,
};

impl Check<'_> {
    /// Keys within the document verify tokens and can make none.
    pub(super) fn token_keys(&mut self, policy: &RequestAuthentication) {
        for (index, rule) in policy.rules.iter().enumerate() {
            let TokenKeys::Inline(text) = &rule.keys else { continue };
            let signing = KeySet::read(text).map_or(0, |keys| keys.signing());
            if signing == 0 {
                continue;
            }
            let message =
                format!("{signing} of the keys can sign: every node and operator of the mesh could make tokens");
            let hint = "give public keys (RSA, EC, Ed25519), or let nodes fetch a secret one by `jwksUri`";
            let finding = Finding::warning(codes::SIGNING_KEYS, format!("spec.jwtRules[{index}].jwks"), message);
            self.say(finding.hint(hint));
        }
    }
}
