//! Times and durations as Kubernetes writes them.
//!
//! `metav1.Time` has seconds, `metav1.MicroTime` microseconds; durations come as Go prints them (`1h2m3s`) and as the columns of
//! kubectl show them (`3d2h`). Dates come from the caller's clock.

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

/// Formats a `metav1.Time`: `2026-01-02T03:04:05Z`.
pub fn format(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Formats a `metav1.MicroTime`: `2026-01-02T03:04:05.000006Z`.
pub fn format_micro(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Parses RFC 3339 with any offset, with or without a fraction.
pub fn parse(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// The current time, to the second. Only for code at the edge that has no clock of its own.
pub fn now() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The age of something as kubectl's columns show it; `<unknown>` without a time, `<invalid>` for the future.
pub fn age(since: Option<&str>, now: Timestamp) -> String {
    match since.and_then(parse) {
        Some(at) => human(now.duration_since(at)),
        None => "<unknown>".to_owned(),
    }
}

/// How long until something, as kubectl's columns show it.
pub fn until(at: Option<&str>, now: Timestamp) -> String {
    match at.and_then(parse) {
        Some(at) => human(at.duration_since(now)),
        None => "<unknown>".to_owned(),
    }
}

/// A duration in at most two units (apimachinery's `duration.HumanDuration`).
pub fn human(duration: SignedDuration) -> String {
    let pair = |big: i64, big_unit: char, small: i64, small_unit: char| match small {
        0 => format!("{big}{big_unit}"),
        _ => format!("{big}{big_unit}{small}{small_unit}"),
    };
    let seconds = duration.as_secs();
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    match () {
        () if seconds < -1 => "<invalid>".to_owned(),
        () if seconds < 0 => "0s".to_owned(),
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => pair(minutes, 'm', seconds % 60, 's'),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => pair(hours, 'h', minutes % 60, 'm'),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 24 * 8 => pair(days, 'd', hours % 24, 'h'),
        () if hours < 24 * 365 * 2 => format!("{days}d"),
        () if hours < 24 * 365 * 8 => pair(days / 365, 'y', days % 365, 'd'),
        () => format!("{}y", days / 365),
    }
}

/// A duration as Go's `time.Duration` prints it: `1h2m3.5s`, `15ms`, `0s`.
pub fn go_duration(duration: SignedDuration) -> String {
    let nanos = duration.as_nanos();
    let (sign, n) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
    let decimal = |n: u128, unit: u128, digits: usize| {
        let (whole, rest) = (n / unit, n % unit);
        if rest == 0 { whole.to_string() } else { format!("{whole}.{}", format!("{rest:0digits$}").trim_end_matches('0')) }
    };
    match n {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{n}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", decimal(n, 1_000, 3)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", decimal(n, 1_000_000, 6)),
        _ => {
            let minutes = n / 60_000_000_000;
            let seconds = decimal(n % 60_000_000_000, 1_000_000_000, 9);
            match minutes {
                0 => format!("{sign}{seconds}s"),
                1..60 => format!("{sign}{minutes}m{seconds}s"),
                _ => format!("{sign}{}h{}m{seconds}s", minutes / 60, minutes % 60),
            }
        }
    }
}

/// Parses what Go's `time.ParseDuration` does: `1h30m`, `-1.5s`, `0`.
pub fn parse_go_duration(text: &str) -> Option<SignedDuration> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(SignedDuration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let fraction = &fraction[..fraction.len().min(15)];
        let part: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
        let part = part.checked_mul(scale)? / 10i128.pow(u32::try_from(fraction.len()).ok()?);
        nanos = nanos.checked_add(whole.checked_mul(scale)?.checked_add(part)?)?;
        rest = tail;
    }
    i64::try_from(if negative { -nanos } else { nanos }).ok().map(SignedDuration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let at = parse("2026-01-02T03:04:05.123456+01:00").unwrap();
        assert_eq!(format(at), "2026-01-02T02:04:05Z");
        assert_eq!(format_micro(at), "2026-01-02T02:04:05.123456Z");
        assert_eq!(format_micro(parse("2026-01-02T03:04:05Z").unwrap()), "2026-01-02T03:04:05.000000Z");
        assert_eq!(parse("yesterday"), None);
    }

    #[test]
    fn human_durations() {
        let cases = [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (121, "2m1s"),
            (599, "9m59s"),
            (600, "10m"),
            (3 * 3600 - 1, "179m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (8 * 3600, "8h"),
            (47 * 3600 + 3599, "47h"),
            (48 * 3600, "2d"),
            (50 * 3600, "2d2h"),
            (8 * 86400, "8d"),
            (2 * 365 * 86400, "2y"),
            (2 * 365 * 86400 + 86400, "2y1d"),
            (9 * 365 * 86400, "9y"),
        ];
        for (seconds, text) in cases {
            assert_eq!(human(SignedDuration::from_secs(seconds)), text, "{seconds}");
        }
    }

    #[test]
    fn go_durations() {
        for text in ["0s", "1ns", "1.5µs", "15ms", "1.5s", "1m0s", "2m3.25s", "1h0m0s", "27h46m40s", "-1.5s"] {
            assert_eq!(go_duration(parse_go_duration(text).unwrap()), text);
        }
        assert_eq!(go_duration(parse_go_duration("1h30m").unwrap()), "1h30m0s");
        for bad in ["", "1", "h", "1x", "1..5s", ".s"] {
            assert_eq!(parse_go_duration(bad), None, "{bad}");
        }
    }
}
