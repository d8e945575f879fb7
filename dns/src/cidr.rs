use std::{net::IpAddr, str::FromStr};

/// A network: an address and how many of its leading bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cidr {
    pub address: IpAddr,
    pub prefix: u8,
}

impl FromStr for Cidr {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, prefix) = text.split_once('/').ok_or("not a network in CIDR notation")?;
        let address: IpAddr = address.parse().map_err(|_| "not an IP address")?;
        let prefix: u8 = prefix.parse().map_err(|_| "not a prefix length")?;
        if prefix > if address.is_ipv4() { 32 } else { 128 } {
            return Err("prefix too long");
        }
        Ok(Self { address, prefix })
    }
}

impl Cidr {
    /// Whether the network and the one of `octets`, `bits` long, overlap in all of the shorter prefix.
    pub(crate) fn covers(&self, octets: &[u8], bits: usize) -> bool {
        match self.address {
            IpAddr::V4(own) if octets.len() == 4 => same_bits(&own.octets(), octets, bits.min(self.prefix.into())),
            IpAddr::V6(own) if octets.len() == 16 => same_bits(&own.octets(), octets, bits.min(self.prefix.into())),
            _ => false,
        }
    }

    /// How many labels of a reverse name the network's zones have: octets of IPv4, nibbles of IPv6, rounded up.
    pub(crate) fn reverse_labels(&self) -> usize {
        let unit = if self.address.is_ipv4() { 8 } else { 4 };
        usize::from(self.prefix).div_ceil(unit)
    }
}

fn same_bits(a: &[u8], b: &[u8], bits: usize) -> bool {
    let (whole, rest) = (bits / 8, bits % 8);
    a[..whole] == b[..whole] && (rest == 0 || (a[whole] ^ b[whole]) >> (8 - rest) == 0)
}
