use std::borrow::Cow;

use bytes::Bytes;
use http::{Request, header};
use jiff::Timestamp;

use super::Refusal;
use crate::logql::units;

/// The parameters of a request: those of its query, then those of its form.
pub(super) struct Params {
    pairs: Vec<(String, String)>,
    /// The client asked for labels by where they come from.
    pub(super) categorize: bool,
}

const HOUR: i64 = 3_600_000_000_000;

impl Params {
    pub(super) fn read(request: &Request<Bytes>) -> Result<Self, Refusal> {
        let query = request.uri().query().unwrap_or_default();
        let mut pairs = pairs(query.as_bytes());
        let form = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if form.is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded")) {
            pairs.extend(self::pairs(request.body()));
        }
        let flags = request.headers().get("X-Loki-Response-Encoding-Flags").and_then(|flags| flags.to_str().ok());
        Ok(Self { pairs, categorize: flags.is_some_and(|flags| flags.split(',').any(|flag| flag.trim() == "categorize-labels")) })
    }

    /// Of a request without a body.
    pub(super) fn of_query(query: &str) -> Self {
        Self { pairs: pairs(query.as_bytes()), categorize: false }
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(n, value)| n == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(n, value)| n == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    pub(super) fn query(&self) -> Result<&str, Refusal> {
        self.get("query").ok_or_else(|| Refusal::bad("parse error : unexpected end of file"))
    }

    /// Start and end; by default the last hour, or six for labels as in Loki.
    pub(super) fn range(&self, now: i64, hours: i64) -> Result<(i64, i64), Refusal> {
        let end = self.get("end").map_or(Ok(now), time)?;
        let since = match self.get("since") {
            Some(since) => nanoseconds(units::duration_seconds(since).ok_or_else(|| bad("since", since))?),
            None => hours * HOUR,
        };
        let start = self.get("start").map_or(Ok(end.min(now) - since), time)?;
        if end < start {
            return Err(Refusal::bad("end timestamp must not be before or equal to start time"));
        }
        Ok((start, end))
    }

    /// An instant.
    pub(super) fn time(&self, now: i64) -> Result<i64, Refusal> {
        self.get("time").map_or(Ok(now), time)
    }

    pub(super) fn limit(&self, default: usize) -> Result<usize, Refusal> {
        match self.get("limit") {
            None => Ok(default),
            Some(limit) => match limit.parse::<i64>() {
                Ok(limit) if limit > 0 => Ok(usize::try_from(limit).unwrap_or(usize::MAX)),
                Ok(_) => Err(Refusal::bad("limit must be a positive value")),
                Err(_) => Err(bad("limit", limit)),
            },
        }
    }

    pub(super) fn backward(&self) -> Result<bool, Refusal> {
        match self.get("direction").map(str::to_ascii_lowercase).as_deref() {
            None | Some("backward") => Ok(true),
            Some("forward") => Ok(false),
            Some(other) => Err(Refusal::bad(format!("invalid direction '{other}'"))),
        }
    }

    /// Nanoseconds between steps: by default such that there are some 250.
    pub(super) fn step(&self, start: i64, end: i64) -> Result<i64, Refusal> {
        let step = match self.get("step") {
            Some(step) => self::step(step)?,
            None => ((end - start) / 250 / 1_000_000_000).max(1) * 1_000_000_000,
        };
        if step <= 0 {
            return Err(Refusal::bad("zero or negative query resolution step widths are not accepted. Try a positive integer"));
        }
        if (end - start) / step > 11_000 {
            return Err(Refusal::bad(
                "exceeded maximum resolution of 11,000 points per time series. Try increasing the value of the step parameter",
            ));
        }
        Ok(step)
    }

    pub(super) fn interval(&self) -> Result<i64, Refusal> {
        match self.get("interval") {
            None => Ok(0),
            Some(interval) => match self::step(interval)? {
                interval if interval >= 0 => Ok(interval),
                _ => Err(Refusal::bad("interval must be >= 0")),
            },
        }
    }
}

fn pairs(encoded: &[u8]) -> Vec<(String, String)> {
    url::form_urlencoded::parse(encoded).map(|(name, value): (Cow<'_, str>, Cow<'_, str>)| (name.into(), value.into())).collect()
}

fn bad(name: &str, value: &str) -> Refusal {
    Refusal::bad(format!("cannot parse {value:?} as {name}"))
}

/// Nanoseconds; a whole number of up to ten digits is of seconds.
pub(super) fn time(text: &str) -> Result<i64, Refusal> {
    if let Ok(number) = text.parse::<i64>() {
        return Ok(if text.len() <= 10 { number.saturating_mul(1_000_000_000) } else { number });
    }
    if let Ok(seconds) = text.parse::<f64>()
        && seconds.is_finite()
    {
        // To the millisecond: more than that a float of today does not hold exactly.
        return Ok(((seconds * 1000.0).round() as i64).saturating_mul(1_000_000));
    }
    match text.parse::<Timestamp>() {
        Ok(time) => Ok(i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)),
        Err(_) => Err(bad("a valid timestamp", text)),
    }
}

fn step(text: &str) -> Result<i64, Refusal> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| seconds.is_finite()).or_else(|| units::duration_seconds(text));
    seconds.map(nanoseconds).ok_or_else(|| Refusal::bad(format!("cannot parse {text:?} to a valid duration")))
}

fn nanoseconds(seconds: f64) -> i64 {
    (seconds * 1e9) as i64
}
