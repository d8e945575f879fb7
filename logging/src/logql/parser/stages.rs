use regex::Regex;

use super::*;
use crate::logql::{pattern::Pattern, template::Template};

/// A stage, or what ends the stages of a range.
pub(super) enum Piece {
    Stage(Stage),
    Unwrap(Unwrap),
}

impl Parser {
    /// The next stage, if there is one.
    pub(super) fn piece(&mut self) -> Parsed<Option<Piece>> {
        for (symbol, negated, kind) in
            [("|=", false, '='), ("!=", true, '='), ("|~", false, '~'), ("!~", true, '~'), ("|>", false, '>'), ("!>", true, '>')]
        {
            if self.accept(symbol) {
                return self.line_filter(negated, kind).map(|filter| Some(Piece::Stage(Stage::Filter(filter))));
            }
        }
        if !self.accept("|") {
            return Ok(None);
        }
        if self.is_word("unwrap") {
            self.take();
            return self.unwrap().map(|unwrap| Some(Piece::Unwrap(unwrap)));
        }
        self.stage().map(|stage| Some(Piece::Stage(stage)))
    }

    fn line_filter(&mut self, negated: bool, kind: char) -> Parsed<LineFilter> {
        let mut any = Vec::new();
        loop {
            any.push(self.line_match(kind)?);
            if !self.accept_word("or") {
                return Ok(LineFilter { negated, any });
            }
        }
    }

    fn line_match(&mut self, kind: char) -> Parsed<LineMatch> {
        if self.is_word("ip") && kind == '=' {
            return self.ip().map(LineMatch::Ip);
        }
        let text = self.string()?;
        match kind {
            '=' => Ok(LineMatch::Contains(text)),
            '~' => self.regex(&text).map(LineMatch::Regex),
            _ => Pattern::filter(&text).map(LineMatch::Pattern).or_else(|message| self.fail(message)),
        }
    }

    fn regex(&self, text: &str) -> Parsed<Regex> {
        Regex::new(text).or_else(|error| self.fail(regex_message(&error)))
    }

    /// `ip("10.0.0.0/8")`
    fn ip(&mut self) -> Parsed<IpRange> {
        self.take();
        self.expect("(")?;
        let text = self.string()?;
        self.expect(")")?;
        match IpRange::parse(&text) {
            Some(range) => Ok(range),
            None => self.fail(format!("ip: invalid pattern: {text:?}")),
        }
    }

    fn stage(&mut self) -> Parsed<Stage> {
        let Token::Identifier(word) = self.peek().clone() else {
            return if self.is("(") { self.label_filter().map(Stage::Labels) } else { self.unexpected("") };
        };
        // A label may have a stage's name: what follows tells.
        let compared = matches!(self.peek_after(), Token::Symbol("=" | "==" | "!=" | "=~" | "!~" | ">" | ">=" | "<" | "<="));
        if compared {
            return self.label_filter().map(Stage::Labels);
        }
        match word.as_str() {
            "json" => {
                self.take();
                let fields = self.extractions()?;
                let path = |(name, path): (String, String)| match json_path(&path) {
                    Some(steps) => Ok((name, steps)),
                    None => self.fail(format!("cannot parse expression [{path}]: syntax error")),
                };
                fields.into_iter().map(path).collect::<Parsed<_>>().map(Stage::Json)
            }
            "logfmt" => {
                self.take();
                let (mut strict, mut keep_empty) = (false, false);
                while let Token::Flag(flag) = self.peek().clone() {
                    match flag.as_str() {
                        "strict" => strict = true,
                        "keep-empty" => keep_empty = true,
                        _ => return self.fail(format!("unknown flag --{flag}")),
                    }
                    self.take();
                }
                Ok(Stage::Logfmt { strict, keep_empty, fields: self.extractions()? })
            }
            "regexp" => {
                self.take();
                let text = self.string()?;
                let regex = self.regex(&text)?;
                if regex.capture_names().flatten().next().is_none() {
                    return self.fail("at least one named capture must be supplied");
                }
                Ok(Stage::Regexp(regex))
            }
            "pattern" => {
                self.take();
                let text = self.string()?;
                Pattern::parser(&text).map(Stage::Pattern).or_else(|message| self.fail(message))
            }
            "unpack" => {
                self.take();
                Ok(Stage::Unpack)
            }
            "decolorize" => {
                self.take();
                Ok(Stage::Decolorize)
            }
            "line_format" => {
                self.take();
                let text = self.string()?;
                self.template(&text).map(Stage::LineFormat)
            }
            "label_format" => {
                self.take();
                self.label_formats().map(Stage::LabelFormat)
            }
            "drop" => {
                self.take();
                self.choices().map(Stage::Drop)
            }
            "keep" => {
                self.take();
                self.choices().map(Stage::Keep)
            }
            _ => self.label_filter().map(Stage::Labels),
        }
    }

