use std::borrow::Cow;

use super::{ast::*, parsers, units};
use crate::{entry::Labels, scan::Raw};

/// What a line has beside its text, seen through the stages.
#[derive(Clone, Debug)]
pub(crate) struct Line<'a> {
    pub(crate) time: i64,
    pub(crate) text: Cow<'a, str>,
    stream: &'a Labels,
    /// Labels of the stream that a stage took away or changed.
    hidden: Vec<String>,
    pub(crate) metadata: Labels,
    pub(crate) parsed: Labels,
    error: Option<(&'static str, String)>,
}

pub(crate) const ERROR: &str = "__error__";
pub(crate) const ERROR_DETAILS: &str = "__error_details__";

/// The stages of a query.
pub(crate) struct Pipeline<'q> {
    stages: &'q [Stage],
}

/// Texts of which a line must contain one of each.
pub(crate) type Needles = Vec<Vec<String>>;

impl<'q> Pipeline<'q> {
    pub(crate) fn new(stages: &'q [Stage]) -> Self {
        Self { stages }
    }

    /// What lines must contain to come through: only filters before the line is rewritten can tell.
    pub(crate) fn needles(&self) -> Needles {
        let mut needles = Needles::new();
        for stage in self.stages {
            match stage {
                Stage::LineFormat(_) | Stage::Decolorize | Stage::Unpack => break,
                Stage::Filter(LineFilter { negated: false, any }) => {
                    if let [LineMatch::Pattern(pattern)] = any.as_slice() {
                        needles.extend(pattern.literals().map(|text| vec![text.to_owned()]));
                        continue;
                    }
                    let texts = any.iter().map(|one| match one {
                        LineMatch::Contains(text) => Some(text.clone()),
                        LineMatch::Regex(regex) => literal_of(regex.as_str()),
                        LineMatch::Pattern(_) | LineMatch::Ip(_) => None,
                    });
                    if let Some(texts) = texts.collect::<Option<Vec<_>>>() {
                        needles.push(texts);
                    }
                }
                _ => {}
            }
        }
        needles.retain(|any| any.iter().all(|text| !text.is_empty()));
        needles
    }

    /// Whether nothing but times, streams and sizes matter.
    pub(crate) fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    /// What becomes of a line; `None` if it is filtered out.
    pub(crate) fn run<'a>(&self, raw: Raw<'a>) -> Option<Line<'a>> {
        let mut line = Line::new(raw);
        self.stages.iter().all(|stage| line.apply(stage)).then_some(line)
    }
}

/// The text of a regular expression that is nothing but text.
fn literal_of(pattern: &str) -> Option<String> {
    pattern.chars().all(|c| !r"\.+*?()|[]{}^$".contains(c)).then(|| pattern.to_owned())
}

impl<'a> Line<'a> {
    fn new(raw: Raw<'a>) -> Self {
        let mut metadata = Labels::new(raw.metadata.iter().map(|(name, value)| (name.clone(), value.clone())));
        metadata.set("detected_level", raw.level.name());
        Self {
            time: raw.time,
            text: Cow::Borrowed(raw.line),
            stream: &raw.stream.labels,
            hidden: Vec::new(),
            metadata,
            parsed: Labels::default(),
            error: None,
        }
    }

    /// A label's value; empty if there is none.
    pub(crate) fn get(&self, name: &str) -> &str {
        match name {
            ERROR => return self.error.as_ref().map_or("", |(error, _)| error),
            ERROR_DETAILS => return self.error.as_ref().map_or("", |(_, details)| details),
            _ => {}
        }
        let stream = || self.stream_label(name);
        self.parsed.get(name).or_else(|| self.metadata.get(name)).or_else(stream).unwrap_or_default()
    }

    fn stream_label(&self, name: &str) -> Option<&str> {
        if self.hidden.iter().any(|hidden| hidden == name) { None } else { self.stream.get(name) }
    }

    /// The labels of the stream that are left.
    pub(crate) fn stream_labels(&self) -> Labels {
        let mut labels = self.stream.clone();
        labels.retain(|name| !self.hidden.iter().any(|hidden| hidden == name));
        labels
    }

