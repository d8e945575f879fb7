use super::Labels;

/// How grave a line is: Loki's `detected_level`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub(crate) enum Level {
    #[default]
    Unknown,
    Trace,
    Debug,
    Info,
    Warn,
    Error,
    Critical,
    Fatal,
}

const ALL: [Level; 8] =
    [Level::Unknown, Level::Trace, Level::Debug, Level::Info, Level::Warn, Level::Error, Level::Critical, Level::Fatal];

/// How much of a line is looked at for words.
const SCAN_BYTES: usize = 512;

impl Level {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::Critical => "critical",
            Self::Fatal => "fatal",
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Self {
        ALL.get(usize::from(byte)).copied().unwrap_or_default()
    }

    /// The level of that name, in any of the ways people write it.
    pub(crate) fn of_name(name: &str) -> Self {
        let is = |names: &[&str]| names.iter().any(|n| name.eq_ignore_ascii_case(n));
        if is(&["info", "inf", "information", "informational", "notice"]) {
            Self::Info
        } else if is(&["warn", "wrn", "warning"]) {
            Self::Warn
        } else if is(&["error", "err", "eror"]) {
            Self::Error
        } else if is(&["debug", "dbg"]) {
            Self::Debug
        } else if is(&["trace", "trc"]) {
            Self::Trace
        } else if is(&["critical", "crit", "alert"]) {
            Self::Critical
        } else if is(&["fatal", "emerg", "emergency", "panic"]) {
            Self::Fatal
        } else {
            Self::Unknown
        }
    }

    /// Looks at the stream's labels, then at a key of a JSON or logfmt line, then at klog's first letter, then for words.
    pub(crate) fn detect(labels: &Labels, line: &str) -> Self {
        for name in ["level", "severity", "lvl"] {
            if let Some(value) = labels.get(name) {
                return Self::of_name(value);
            }
        }
        let line = head(line);
        Self::keyed(line).or_else(|| klog(line)).unwrap_or_else(|| Self::scan(line))
    }

    /// The value after `level`, `severity` or `lvl`, followed by `=` or, in quotes, by `:`.
    fn keyed(line: &str) -> Option<Self> {
        let bytes = line.as_bytes();
        for key in ["level", "severity", "lvl", "Level", "LEVEL", "SEVERITY"] {
            for (at, _) in line.match_indices(key) {
                let before = if at == 0 { b' ' } else { bytes[at - 1] };
                let rest = &line[at + key.len()..];
                let value = match before {
                    b'"' => rest.strip_prefix('"').map(str::trim_start).and_then(|r| r.strip_prefix(':')).map(str::trim_start),
                    b' ' | b'\t' => rest.strip_prefix('='),
                    _ => None,
                };
                let Some(value) = value else { continue };
                let value = value.strip_prefix('"').unwrap_or(value);
                let end = value.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(value.len());
                match Self::of_name(&value[..end]) {
                    Self::Unknown => {}
                    level => return Some(level),
                }
            }
        }
        None
    }

    /// The gravest word on the line, as Loki looks for them.
    fn scan(line: &str) -> Self {
        let words = line.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| (3..=13).contains(&word.len()));
        let graver = |level: Self, word: &str| match (word, Self::of_name(word)) {
            ("alert" | "ALERT" | "notice" | "information" | "inf" | "panic", _) => level,
            (_, found) => level.max(found),
        };
        words.fold(Self::Unknown, graver)
    }
}

/// The severity of a line as klog writes it: `E1125 03:04:05.678901 …`.
fn klog(line: &str) -> Option<Level> {
    let bytes = line.as_bytes();
    if bytes.len() < 6 || !bytes[1..5].iter().all(u8::is_ascii_digit) || bytes[5] != b' ' {
        return None;
    }
    match bytes[0] {
        b'I' => Some(Level::Info),
        b'W' => Some(Level::Warn),
        b'E' => Some(Level::Error),
        b'F' => Some(Level::Fatal),
        _ => None,
    }
}

fn head(line: &str) -> &str {
    let mut end = line.len().min(SCAN_BYTES);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    &line[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_found_where_loki_finds_them() {
        let cases = [
            ("level=warn msg=\"an error came\"", "warn"),
            (r#"{"ts":1,"level":"ERROR","msg":"x"}"#, "error"),
            (r#"{"severity" : "information"}"#, "info"),
            ("W1125 03:04:05.678901       1 main.go:1] hm", "warn"),
            ("2026-01-01 [WARNING] disk", "warn"),
            ("GET / 200", "unknown"),
            ("all went well", "unknown"),
            ("panicky terror", "unknown"),
            ("level=strange then ERROR", "error"),
        ];
        for (line, level) in cases {
            assert_eq!(Level::detect(&Labels::default(), line).name(), level, "{line}");
        }
        assert_eq!(Level::detect(&Labels::new([("level", "debug")]), "an error").name(), "debug");
    }
}
