//! Moments and lengths of time, as expressions and schemas write them.

use jiff::{SignedDuration, Timestamp, civil::Date, tz::TimeZone};

/// RFC 3339; also without seconds' fraction, with an offset or `Z`.
pub(crate) fn timestamp(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    // jiff takes more than RFC 3339: spaces, week dates, names of zones.
    let shape = bytes.len() >= 20
        && bytes[4] == b'-'
        && bytes[7] == b'-'
        && matches!(bytes[10], b'T' | b't')
        && bytes[13] == b':'
        && bytes[16] == b':'
        && !text.contains(['[', ' ']);
    if !shape {
        return None;
    }
    text.parse().ok().filter(in_range)
}

/// Years 1 to 9999.
pub(crate) fn in_range(timestamp: &Timestamp) -> bool {
    (-62_135_596_800..=253_402_300_799).contains(&timestamp.as_second())
}

/// A day, at its start in UTC.
pub(crate) fn date(text: &str) -> Option<Timestamp> {
    if text.len() != 10 {
        return None;
    }
    let date: Date = text.parse().ok()?;
    date.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

/// Go's notation: `1h2m3.5s`, also with a sign; the result in nanoseconds.
pub(crate) fn duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(whole.checked_mul(unit)?)?;
        let digits = &fraction[..fraction.len().min(18)];
        if !digits.is_empty() {
            let scale = 10_i128.pow(u32::try_from(digits.len()).ok()?);
            total = total.checked_add(digits.parse::<i128>().ok()?.checked_mul(unit)? / scale)?;
        }
        rest = tail;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// A duration as schemas allow it: Go's notation, or words such as `1 day` (`kube-openapi/pkg/validation/strfmt`).
pub(crate) fn schema_duration(text: &str) -> Option<i64> {
    if let Some(nanos) = duration(text) {
        return Some(nanos);
    }
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(split);
    let unit: i64 = match unit.trim().trim_end_matches('s') {
        "" => 1_000_000_000,
        "nano" => 1,
        "micro" | "u" => 1_000,
        "milli" | "m" => 1_000_000,
        "sec" | "second" => 1_000_000_000,
        "min" | "minute" => 60_000_000_000,
        "h" | "hr" | "hour" => 3_600_000_000_000,
        "d" | "day" => 86_400_000_000_000,
        "w" | "wk" | "week" => 604_800_000_000_000,
        _ => return None,
    };
    number.parse::<i64>().ok()?.checked_mul(unit)
}

/// A duration as `string()` writes it: seconds.
pub(crate) fn seconds(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let (whole, fraction) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    if fraction == 0 {
        return format!("{sign}{whole}s");
    }
    format!("{sign}{whole}.{}s", format!("{fraction:09}").trim_end_matches('0'))
}

/// A moment plus a length of time; none outside the years that there are.
pub(crate) fn add(timestamp: Timestamp, nanos: i64) -> Option<Timestamp> {
    timestamp.checked_add(SignedDuration::from_nanos(nanos)).ok().filter(in_range)
}

/// The time between two moments; none if that is too long to count in nanoseconds.
pub(crate) fn between(from: Timestamp, to: Timestamp) -> Option<i64> {
    i64::try_from(to.as_nanosecond() - from.as_nanosecond()).ok()
}

/// The zone of a getter: a name, or an offset such as `-08:00`.
pub(crate) fn zone(name: &str) -> Option<TimeZone> {
    if name == "UTC" || name.is_empty() {
        return Some(TimeZone::UTC);
    }
    let (sign, digits) = match name.as_bytes().first()? {
        b'-' => (-1, &name[1..]),
        b'+' => (1, &name[1..]),
        _ => (1, name),
    };
    if let Some((hours, minutes)) = digits.split_once(':') {
        let seconds = hours.parse::<i32>().ok()? * 3600 + minutes.parse::<i32>().ok()? * 60;
        return Some(TimeZone::fixed(jiff::tz::Offset::from_seconds(sign * seconds).ok()?));
    }
    TimeZone::get(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, wanted) in [
            ("0", Some(0)),
            ("1h2m3s4ms", Some(3_723_004_000_000)),
            ("-1.5s", Some(-1_500_000_000)),
            (".5m", Some(30_000_000_000)),
            ("1", None),
            ("", None),
            ("1d", None),
            ("s", None),
            ("9999999h", None),
        ] {
            assert_eq!(duration(text), wanted, "{text}");
        }
        assert_eq!(seconds(3_723_004_000_000), "3723.004s");
        assert_eq!(seconds(-60_000_000_000), "-60s");
        assert_eq!(schema_duration("2 days"), Some(172_800_000_000_000));
    }

    #[test]
    fn timestamps() {
        for (text, ok) in [
            ("2011-08-18T19:03:37.01+01:00", true),
            ("2011-08-18T19:03:37Z", true),
            ("2011-08-18", false),
            ("2011-08-18 19:03:37Z", false),
            ("0000-01-01T00:00:00Z", false),
            ("2011-13-18T19:03:37Z", false),
        ] {
            assert_eq!(timestamp(text).is_some(), ok, "{text}");
        }
    }
}
