//! Answers as upstream writes them: values as strings, times as seconds with up to three digits.

use std::fmt::Write as _;

use crate::{
    labels::Labels,
    promql::{Value, number::json_float},
    tsdb::Sample,
};

/// A JSON string.
pub(super) fn string(out: &mut String, text: &str) {
    match serde_json::to_string(text) {
        Ok(quoted) => out.push_str(&quoted),
        Err(_) => out.push_str("\"\""),
    }
}

/// Seconds of a time in milliseconds.
pub(super) fn time(out: &mut String, t: i64) {
    let (sign, size) = (if t < 0 { "-" } else { "" }, t.unsigned_abs());
    let _ = write!(out, "{sign}{}", size / 1000);
    if size % 1000 != 0 {
        let _ = write!(out, ".{:03}", size % 1000);
    }
}

pub(super) fn labels(out: &mut String, labels: &Labels) {
    out.push('{');
    for (i, (name, value)) in labels.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        string(out, name);
        out.push(':');
        string(out, value);
    }
    out.push('}');
}

fn sample(out: &mut String, sample: Sample) {
    out.push('[');
    time(out, sample.t);
    let _ = write!(out, ",\"{}\"]", json_float(sample.v));
}

/// `{"resultType":…,"result":…}`
pub(super) fn value(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Scalar(one) => {
            out.push_str("{\"resultType\":\"scalar\",\"result\":");
            sample(&mut out, *one);
        }
        Value::Text(t, text) => {
            out.push_str("{\"resultType\":\"string\",\"result\":[");
            time(&mut out, *t);
            out.push(',');
            string(&mut out, text);
            out.push(']');
        }
        Value::Vector(series) => {
            out.push_str("{\"resultType\":\"vector\",\"result\":[");
            for (i, (metric, one)) in series.iter().enumerate() {
                out.push_str(if i > 0 { ",{\"metric\":" } else { "{\"metric\":" });
                labels(&mut out, metric);
                out.push_str(",\"value\":");
                sample(&mut out, *one);
                out.push('}');
            }
            out.push(']');
        }
        Value::Matrix(series) => {
            out.push_str("{\"resultType\":\"matrix\",\"result\":[");
            for (i, (metric, samples)) in series.iter().enumerate() {
                out.push_str(if i > 0 { ",{\"metric\":" } else { "{\"metric\":" });
                labels(&mut out, metric);
                out.push_str(",\"values\":[");
                for (i, one) in samples.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    sample(&mut out, *one);
                }
                out.push_str("]}");
            }
            out.push(']');
        }
    }
    out.push('}');
    out
}

/// A list of what `write` writes.
pub(super) fn list<T>(items: impl IntoIterator<Item = T>, write: impl Fn(&mut String, T)) -> String {
    let mut out = String::from("[");
    for (i, item) in items.into_iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        write(&mut out, item);
    }
    out.push(']');
    out
}
