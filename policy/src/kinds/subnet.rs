//! An IP address or a block of them in CIDR notation.

use std::{fmt, net::IpAddr, str::FromStr};

use crate::{codes, decode::At};

/// A block of addresses; a single one is a block of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subnet {
    address: IpAddr,
    /// Leading bits that count.
    length: u8,
}

impl Subnet {
    /// True if the address is one of the block. An IPv4 address inside IPv6 (`::ffff:10.0.0.1`) counts as IPv4, and a block of
    /// IPv6 holds the IPv4 addresses whose form inside IPv6 it holds.
    pub fn contains(&self, address: IpAddr) -> bool {
        let same = |own: u128, other: u128, width: u32| {
            (own ^ other).checked_shr(width - u32::from(self.length)).unwrap_or(0) == 0
        };
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => same(own.to_bits().into(), other.to_bits().into(), 32),
            (IpAddr::V6(own), IpAddr::V6(other)) => same(own.to_bits(), other.to_bits(), 128),
            (IpAddr::V6(own), IpAddr::V4(other)) => same(own.to_bits(), other.to_ipv6_mapped().to_bits(), 128),
            (IpAddr::V4(_), IpAddr::V6(_)) => false,
        }
    }

    /// True if every address of the other block is one of this.
    pub fn covers(&self, other: &Self) -> bool {
        self.length <= other.length && self.address.is_ipv4() == other.address.is_ipv4() && self.contains(other.address)
    }

    /// Leading bits that count: of two blocks with an address, the one with more of them is nearer to it.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// The address, if it is a block of one.
    pub fn only(&self) -> Option<IpAddr> {
        let bits = if self.address.is_ipv4() { 32 } else { 128 };
        (self.length == bits).then_some(self.address)
    }

    /// A list of blocks; what is none is a complaint.
    pub(super) fn decode_list(at: &At<'_>) -> Vec<Self> {
        let subnet = |(text, at): &(&str, At<'_>)| {
            let subnet = text.parse();
            if subnet.is_err() {
                let kind = if text.contains('/') { "CIDR block" } else { "IP" };
                at.error_as_istio(
                    codes::SUBNET,
                    format!("{text} is not a valid {kind}"),
                    "write it like 10.0.0.0/8 or 10.1.2.3",
                );
            }
            subnet.ok()
        };
        at.text_list().iter().filter_map(subnet).collect()
    }
}

/// Text that is neither an address nor a block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an IP address or CIDR block")]
pub struct NotASubnet;

impl FromStr for Subnet {
    type Err = NotASubnet;

    fn from_str(text: &str) -> Result<Self, NotASubnet> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NotASubnet)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => most,
            Some(text) if text == "0" || !text.starts_with(['0', '+']) => text.parse().map_err(|_| NotASubnet)?,
            Some(_) => return Err(NotASubnet),
        };
        if length > most { Err(NotASubnet) } else { Ok(Self { address, length }) }
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_hold_their_addresses() {
        for (block, address, inside) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.7/8", "10.1.1.1", true),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::/0", "2001:db8::1", true),
            ("::ffff:192.0.2.0/120", "192.0.2.1", true),
            ("::ffff:192.0.2.0/120", "198.51.100.1", false),
        ] {
            let subnet: Subnet = block.parse().unwrap();
            assert_eq!(subnet.contains(address.parse().unwrap()), inside, "{block} {address}");
        }
        for bad in [
            "",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/08",
            "ip1",
            "10.0.0/8",
            "::/129",
            "a/8",
            "10.0.0.0/8/8",
        ] {
            assert_eq!(bad.parse::<Subnet>(), Err(NotASubnet), "{bad}");
        }
    }

    #[test]
    fn wider_blocks_cover_narrower_ones() {
        for (block, other, covers) in [
            ("10.0.0.0/8", "10.1.0.0/16", true),
            ("10.0.0.0/8", "10.0.0.0/8", true),
            ("10.1.0.0/16", "10.0.0.0/8", false),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("::/0", "10.0.0.0/8", false),
            ("2001:db8::/32", "2001:db8:1::/48", true),
        ] {
            let (block, other): (Subnet, Subnet) = (block.parse().unwrap(), other.parse().unwrap());
            assert_eq!(block.covers(&other), covers, "{block} {other}");
        }
    }
}
