//! `resource.Quantity`: exact numbers with SI, binary or exponent suffixes.
//!
//! Upstream keeps nothing finer than a nano (it rounds away from zero) and nothing above 2^63-1, so a count of nanos in an `i128`
//! is exact for every quantity and for sums of billions of them.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::iter::Sum;
use std::ops::{Add, AddAssign, Mul, Neg, Sub, SubAssign};
use std::str::FromStr;

use serde_json::Value;

const NANO: i128 = 1_000_000_000;
const MAX: i128 = i64::MAX as i128 * NANO;

/// How a quantity is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `1500m`, `2k`, `3M`.
    #[default]
    DecimalSi,
    /// `4Ki`, `5Gi`.
    BinarySi,
    /// `6e3`.
    DecimalExponent,
}

/// An exact number and how to write it. Comparison looks at the number only.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Text that is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not of the general form.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The number is malformed.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// The suffix is unknown.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nanos: 0, format: Format::DecimalSi };

    /// A whole number.
    pub fn new(value: i64, format: Format) -> Self {
        Self { nanos: i128::from(value) * NANO, format }
    }

    /// A number of thousandths.
    pub fn from_milli(milli: i64, format: Format) -> Self {
        Self { nanos: i128::from(milli) * (NANO / 1000), format }
    }

    /// A number of billionths; capped as when parsed.
    pub fn from_nanos(nanos: i128, format: Format) -> Self {
        Self { nanos: nanos.clamp(-MAX, MAX), format }
    }

    /// Parses a quantity.
    ///
    /// # Errors
    /// Upstream's three.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let (negative, rest) = match text.as_bytes().first() {
            None => return Err(ParseError::Format),
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            Some(_) => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        if number.is_empty() || !suffix.chars().all(|c| "eEinumkKMGTP+-0123456789".contains(c)) {
            return Err(ParseError::Format);
        }
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(ParseError::Numeric);
        }
        let (ten, binary, mut format) = suffix_scale(suffix)?;
        let nanos = scaled(whole, fraction, ten, binary);
        if format == Format::BinarySi && nanos > 0 && nanos < NANO {
            format = Format::DecimalSi;
        }
        Ok(Self { nanos: if negative { -nanos } else { nanos }, format })
    }

    /// Parses a quantity in a JSON document: a string, or a bare number.
    ///
    /// # Errors
    /// Upstream's three; [`ParseError::Format`] for anything but a string or a number.
    pub fn from_value(value: &Value) -> Result<Self, ParseError> {
        match value {
            Value::String(text) => Self::parse(text.trim()),
            Value::Number(number) => Self::parse(&number.to_string()),
            Value::Null => Ok(Self::ZERO),
            _ => Err(ParseError::Format),
        }
    }

    /// How it is written.
    pub fn format(self) -> Format {
        self.format
    }

    /// The same number, written otherwise.
    pub fn with_format(self, format: Format) -> Self {
        Self { format, ..self }
    }

    /// Whole units, rounded away from zero (upstream's `Value()`).
    pub fn value(self) -> i64 {
        self.scaled_value(NANO)
    }

    /// Thousandths, rounded away from zero (upstream's `MilliValue()`).
    pub fn milli_value(self) -> i64 {
        self.scaled_value(NANO / 1000)
    }

    /// Billionths, exact.
    pub fn nanos(self) -> i128 {
        self.nanos
    }

    /// The nearest float.
    #[expect(clippy::cast_precision_loss, reason = "approximate by definition")]
    pub fn as_f64(self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    /// Whether it is zero.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Whether it is a whole number.
    pub fn is_integer(self) -> bool {
        self.nanos % NANO == 0
    }

    /// -1, 0 or 1.
    pub fn sign(self) -> i32 {
        match self.nanos.cmp(&0) {
            Ordering::Less => -1,
            Ordering::Equal => 0,
            Ordering::Greater => 1,
        }
    }

    fn scaled_value(self, unit: i128) -> i64 {
        let (whole, rest) = (self.nanos / unit, self.nanos % unit);
        let rounded = whole + rest.signum();
        i64::try_from(rounded).unwrap_or(if rounded < 0 { i64::MIN } else { i64::MAX })
    }
}

/// The powers of ten and of 1024 a suffix stands for.
fn suffix_scale(suffix: &str) -> Result<(i64, u32, Format), ParseError> {
    let decimal = |power| Ok((power, 0, Format::DecimalSi));
    let binary = |power| Ok((0, power, Format::BinarySi));
    match suffix {
        "" => decimal(0),
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => match suffix.strip_prefix(['e', 'E']) {
            Some(power) => power.parse().map(|power| (power, 0, Format::DecimalExponent)).map_err(|_| ParseError::Suffix),
            None => Err(ParseError::Suffix),
        },
    }
}

