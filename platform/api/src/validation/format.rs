//! Formats of strings in custom resources, as `k8s.io/kube-openapi/pkg/validation/strfmt` knows them. Others are notes only.

use std::net::IpAddr;
use std::sync::LazyLock;

use regex::Regex;

use crate::names;

/// Whether a text is of a format. Dashes in a format's name are of no matter.
pub(super) fn fits(format: &str, text: &str) -> bool {
    match format {
        "bsonobjectid" => text.len() == 24 && hex(text),
        "uri" => is_uri(text),
        "email" => is_email(text),
        "hostname" => is_hostname(text),
        "ipv4" => text.contains('.') && text.parse::<IpAddr>().is_ok(),
        "ipv6" => text.contains(':') && text.parse::<IpAddr>().is_ok(),
        "cidr" => is_cidr(text),
        "mac" => is_mac(text),
        "uuid" => is_uuid(text, None, false),
        "uuid3" => is_uuid(text, Some(b'3'), false),
        "uuid4" => is_uuid(text, Some(b'4'), true),
        "uuid5" => is_uuid(text, Some(b'5'), true),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "creditcard" => is_credit_card(text),
        "ssn" => is_ssn(text),
        "hexcolor" => {
            let digits = text.strip_prefix('#').unwrap_or(text);
            matches!(digits.len(), 3 | 6) && hex(digits)
        }
        "rgbcolor" => is_rgb(text),
        "byte" => is_base64(text),
        "date" => is_date(text),
        "date-time" | "datetime" => is_date_time(text),
        "duration" => is_duration(text),
        "k8s-short-name" | "k8sshortname" => names::dns1123_label(text).is_empty(),
        "k8s-long-name" | "k8slongname" => names::dns1123_subdomain(text).is_empty(),
        _ => true,
    }
}

fn hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn digits(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

/// What Go's `url.ParseRequestURI` takes: an absolute path, or anything with a scheme.
fn is_uri(text: &str) -> bool {
    if text.is_empty() || text.bytes().any(|b| b < b' ' || b == 0x7f) {
        return false;
    }
    if text == "*" {
        return true;
    }
    let end = text.bytes().position(|b| !(b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.')));
    let (scheme, rest) = match end {
        Some(0) if text.starts_with(':') => return false,
        Some(end) if text.as_bytes()[end] == b':' && text.as_bytes()[0].is_ascii_alphabetic() => (&text[..end], &text[end + 1..]),
        _ => ("", text),
    };
    let rest = rest.split_once('?').map_or(rest, |(rest, _)| rest);
    if !rest.starts_with('/') {
        return !scheme.is_empty();
    }
    let path = match rest.strip_prefix("//").filter(|_| !scheme.is_empty()) {
        None => rest,
        Some(rest) => {
            let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
            if !is_authority(authority) {
                return false;
            }
            path
        }
    };
    escaped(path)
}

/// Whether each `%` has two hexadecimal digits.
fn escaped(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes
        .iter()
        .enumerate()
        .filter(|(_, b)| **b == b'%')
        .all(|(at, _)| bytes.get(at + 1..at + 3).is_some_and(|pair| pair.iter().all(u8::is_ascii_hexdigit)))
}

fn is_authority(text: &str) -> bool {
    let (user, host) = text.rsplit_once('@').map_or((None, text), |(user, host)| (Some(user), host));
    if let Some(user) = user {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&b);
        if !user.bytes().all(plain) || !escaped(user) {
            return false;
        }
    }
    let port = match host.strip_prefix('[') {
        Some(rest) => match rest.rsplit_once(']') {
            Some((_, port)) => port,
            None => return false,
        },
        None => host.rfind(':').map_or("", |at| &host[at..]),
    };
    let port = if port.is_empty() { Some("") } else { port.strip_prefix(':') };
    port.is_some_and(digits)
        && host.bytes().all(|b| !matches!(b, b' ' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}'))
        && escaped(host)
}

/// `user@example.com`, or `Name <user@example.com>`.
fn is_email(text: &str) -> bool {
    let text = text.trim_matches([' ', '\t']);
    let address = match text.strip_suffix('>').map(|rest| rest.rsplit_once('<')) {
        None => text,
        Some(Some((name, address))) if is_phrase(name.trim_matches([' ', '\t'])) => address,
        Some(_) => return false,
    };
    let Some((user, domain)) = address.rsplit_once('@') else { return false };
    let user_fits = match user.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"').is_some_and(is_quoted),
        None => is_dot_atom(user),
    };
    let domain_fits = match domain.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|ip| ip.parse::<IpAddr>().is_ok()),
        None => is_dot_atom(domain),
    };
    user_fits && domain_fits
}

