//! Reads the text formats of metrics: Prometheus text 0.0.4 and OpenMetrics 1.0.0; and writes the first.

use crate::{
    labels::{Builder, Labels, METRIC_NAME, is_legacy_label_name, quoted},
    promql::number::{json_float, parse_float},
};

/// The formats that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    OpenMetrics,
}

/// One line.
#[derive(Debug, PartialEq)]
pub(crate) enum Entry<'a> {
    /// The series as written, its value, and its time in milliseconds if the line says so.
    Sample {
        series: &'a str,
        value: f64,
        time: Option<i64>,
    },
    Help(&'a str, String),
    Type(&'a str, &'a str),
    Unit(&'a str, &'a str),
}

/// A page is not in the format it says it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why} at line {line}: {text:?}")]
pub(crate) struct ParseError {
    line: usize,
    why: &'static str,
    text: String,
}

/// What this process accepts, best first, as upstream's `Accept` header.
pub(crate) const ACCEPT: &str = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";

// === impl Format ===

impl Format {
    /// The format of a content type; an unknown or missing one is read as text.
    pub(crate) fn of(content_type: &str) -> Self {
        if content_type.trim_start().starts_with("application/openmetrics-text") { Self::OpenMetrics } else { Self::Text }
    }
}

/// Hands each line that says something to `f`.
pub(crate) fn parse(text: &str, format: Format, mut f: impl FnMut(Entry<'_>)) -> Result<(), ParseError> {
    let mut ended = false;
    for (n, line) in text.lines().enumerate() {
        let fail = |why| ParseError { line: n + 1, why, text: line.chars().take(120).collect() };
        if ended {
            return Err(fail("data after # EOF"));
        }
        let line_ = line.trim_matches([' ', '\t', '\r']);
        if line_.is_empty() {
            continue;
        }
        if let Some(comment) = line_.strip_prefix('#') {
            if comment.trim() == "EOF" && format == Format::OpenMetrics {
                ended = true;
            } else if let Some(entry) = metadata(comment) {
                f(entry);
            }
            continue;
        }
        f(sample(line_, format).map_err(fail)?);
    }
    if format == Format::OpenMetrics && !ended {
        return Err(ParseError { line: text.lines().count(), why: "data does not end with # EOF", text: String::new() });
    }
    Ok(())
}

fn metadata(comment: &str) -> Option<Entry<'_>> {
    let comment = comment.trim_start();
    let (kind, rest) = comment.split_once([' ', '\t'])?;
    let (name, text) = rest.trim_start().split_once([' ', '\t']).unwrap_or((rest.trim(), ""));
    let name = name.trim_matches('"');
    Some(match kind {
        "HELP" => Entry::Help(name, text.replace("\\n", "\n").replace("\\\\", "\\")),
        "TYPE" => Entry::Type(name, text.trim()),
        "UNIT" => Entry::Unit(name, text.trim()),
        _ => return None,
    })
}

fn sample(line: &str, format: Format) -> Result<Entry<'_>, &'static str> {
    let end = series_end(line).ok_or("unclosed braces")?;
    let (series, rest) = line.split_at(end);
    // An exemplar may follow in OpenMetrics.
    let rest = if format == Format::OpenMetrics { rest.split(" # ").next().unwrap_or_default() } else { rest };
    let mut words = rest.split_whitespace();
    let value = words.next().and_then(parse_float).ok_or("no value")?;
    let time = match (words.next(), format) {
        (None, _) => None,
        (Some(word), Format::Text) => Some(word.parse().map_err(|_| "bad time")?),
        (Some(word), Format::OpenMetrics) => Some((word.parse::<f64>().map_err(|_| "bad time")? * 1000.0).round() as i64),
    };
    if words.next().is_some() {
        return Err("text after the sample");
    }
    if series.is_empty() {
        return Err("no metric name");
    }
    Ok(Entry::Sample { series, value, time })
}