/// `whole.fraction * 10^ten * 1024^binary` in nanos, rounded up and capped.
fn scaled(whole: &str, fraction: &str, ten: i64, binary: u32) -> i128 {
    let whole = whole.trim_start_matches('0');
    let fraction = fraction.trim_end_matches('0');
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_start_matches('0');
    if significant.is_empty() {
        return 0;
    }
    // 26 digits are more than the 19 + 9 that matter only where the cap or the rounding decides; the rest rounds up.
    let kept = &significant[..significant.len().min(26)];
    let dropped = significant.len() - kept.len();
    let sticky = significant[kept.len()..].bytes().any(|b| b != b'0');
    let mantissa = kept.parse::<i128>().unwrap_or(MAX) + i128::from(sticky);
    let size = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let exponent = ten.saturating_add(size(dropped)).saturating_sub(size(fraction.len())).saturating_add(9);
    if exponent >= 0 {
        let power = u32::try_from(exponent).ok().and_then(|e| 10i128.checked_pow(e));
        let product = power.and_then(|p| mantissa.checked_mul(p)).and_then(|n| n.checked_mul(1024i128.pow(binary)));
        product.map_or(MAX, |n| n.min(MAX))
    } else {
        let Some(divisor) = u32::try_from(-exponent).ok().and_then(|e| 10i128.checked_pow(e)) else {
            return 1;
        };
        // Quotient and remainder apart, so that the product with 1024^6 stays within 128 bits.
        let binary = 1024i128.pow(binary);
        let (quotient, remainder) = (mantissa / divisor, mantissa % divisor);
        let high = quotient.checked_mul(binary).unwrap_or(MAX);
        let low = match remainder.checked_mul(binary) {
            Some(product) => product / divisor + i128::from(product % divisor != 0),
            None => (remainder / binary.max(1)).max(1).saturating_mul(binary) / (divisor / binary).max(1),
        };
        high.saturating_add(low).min(MAX)
    }
}

impl fmt::Display for Quantity {
    /// Writes the canonical form: the largest suffix that leaves a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let whole = self.nanos / NANO;
        if self.format == Format::BinarySi && self.is_integer() && whole.abs() >= 1024 {
            let (mut number, mut power) = (whole, 0);
            while number % 1024 == 0 && power < 6 {
                number /= 1024;
                power += 1;
            }
            return write!(f, "{number}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power]);
        }
        let (mut number, mut exponent) = (self.nanos, -9);
        while number % 1000 == 0 && exponent < 18 {
            number /= 1000;
            exponent += 3;
        }
        if self.format == Format::DecimalExponent {
            return if exponent == 0 { write!(f, "{number}") } else { write!(f, "{number}e{exponent}") };
        }
        let suffix = match exponent {
            -9 => "n",
            -6 => "u",
            -3 => "m",
            3 => "k",
            6 => "M",
            9 => "G",
            12 => "T",
            15 => "P",
            18 => "E",
            _ => "",
        };
        write!(f, "{number}{suffix}")
    }
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::parse(text)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl Hash for Quantity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.nanos.hash(state);
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Add for Quantity {
    type Output = Self;

    /// Adds; a zero takes the other's format, as upstream.
    fn add(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_add(other.nanos), format }
    }
}

impl Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_sub(other.nanos), format }
    }
}

impl Neg for Quantity {
    type Output = Self;

    fn neg(self) -> Self {
        Self { nanos: -self.nanos, ..self }
    }
}

impl Mul<i64> for Quantity {
    type Output = Self;

    fn mul(self, factor: i64) -> Self {
        Self { nanos: self.nanos.saturating_mul(i128::from(factor)), ..self }
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(quantities: I) -> Self {
        quantities.fold(Self::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical() {
        let cases = [
            ("0", "0"),
            ("0Ki", "0"),
            ("-0", "0"),
            ("100m", "100m"),
            ("0.1", "100m"),
            ("1000m", "1"),
            ("1.5", "1500m"),
            ("1500", "1500"),
            ("1000", "1k"),
            ("1024", "1024"),
            ("1Ki", "1Ki"),
            ("1024Ki", "1Mi"),
            ("512Ki", "512Ki"),
            ("0.5Gi", "512Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("0.1Ki", "102400m"),
            ("0.0001Ki", "102400u"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("1E", "1E"),
            ("12e0", "12"),
            ("1e-3", "1e-3"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("-0.1n", "-1n"),
            ("1.0000000001", "1000000001n"),
            ("9223372036854775807", "9223372036854775807"),
            ("9223372036854775808", "9223372036854775807"),
            ("100E", "9223372036854775807"),
            ("1e100", "9223372036854775807"),
            ("1e-100", "1e-9"),
            ("+5", "5"),
            (".5", "500m"),
            ("5.", "5"),
            ("000123.4500", "123450m"),
        ];
        for (text, canonical) in cases {
            assert_eq!(Quantity::parse(text).map(|q| q.to_string()), Ok(canonical.to_owned()), "{text}");
        }
    }

    #[test]
    fn malformed() {
        let cases = [
            ("", ParseError::Format),
            ("-", ParseError::Format),
            ("x", ParseError::Format),
            ("1 Ki", ParseError::Format),
            ("1.1.1", ParseError::Numeric),
            (".", ParseError::Numeric),
            ("1kk", ParseError::Suffix),
            ("1i", ParseError::Suffix),
            ("1e", ParseError::Suffix),
        ];
        for (text, error) in cases {
            assert_eq!(Quantity::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn arithmetic() {
        let q = |text: &str| Quantity::parse(text).unwrap();
        assert_eq!((q("100m") + q("1")).to_string(), "1100m");
        assert_eq!((q("0") + q("1Gi")).to_string(), "1Gi");
        assert_eq!((q("1Gi") - q("1Mi")).to_string(), "1023Mi");
        assert_eq!((q("1Gi") - q("2Gi")).to_string(), "-1Gi");
        assert_eq!([q("1"), q("200m"), q("300m")].into_iter().sum::<Quantity>().to_string(), "1500m");
        assert_eq!((q("1100m").value(), q("1n").milli_value(), q("-1500m").value()), (2, 1, -2));
        assert!(q("1000m") == q("1") && q("1Ki") > q("1k") && q("1e3") == q("1k"));
    }
}