fn is_atom(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b >= 0x80 || b"!#$%&'*+-/=?^_`{|}~".contains(&b))
}

fn is_dot_atom(text: &str) -> bool {
    text.split('.').all(is_atom)
}

/// The inside of a quoted string.
fn is_quoted(text: &str) -> bool {
    let mut escaped = false;
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return false,
            c if c.is_control() && c != '\t' => return false,
            _ => {}
        }
    }
    !escaped
}

fn is_phrase(text: &str) -> bool {
    match text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inside) => is_quoted(inside),
        None => text.split([' ', '\t']).all(|word| word.is_empty() || is_atom(&word.replace('.', "a"))),
    }
}

/// Labels of letters, digits and symbols; the last one of several has two of them at least.
fn is_hostname(text: &str) -> bool {
    let symbol = |c: char| match c.is_ascii() {
        true => c.is_ascii_alphanumeric() || matches!(c, '$' | '+' | '<' | '=' | '>' | '^' | '`' | '|' | '~'),
        false => !c.is_whitespace() && !c.is_control(),
    };
    if text.len() > 255 || text.split('.').any(|label| label.len() > 63) {
        return false;
    }
    let Some((head, last)) = text.rsplit_once('.') else {
        let mut rest = text.chars();
        let first = rest.next().is_some_and(symbol);
        let rest = rest.as_str();
        return first && rest.strip_prefix('-').unwrap_or(rest).chars().all(symbol);
    };
    let edges = |label: &str| label.chars().next().is_some_and(symbol) && label.chars().next_back().is_some_and(symbol);
    let inner = |label: &str| edges(label) && label.chars().all(|c| c == '-' || symbol(c));
    head.split('.').all(inner) && inner(last) && !last.contains("--") && last.chars().filter(|c| *c != '-').count() > 1
}

fn is_cidr(text: &str) -> bool {
    text.split_once('/').is_some_and(|(ip, bits)| {
        let most = match ip.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        !bits.is_empty() && digits(bits) && bits.parse::<u8>().is_ok_and(|bits| bits <= most)
    })
}

/// 6, 8 or 20 bytes: in pairs of digits after `:` or `-`, or in fours after `.`.
fn is_mac(text: &str) -> bool {
    let parts = |separator: char, size: usize| {
        let mut count = 0;
        let fit = text.split(separator).all(|part| {
            count += 1;
            part.len() == size && hex(part)
        });
        fit && matches!(count * size / 2, 6 | 8 | 20)
    };
    parts(':', 2) || parts('-', 2) || parts('.', 4)
}

/// Groups of 8, 4, 4, 4 and 12 digits, with dashes between them or not.
fn is_uuid(text: &str, version: Option<u8>, variant: bool) -> bool {
    let mut rest = text;
    for (index, size) in [8, 4, 4, 4, 12].into_iter().enumerate() {
        if index > 0 {
            rest = rest.strip_prefix('-').unwrap_or(rest);
        }
        let Some((group, tail)) = rest.split_at_checked(size) else { return false };
        let first = group.as_bytes()[0];
        let wrong = match index {
            2 => version.is_some_and(|version| version != first),
            3 => variant && !matches!(first, b'8' | b'9' | b'a' | b'b' | b'A' | b'B'),
            _ => false,
        };
        if wrong || !hex(group) {
            return false;
        }
        rest = tail;
    }
    rest.is_empty()
}

/// The digits of an ISBN, without what separates them.
fn isbn_digits(text: &str) -> impl Iterator<Item = char> + '_ {
    text.chars().filter(|c| !c.is_whitespace() && *c != '-')
}

fn is_isbn10(text: &str) -> bool {
    let (mut sum, mut count) = (0, 0_u32);
    for c in isbn_digits(text) {
        let value = match c {
            'X' if count == 9 => 10,
            c => match c.to_digit(10) {
                Some(value) => value,
                None => return false,
            },
        };
        count += 1;
        if count > 10 {
            return false;
        }
        sum += count * value;
    }
    count == 10 && sum % 11 == 0
}