/// Where the name and its braces end.
fn series_end(line: &str) -> Option<usize> {
    let bytes = line.as_bytes();
    let mut at = 0;
    while at < bytes.len() && !matches!(bytes[at], b'{' | b' ' | b'\t') {
        at += 1;
    }
    let space = bytes[at..].iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
    if bytes.get(at + space) != Some(&b'{') {
        return Some(at);
    }
    let mut quoted = false;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if quoted => at += 1,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return Some(at + 1),
            _ => {}
        }
        at += 1;
    }
    None
}

/// The labels of a series as written, the name among them. Bounds of buckets get the form of a float, as in Prometheus 3.
pub(crate) fn labels(series: &str) -> Result<Builder, &'static str> {
    let mut builder = Labels::default().builder();
    let (name, mut rest) = match series.split_once('{') {
        None => (series, ""),
        Some((name, rest)) => (name.trim(), rest.strip_suffix('}').ok_or("unclosed braces")?),
    };
    if !name.is_empty() {
        builder.set(METRIC_NAME, name);
    }
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            break;
        }
        let label = if rest.starts_with('"') {
            let (text, after) = string(rest)?;
            rest = after.trim_start();
            // A quoted text with nothing behind it is the metric's name.
            if !rest.starts_with('=') {
                builder.set(METRIC_NAME, text);
                continue;
            }
            text
        } else {
            let end = rest.find('=').ok_or("label without value")?;
            let label = rest[..end].trim();
            if !is_legacy_label_name(label) {
                return Err("bad label name");
            }
            rest = &rest[end..];
            label.to_owned()
        };
        let (value, after) = string(rest[1..].trim_start())?;
        builder.set(label, value);
        rest = after;
    }
    if builder.get(METRIC_NAME).is_empty() {
        return Err("no metric name");
    }
    if builder.get(METRIC_NAME).ends_with("_bucket")
        && let Some(le) = parse_float(builder.get("le"))
    {
        builder.set("le", open_metrics_float(le));
    }
    if let Some(q) = parse_float(builder.get("quantile")) {
        builder.set("quantile", open_metrics_float(q));
    }
    Ok(builder)
}

/// A text in quotes at the start, and what follows it.
fn string(text: &str) -> Result<(String, &str), &'static str> {
    let body = text.strip_prefix('"').ok_or("label value without quotes")?;
    let mut out = String::new();
    let mut chars = body.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((out, &body[at + 1..])),
            '\\' => match chars.next() {
                Some((_, 'n')) => out.push('\n'),
                Some((_, c @ ('"' | '\\'))) => out.push(c),
                Some((_, c)) => out.extend(['\\', c]),
                None => return Err("unclosed quotes"),
            },
            c => out.push(c),
        }
    }
    Err("unclosed quotes")
}