    /// The parsed labels, with what went wrong.
    pub(crate) fn parsed_labels(&self) -> Labels {
        let mut labels = self.parsed.clone();
        if let Some((error, details)) = &self.error {
            labels.set(ERROR, *error);
            labels.set(ERROR_DETAILS, details.as_str());
        }
        labels
    }

    /// All labels.
    pub(crate) fn labels(&self) -> Labels {
        let mut labels = self.stream_labels();
        for (name, value) in self.metadata.iter().chain(self.parsed_labels().iter()) {
            labels.keep(name, value);
        }
        labels
    }

    /// Sets a label that a parser found; one that the stream has already is named `…_extracted`, as in Loki.
    pub(super) fn extract(&mut self, name: &str, value: &str) {
        let name: Cow<'_, str> = if self.is_taken(name) { format!("{name}_extracted").into() } else { name.into() };
        self.parsed.keep(name.as_ref(), value);
    }

    /// Sets a label that a parser was asked for and did not find: it is empty, unless there is one.
    pub(super) fn miss(&mut self, name: &str) {
        if !self.is_taken(name) && self.parsed.get(name).is_none() {
            self.parsed.keep(name, "");
        }
    }

    fn is_taken(&self, name: &str) -> bool {
        self.stream_label(name).is_some() || self.metadata.get(name).is_some()
    }

    pub(crate) fn fail(&mut self, error: &'static str, details: impl Into<String>) {
        if self.error.is_none() {
            self.error = Some((error, details.into()));
        }
    }

    fn set(&mut self, name: &str, value: &str) {
        match name {
            ERROR | ERROR_DETAILS => {}
            _ => {
                self.take_away(name);
                self.parsed.set(name, value);
            }
        }
    }

    fn take_away(&mut self, name: &str) {
        match name {
            ERROR => self.error = None,
            ERROR_DETAILS => {
                if let Some((_, details)) = &mut self.error {
                    details.clear();
                }
            }
            _ => {
                if self.stream_label(name).is_some() {
                    self.hidden.push(name.to_owned());
                }
                self.metadata.remove(name);
                self.parsed.remove(name);
            }
        }
    }

    /// Applies a stage; whether the line stays.
    fn apply(&mut self, stage: &Stage) -> bool {
        match stage {
            Stage::Filter(filter) => filter.any.iter().any(|one| one.matches(&self.text)) != filter.negated,
            Stage::Labels(filter) => self.passes(filter),
            stage => {
                self.change(stage);
                true
            }
        }
    }

    fn change(&mut self, stage: &Stage) {
        match stage {
            Stage::Filter(_) | Stage::Labels(_) => {}
            Stage::Json(fields) if fields.is_empty() => parsers::json(self),
            Stage::Json(fields) => parsers::json_fields(self, fields),
            Stage::Logfmt { strict, keep_empty, fields } => parsers::logfmt(self, *strict, *keep_empty, fields),
            Stage::Regexp(regex) => parsers::regexp(self, regex),
            Stage::Pattern(pattern) => {
                let text = self.text.clone();
                for (name, value) in pattern.captures(&text) {
                    self.extract(name, value);
                }
            }
            Stage::Unpack => parsers::unpack(self),
            Stage::LineFormat(template) => match template.render(self) {
                Ok(text) => self.text = Cow::Owned(text),
                Err(error) => self.fail("TemplateFormatErr", error),
            },
            Stage::LabelFormat(formats) => self.format_labels(formats),
            Stage::Decolorize => {
                if self.text.contains('\u{1b}') {
                    self.text = Cow::Owned(decolorized(&self.text));
                }
            }
            Stage::Drop(choices) => self.drop_labels(choices),
            Stage::Keep(choices) => self.keep_labels(choices),
        }
    }

    fn format_labels(&mut self, formats: &[(String, Format)]) {
        for (name, format) in formats {
            match format {
                Format::Rename(source) => {
                    let value = self.get(source).to_owned();
                    if !value.is_empty() {
                        self.take_away(source);
                        self.set(name, &value);
                    }
                }
                Format::Template(template) => match template.render(self) {
                    Ok(value) => self.set(name, &value),
                    Err(error) => self.fail("TemplateFormatErr", error),
                },
            }
        }
    }