fn is_isbn13(text: &str) -> bool {
    let (mut sum, mut count) = (0, 0_u32);
    for c in isbn_digits(text) {
        let Some(value) = c.to_digit(10) else { return false };
        count += 1;
        if count > 13 {
            return false;
        }
        sum += if count % 2 == 0 { 3 * value } else { value };
    }
    count == 13 && sum % 10 == 0
}

fn is_credit_card(text: &str) -> bool {
    static CARD: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            "^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|(?:222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12}\
             |6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35[0-9]{3})[0-9]{11}\
             |6[27][0-9]{14})$",
        )
        .expect("the pattern is constant and well formed")
    });
    let number: String = text.chars().filter(char::is_ascii_digit).collect();
    if !CARD.is_match(&number) {
        return false;
    }
    let sum: u32 = number
        .bytes()
        .rev()
        .enumerate()
        .map(|(at, b)| match u32::from(b - b'0') {
            digit if at % 2 == 0 => digit,
            digit if digit > 4 => digit * 2 - 9,
            digit => digit * 2,
        })
        .sum();
    sum.is_multiple_of(10)
}

fn is_ssn(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 11
        && bytes.iter().enumerate().all(|(at, b)| match at {
            3 | 6 => matches!(b, b'-' | b' '),
            _ => b.is_ascii_digit(),
        })
}

fn is_rgb(text: &str) -> bool {
    let Some(inside) = text.strip_prefix("rgb(").and_then(|rest| rest.strip_suffix(')')) else { return false };
    let mut count = 0;
    let fit = inside.split(',').all(|part| {
        count += 1;
        let part = part.trim();
        (part == "0" || !part.starts_with('0')) && !part.is_empty() && digits(part) && part.parse::<u8>().is_ok()
    });
    fit && count == 3
}

fn is_base64(text: &str) -> bool {
    let data = text.trim_end_matches('=');
    !text.is_empty()
        && text.len().is_multiple_of(4)
        && text.len() - data.len() <= 2
        && data.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
}

fn is_date(text: &str) -> bool {
    let part = |range: std::ops::Range<usize>| text.get(range).filter(|part| digits(part));
    let number = |range| part(range).and_then(|part| part.parse::<i16>().ok());
    let small = |range| part(range).and_then(|part| part.parse::<i8>().ok());
    let (Some(year), Some(month), Some(day)) = (number(0..4), small(5..7), small(8..10)) else { return false };
    let bytes = text.as_bytes();
    bytes.len() == 10 && bytes[4] == b'-' && bytes[7] == b'-' && jiff::civil::Date::new(year, month, day).is_ok()
}

/// RFC 3339, with letters of either case.
fn is_date_time(text: &str) -> bool {
    let Some((date, time)) = text.split_once(['t', 'T']) else { return false };
    let bytes = time.as_bytes();
    let two = |at: usize, most: u8| {
        let pair = time.get(at..at + 2).filter(|pair| digits(pair));
        pair.and_then(|pair| pair.parse::<u8>().ok()).is_some_and(|n| n <= most)
    };
    if !is_date(date) || bytes.len() < 9 || !two(0, 23) || !two(3, 59) || !two(6, 59) || bytes[2] != b':' || bytes[5] != b':' {
        return false;
    }
    let Some(rest) = time.get(8..) else { return false };
    let zone = match rest.strip_prefix('.') {
        None => rest,
        Some(fraction) => {
            let zone = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
            if zone.len() == fraction.len() {
                return false;
            }
            zone
        }
    };
    let offset = |zone: &str| {
        let bytes = zone.as_bytes();
        bytes.len() == 6
            && matches!(bytes[0], b'+' | b'-')
            && bytes[3] == b':'
            && [1, 2, 4, 5].iter().all(|at| bytes[*at].is_ascii_digit())
    };
    matches!(zone, "z" | "Z") || offset(zone)
}

