use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// A quantity in thousandths, rounded up as upstream's `MilliValue`; `None` when it is no quantity.
pub(crate) fn milli(text: &str) -> Option<i128> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (negative, number) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let below = 10_i128.checked_pow(fraction.len() as u32)?;
    let (times, over) = match suffix {
        "" => (1000, 1),
        "n" => (1, 1_000_000),
        "u" => (1, 1000),
        "m" => (1, 1),
        "k" => (1_000_000, 1),
        "M" => (1_000_000_000, 1),
        "G" => (1_000_000_000_000, 1),
        "T" => (1_000_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000_000, 1),
        "Ki" => (1000 << 10, 1),
        "Mi" => (1000 << 20, 1),
        "Gi" => (1000_i128 << 30, 1),
        "Ti" => (1000_i128 << 40, 1),
        "Pi" => (1000_i128 << 50, 1),
        "Ei" => (1000_i128 << 60, 1),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            if power >= 0 {
                (1000 * 10_i128.checked_pow(power as u32)?, 1)
            } else {
                (1000, 10_i128.checked_pow(power.unsigned_abs())?)
            }
        }
    };
    let (value, divisor) = (digits.checked_mul(times)?, below.checked_mul(over)?);
    let rounded = value.div_euclid(divisor) + i128::from(value.rem_euclid(divisor) != 0);
    Some(if negative { -rounded } else { rounded })
}

/// A quantity in thousandths; 0 when it is no quantity.
pub(crate) fn milli_of(quantity: &Quantity) -> i128 {
    milli(&quantity.0).unwrap_or_default()
}

/// A quantity in whole units, rounded up; 0 when it is no quantity.
pub(crate) fn value_of(quantity: &Quantity) -> i64 {
    let milli = milli_of(quantity);
    i64::try_from(milli.div_euclid(1000) + i128::from(milli.rem_euclid(1000) != 0)).unwrap_or(i64::MAX)
}

/// Bytes as a quantity, in `Ki` where that is exact.
pub(crate) fn bytes(value: u64) -> Quantity {
    Quantity(if value > 0 && value.is_multiple_of(1024) { format!("{}Ki", value / 1024) } else { value.to_string() })
}

/// So many whole units in canonical form, with suffixes of the kind that `like` has.
pub(crate) fn canonical(value: i128, like: &str) -> String {
    let (step, suffixes) = if like.trim_end().ends_with('i') && value >= 1024 {
        (1024, ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"])
    } else {
        (1000, ["", "k", "M", "G", "T", "P", "E"])
    };
    let (mut number, mut power) = (value, 0);
    while number != 0 && number % step == 0 && power + 1 < suffixes.len() {
        number /= step;
        power += 1;
    }
    format!("{number}{}", suffixes[power])
}

/// Thousandths of a CPU as a quantity.
pub(crate) fn millicores(value: i128) -> Quantity {
    Quantity(if value % 1000 == 0 { (value / 1000).to_string() } else { format!("{value}m") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_as_upstream() {
        for (text, expect) in [
            ("1", Some(1000)),
            ("100m", Some(100)),
            ("1.5", Some(1500)),
            ("0.1", Some(100)),
            ("1Ki", Some(1_024_000)),
            ("1.5Gi", Some(1_610_612_736_000)),
            ("1e3", Some(1_000_000)),
            ("5e-1", Some(500)),
            ("1n", Some(1)),
            ("-2", Some(-2000)),
            ("2k", Some(2_000_000)),
            ("", None),
            ("x", None),
            ("1Zi", None),
        ] {
            assert_eq!(milli(text), expect, "{text}");
        }
        assert_eq!(value_of(&Quantity("1500m".into())), 2);
        assert_eq!(bytes(2048).0, "2Ki");
        assert_eq!(bytes(1000).0, "1000");
        assert_eq!(millicores(2000).0, "2");
        for (value, like, expect) in [
            (1 << 20, "1024Ki", "1Mi"),
            (1536 << 20, "1.5Gi", "1536Mi"),
            (1000, "1Ki", "1k"),
            (1500, "1", "1500"),
            (2_000_000, "1M", "2M"),
            (1 << 20, "1", "1048576"),
            (0, "0", "0"),
        ] {
            assert_eq!(canonical(value, like), expect, "{value} like {like}");
        }
        assert_eq!(millicores(2500).0, "2500m");
    }
}
