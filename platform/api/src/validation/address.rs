//! Addresses and blocks of them (`apimachinery/pkg/util/validation/ip.go`).

use std::net::IpAddr;

/// The address a text is, or what is wrong with it: no leading zeros, no IPv4 in IPv6.
pub(super) fn ip(text: &str) -> Result<IpAddr, &'static str> {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => Err("must not be an IPv4-mapped IPv6 address"),
        Ok(ip) => Ok(ip),
        Err(_) if sloppy(text) => Err("must not have leading 0s"),
        Err(_) => Err("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
    }
}

/// The block a text is, or what is wrong with it.
pub(super) fn cidr(text: &str) -> Result<(IpAddr, u8), &'static str> {
    const INVALID: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
    let (address, bits) = text.split_once('/').ok_or(INVALID)?;
    if bits.is_empty() || !bits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(INVALID);
    }
    let length: u8 = bits.parse().map_err(|_| INVALID)?;
    let Ok(ip) = address.parse::<IpAddr>() else {
        return Err(if sloppy(address) && length <= 32 { "must not have leading 0s in IP or prefix length" } else { INVALID });
    };
    if length > if ip.is_ipv4() { 32 } else { 128 } {
        return Err(INVALID);
    }
    if bits.len() > 1 && bits.starts_with('0') {
        return Err("must not have leading 0s in IP or prefix length");
    }
    if matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some()) {
        return Err("must not have an IPv4-mapped IPv6 address");
    }
    if masked(ip, length) != ip {
        return Err("must not have bits set beyond the prefix length");
    }
    Ok((ip, length))
}

/// The first address of the block of this length an address is in.
pub(super) fn masked(ip: IpAddr, length: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
            IpAddr::V4((u32::from(ip) & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
            IpAddr::V6((u128::from(ip) & mask).into())
        }
    }
}

/// Whether a text is an IPv4 address but for leading zeros.
fn sloppy(text: &str) -> bool {
    let mut parts = 0;
    let decimal = text.split('.').all(|part| {
        parts += 1;
        let digits = part.trim_start_matches('0');
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) && (digits.is_empty() || digits.parse::<u8>().is_ok())
    });
    decimal && parts == 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_blocks() {
        for (text, wanted) in [
            ("10.1.2.3", ""),
            ("2001:db8::1", ""),
            ("010.1.2.3", "must not have leading 0s"),
            ("::ffff:1.2.3.4", "must not be an IPv4-mapped IPv6 address"),
            ("300.1.2.3", "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
            ("", "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
        ] {
            assert_eq!(ip(text).err().unwrap_or_default(), wanted, "{text}");
        }
        let invalid = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        for (text, wanted) in [
            ("10.0.0.0/8", ""),
            ("0.0.0.0/0", ""),
            ("::/0", ""),
            ("2001:db8::/64", ""),
            ("10.0.0.1/8", "must not have bits set beyond the prefix length"),
            ("10.0.0.0/08", "must not have leading 0s in IP or prefix length"),
            ("010.0.0.0/8", "must not have leading 0s in IP or prefix length"),
            ("::ffff:10.0.0.0/104", "must not have an IPv4-mapped IPv6 address"),
            ("10.0.0.0", invalid),
            ("10.0.0.0/33", invalid),
            ("10.0.0.0/+8", invalid),
        ] {
            assert_eq!(cidr(text).err().unwrap_or_default(), wanted, "{text}");
        }
    }
}
