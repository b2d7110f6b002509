//! The same text in far fewer bytes, for who takes gzip.

use std::io::{self, Write as _};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::HeaderValue;

/// Whether `Accept-Encoding` takes gzip (RFC 9110, section 12.5.3). Without the header nothing is compressed, although it might be:
/// who wants that says so.
pub(super) fn is_accepted<'v>(values: impl IntoIterator<Item = &'v HeaderValue>) -> bool {
    let (mut named, mut any) = (None, None);
    for value in values.into_iter().filter_map(|value| value.to_str().ok()) {
        for coding in value.split(',') {
            let mut parts = coding.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
            let taken = weight.is_none_or(|weight| weight.parse::<f32>().is_ok_and(|weight| weight > 0.0));
            if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") {
                named = Some(taken);
            } else if name == "*" {
                any = Some(taken);
            }
        }
    }
    named.or(any).unwrap_or(false)
}

/// Compresses pieces of text one by one, as they are asked for. One that comes out empty is told by a later one.
pub(super) struct Pieces<I> {
    /// `None` once the last was taken.
    under_way: Option<(I, GzEncoder<Vec<u8>>)>,
}

impl<I> Pieces<I> {
    pub(super) fn new(pieces: I) -> Self {
        // The text repeats itself so much that more effort gains little.
        Self { under_way: Some((pieces, GzEncoder::new(Vec::new(), Compression::fast()))) }
    }
}

impl<I: Iterator<Item = io::Result<String>>> Iterator for Pieces<I> {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        let (mut pieces, mut encoder) = self.under_way.take()?;
        match pieces.next() {
            Some(Ok(piece)) => match encoder.write_all(piece.as_bytes()) {
                Ok(()) => {
                    let out = std::mem::take(encoder.get_mut());
                    self.under_way = Some((pieces, encoder));
                    Some(Ok(out.into()))
                }
                Err(error) => Some(Err(error)),
            },
            // Without its end the reader knows that something is missing.
            Some(Err(error)) => Some(Err(error)),
            None => Some(encoder.finish().map(Bytes::from)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use std::io::Read as _;

    #[test]
    fn who_takes_it_says_so() {
        for (header, taken) in [
            ("gzip", true),
            ("gzip;q=1.0", true),
            ("br, GZIP ; q=0.2", true),
            ("identity;q=1, *;q=0.5", true),
            ("*", true),
            ("gzip;q=0", false),
            ("*;q=1, gzip;q=0", false),
            ("gzip;q=0.0, *", false),
            ("*;q=0", false),
            ("deflate, br", false),
            ("gzip;q=x", false),
            ("", false),
        ] {
            assert_eq!(is_accepted([&HeaderValue::from_static(header)]), taken, "{header}");
        }
        assert!(!is_accepted([]));
        assert!(is_accepted([&HeaderValue::from_static("br"), &HeaderValue::from_static("gzip")]));
    }

    #[test]
    fn what_comes_out_is_the_same_text_and_little_of_it_is_held() {
        let line =
            |number: usize| format!("istio_requests_total{{reporter=\"source\",service=\"s{number}\"}} {number}\n");
        let piece = |from: usize| (from..from + 1_000).map(line).collect::<String>();
        let texts: Vec<String> = (0..50).map(|number| piece(number * 1_000)).collect();
        let zipped: Vec<Bytes> = Pieces::new(texts.iter().cloned().map(Ok)).map(|piece| piece.unwrap()).collect();
        let all = zipped.concat();
        let mut text = String::new();
        GzDecoder::new(&all[..]).read_to_string(&mut text).unwrap();
        assert!(text == texts.concat() && all.len() < text.len() / 5, "{} of {}", all.len(), text.len());
        let largest = zipped.iter().map(Bytes::len).max().unwrap();
        assert!(largest <= 64 << 10, "{largest} at a time of {}", all.len());
    }

    #[test]
    fn an_answer_that_breaks_off_has_no_end() {
        let broken = [Ok("a".to_owned()), Err(io::Error::from(io::ErrorKind::TimedOut)), Ok("b".to_owned())];
        let mut pieces = Pieces::new(broken.into_iter());
        assert!(pieces.next().unwrap().is_ok());
        assert!(pieces.next().unwrap().is_err());
        assert!(pieces.next().is_none());
    }
}
