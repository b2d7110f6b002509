//! One header under several spellings: applications that read headers as CGI, WSGI and PHP do make one variable of `x-user` and `X_User`.

use http::{HeaderMap, HeaderName};

/// True if an application may take one name for the other. Both are in lower case.
#[must_use]
pub fn same(name: &str, known: &str) -> bool {
    name.len() == known.len() && begins(name, known)
}

/// True if an application may take the name for one that begins so. Both are in lower case.
#[must_use]
pub fn begins(name: &str, start: &str) -> bool {
    let folded = |byte: u8| if byte == b'_' { b'-' } else { byte };
    name.len() >= start.len() && name.bytes().zip(start.bytes()).all(|(one, other)| folded(one) == folded(other))
}

/// Removes a header under each of its spellings; true if there was one.
pub fn remove(headers: &mut HeaderMap, known: &HeaderName) -> bool {
    let removed: Vec<HeaderName> = headers.keys().filter(|name| same(name.as_str(), known.as_str())).cloned().collect();
    for name in &removed {
        headers.remove(name);
    }
    !removed.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn dashes_and_underscores_are_one() {
        assert!(same("x_user-id", "x-user_id") && same("x-user", "x-user"));
        assert!(!same("x_users", "x-user") && !same("x_use", "x-user") && !same("x.user", "x-user"));
        assert!(begins("x_skein_source", "x-skein-") && begins("x-skein-", "x-skein-"));
        assert!(!begins("x_skein", "x-skein-") && !begins("x_skeins-a", "x-skein-"));
    }

    #[test]
    fn every_spelling_goes_and_nothing_else() {
        let names = ["x-user", "x_user", "x_users", "xuser"].map(HeaderName::from_static);
        let mut headers = HeaderMap::from_iter(names.map(|name| (name, HeaderValue::from_static("root"))));
        assert!(remove(&mut headers, &HeaderName::from_static("x-user")));
        assert!(!remove(&mut headers, &HeaderName::from_static("x-user")));
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["x_users", "xuser"]);
    }
}