    fn template(&self, text: &str) -> Parsed<Template> {
        Template::parse(text).or_else(|message| self.fail(format!("invalid template: {message}")))
    }

    /// `a="b.c", d`
    fn extractions(&mut self) -> Parsed<Vec<(String, String)>> {
        let mut fields = Vec::new();
        while matches!(self.peek(), Token::Identifier(_)) {
            let name = self.identifier()?;
            let source = if self.accept("=") { self.string()? } else { name.clone() };
            fields.push((name, source));
            if !self.accept(",") {
                break;
            }
        }
        Ok(fields)
    }

    fn label_formats(&mut self) -> Parsed<Vec<(String, Format)>> {
        let mut formats: Vec<(String, Format)> = Vec::new();
        loop {
            let name = self.identifier()?;
            if formats.iter().any(|(other, _)| *other == name) {
                return self.fail(format!("multiple label name '{name}' not allowed in a single format operation"));
            }
            self.expect("=")?;
            let format = match self.peek().clone() {
                Token::Identifier(source) => {
                    self.take();
                    Format::Rename(source)
                }
                _ => {
                    let text = self.string()?;
                    Format::Template(self.template(&text)?)
                }
            };
            formats.push((name, format));
            if !self.accept(",") {
                return Ok(formats);
            }
        }
    }

    fn choices(&mut self) -> Parsed<Vec<LabelChoice>> {
        let mut choices = Vec::new();
        loop {
            let name = self.identifier()?;
            let matching = matches!(self.peek(), Token::Symbol("=" | "!=" | "=~" | "!~"));
            choices.push(if matching { LabelChoice::Matching(self.matcher(&name)?) } else { LabelChoice::Name(name) });
            if !self.accept(",") {
                return Ok(choices);
            }
        }
    }

    pub(super) fn label_filter(&mut self) -> Parsed<LabelFilter> {
        let mut left = self.label_filter_and()?;
        while self.accept_word("or") {
            self.operates()?;
            left = LabelFilter::Or(Box::new(left), Box::new(self.label_filter_and()?));
        }
        Ok(left)
    }

    fn label_filter_and(&mut self) -> Parsed<LabelFilter> {
        let mut left = self.label_filter_one()?;
        loop {
            // Two filters side by side are joined by `and` too.
            let joined = self.accept_word("and") || self.accept(",") || self.is("(") || self.at_comparison();
            if !joined {
                return Ok(left);
            }
            self.operates()?;
            left = LabelFilter::And(Box::new(left), Box::new(self.label_filter_one()?));
        }
    }

    fn at_comparison(&self) -> bool {
        let operator = matches!(self.peek_after(), Token::Symbol("=" | "==" | "!=" | "=~" | "!~" | ">" | ">=" | "<" | "<="));
        matches!(self.peek(), Token::Identifier(_)) && operator
    }

