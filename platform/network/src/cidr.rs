use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// A range of addresses, such as `10.42.0.0/24`. The host bits are kept as they were given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    /// An address of the range.
    pub address: IpAddr,
    /// How many leading bits all its addresses share.
    pub prefix: u8,
}

/// A text that is no range.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a range of addresses such as 10.42.0.0/24")]
pub struct BadCidr(String);

// === impl Cidr ===

impl Cidr {
    /// The range of one address.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        Self { address, prefix: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// Whether it is of IPv4.
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// Whether an address lies in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4() && bits(address) & self.mask() == bits(self.address) & self.mask()
    }

    /// The first address: the network's.
    #[must_use]
    pub fn network(&self) -> IpAddr {
        self.address_of(bits(self.address) & self.mask())
    }

    /// The address that lies `offset` after the first, if that is still inside.
    #[must_use]
    pub fn nth(&self, offset: u128) -> Option<IpAddr> {
        let address = self.address_of((bits(self.address) & self.mask()).checked_add(offset)?);
        self.contains(address).then_some(address)
    }

    /// How far an address of the range lies after the first.
    #[must_use]
    pub fn offset(&self, address: IpAddr) -> Option<u128> {
        self.contains(address).then(|| bits(address) & !self.mask())
    }

    /// The offset of the last address.
    #[must_use]
    pub fn last_offset(&self) -> u128 {
        !self.mask() & if self.is_ipv4() { u128::from(u32::MAX) } else { u128::MAX }
    }

    fn mask(&self) -> u128 {
        let host = u32::from(if self.is_ipv4() { 32 } else { 128 } - self.prefix);
        u128::MAX.checked_shl(host).unwrap_or(0)
    }

    fn address_of(&self, value: u128) -> IpAddr {
        if self.is_ipv4() { Ipv4Addr::from_bits(value as u32).into() } else { Ipv6Addr::from_bits(value).into() }
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl FromStr for Cidr {
    type Err = BadCidr;

    fn from_str(text: &str) -> Result<Self, BadCidr> {
        let bad = || BadCidr(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let prefix: u8 = prefix.parse().map_err(|_| bad())?;
        if prefix > if address.is_ipv4() { 32 } else { 128 } {
            return Err(bad());
        }
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_walked() {
        let range: Cidr = "10.42.3.9/24".parse().unwrap();
        assert_eq!(range.to_string(), "10.42.3.0/24");
        assert_eq!(range.nth(1).unwrap().to_string(), "10.42.3.1");
        assert_eq!(range.nth(256), None);
        assert_eq!(range.last_offset(), 255);
        assert!(range.contains("10.42.3.255".parse().unwrap()));
        assert!(!range.contains("10.42.4.0".parse().unwrap()));
        assert!(!range.contains("::1".parse().unwrap()));
        assert_eq!(range.offset("10.42.3.7".parse().unwrap()), Some(7));
        let range: Cidr = "fd00:1::/64".parse().unwrap();
        assert_eq!(range.nth(0x1_0001).unwrap().to_string(), "fd00:1::1:1");
        assert!("::/0".parse::<Cidr>().unwrap().contains("fd00::1".parse().unwrap()));
        assert!("0.0.0.0/0".parse::<Cidr>().unwrap().contains("1.2.3.4".parse().unwrap()));
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/-1", "::/129"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }
}
