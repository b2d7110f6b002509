//! A block of IP addresses, or one address.

use std::net::IpAddr;

use crate::{codes, decode::At};

/// `172.16.0.0/16`, `2001:db8::/32`, or one address (all its bits count). Bits behind the prefix say nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressBlock {
    /// The address as it was written.
    pub address: IpAddr,
    /// How many leading bits count: 0 to 32, or 0 to 128.
    pub prefix: u8,
}

impl AddressBlock {
    pub(super) fn decode(at: &At<'_>, text: &str) -> Option<Self> {
        let block = Self::parse(text);
        if block.is_none() {
            let what = if text.contains('/') { "CIDR block" } else { "IP" };
            at.error_as_istio(codes::ADDRESS, format!("{text} is not a valid {what}"), "write 10.0.0.0/8 or 10.1.2.3");
        }
        block
    }

    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().ok()?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits,
            Some(digits) if digits == "0" || !digits.starts_with(['0', '+']) => digits.parse().ok()?,
            Some(_) => return None,
        };
        (prefix <= bits).then_some(Self { address, prefix })
    }

    /// True if the address is one of the block's.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let differing = u32::from(own) ^ u32::from(other);
                u32::from(self.prefix) <= differing.leading_zeros()
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let differing = u128::from(own) ^ u128::from(other);
                u32::from(self.prefix) <= differing.leading_zeros()
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_and_contain_addresses() {
        for (block, address, inside) in [
            ("172.16.9.9/16", "172.16.0.1", true),
            ("172.16.9.9/16", "172.17.0.1", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.2", false),
            ("0.0.0.0/0", "255.255.255.255", true),
            ("2001:db8::/33", "2001:db8:7fff::1", true),
            ("2001:db8::/33", "2001:db8:8000::1", false),
            ("::/0", "1.2.3.4", false),
        ] {
            let parsed = AddressBlock::parse(block).unwrap();
            assert_eq!(parsed.contains(address.parse().unwrap()), inside, "{block} {address}");
        }
        for bad in
            ["", "/", "1.1.1.1/33", "::/129", "1.1.1/8", "1.1.1.1/08", "1.1.1.1/+8", "1.1.1.1/8/8", "a/8", "1.1.1.1/"]
        {
            assert_eq!(AddressBlock::parse(bad), None, "{bad}");
        }
    }
}
