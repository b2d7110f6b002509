//! Who is signed in: a name in a cookie, believed as it is. It is a demonstration: whoever likes may be jason.

use http::{HeaderMap, HeaderValue, header};
use percent_encoding::percent_decode_str;

use super::call::END_USER;

const COOKIE: &str = "bookinfo-user";
/// Characters of a user's name.
const MAX_NAME: usize = 32;

/// The user who asks: by cookie, or by the header `end-user` for those who use curl.
pub(super) fn user(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let name = match pairs.find(|(name, _)| *name == COOKIE) {
        Some((_, name)) => name,
        None => headers.get(END_USER)?.to_str().ok()?,
    };
    valid(name).then(|| name.to_owned())
}

/// The name in a form's body, `username=jason`.
pub(super) fn from_form(body: &[u8]) -> Option<String> {
    let body = std::str::from_utf8(body).ok()?;
    let (_, name) = body.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == "username")?;
    let name = percent_decode_str(name).decode_utf8().ok()?;
    valid(&name).then(|| name.into_owned())
}

/// The `Set-Cookie` that signs in, or out.
pub(super) fn cookie(user: Option<&str>) -> HeaderValue {
    let value = match user {
        Some(user) => format!("{COOKIE}={user}; Path=/; HttpOnly; SameSite=Lax"),
        None => format!("{COOKIE}=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0"),
    };
    HeaderValue::from_str(&value).expect("a valid name is a valid header")
}

fn valid(name: &str) -> bool {
    let grammar = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.len() <= MAX_NAME && name.chars().all(grammar)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signing_in_and_out() {
        assert_eq!(from_form(b"passwd=x&username=jason").as_deref(), Some("jason"));
        assert_eq!(from_form(b"username=a%0d%0ab"), None);
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, HeaderValue::from_static("a=b; bookinfo-user=jason"));
        headers.insert(END_USER, HeaderValue::from_static("other"));
        assert_eq!(user(&headers).as_deref(), Some("jason"));
        headers.remove(header::COOKIE);
        assert_eq!(user(&headers).as_deref(), Some("other"));
    }
}
