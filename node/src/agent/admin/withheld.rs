//! What the loopback port keeps back of documents: every local user may ask there, and some documents hold what signs.

use policy::{Kind, token};
use serde_json::Value;

/// A document without the parts of its inline keys by which whoever reads them could make tokens.
pub(super) fn withhold(mut document: Value) -> Value {
    if document.is_string() {
        // This build cannot read it, and so not tell what in it is secret.
        return Value::String("withheld: it cannot be read here".to_owned());
    }
    if document["kind"] == Kind::RequestAuthentication.to_string()
        && let Some(rules) = document.pointer_mut("/spec/jwtRules").and_then(Value::as_array_mut)
    {
        for keys in rules.iter_mut().filter_map(|rule| rule.get_mut("jwks")) {
            if let Some(public) = keys.as_str().and_then(token::public_part) {
                *keys = Value::String(public);
            }
        }
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_that_sign_are_kept_back_and_nothing_else() {
        let document = |keys: &str| {
            json!({"kind": "RequestAuthentication", "metadata": {"name": "users"},
                   "spec": {"jwtRules": [{"issuer": "i", "jwks": keys}, {"issuer": "j"}]}})
        };
        let public = r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AQ"}]}"#;
        assert_eq!(withhold(document(public)), document(public));
        let shown = withhold(document(r#"{"keys": [{"kty": "oct", "kid": "a", "k": "c2VjcmV0"}]}"#)).to_string();
        assert!(!shown.contains("c2VjcmV0") && shown.contains("kid"), "{shown}");
        let other = json!({"kind": "VirtualService", "spec": {"hosts": ["k"]}});
        assert_eq!(withhold(other.clone()), other);
        assert_ne!(withhold(json!("kind: RequestAuthentication, k: c2VjcmV0")), json!("c2VjcmV0"));
    }
}
