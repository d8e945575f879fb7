//! Numbers as Go writes them.

/// A float as Prometheus writes it in JSON and in text: shortest digits, exponents only below 1e-6 and from 1e21.
#[must_use]
pub(crate) fn json_float(v: f64) -> String {
    let size = v.abs();
    if size != 0.0 && size.is_finite() && !(1e-6..1e21).contains(&size) {
        let text = format!("{v:e}");
        return if size >= 1.0 { text.replacen('e', "e+", 1) } else { text };
    }
    plain_float(v)
}

/// A float as `strconv.FormatFloat(v, 'f', -1, 64)` writes it.
#[must_use]
pub(crate) fn plain_float(v: f64) -> String {
    if v.is_nan() {
        "NaN".to_owned()
    } else if v.is_infinite() {
        if v > 0.0 { "+Inf" } else { "-Inf" }.to_owned()
    } else {
        format!("{v}")
    }
}

/// A float as `strconv.ParseFloat` reads it in exposition formats.
#[must_use]
pub(crate) fn parse_float(text: &str) -> Option<f64> {
    match text {
        "NaN" | "nan" | "NAN" | "+NaN" => Some(f64::NAN),
        "+Inf" | "Inf" | "inf" | "+inf" | "Infinity" | "+Infinity" => Some(f64::INFINITY),
        "-Inf" | "-inf" | "-Infinity" => Some(f64::NEG_INFINITY),
        _ => {
            let body = text.strip_prefix(['+', '-']).unwrap_or(text);
            if !body.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
                return None;
            }
            text.parse().ok()
        }
    }
}

/// A sum with Neumaier's compensation, as upstream's `kahansum`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum {
    sum: f64,
    c: f64,
}

impl Sum {
    pub(crate) fn add(&mut self, v: f64) {
        let t = self.sum + v;
        if t.is_infinite() {
            self.c = 0.0;
        } else if self.sum.abs() >= v.abs() {
            self.c += (self.sum - t) + v;
        } else {
            self.c += (v - t) + self.sum;
        }
        self.sum = t;
    }

    pub(crate) fn get(self) -> f64 {
        if self.sum.is_infinite() { self.sum } else { self.sum + self.c }
    }
}

/// The mean, without overflow on the way.
pub(crate) fn mean(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let (mut sum, mut count) = (Sum::default(), 0.0);
    for v in values.clone() {
        sum.add(v);
        count += 1.0;
    }
    let sum = sum.get();
    if sum.is_finite() || values.clone().any(|v| !v.is_finite()) {
        return sum / count;
    }
    let mut mean = Sum::default();
    values.for_each(|v| mean.add(v / count));
    mean.get()
}

/// The population variance (Welford).
pub(crate) fn variance(values: impl Iterator<Item = f64>) -> f64 {
    let (mut count, mut mean, mut aux) = (0.0, Sum::default(), Sum::default());
    for v in values {
        count += 1.0;
        let delta = v - mean.get();
        mean.add(delta / count);
        aux.add(delta * (v - mean.get()));
    }
    aux.get() / count
}

/// The `q`-quantile; sorts the values.
pub(crate) fn quantile(q: f64, values: &mut [f64]) -> f64 {
    if values.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    // NaN sorts first, as upstream.
    values.sort_by(|a, b| match (a.is_nan(), b.is_nan()) {
        (true, true) => std::cmp::Ordering::Equal,
        (true, false) => std::cmp::Ordering::Less,
        (false, true) => std::cmp::Ordering::Greater,
        _ => a.total_cmp(b),
    });
    let rank = q * (values.len() - 1) as f64;
    let lower = rank.floor().max(0.0) as usize;
    let upper = (lower + 1).min(values.len() - 1);
    let weight = rank - rank.floor();
    values[lower] * (1.0 - weight) + values[upper] * weight
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_as_go_writes_them() {
        for (v, want) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.5, "1.5"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (1e-6, "0.000001"),
            (1.25e-7, "1.25e-7"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(json_float(v), want);
        }
    }
}