    fn drop_labels(&mut self, choices: &[LabelChoice]) {
        for choice in choices {
            match choice {
                LabelChoice::Name(name) => self.take_away(name),
                LabelChoice::Matching(matcher) => {
                    if matcher.matches(self.get(&matcher.name)) {
                        self.take_away(&matcher.name);
                    }
                }
            }
        }
    }

    fn keep_labels(&mut self, choices: &[LabelChoice]) {
        for (name, value) in self.labels().iter() {
            let keeps = |choice: &LabelChoice| match choice {
                LabelChoice::Name(kept) => kept == name,
                LabelChoice::Matching(matcher) => matcher.name == name && matcher.matches(value),
            };
            if !matches!(name, ERROR | ERROR_DETAILS) && !choices.iter().any(keeps) {
                self.take_away(name);
            }
        }
    }

    /// Whether the labels are such. A value that cannot be read as a number marks the line instead of losing it.
    pub(crate) fn passes(&mut self, filter: &LabelFilter) -> bool {
        match filter {
            LabelFilter::Matches(matcher) => matcher.matches(self.get(&matcher.name)),
            LabelFilter::And(left, right) => self.passes(left) && self.passes(right),
            LabelFilter::Or(left, right) => self.passes(left) || self.passes(right),
            LabelFilter::Ip { name, negated, range } => {
                let value = self.get(name);
                if value.is_empty() {
                    return false;
                }
                contains_ip(value, *range) != *negated
            }
            LabelFilter::Compare { name, op, to, unit } => {
                if self.error.is_some() {
                    return true;
                }
                let value = self.get(name).to_owned();
                if value.is_empty() {
                    return false;
                }
                match unit.read(&value) {
                    Some(number) => op.holds(number, *to),
                    None => {
                        self.fail("LabelFilterErr", format!("cannot read label {name} as a number: {value:?}"));
                        true
                    }
                }
            }
        }
    }
}

impl Unit {
    pub(crate) fn read(self, value: &str) -> Option<f64> {
        match self {
            Self::Number => value.trim().parse().ok(),
            Self::Duration => units::duration_seconds(value),
            Self::Bytes => units::bytes(value),
        }
    }
}

impl LineMatch {
    fn matches(&self, line: &str) -> bool {
        match self {
            Self::Contains(text) => line.contains(text.as_str()),
            Self::Regex(regex) => regex.is_match(line),
            Self::Pattern(pattern) => pattern.matches(line),
            Self::Ip(range) => contains_ip(line, *range),
        }
    }
}

/// Whether an address of the range stands in a text.
fn contains_ip(text: &str, range: IpRange) -> bool {
    let is_part = |c: char| c.is_ascii_hexdigit() || c == '.' || c == ':';
    let candidates = text.split(|c| !is_part(c)).filter(|word| word.len() >= 2);
    candidates
        .filter_map(|word| {
            let word = word.trim_end_matches(['.', ':']);
            word.parse().ok().or_else(|| word.rsplit_once(':').and_then(|(address, _)| address.parse().ok()))
        })
        .any(|address| range.contains(address))
}

/// A text without the sequences that colour it in a terminal.
fn decolorized(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        plain.push_str(before);
        rest = after;
        if let Some(sequence) = after.strip_prefix('[') {
            let end = sequence.find(|c: char| c.is_ascii_alphabetic()).map_or(sequence.len(), |at| at + 1);
            rest = &sequence[end..];
        }
    }
    plain + rest
}

/// The labels that the stages of a query find in a text alone.
pub(crate) fn parsed(log: &LogExpr, text: &str) -> Labels {
    let stream = crate::entry::Stream::exactly(Labels::default());
    let raw =
        Raw { time: 0, stream: &stream, line: text, size: text.len(), metadata: &[], level: crate::entry::Level::default() };
    Pipeline::new(&log.stages).run(raw).map(|line| line.parsed).unwrap_or_default()
}