    fn label_filter_one(&mut self) -> Parsed<LabelFilter> {
        if self.accept("(") {
            let inner = self.nested(Self::label_filter)?;
            self.expect(")")?;
            return Ok(inner);
        }
        let name = self.identifier()?;
        let op = match self.peek() {
            Token::Symbol("=" | "==") => Comparison::Equal,
            Token::Symbol("!=") => Comparison::NotEqual,
            Token::Symbol(">") => Comparison::Greater,
            Token::Symbol(">=") => Comparison::GreaterOrEqual,
            Token::Symbol("<") => Comparison::Less,
            Token::Symbol("<=") => Comparison::LessOrEqual,
            Token::Symbol("=~" | "!~") => return self.matcher(&name).map(LabelFilter::Matches),
            _ => return self.unexpected("= or != or > or >= or < or <= or =~ or !~"),
        };
        match self.peek_after() {
            Token::String(_) if self.is("=") || self.is("!=") => return self.matcher(&name).map(LabelFilter::Matches),
            Token::Identifier(word) if word == "ip" && (self.is("=") || self.is("!=")) => {
                self.take();
                return Ok(LabelFilter::Ip { name, negated: op == Comparison::NotEqual, range: self.ip()? });
            }
            _ => {}
        }
        self.take();
        let negative = self.accept("-");
        let (to, unit) = match *self.peek() {
            Token::Number(number) => (number, Unit::Number),
            Token::Duration(seconds, _) => (seconds, Unit::Duration),
            Token::Bytes(bytes) => (bytes, Unit::Bytes),
            _ => return self.unexpected("BYTES or STRING or NUMBER or DURATION"),
        };
        self.take();
        Ok(LabelFilter::Compare { name, op, to: if negative { -to } else { to }, unit })
    }

    fn unwrap(&mut self) -> Parsed<Unwrap> {
        let name = self.identifier()?;
        let (label, unit) = if self.accept("(") {
            let unit = match name.as_str() {
                "duration" | "duration_seconds" => Unit::Duration,
                "bytes" => Unit::Bytes,
                _ => return self.fail(format!("unknown conversion {name}")),
            };
            let label = self.identifier()?;
            self.expect(")")?;
            (label, unit)
        } else {
            (name, Unit::Number)
        };
        let mut filters = Vec::new();
        while self.is("|") {
            self.take();
            filters.push(self.label_filter()?);
        }
        Ok(Unwrap { label, unit, filters })
    }
}

impl IpRange {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        use std::net::IpAddr;
        if let Some((first, last)) = text.split_once('-') {
            return Some(Self { first: first.trim().parse().ok()?, last: last.trim().parse().ok()? });
        }
        let Some((address, bits)) = text.split_once('/') else {
            let address = text.parse().ok()?;
            return Some(Self { first: address, last: address });
        };
        let bits: u32 = bits.parse().ok()?;
        match address.parse().ok()? {
            IpAddr::V4(address) if bits <= 32 => {
                let host = u32::MAX.checked_shr(bits).unwrap_or(0);
                let first = address.to_bits() & !host;
                Some(Self { first: IpAddr::V4(first.into()), last: IpAddr::V4((first | host).into()) })
            }
            IpAddr::V6(address) if bits <= 128 => {
                let host = u128::MAX.checked_shr(bits).unwrap_or(0);
                let first = address.to_bits() & !host;
                Some(Self { first: IpAddr::V6(first.into()), last: IpAddr::V6((first | host).into()) })
            }
            _ => None,
        }
    }

    pub(crate) fn contains(&self, address: std::net::IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && (self.first..=self.last).contains(&address)
    }
}

/// `a.b[0]["c"]`
fn json_path(text: &str) -> Option<Vec<JsonStep>> {
    let mut steps = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            if let Some(quoted) = inner.strip_prefix('"') {
                let (key, after) = quoted.split_once("\"]")?;
                steps.push(JsonStep::Key(key.to_owned()));
                rest = after;
            } else {
                let (index, after) = inner.split_once(']')?;
                steps.push(JsonStep::Index(index.parse().ok()?));
                rest = after;
            }
        } else {
            let dotted = rest.strip_prefix('.');
            if dotted.is_none() && !steps.is_empty() {
                return None;
            }
            let key = dotted.unwrap_or(rest);
            let end = key.find(['.', '[']).unwrap_or(key.len());
            if end == 0 {
                return None;
            }
            steps.push(JsonStep::Key(key[..end].to_owned()));
            rest = &key[end..];
        }
    }
    (!steps.is_empty()).then_some(steps)
}
