//! What a request asks: its query string and its form, and what times and durations look like.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use jiff::Timestamp;

/// The parameters of a request, the form's before the query string's.
#[derive(Clone)]
pub(super) struct Params(Vec<(String, String)>);

/// The earliest and latest times that can be asked for, as upstream's `MinTime` and `MaxTime`, in milliseconds.
pub(super) const MIN_TIME: i64 = i64::MIN / 4;
pub(super) const MAX_TIME: i64 = i64::MAX / 4;

impl Params {
    pub(super) fn of(request: &Request<Bytes>) -> Result<Self, &'static str> {
        let mut all = Vec::new();
        let content = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        if content.trim_start().to_ascii_lowercase().starts_with("application/x-www-form-urlencoded") {
            let form = url::form_urlencoded::parse(request.body());
            all.extend(form.map(|(k, v)| (k.into_owned(), v.into_owned())));
        }
        if let Some(query) = request.uri().query() {
            all.extend(url::form_urlencoded::parse(query.as_bytes()).map(|(k, v)| (k.into_owned(), v.into_owned())));
        }
        if all.len() > 10_000 {
            return Err("too many parameters");
        }
        Ok(Self(all))
    }

    /// A parameter's first value; empty if there is none.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(k, _)| k == name).map_or("", |(_, v)| v)
    }

    /// All values of a parameter.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// A time, or `default` where there is none.
    pub(super) fn time(&self, name: &str, default: i64) -> Result<i64, String> {
        match self.get(name) {
            "" => Ok(default),
            text => parse_time(text).map_err(|why| format!("invalid parameter {name:?}: {why}")),
        }
    }

    /// A number of results; 0 means all.
    pub(super) fn limit(&self) -> Result<usize, String> {
        match self.get("limit") {
            "" => Ok(0),
            text => text.parse().map_err(|_| format!("invalid parameter \"limit\": cannot parse {text:?} to a valid limit")),
        }
    }

    pub(super) fn timeout(&self) -> Result<Option<Duration>, String> {
        match self.get("timeout") {
            "" => Ok(None),
            text => match parse_duration(text) {
                Ok(ms) => Ok(Some(Duration::from_millis(u64::try_from(ms).unwrap_or(0)))),
                Err(why) => Err(format!("invalid parameter \"timeout\": {why}")),
            },
        }
    }

    /// Milliseconds that instant selectors look back; none, and the server's own holds, unless it is above zero.
    pub(super) fn lookback_delta(&self) -> Result<Option<i64>, String> {
        match self.get("lookback_delta") {
            "" => Ok(None),
            text => match parse_duration(text) {
                Ok(ms) => Ok(Some(ms).filter(|ms| *ms > 0)),
                Err(why) => Err(format!("error parsing lookback delta duration: {why}")),
            },
        }
    }
}

/// Milliseconds since 1970 of seconds with a fraction or an RFC 3339 date.
pub(super) fn parse_time(text: &str) -> Result<i64, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        let ms = (seconds * 1000.0).round();
        if ms.is_finite() && (MIN_TIME as f64..=MAX_TIME as f64).contains(&ms) {
            return Ok(ms as i64);
        }
        return Err(format!("cannot parse {text:?} to a valid timestamp"));
    }
    match text.parse::<Timestamp>() {
        Ok(time) => Ok(time.as_millisecond()),
        // What clients send for the ends of time.
        Err(_) if text.starts_with("-292273086-") => Ok(MIN_TIME),
        Err(_) if text.starts_with("+292277025-") => Ok(MAX_TIME),
        Err(_) => Err(format!("cannot parse {text:?} to a valid timestamp")),
    }
}

/// Milliseconds of a number of seconds or a duration such as `1h30m`.
pub(super) fn parse_duration(text: &str) -> Result<i64, String> {
    let bad = || format!("cannot parse {text:?} to a valid duration");
    if let Ok(seconds) = text.parse::<f64>() {
        let ms = seconds * 1000.0;
        return if ms.is_finite() && ms.abs() < MAX_TIME as f64 {
            Ok(ms.round() as i64)
        } else {
            Err(format!("cannot parse {text:?} to a valid duration. It overflows int64"))
        };
    }
    let (negative, body) = text.strip_prefix('-').map_or((false, text), |body| (true, body));
    let duration = promql_parser::util::parse_duration(body).map_err(|_| bad())?;
    let ms = i64::try_from(duration.as_millis()).map_err(|_| bad())?;
    Ok(if negative { -ms } else { ms })
}

/// Undoes the escaping of UTF-8 label names in paths (`U__…`).
pub(super) fn unescape_label(name: &str) -> String {
    let Some(body) = name.strip_prefix("U__") else { return name.to_owned() };
    let (mut out, mut rest) = (String::new(), body);
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c != '_' {
            out.push(c);
            continue;
        }
        if let Some(after) = rest.strip_prefix('_') {
            out.push('_');
            rest = after;
            continue;
        }
        let Some((hex, after)) = rest.split_once('_') else { return name.to_owned() };
        match u32::from_str_radix(hex, 16).ok().and_then(char::from_u32) {
            Some(c) => out.push(c),
            None => return name.to_owned(),
        }
        rest = after;
    }
    out
}
