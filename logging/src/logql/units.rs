//! Durations and byte sizes, as Go and Loki write them.

/// Seconds of `1h30m`, `250ms`, `1.5s`, `2d`.
pub(crate) fn duration_seconds(text: &str) -> Option<f64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0.0);
    }
    let mut seconds = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, after) = leading_number(rest)?;
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let unit = match &after[..end] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            "w" => 604_800.0,
            "y" => 31_536_000.0,
            _ => return None,
        };
        seconds += number * unit;
        rest = &after[end..];
    }
    Some(sign * seconds)
}

/// Bytes of `10KB`, `5.5MiB`, `42`.
pub(crate) fn bytes(text: &str) -> Option<f64> {
    let (number, unit) = leading_number(text)?;
    let unit = unit.trim().to_ascii_lowercase();
    let scale: f64 = match unit.as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "t" | "tb" => 1e12,
        "p" | "pb" => 1e15,
        "e" | "eb" => 1e18,
        "ki" | "kib" => 1024.0,
        "mi" | "mib" => 1_048_576.0,
        "gi" | "gib" => 1_073_741_824.0,
        "ti" | "tib" => 1_099_511_627_776.0,
        "pi" | "pib" => 1_125_899_906_842_624.0,
        "ei" | "eib" => 1_152_921_504_606_846_976.0,
        _ => return None,
    };
    Some(number * scale)
}

fn leading_number(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// A number as Prometheus and Loki print samples.
pub(crate) fn sample(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned()
    } else if value != 0.0 && !(1e-4..1e21).contains(&value.abs()) {
        let text = format!("{value:e}");
        match text.split_once('e') {
            Some((mantissa, exponent)) => {
                let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
                format!("{mantissa}e{sign}{digits:0>2}")
            }
            None => text,
        }
    } else {
        format!("{value}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_sizes_and_samples() {
        for (text, seconds) in [("1h30m", Some(5400.0)), ("250ms", Some(0.25)), ("2d", Some(172_800.0)), ("5", None), ("x", None)]
        {
            assert_eq!(duration_seconds(text), seconds, "{text}");
        }
        for (text, size) in [("10KB", Some(1e4)), ("2 MiB", Some(2_097_152.0)), ("42", Some(42.0)), ("5m5", None)] {
            assert_eq!(bytes(text), size, "{text}");
        }
        for (value, text) in [(2.0, "2"), (0.1, "0.1"), (1e-7, "1e-07"), (1e21, "1e+21"), (f64::INFINITY, "+Inf")] {
            assert_eq!(sample(value), text);
        }
    }
}
