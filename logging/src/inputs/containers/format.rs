//! One line of a container's log file.

use jiff::Timestamp;
use serde::Deserialize;

/// A line, or a part of one.
#[derive(Debug, PartialEq)]
pub(super) struct Part {
    pub(super) time: i64,
    pub(super) stream: &'static str,
    pub(super) text: String,
    /// The line goes on in the stream's next part.
    pub(super) partial: bool,
}

/// Reads CRI's format, `TIME STREAM TAGS TEXT`, or Docker's, `{"log":…,"stream":…,"time":…}`.
pub(super) fn part(line: &str) -> Option<Part> {
    if line.starts_with('{') { docker(line) } else { cri(line) }
}

fn cri(line: &str) -> Option<Part> {
    let mut fields = line.splitn(4, ' ');
    let (time, stream, tags) = (fields.next()?, fields.next()?, fields.next()?);
    Some(Part {
        time: nanoseconds(time)?,
        stream: stream_name(stream)?,
        text: fields.next().unwrap_or_default().to_owned(),
        partial: tags.split(':').next() == Some("P"),
    })
}

#[derive(Deserialize)]
struct Docker {
    log: String,
    stream: String,
    time: String,
}

fn docker(line: &str) -> Option<Part> {
    let line: Docker = serde_json::from_str(line).ok()?;
    let (text, partial) = match line.log.strip_suffix('\n') {
        Some(text) => (text.to_owned(), false),
        None => (line.log, true),
    };
    Some(Part { time: nanoseconds(&line.time)?, stream: stream_name(&line.stream)?, text, partial })
}

fn nanoseconds(time: &str) -> Option<i64> {
    i64::try_from(time.parse::<Timestamp>().ok()?.as_nanosecond()).ok()
}

fn stream_name(stream: &str) -> Option<&'static str> {
    match stream {
        "stdout" => Some("stdout"),
        "stderr" => Some("stderr"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_are_read() {
        let expected = |text: &str, partial| Part { time: 1_500_000_000, stream: "stderr", text: text.to_owned(), partial };
        assert_eq!(part("1970-01-01T00:00:01.5Z stderr F a  b"), Some(expected("a  b", false)));
        assert_eq!(part("1970-01-01T01:00:01.500000000+01:00 stderr P a"), Some(expected("a", true)));
        assert_eq!(part("1970-01-01T00:00:01.5Z stderr F "), Some(expected("", false)));
        assert_eq!(part(r#"{"log":"a\n","stream":"stderr","time":"1970-01-01T00:00:01.5Z"}"#), Some(expected("a", false)));
        for bad in ["", "x stderr F a", "1970-01-01T00:00:01Z other F a", "{}"] {
            assert_eq!(part(bad), None, "{bad}");
        }
    }
}