/// A float as OpenMetrics writes bounds: `1.0`, `0.5`, `1e+06`, `+Inf`.
pub(crate) fn open_metrics_float(v: f64) -> String {
    if v.is_nan() || v.is_infinite() {
        return json_float(v);
    }
    // Go's shortest %g: an exponent, of two digits at least, below 1e-4 and from 1e6 on.
    if v == 0.0 || (1e-4..1e6).contains(&v.abs()) {
        let mut text = v.to_string();
        if !text.contains('.') {
            text.push_str(".0");
        }
        return text;
    }
    let text = format!("{v:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// A page of text 0.0.4 in the making.
#[derive(Default)]
pub(crate) struct Page(String);

impl Page {
    /// Begins a family.
    pub(crate) fn family(&mut self, name: &str, kind: &str, help: &str) {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        self.0.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// Adds a sample.
    pub(crate) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        write_series(&mut self.0, name, labels.iter().copied());
        self.0.push(' ');
        self.0.push_str(&json_float(value));
        self.0.push('\n');
    }

    pub(crate) fn finish(self) -> String {
        self.0
    }
}

/// Writes `name{label="value"}`.
pub(crate) fn write_series<'a>(out: &mut String, name: &str, labels: impl Iterator<Item = (&'a str, &'a str)>) {
    out.push_str(name);
    let mut any = false;
    for (label, value) in labels {
        out.push(if any { ',' } else { '{' });
        any = true;
        out.push_str(label);
        out.push('=');
        if value.contains(['"', '\\', '\n']) {
            out.push('"');
            for c in value.chars() {
                match c {
                    '"' => out.push_str("\\\""),
                    '\\' => out.push_str("\\\\"),
                    '\n' => out.push_str("\\n"),
                    c => out.push(c),
                }
            }
            out.push('"');
        } else {
            out.push('"');
            out.push_str(value);
            out.push('"');
        }
    }
    if any {
        out.push('}');
    }
}

/// A series for `/federate`.
pub(crate) fn series_text(labels: &Labels) -> String {
    let mut out = String::new();
    let name = labels.name();
    if is_legacy_label_name(&name.replace(':', "_")) {
        write_series(&mut out, name, labels.iter().filter(|(n, _)| &**n != METRIC_NAME).map(|(n, v)| (&**n, &**v)));
    } else {
        out = format!("{{{}", quoted(name));
        for (n, v) in labels.iter().filter(|(n, _)| &**n != METRIC_NAME) {
            out.push_str(&format!(",{n}={}", quoted(v)));
        }
        out.push('}');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, want: Result<(&str, f64, Option<i64>), &str>) {
        let got = sample(line, Format::Text).and_then(|entry| match entry {
            Entry::Sample { series, value, time } => Ok((labels(series)?.build().to_string(), value, time)),
            _ => Err("not a sample"),
        });
        assert_eq!(got, want.map(|(l, v, t)| (l.to_owned(), v, t)), "{line}");
    }

    #[test]
    fn lines() {
        check("up 1", Ok((r#"{__name__="up"}"#, 1.0, None)));
        check(
            r#"a{b="c d",e="x\"}\\\n"} +Inf 1500"#,
            Ok((r#"{__name__="a", b="c d", e="x\"}\\\n"}"#, f64::INFINITY, Some(1500))),
        );
        check(r#"a_bucket{le="1",} 2"#, Ok((r#"{__name__="a_bucket", le="1.0"}"#, 2.0, None)));
        check(r#"{"my.metric", "l.x"="y"} 2e3"#, Ok((r#"{__name__="my.metric", l.x="y"}"#, 2000.0, None)));
        check(r#"a {b="c"} 1"#, Ok((r#"{__name__="a", b="c"}"#, 1.0, None)));
        check(r#"a{b="c"#, Err("unclosed braces"));
        check("a b", Err("no value"));
        check("a 1 2 3", Err("text after the sample"));
        check("a 1 x", Err("bad time"));
        check(r#"a{b=c} 1"#, Err("label value without quotes"));
        check(r#"{b="c"} 1"#, Err("no metric name"));
    }

    #[test]
    fn pages() {
        let mut seen = Vec::new();
        let page = "# HELP a What\\nis\n# TYPE a counter\n# a comment\na_total 1 2.5 # {t=\"x\"} 1\n# EOF\n";
        parse(page, Format::OpenMetrics, |e| seen.push(format!("{e:?}"))).unwrap();
        assert_eq!(seen.len(), 3);
        assert!(seen[2].contains("Some(2500)"), "{}", seen[2]);
        assert!(parse("a 1\n", Format::OpenMetrics, |_| {}).is_err());
        assert_eq!(parse("a 1\nb x\n", Format::Text, |_| {}).unwrap_err().to_string(), "no value at line 2: \"b x\"");
    }

    #[test]
    fn bounds() {
        for (v, want) in
            [(1.0, "1.0"), (0.5, "0.5"), (0.0, "0.0"), (1e6, "1e+06"), (1e-5, "1e-05"), (2.5e6, "2.5e+06"), (0.005, "0.005")]
        {
            assert_eq!(open_metrics_float(v), want);
        }
    }
}
