//! IP addresses and ranges of them.
//!
//! `staging/src/k8s.io/apiserver/pkg/cel/library/{ip,cidr}.go`: no zones, no IPv4 mapped into IPv6, no leading zeros.

use std::{fmt, net::IpAddr};

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    bits: u8,
}

/// An address.
///
/// # Errors
///
/// Upstream's texts.
pub(crate) fn parse_ip(text: &str) -> Result<IpAddr, String> {
    let ip: IpAddr =
        text.parse().map_err(|_| format!("IP Address {text:?} parse error during conversion from string: {}", reason(text)))?;
    if text.contains('%') {
        return Err(format!("IP address {text:?} with zone value is not allowed"));
    }
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed")),
        ip => Ok(ip),
    }
}

fn reason(text: &str) -> String {
    format!("ParseAddr({text:?}): unable to parse IP")
}

impl Cidr {
    /// # Errors
    ///
    /// Upstream's texts.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let refuse = |why: &str| {
            let head = "network address parse error during conversion from string: network address parse error";
            format!("{head}: netip.ParsePrefix({text:?}): {why}")
        };
        let (address, bits) = text.split_once('/').ok_or_else(|| refuse("no '/'"))?;
        let address: IpAddr = address.parse().map_err(|_| refuse("unable to parse IP"))?;
        if matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
            return Err("IPv4-mapped IPv6 address is not allowed".to_owned());
        }
        let digits = !bits.is_empty() && bits.len() <= 3 && bits.bytes().all(|b| b.is_ascii_digit());
        if !digits || (bits.len() > 1 && bits.starts_with('0')) {
            return Err(refuse("bad bits after slash"));
        }
        let bits: u8 = bits.parse().map_err(|_| refuse("prefix length out of range"))?;
        if bits > width(address) {
            return Err(refuse("prefix length out of range"));
        }
        Ok(Self { address, bits })
    }

    /// The address as written.
    pub(crate) fn network(&self) -> IpAddr {
        self.address
    }

    pub(crate) fn bits(&self) -> u8 {
        self.bits
    }

    /// The same range, with its first address.
    pub(crate) fn masked(&self) -> Self {
        Self { address: mask(self.address, self.bits), bits: self.bits }
    }

    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        self.address.is_ipv4() == ip.is_ipv4() && mask(ip, self.bits) == mask(self.address, self.bits)
    }

    pub(crate) fn contains_range(&self, other: &Self) -> bool {
        self.bits <= other.bits && self.contains(other.address)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn mask(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & mask).into())
        }
    }
}