/// A duration of Go, or numbers with units in words: `2 days 3 hours`.
fn is_duration(text: &str) -> bool {
    const UNITS: [&str; 12] = ["ns", "us", "µs", "ms", "s", "m", "h", "hr", "d", "w", "wk", "min"];
    const WORDS: [&str; 8] = ["nano", "micro", "milli", "sec", "min", "hour", "day", "week"];
    if crate::time::parse_go_duration(text).is_some() {
        return true;
    }
    let mut rest = text.trim();
    let mut known = false;
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let tail = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        if tail.len() == rest.len() {
            return false;
        }
        let tail = tail.trim_start();
        let after = tail.trim_start_matches(|c: char| c.is_ascii_alphabetic() || c == 'µ');
        let unit = tail[..tail.len() - after.len()].to_lowercase();
        if unit.is_empty() {
            return false;
        }
        known |= UNITS.contains(&unit.as_str()) || WORDS.iter().any(|word| unit.starts_with(word));
        rest = after.trim_start();
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        let table: [(&str, &[&str], &[&str]); 23] = [
            ("bsonobjectid", &["60a7903427a1e6666d2b998c"], &["60a790", "60a7903427a1e6666d2b998z"]),
            (
                "uri",
                &["http://a.b/c?d=e", "/a", "mailto:a", "http://[::1]:80/", "*"],
                &["", "a", "http://a b/", "http://a:x/", "/%z"],
            ),
            ("email", &["a@b", "a.b+c@d.e", "N M <a@b.c>", "\"a b\"@c"], &["", "a", "a@", "@b", "a..b@c", "a b@c"]),
            ("hostname", &["a", "ab", "a-b", "a.bc", "my-host.example.com"], &["", "-a", "a_b", "a.b", "a.-bc", "my-host-x"]),
            ("ipv4", &["1.2.3.4"], &["1.2.3", "::1", "01.2.3.4"]),
            ("ipv6", &["::1"], &["1.2.3.4", ":"]),
            ("cidr", &["1.2.3.4/8", "::/0"], &["1.2.3.4", "1.2.3.4/33", "1.2.3.4/+1"]),
            ("mac", &["01:02:03:04:05:06", "0102.0304.0506", "01-02-03-04-05-06-07-08"], &["01:02", "01:02:03:04:05-06"]),
            (
                "uuid",
                &["00000000-0000-0000-0000-000000000000", "A0000000000000000000000000000000"],
                &["0", "g0000000000000000000000000000000"],
            ),
            ("uuid3", &["00000000-0000-3000-0000-000000000000"], &["00000000-0000-4000-0000-000000000000"]),
            ("uuid4", &["00000000-0000-4000-a000-000000000000"], &["00000000-0000-4000-0000-000000000000"]),
            ("uuid5", &["00000000-0000-5000-8000-000000000000"], &["00000000-0000-4000-8000-000000000000"]),
            ("isbn", &["3836221195", "978-3-8362-2119-1"], &["1"]),
            ("isbn10", &["1-61729-085-8", "3-8362-2119-5", "3423214120"], &["3-423-21412-1", "978-3-8362-2119-1"]),
            ("isbn13", &["978-3-8362-2119-1"], &["978-3-8362-2119-0", "3836221195"]),
            ("creditcard", &["4111 1111 1111 1111", "378282246310005"], &["4111 1111 1111 1112", "1"]),
            ("ssn", &["111-11-1111", "111 11 1111"], &["111111111", "1111-1-1111"]),
            ("hexcolor", &["#fff", "FFFFFF"], &["#ff", "#ggg"]),
            ("rgbcolor", &["rgb(0, 1,255)"], &["rgb(256,0,0)", "rgb(0,0)", "rgb(00,0,0)"]),
            ("byte", &["ZWxpemFiZXRocG9zZXk=", "YWI="], &["", "a", "YQ=", "a==="]),
            ("date", &["2014-01-31"], &["2014-02-30", "14-1-1", "2014-01-31T"]),
            (
                "date-time",
                &["2014-12-15T08:00:00.000Z", "2011-08-18t19:03:37.000000000+01:00", "2014-12-15T19:30:20Z"],
                &["2014-12-15", "2014-12-15T24:00:00Z", "2014-12-15T08:00:00", "2014-12-15T08:00:00.Z"],
            ),
            ("duration", &["1h30m", "2 days", "3weeks 1 hr"], &["", "day", "1 fortnight", "-1 days"]),
        ];
        for (format, good, bad) in table {
            good.iter().for_each(|text| assert!(fits(format, text), "{format} {text:?}"));
            bad.iter().for_each(|text| assert!(!fits(format, text), "{format} {text:?}"));
        }
        assert!(fits("password", "") && fits("unheard-of", ""));
        assert!(fits("k8s-short-name", "a-b") && !fits("k8s-short-name", "a.b"));
        assert!(fits("k8s-long-name", "a.b") && !fits("k8s-long-name", "a_b"));
    }
}
