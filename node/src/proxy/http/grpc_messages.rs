//! Counts gRPC messages in a body as it passes. Each has a head of five bytes, the last four of which are its length.

/// Bytes of a message's head.
const HEAD: u8 = 5;

/// A body under way.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::proxy) struct Messages {
    count: u64,
    /// Bytes of the head that were seen.
    head: u8,
    length: u32,
    /// Bytes of the message that are to come.
    rest: u32,
}

impl Messages {
    /// Part of the body.
    pub(in crate::proxy) fn pass(&mut self, mut data: &[u8]) {
        while let Some((first, after)) = data.split_first() {
            if self.rest > 0 {
                let skipped = usize::try_from(self.rest).unwrap_or(usize::MAX).min(data.len());
                self.rest -= u32::try_from(skipped).unwrap_or(self.rest);
                data = &data[skipped..];
                continue;
            }
            // The first byte says whether the message is compressed.
            if self.head > 0 {
                self.length = self.length << 8 | u32::from(*first);
            }
            self.head += 1;
            if self.head == HEAD {
                self.count += 1;
                (self.head, self.rest, self.length) = (0, self.length, 0);
            }
            data = after;
        }
    }

    /// Messages that have begun.
    pub(in crate::proxy) const fn count(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn messages_are_counted_however_they_are_cut(
            lengths in proptest::collection::vec(0_usize..700, 0..6), cut in 1_usize..50,
        ) {
            let body: Vec<u8> = lengths.iter().flat_map(|length| {
                let head = [&[0][..], &u32::try_from(*length).unwrap().to_be_bytes()].concat();
                [head, vec![1; *length]].concat()
            }).collect();
            let mut messages = Messages::default();
            body.chunks(cut).for_each(|part| messages.pass(part));
            prop_assert_eq!(messages.count(), lengths.len() as u64);
        }

        #[test]
        fn what_is_no_message_is_skipped(body: Vec<u8>) {
            Messages::default().pass(&body);
        }
    }
}
